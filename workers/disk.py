"""disk: latency of block requests, a histogram for each device."""

import os
from collections.abc import Mapping

from supervisor import linux
from supervisor.kernel.maps import Maps, Words
from supervisor.kernel.plans import Hook, Plan, raw_tracepoint_plan, tracepoint_plan
from workers.declaration import LABELS, Program, histogram

_DISKS = 256
# Of `struct disk`: the device and what was lost, then the bins.
_FIRST_BIN = 2
_ROW_WORDS = _FIRST_BIN + len(LABELS)
_MINOR_BITS = 20  # of the kernel's own dev_t (include/linux/kdev_t.h)

_DISK = "request.q|request.rq_disk request_queue.disk|request.rq_disk gendisk.major gendisk.first_minor"


def _plans(handler: str, event: str, request: str, *fields: str) -> tuple[Plan, ...]:
    """request: the C expression for the kernel's own. Where its structures are not told, the sector has to
    do: equal requests that are under way at once are then of one age, and a completion that interrupts
    another tracepoint's program is missed."""
    return (
        raw_tracepoint_plan(
            handler,
            f"dev_of_request({request}), {request}",
            f"block:{event}",
            field=" ".join((_DISK, *fields)),
        ),
        tracepoint_plan(handler, "args->dev, args->sector", f"block:{event}"),
    )


# Before 5.11 (commit a54895fa057c) a request came behind its queue.
_ISSUE = _plans(
    "on_issue",
    "block_rq_issue",
    "args[BLOCK_RQ_ISSUE_ARGS - 1]",
    "block_rq_issue()",
)
_REQUEUE = _plans(
    "on_requeue",
    "block_rq_requeue",
    "args[BLOCK_RQ_REQUEUE_ARGS - 1]",
    "block_rq_requeue()",
)
_COMPLETE = _plans("on_complete", "block_rq_complete", "args[0]")


def _names(maps: Maps, _hooks: frozenset[str]) -> Mapping[int, str]:
    """Names of the devices that have completed a request and are there. The row of one that has gone is
    offered to the kernel, which gives it to another device once no other row is free."""
    with maps["disks"].open() as content:
        table = content.words
        named = {
            row: _name(number_of(dev - 1))
            for row, dev in enumerate(table[::_ROW_WORDS])
            if row and dev and any(_bins(table, row))
        }
    Words(maps["gone_row"]).set(0, next((row for row, name in named.items() if not name), 0))
    return {row: name for row, name in named.items() if name}


def number_of(dev: int) -> str:
    """MAJOR:MINOR of the kernel's own dev_t."""
    return f"{dev >> _MINOR_BITS}:{dev & ((1 << _MINOR_BITS) - 1)}"


def _name(number: str) -> str:
    """The device's name by its number, "" when it has gone, or is a loop device without a file, which has no
    size (sysfs(5)). The kernel's name may hold "!" where the device file has "/"."""
    folder = f"/sys/dev/block/{number}"
    try:
        sectors = int(linux.read_small(f"{folder}/size"))
        return os.readlink(folder).rpartition("/")[2] if sectors else ""
    except FileNotFoundError:
        return ""


def _losses(maps: Maps) -> int:
    """Requests that could not be noted, and those of devices beyond the table's rows."""
    with maps["disks"].open() as content:
        table = content.words
        return sum(table[1::_ROW_WORDS]) + sum(_bins(table, 0))


def _bins(table: memoryview, row: int) -> list[int]:
    return table[row * _ROW_WORDS + _FIRST_BIN : (row + 1) * _ROW_WORDS].tolist()


PROGRAM = Program(
    name="disk",
    source="disk.bpf.c",
    hooks=(
        # Completions first: a request that was issued before is not known, one after it is.
        Hook("complete", _COMPLETE, _COMPLETE),
        Hook("requeue", _REQUEUE, _REQUEUE),
        Hook("issue", _ISSUE, _ISSUE),
    ),
    columns=histogram("latency", "complete"),
    kind="device",
    rows=_DISKS,
    row_words=_ROW_WORDS,
    first_column=_FIRST_BIN,
    table="disks",
    maps=("disks", "gone_row"),
    names=_names,
    losses=_losses,
    prepare={"free_rows": range(1, _DISKS)},
)
