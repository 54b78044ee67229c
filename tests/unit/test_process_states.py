"""process: who lives and who is a zombie, by the rows of the identities."""

import os

import numpy as np

from supervisor import linux
from supervisor.kernel import arrays
from supervisor.kernel.arrays import TASK
from supervisor.kernel.maps import ROWS_PER_PAGE, TASK_LIVE, TASK_THREAD, USED_PAGES, KernelMap, MapInfo
from supervisor.pipeline import memory
from workers.process import PROGRAM


def test_threads_that_have_slots_of_their_own_are_no_processes() -> None:
    """Of maps without a kernel: one page of identities is used."""
    rows = np.zeros(ROWS_PER_PAGE, TASK)
    rows["state"][:8] = [0, TASK_LIVE, TASK_LIVE, TASK_LIVE, TASK_LIVE | TASK_THREAD, TASK_THREAD, 0, 0]
    rows["exit_ns"][:8] = [0, 0, 0, 7, 0, 7, 7, 0]
    task = KernelMap(MapInfo("task", 1, rows.nbytes, linux.BPF_F_MMAPABLE), memory.create("t", rows.nbytes))
    used = KernelMap(MapInfo(USED_PAGES, 1, 8, linux.BPF_F_MMAPABLE), memory.create("u", 8))
    os.pwrite(task.fd, rows.tobytes(), 0)
    assert (arrays.records(task, TASK) == rows).all()
    assert PROGRAM.gauges
    assert PROGRAM.gauges({"task": task, USED_PAGES: used}) == {"living": 2, "zombie": 1}
    os.close(task.fd)
    os.close(used.fd)
