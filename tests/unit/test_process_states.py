"""process: who lives and who is a zombie, by the rows of the identities."""

from typing import Any

import numpy as np
import numpy.typing as npt

from supervisor.kernel.maps import TASK, TASK_LIVE, TASK_THREAD, USED_PAGES, KernelMap, MapInfo, U64Array
from workers.process import PROGRAM


class Held(KernelMap):
    """A map without a kernel: one page of identities is used."""

    def words(self, pages: int = 0) -> U64Array:
        return np.ones((1, 1), np.uint64)

    def records(self, dtype: np.dtype[Any], pages: int = 0) -> npt.NDArray[Any]:
        rows = np.zeros(8, dtype)
        rows["state"] = [0, TASK_LIVE, TASK_LIVE, TASK_LIVE, TASK_LIVE | TASK_THREAD, TASK_THREAD, 0, 0]
        rows["exit_ns"] = [0, 0, 0, 7, 0, 7, 7, 0]
        return rows


def test_threads_that_have_slots_of_their_own_are_no_processes() -> None:
    assert PROGRAM.gauges
    held = Held(MapInfo("task", 1, TASK.itemsize, 0), -1)
    assert PROGRAM.gauges({"task": held, USED_PAGES: held}) == {"living": 2, "zombie": 1}
