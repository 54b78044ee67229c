"""All programs together, by each kind of plan and in both modes: each one runs, or says why it cannot."""

import os

import pytest

from supervisor.config.options import PROGRAMS
from supervisor.ctl import Unreachable
from tests.harness import Run, supervisor, wait_for
from tests.kernel.coverage import nothing_to_be_had, surveyed

PLANS = os.environ.get("EBPF_TEST_ATTACH", "fentry,kprobe,tracepoint").split(",")
SETTLED = {"RUNNING", "UNAVAILABLE"}

pytestmark = pytest.mark.kernel


def listens(run: Run) -> bool:
    return (run.directory / "control.sock").exists()


def ended(run: Run) -> bool:
    return run.process.poll() is not None


def settled(run: Run) -> bool:
    try:
        return all(program["state"] in SETTLED for program in run.status()["programs"])
    except Unreachable:
        return False


@pytest.mark.parametrize("mode", ["entry", "return"])
@pytest.mark.parametrize("plan", PLANS)
def test_every_program_runs_or_says_why_it_cannot(plan: str, mode: str) -> None:
    with supervisor("--attach", plan, "--load-mode", mode, wait=False) as run:
        wait_for("the control socket or the end", lambda: listens(run) or ended(run), 20)
        wait_for("all programs settled", lambda: ended(run) or settled(run), 60)
        if ended(run):
            # Not one program can be had this way: it has said so of each, and asked not to be tried again.
            assert run.end() == 1
            assert run.stream.disabled
            nothing_to_be_had(run, list(PROGRAMS))
            return
        programs = run.status()["programs"]
        assert [program["name"] for program in programs] == list(PROGRAMS)
        for program in programs:
            assert program["state"] in SETTLED, f"{program['name']}: {program['description']}"
            assert program["description"], program["name"]
            for hook in program["hooks"]:
                assert hook["attached"] != bool(hook["reason"]), hook
        surveyed(run)
        assert "Traceback" not in run.stderr()
