"""swap: calls that read and write swap space, by process."""

from supervisor.kernel.plans import Hook, Mechanism, Plan, function_plan
from workers.declaration import Column, Program


def _plans(handler: str, *symbols: str) -> tuple[Plan, ...]:
    kinds: tuple[Mechanism, ...] = ("fentry", "kprobe")
    return tuple(function_plan(kind, symbol, handler) for kind in kinds for symbol in symbols)


# These are calls, as the charts say: one is for a page, or for a large folio where the kernel swaps it whole.
# swap_writeout (6.16) and swap_writepage also see pages that never reach the disk, because zswap takes them
# or they are all zero; so does swap_read_folio. __swap_writepage, below the former, does not.
_READ = _plans("on_read", "swap_read_folio", "swap_readpage")  # 6.8, before
_WRITE = _plans("on_write", "swap_writeout", "swap_writepage")

PROGRAM = Program(
    name="swap",
    source="swap.bpf.c",
    hooks=(Hook("read", _READ, _READ), Hook("write", _WRITE, _WRITE)),
    columns=(Column("read", "read"), Column("write", "write")),
    row_words=2,
)
