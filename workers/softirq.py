"""softirq: time spent in software interrupts, by vector."""

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
    by_cpu=True,
    row_words=_STRIDE,
    table="spent_ns",
    maps=("spent_ns",),
    of_time=True,
)
