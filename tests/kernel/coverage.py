"""Notes what known-answer tests have shown: which columns of a program were counted right on this kernel, by
which plan, in which mode; and which hooks it does not have. docs/coverage.md is made of these notes
(tests/coverage_matrix.py)."""

import contextlib
import json
import os
import platform
import re
from collections.abc import Sequence
from typing import Final

from supervisor.ctl import Unreachable
from tests.harness import Run, before_end, wait_for
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


def surveyed(run: Run) -> None:
    """Notes what became of every hook of every program of this run."""
    for program in run.status()["programs"]:
        attached = {hook["hook"]: hook["plan"] for hook in program["hooks"] if hook["attached"]}
        reasons: dict[str, list[str]] = {}
        for hook in program["hooks"]:
            if hook["hook"] not in attached:
                place = f"{hook['plan']} {hook['target']}".strip()
                reasons.setdefault(hook["hook"], []).append(f"{place}: {hook['reason']}")
        why = program["description"] if program["state"] == "UNAVAILABLE" else ""
        note(
            run,
            {"program": program["name"], "attached": attached, "reasons": reasons, "unavailable": why},
        )


def _survey_if_plan_was_given(run: Run) -> None:
    words = run.process.args
    if FOLDER and isinstance(words, list) and "--attach" in words:
        with contextlib.suppress(Unreachable):  # it has ended in between: the test says what became of it
            surveyed(run)


if _survey_if_plan_was_given not in before_end:
    before_end.append(_survey_if_plan_was_given)


def nothing_to_be_had(run: Run, programs: Sequence[str]) -> None:
    """Notes the reason that each program has told before the whole run ended for want of anything to do."""
    told = dict(re.findall(r"(\w+): UNAVAILABLE: (.*)", run.stderr()))
    for name in programs:
        assert told.get(name), f"{name} has not said why"
        note(run, {"program": name, "attached": {}, "reasons": {}, "unavailable": told[name]})


def wait_unavailable(run: Run, program: str) -> None:
    """Until the program, the only one of the run, has said why it is not to be had; notes the reason."""
    wait_for("the reason", lambda: f"{program}: UNAVAILABLE: " in run.stderr(), 30)
    nothing_to_be_had(run, [program])


def note(run: Run, what: dict[str, object]) -> None:
    """One line about this run."""
    if FOLDER:
        words = run.process.args
        assert isinstance(words, list)
        line = {"kernel": platform.release(), "options": words[1:], **what}
        with open(os.path.join(FOLDER, f"{platform.release()}.jsonl"), "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
