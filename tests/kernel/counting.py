"""Differences of a running stream: what grew while something was done."""

from pathlib import Path
from types import TracebackType
from typing import Self

from supervisor.kernel import attach
from tests.harness import Run, wait_for


class Growth:
    """What a stream's values grow by within a `with` block, and after it.

    The values before are taken once the stream is at rest, so that what was done before does not count.
    """

    def __init__(self, run: Run, *dimensions: tuple[str, str]) -> None:
        self._run = run
        self._dimensions = dimensions
        self._before: dict[tuple[str, str], int] = {}

    def __enter__(self) -> Self:
        self._run.wait_frames(3)
        self._before = {pair: self._run.value(*pair) for pair in self._dimensions}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def by(self, chart: str, dimension: str) -> int:
        """How much it has grown by now."""
        return self._run.value(chart, dimension) - self._before[(chart, dimension)]

    def settle(
        self, expected: dict[tuple[str, str], int], timeout_s: float = 15.0
    ) -> dict[tuple[str, str], int]:
        """Waits until nothing is missing, and two frames more, in which what is too much would show."""

        def there() -> bool:
            return all(self.by(*pair) >= count for pair, count in expected.items())

        try:
            wait_for("the counts to come in", there, timeout_s)
        except AssertionError as error:
            grown = {pair: self.by(*pair) for pair in self._dimensions}
            raise AssertionError(f"{error}; expected {expected}, grown {grown}") from error
        self._run.wait_frames(2)
        return {pair: self.by(*pair) for pair in expected}


def grows(run: Run, expected: dict[tuple[str, str], int]) -> Growth:
    return Growth(run, *expected)


def missed(run: Run) -> int:
    """Events that the kernel has kept from our programs. Where it can take the CPU from a program (that of a
    trampoline, on a kernel with full preemption), the next task's event there passes the same program by."""
    ids = set()
    for file in Path(f"/proc/{run.process.pid}/fdinfo").iterdir():
        ids |= {int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith("prog_id:")}
    return sum(attach.recursion_misses(program_id) for program_id in ids)
