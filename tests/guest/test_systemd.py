"""The unit in a guest with systemd as init: `make test-systemd`.

One guest does it all (systemd_run.sh); each test here judges a part of what it has noted. It takes some
minutes, so it is not a part of `make test`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from supervisor.aggregator.cgroup_names import Kind, chart_type, kind_of
from tests.guest import systemd
from tests.guest.kernels import KernelUnavailableError
from tests.guest.systemd import Outcome
from tests.harness import ROOT

RUN: Final = Path(__file__).with_name("systemd_run.sh")
CGROUPS: Final = RUN.with_name("systemd_cgroups.py")
TIMEOUT_S: Final = 2400.0
# What the guest measures its slowness by takes so long on an ordinary machine.
PYTHON_S: Final = 0.05

pytestmark = [
    pytest.mark.guest,
    pytest.mark.timeout(TIMEOUT_S + 600),
    pytest.mark.skipif(
        "EBPF_TEST_SYSTEMD" not in os.environ, reason="asked for by `make test-systemd`: it takes minutes"
    ),
]


def place(path: str, opens: int, *command: str) -> dict[str, Any]:
    """A cgroup, who puts a process there, and where it is shown. Without a command the process does that
    itself, and the cgroup has gone as soon as it has made its opens."""
    kind = kind_of(path)
    assert kind
    shown = chart_type(path, kind, distinct=False)
    service = kind is Kind.SERVICE
    return {
        "name": path,
        "command": command,
        "folder": path.lstrip("/"),
        "chart": "services.file_open" if service else f"{shown}.file_open",
        "dimension": shown if service else "do_sys_open",
        "opens": opens,
    }


_ID: Final = "3f9ab0c4d5e6" * 5 + "aabb"
_POD: Final = "kubepods-burstable-pod12345678_9abc_def0_1234_56789abcdef0"
_SERVICE: Final = ("systemd-run", "--quiet", "--pipe", "--wait")
_SCOPE: Final = ("systemd-run", "--quiet", "--scope")
PLACES: Final = (
    place("/system.slice/shop.service", 1009, *_SERVICE, "--unit=shop.service"),
    place("/tenant.slice/till.scope", 503, *_SCOPE, "--slice=tenant.slice", "--unit=till.scope"),
    place("/system.slice/batch.scope", 211, *_SCOPE, "--unit=batch.scope"),
    place(f"/system.slice/docker-{_ID}.scope", 307, *_SCOPE, f"--unit=docker-{_ID}.scope"),
    place(
        f"/machine.slice/libpod-{_ID}.scope",
        401,
        *_SCOPE,
        "--slice=machine.slice",
        f"--unit=libpod-{_ID}.scope",
    ),
    place(
        f"/kubepods.slice/kubepods-burstable.slice/{_POD}.slice/cri-containerd-{_ID}.scope",
        *(601, *_SCOPE, f"--slice={_POD}.slice", f"--unit=cri-containerd-{_ID}.scope"),
    ),
    place(f"/docker/{_ID}", 701),
)


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
    shutil.copy(CGROUPS, tree / "cgroups.py")
    (tree / "places.json").write_text(json.dumps(list(PLACES)))
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
    slowness = max(1.0, seconds(guest, "python") / PYTHON_S)
    assert seconds(guest, "stop") < 10 * slowness
    assert guest.results["stop-result"].strip() == "success"
    assert guest.results["stop-left"] == ""


@pytest.mark.parametrize("where", PLACES, ids=lambda where: where["name"].rpartition("/")[2][:20])
def test_files_opened_in_a_unit_or_a_container_are_counted_there(
    guest: Outcome, where: dict[str, Any]
) -> None:
    assert json.loads(guest.results["cgroups"])[where["name"]] == where["opens"]


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
