"""Notes what a known-answer test has shown: which columns of a program were counted right on this kernel, by
which plan, in which mode. docs/coverage.md is made from these notes."""

import json
import os
import platform
from typing import Final

from tests.harness import Run
from workers.registry import find

# The folder to write to; without it nothing is noted.
FOLDER: Final = os.environ.get("EBPF_TEST_COVERAGE", "")


def covered(run: Run, program: str, *columns: str, how: str = "exact") -> None:
    """The assertions before this call have shown these columns, or gauges, of the program in this run.

    how: "exact" for a known number, else which second source was the judge, and its tolerance.
    Raises AssertionError for a column that the program does not have.
    """
    declared = find(program)
    known = {*declared.totals, *declared.ratios, *(("living", "zombie") if declared.gauges else ())}
    assert known.issuperset(columns), f"{program} has no {set(columns) - known}"
    note(run, {"program": program, "columns": columns, "how": how})


def note(run: Run, what: dict[str, object]) -> None:
    """One line about this run."""
    if FOLDER:
        words = run.process.args
        assert isinstance(words, list)
        line = {"kernel": platform.release(), "options": words[1:], **what}
        with open(os.path.join(FOLDER, f"{platform.release()}.jsonl"), "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
