"""process: who lives and who is a zombie, by the rows of the identities."""

import numpy as np
import numpy.typing as npt

from supervisor.kernel.maps import TASK, TASK_LIVE, TASK_THREAD, KernelMap, MapInfo
from workers.process import PROGRAM


class Held(KernelMap):
    def records(self, dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
        rows = np.zeros(8, dtype)
        rows["state"] = [0, TASK_LIVE, TASK_LIVE, TASK_LIVE, TASK_LIVE | TASK_THREAD, TASK_THREAD, 0, 0]
        rows["exit_ns"] = [0, 0, 0, 7, 0, 7, 7, 0]
        return rows


def test_threads_that_have_slots_of_their_own_are_no_processes() -> None:
    assert PROGRAM.gauges
    held = Held(MapInfo("task", 1, TASK.itemsize, 0), -1)
    assert PROGRAM.gauges({"task": held}) == {"living": 2, "zombie": 1}
