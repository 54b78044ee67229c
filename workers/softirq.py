"""softirq: time spent in software interrupts, by vector."""

import numpy as np

from supervisor.kernel.maps import Maps, U64Array
from supervisor.kernel.plans import Hook, raw_tracepoint_plan, tracepoint_plan
from workers.declaration import Column, Program

# In the kernel's order (include/linux/interrupt.h).
VECTORS = ("HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU")
_STRIDE = 16  # words of one CPU in softirq.bpf.c

_ENTRY = (
    raw_tracepoint_plan("on_entry", "args[0]", "irq:softirq_entry"),
    tracepoint_plan("on_entry", "args->vec", "irq:softirq_entry"),
)
_EXIT = (
    raw_tracepoint_plan("on_exit", "args[0]", "irq:softirq_exit"),
    tracepoint_plan("on_exit", "args->vec", "irq:softirq_exit"),
)


def _spent_ns(maps: Maps) -> U64Array:
    """Nanoseconds by vector, summed over CPUs: u64 [1, 10]."""
    by_cpu = maps["spent_ns"].words().reshape(-1, _STRIDE)
    return np.asarray(by_cpu[:, : len(VECTORS)].sum(axis=0, dtype=np.uint64, keepdims=True), np.uint64)


PROGRAM = Program(
    name="softirq",
    source="softirq.bpf.c",
    hooks=(
        Hook("entry", _ENTRY, _ENTRY),
        Hook("exit", _EXIT, _EXIT),
    ),
    columns=tuple(Column(vector, "exit") for vector in VECTORS),
    kind="host",
    rows=1,
    maps=("spent_ns",),
    read=_spent_ns,
    of_time=True,
)
