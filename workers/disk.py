"""disk: latency of block requests, a histogram for each device."""

import os
from collections.abc import Mapping

import numpy as np

from supervisor.kernel.maps import Maps, U64Array
from supervisor.kernel.plans import Hook, tracepoint_plan
from workers.declaration import Program, histogram

_DISKS = 256
_MINOR_BITS = 20  # of the kernel's own dev_t (include/linux/kdev_t.h)

_ISSUE = tracepoint_plan("on_issue", "args->dev, args->sector", "block:block_rq_issue")
_REQUEUE = tracepoint_plan("on_requeue", "args->dev, args->sector", "block:block_rq_requeue")
_COMPLETE = tracepoint_plan("on_complete", "args->dev, args->sector", "block:block_rq_complete")


def _histograms(maps: Maps) -> U64Array:
    """Requests by device row and bin: u64 [256, 24]."""
    return maps["disks"].words()[:, 2:]


def _names(maps: Maps, hooks: frozenset[str]) -> Mapping[int, str]:
    """Names of the devices that have completed a request. The kernel's name may hold "!" where the device
    file has "/"."""
    known = {}
    table = maps["disks"].words()
    used = table[:, 2:].sum(axis=1, dtype=np.uint64).tolist()
    for row, (dev, requests) in enumerate(zip(table[:, 0].tolist(), used, strict=True)):
        if dev and requests:
            number = f"{(dev - 1) >> _MINOR_BITS}:{(dev - 1) & ((1 << _MINOR_BITS) - 1)}"
            known[row] = _name(number)
    return known


def _name(number: str) -> str:
    """The device's name by its number, or the number itself when the device has gone (sysfs(5))."""
    try:
        return os.path.basename(os.readlink(f"/sys/dev/block/{number}"))
    except FileNotFoundError:
        return number.replace(":", "_")


def _losses(maps: Maps) -> int:
    """Requests that could not be noted, and those of devices beyond the table's rows."""
    table = maps["disks"].words()
    return int(table[:, 1].sum(dtype=np.uint64) + table[0, 2:].sum(dtype=np.uint64))


PROGRAM = Program(
    name="disk",
    source="disk.bpf.c",
    hooks=(
        # Completions first: a request that was issued before is not known, one after it is.
        Hook("complete", (_COMPLETE,), (_COMPLETE,)),
        Hook("requeue", (_REQUEUE,), (_REQUEUE,)),
        Hook("issue", (_ISSUE,), (_ISSUE,)),
    ),
    columns=histogram("latency", "complete"),
    kind="device",
    rows=_DISKS,
    maps=("disks",),
    read=_histograms,
    names=_names,
    losses=_losses,
    prepare={"free_rows": range(1, _DISKS)},
)
