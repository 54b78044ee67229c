"""mdflush: flushes that each md array (software RAID) is asked for."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from supervisor.kernel.maps import Maps
from supervisor.kernel.plans import Hook, function_plan, raw_tracepoint_plan, tracepoint_plan
from workers.declaration import Column, Program

_ARRAYS: Final = 1024
_MAJOR: Final = 9
_STATUS: Final = Path("/proc/mdstat")
_PART: Final = "md"

# Where the array is told by the bio that asks for the flush: md's own structures may have no types (BTF).
_DISK: Final = "bio.bi_bdev|bio.bi_disk block_device.bd_disk gendisk.major gendisk.first_minor"
# A bio is the last argument of the tracepoint: before 5.11 (commit e8a676d61c07) it came with its queue.
_BIO: Final = "args[BLOCK_BIO_QUEUE_ARGS - 1]"
_IS_FLUSH: Final = f"number_at({_BIO} + BIO_BI_OPF) & 1ULL << REQ_FLAG_BITS___REQ_PREFLUSH"

_PLANS: Final = (
    function_plan("fentry", "md_flush_request", "on_flush", "dev_of_bio(args[1])", field=_DISK),
    function_plan("kprobe", "md_flush_request", "on_flush", "dev_of_bio(PT_REGS_PARM2(args))", field=_DISK),
    raw_tracepoint_plan(
        "on_bio",
        f"dev_of_bio({_BIO}), {_IS_FLUSH}",
        "block:block_bio_queue",
        field=f"{_DISK} bio.bi_opf req_flag_bits.__REQ_PREFLUSH block_bio_queue()",
    ),
    # A flush before the write is the first letter of rwbs; an "F" further on is another thing. Flushes of an
    # array's partitions are missed here from 5.12 on: their bios have numbers of their own.
    tracepoint_plan("on_bio", "args->dev, args->rwbs[0] == 'F'", "block:block_bio_queue"),
)


def arrays() -> dict[int, str]:
    """The arrays that there are, by the minor numbers of their devices (md(4))."""
    found = {}
    for line in _STATUS.read_text().splitlines():
        name, colon, _ = line.partition(" : ")
        number = _number(name) if colon and not line.startswith((" ", "Personalities")) else None
        if number is not None and number < _ARRAYS:
            found[number] = name
    return found


def _number(name: str) -> int | None:
    """The minor number of a device of md's own; None when it has just gone."""
    try:
        major, minor = Path("/sys/class/block", name, "dev").read_text().split(":")
    except FileNotFoundError:
        return None
    return int(minor) if int(major) == _MAJOR else None


def _names(_maps: Maps, _hooks: frozenset[str]) -> Mapping[int, str]:
    return arrays()


def _losses(maps: Maps) -> int:
    """Flushes of arrays whose numbers are too large for the table."""
    with maps["flushes"].open() as content:
        return int(content.words[_ARRAYS])


def _parts() -> frozenset[str]:
    """md's driver, once it is there."""
    return frozenset({_PART} if os.path.exists(_STATUS) else ())


PROGRAM = Program(
    name="mdflush",
    source="mdflush.bpf.c",
    hooks=(Hook("md flush", _PLANS, _PLANS, part=_PART),),
    columns=(Column("flushes", "flush"),),
    kind="device",
    rows=_ARRAYS,
    table="flushes",
    maps=("flushes",),
    names=_names,
    losses=_losses,
    parts=_parts,
)
