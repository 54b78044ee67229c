"""The unit in a guest with systemd as init: `make test-systemd`.

One guest does it all (systemd_run.sh); each test here judges a part of what it has noted. It takes some
minutes, so it is not a part of `make test`.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.guest import systemd
from tests.guest.kernels import KernelUnavailableError
from tests.guest.systemd import Outcome
from tests.harness import ROOT

RUN: Final = Path(__file__).with_name("systemd_run.sh")
TIMEOUT_S: Final = 2400.0

pytestmark = [
    pytest.mark.guest,
    pytest.mark.timeout(TIMEOUT_S + 600),
    pytest.mark.skipif(
        "EBPF_TEST_SYSTEMD" not in os.environ, reason="asked for by `make test-systemd`: it takes minutes"
    ),
]


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the guest is Debian 12, and takes what Python 3.11 has installed")
    tree = tmp_path_factory.mktemp("guest")
    done = subprocess.run(
        ["make", "-s", "install", f"DESTDIR={tree / 'install'}", "PLUGINSDIR=/usr/libexec/netdata/plugins.d"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shutil.copy(RUN, tree / "run")
    checkout = tree / "checkout"
    checkout.mkdir()
    shutil.copy(ROOT / "Makefile", checkout)
    for name in ("conf", "systemd", "docs"):
        shutil.copytree(ROOT / name, checkout / name)
    try:
        outcome = systemd.run(tree, TIMEOUT_S)
    except KernelUnavailableError as error:
        pytest.skip(str(error))
    for name, text in outcome.results.items():
        print(f"---- {name}\n{text}")
    if keep := os.environ.get("EBPF_TEST_SYSTEMD_RESULTS"):
        Path(keep).mkdir(parents=True, exist_ok=True)
        for name, text in outcome.results.items():
            (Path(keep) / name).write_text(text)
    assert outcome.exit_code == 0, outcome.console[-3000:]
    return outcome


def seconds(guest: Outcome, name: str) -> float:
    """How long something took in the guest; fails when it never happened."""
    text = guest.results[name].strip()
    assert re.fullmatch(r"[0-9.]+", text), f"{name}: {text}"
    return float(text)


def test_systemd_has_nothing_to_say_against_the_unit(guest: Outcome) -> None:
    assert guest.results["verify"] == ""
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", guest.results["security"])
    assert found
    assert float(found[1]) <= 3.5


def test_a_start_ends_when_frames_come_and_status_says_how_it_goes(guest: Outcome) -> None:
    assert guest.results["start"].strip() == "0"
    for name in ("status-ready", "status"):
        assert "Active: active (running)" in guest.results[name]
        assert re.search(r'Status: "\d+ programs: .*RUNNING.*; \d+ events/s"', guest.results[name])


def test_hardening_costs_no_program_that_this_kernel_can_run(guest: Outcome) -> None:
    seconds(guest, "settled")
    table = guest.results["ctl"]
    assert re.findall(r"^(\S+) +UNAVAILABLE", table, re.MULTILINE) == ["mdflush"], table
    assert len(re.findall(r"^\S+ +RUNNING", table, re.MULTILINE)) == 15, table


def test_a_stop_takes_less_than_ten_seconds_and_leaves_nothing(guest: Outcome) -> None:
    assert seconds(guest, "stop") < 10
    assert guest.results["stop-result"].strip() == "success"
    assert guest.results["stop-left"] == ""


def test_a_worker_killed_for_want_of_memory_is_replaced_and_the_unit_goes_on(guest: Outcome) -> None:
    seconds(guest, "oom-killed")
    seconds(guest, "oom-again")
    assert guest.results["oom-unit"].strip() == "active"
    assert "ebpf-supervisor" in guest.results["oom-kernel"]


def test_a_supervisor_that_stands_still_is_noticed_and_comes_back(guest: Outcome) -> None:
    seconds(guest, "watchdog")
    assert "Watchdog timeout" in guest.results["watchdog-journal"]


def test_a_killed_supervisor_comes_back_and_leaves_nobody_behind(guest: Outcome) -> None:
    seconds(guest, "killed")
    # Supervisor, template, aggregator, two workers.
    assert guest.results["killed-processes"].strip() == "5"
    assert int(guest.results["restarts"]) >= 2


def test_a_relay_of_another_user_goes_on_through_all_of_it(guest: Outcome) -> None:
    seconds(guest, "relay-first")
    seconds(guest, "relay-again")
    assert guest.results["relay-alive"].strip() == "alive"
    assert guest.results["relay-exit"].strip() == "0"
    assert "Traceback" not in guest.results["relay-errors"]


def test_a_unit_that_always_fails_is_given_up(guest: Outcome) -> None:
    assert "Start request repeated too quickly" in guest.results["limit"]


def test_uninstall_leaves_nothing(guest: Outcome) -> None:
    assert guest.results["uninstall"].strip() == "0"
    assert guest.results["uninstall-active"].strip() == "inactive"
    assert guest.results["uninstall-processes"] == ""
    assert guest.results["uninstall-user"] == ""
    ours = [line for line in guest.results["uninstall-diff"].splitlines() if "ebpf" in line]
    assert ours == []
