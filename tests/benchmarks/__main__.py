"""`make bench`: measures, writes docs/benchmarks.md, and prints goal by goal what came out.

python -m tests.benchmarks [PART …] [--no-guest]
"""

import argparse
import os
import sys
import time
from typing import Final

from tests.benchmarks import (
    cpu,
    crowd,
    event_cost,
    events,
    frames,
    memory,
    open_close,
    overhead,
    report,
    start,
)
from tests.benchmarks.figures import Benchmark, MeasurementFailed, Section
from tests.guest import machine

# Module's title and benchmark, in the order of the document.
PARTS: Final[dict[str, Benchmark]] = {
    event_cost.TITLE: event_cost.BENCHMARK,
    open_close.TITLE: open_close.BENCHMARK,
    overhead.TITLE: overhead.BENCHMARK,
    events.TITLE: events.BENCHMARK,
    start.TITLE: start.BENCHMARK,
    cpu.TITLE: cpu.BENCHMARK,
    crowd.TITLE: crowd.BENCHMARK,
    frames.TITLE: frames.BENCHMARK,
    memory.TITLE: memory.BENCHMARK,
}


def main() -> int:
    parts = {benchmark.name: benchmark for benchmark in PARTS.values()}
    words = _parse(parts)
    # What is compiled at each start takes time and leaves holes in memory; it is not so once installed.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if os.geteuid() != 0:
        print("benchmarks load kernel programs: run them as root", file=sys.stderr)
        return 77
    guest = not words.no_guest
    if guest and (reason := machine.available("6.1")):
        print(f"no guest: {reason}", file=sys.stderr)
        guest = False
    arguments = " ".join(sys.argv[1:])
    command = f"make bench ARGS='{arguments}'" if arguments else "make bench"
    failed = [name for name in words.parts or parts if not _run(parts[name], guest, command)]
    print(f"written to {report.PATH}" + (f"; without {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def _run(part: Benchmark, guest: bool, command: str) -> bool:
    """Measures and writes one part; False when it could not be measured."""
    print(f"{part.name}: {part.about} …", flush=True)
    began_s = time.monotonic()
    try:
        section = part.run(guest)
    except (MeasurementFailed, AssertionError) as error:  # what the tests' harness raises
        print(f"  FAILED: {error}", flush=True)
        return False
    report.write([section], list(PARTS), command)
    _tell(section, time.monotonic() - began_s)
    return True


def _parse(parts: dict[str, Benchmark]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measures and writes docs/benchmarks.md.",
        epilog="parts: " + "; ".join(f"{name}: {part.about}" for name, part in parts.items()),
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="default: all")
    parser.add_argument("--no-guest", action="store_true", help="only what this kernel can do")
    words = parser.parse_args()
    unknown = [name for name in words.parts if name not in parts]
    if unknown:
        parser.error(f"no part {unknown[0]}; there are {', '.join(parts)}")
    return words


def _tell(section: Section, took_s: float) -> None:
    for goal in section.goals:
        verdict = "met" if goal.met else "NOT MET"
        print(f"  {verdict:<8} {goal.what}: {goal.measured} (goal: {goal.goal})")
    for reason in section.left_out:
        print(f"  left out {reason}")
    print(f"  ({took_s:.0f} s)", flush=True)


if __name__ == "__main__":
    sys.exit(main())
