"""A second source of the time in hard interrupts: the kernel's own record of its tracepoints.

    python -m tests.kernel.tracefs_record

says "recording", goes on until its stdin ends, and prints microseconds and number by vector and by interrupt
as JSON: {"local_timer": [12345, 900], "36": [...]}. It has a tracefs and an instance of its own.
"""

import json
import re
import sys
from collections.abc import Iterable
from typing import Final

from supervisor.kernel import namespace

_INSTANCE: Final = namespace.TRACEFS / "instances" / "ebpf-supervisor-test"
_BUFFER_KB: Final = "8192"  # of each CPU
# "<idle>-0  [001] d.h1.  123.456789: irq_handler_exit: irq=36 ret=handled"
_LINE: Final = re.compile(r"\[(\d+)\] .*? (\d+)\.(\d{6}): (\w+?)_(entry|exit): (?:irq=(\d+)|vector=)")


def spent(lines: Iterable[str]) -> dict[str, list[int]]:
    """From each entry to the exit that follows it on its CPU."""
    began: dict[tuple[str, str], int] = {}
    found: dict[str, list[int]] = {}
    for line in lines:
        match = _LINE.search(line)
        if not match:
            continue
        cpu, seconds, micros, event, side, irq = match.groups()
        name, at_us = irq or event, int(seconds) * 1_000_000 + int(micros)
        if side == "entry":
            began[(cpu, name)] = at_us
        elif (cpu, name) in began:
            total = found.setdefault(name, [0, 0])
            total[0] += at_us - began.pop((cpu, name))
            total[1] += 1
    return found


def main() -> None:
    namespace.enter()
    _INSTANCE.mkdir()
    try:
        (_INSTANCE / "trace_clock").write_text("mono")
        (_INSTANCE / "buffer_size_kb").write_text(_BUFFER_KB)
        for side in ("entry", "exit"):
            (_INSTANCE / f"events/irq/irq_handler_{side}/enable").write_text("1")
            for event in (_INSTANCE / "events/irq_vectors").glob(f"*_{side}"):
                (event / "enable").write_text("1")
        print("recording", flush=True)
        sys.stdin.read()
        (_INSTANCE / "tracing_on").write_text("0")
        with (_INSTANCE / "trace").open() as file:
            print(json.dumps(spent(file)), flush=True)
    finally:
        _INSTANCE.rmdir()


if __name__ == "__main__":
    main()
