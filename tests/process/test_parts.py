"""Programs that watch what comes and goes."""

from pathlib import Path

import pytest

from tests.harness import supervisor, wait_for

pytestmark = pytest.mark.kernel


@pytest.mark.skipif(Path("/proc/mdstat").exists(), reason="here md's driver is there")
def test_run_whose_only_program_has_nothing_to_watch_yet_goes_on_and_waits() -> None:
    with supervisor("--only", "mdflush", wait=False) as run:
        wait_for("its answer", lambda: "starts when there is" in run.stderr())
        wait_for("the control socket", lambda: (run.directory / "control.sock").exists())
        assert run.program("mdflush")["state"] == "UNAVAILABLE"
        assert run.process.poll() is None
        assert not run.stream.disabled
