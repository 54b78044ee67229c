"""`ebpfctl top` against a real supervisor: its rates are those of what processes do, and the supervisor has
no work with it."""

import json
import os
import pty
import select
import struct
import subprocess
from collections.abc import Iterator
from fcntl import ioctl
from termios import TIOCSWINSZ
from typing import Any

import pytest

from supervisor.top import WAYS
from tests.harness import CTL, SLOW, Run, supervisor, wait_for
from tests.network import Peer
from tests.workload import Workload

pytestmark = pytest.mark.kernel

NAME = f"top{os.getpid()}"
OPENS = 4001


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with supervisor("--only", "fd,disk", groups=f"busy: {NAME}\nidle: {NAME}x\n") as running:
        wait_for("both programs", lambda: {p["state"] for p in running.status()["programs"]} == {"RUNNING"})
        yield running


def once(run: Run, *words: str) -> dict[str, Any]:
    done = run.ctl("--json", "top", "--once", *words)
    assert (done.returncode, done.stderr) == (0, "")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def rows_while_it_opens(run: Run, by: str, work: Workload) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Pictures, from before the work until a second after it: together they have all of it."""
    command = [str(CTL), "--runtime-dir", str(run.directory), "--json", "top", "--by", by]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as top:
        assert top.stdout
        first = json.loads(top.stdout.readline())
        work.do("open", OPENS)
        pictures = [json.loads(top.stdout.readline()) for _ in range(4)]
        top.kill()
    return first, pictures


@pytest.mark.parametrize("by", ["apps", "pids"])
def test_rates_over_time_come_to_what_was_done(run: Run, by: str) -> None:
    with Workload(NAME) as work, Workload(f"{NAME}x"):
        wait_for(
            "its row", lambda: any(row["name"] in (NAME, "busy") for row in once(run, "--by", by)["rows"])
        )
        _, pictures = rows_while_it_opens(run, by, work)
        rows = [row for picture in pictures for row in picture["rows"]]
        mine = [row for row in rows if row.get("pid", work.pid) == work.pid and row["name"] in (NAME, "busy")]
        peak = max(row["rates"]["fd"] for row in mine)
        # Opened and closed; a tick may have fallen into it.
        assert OPENS <= peak <= 2.2 * OPENS
        assert all(row["rate"] == row["rates"]["fd"] for row in mine)
        assert max(row["rate"] for row in rows if row["name"] in ("idle", f"{NAME}x")) == 0
        assert max(picture["host"]["fd"] for picture in pictures) >= peak


def test_processes_are_told_with_their_name_their_parent_and_their_group(run: Run) -> None:
    """The kernel leaves the end of a longer name behind that of a shorter one."""
    with Workload(f"{NAME}-longer") as work:
        work.rename(NAME)
        wait_for(
            "its row",
            lambda: (
                {"pid": work.pid, "ppid": os.getpid(), "name": NAME, "app": "busy"}.items()
                <= next(
                    (row for row in once(run, "--by", "pids")["rows"] if row["pid"] == work.pid), {}
                ).items()
            ),
        )


def test_connections_are_told_with_their_calls_and_bytes() -> None:
    with Peer(NAME) as server, Peer(NAME) as client, supervisor("--only", "socket") as own:
        server.do("isolate")
        client.do("join", server.pid)
        server.do("listen", 4, 5017)
        client.do("connect", 4, 5017, 7)
        server.do("accept", 5017, 7)
        client.do("send", 101, 125)
        server.do("receive", 101, 125)

        def told() -> bool:
            names = {row["name"] for row in once(own, "--by", "connections")["rows"]}
            return names >= {"127.0.0.1:5017", ":5017"}

        wait_for("their rows", told)
        command = [str(CTL), "--runtime-dir", str(own.directory), "--json", "top", "--by", "connections"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as top:
            assert top.stdout
            top.stdout.readline()
            client.do("send", 101, 125)
            server.do("receive", 101, 125)
            pictures = [json.loads(top.stdout.readline()) for _ in range(4)]
            top.kill()
        for name, direction, moved in (("127.0.0.1:5017", "out", "sent"), (":5017", "in", "received")):
            rows = [row for p in pictures for row in p["rows"] if row["name"] == name]
            assert {(row["direction"], row["protocol"]) for row in rows} == {(direction, "TCP")}
            # A tick may have fallen into it.
            peak = max(row["rates"][f"{moved}_bytes"] for row in rows)
            assert 101 * 125 / 2.2 <= peak <= 1.2 * 101 * 125
            assert all(row["rate"] == row["rates"][moved] for row in rows)


def test_without_connections_it_says_why_there_are_none(run: Run) -> None:
    done = run.ctl("top", "--once", "--by", "connections")
    assert done.returncode == 1
    assert "socket does not run" in done.stderr


@pytest.mark.parametrize("by", [by for by in WAYS if by != "connections"])
def test_it_prints_a_table_where_there_is_no_terminal(run: Run, by: str) -> None:
    done = run.ctl("top", "--once", "--by", by)
    assert (done.returncode, done.stderr) == (0, "")
    host, head, *_ = done.stdout.splitlines()
    assert host.startswith("host:  disk ") or host.startswith("host:  fd ")
    assert "TOTAL" in head
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("terminal", ["xterm", "vt100", "linux"])
def test_it_is_drawn_on_a_terminal_of_80_columns_until_q_is_pressed(run: Run, terminal: str) -> None:
    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    command = [str(CTL), "--runtime-dir", str(run.directory), "top", "--by", "pids"]
    env = {**os.environ, "TERM": terminal}
    top = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    seen = bytearray()

    def drawn() -> bool:
        while select.select([ours], [], [], 0)[0]:
            seen.extend(os.read(ours, 65536))
        return b"TOTAL" in seen

    wait_for("its header", drawn)
    os.write(ours, b"q")
    assert top.wait(15 * SLOW) == 0
    os.close(ours)
    assert b"Traceback" not in seen


def test_a_picture_leaves_nothing_behind_in_the_supervisor(run: Run) -> None:
    def held() -> int:
        return len(os.listdir(f"/proc/{run.process.pid}/fd"))

    def rss_kb() -> int:
        with open(f"/proc/{run.process.pid}/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))

    once(run)
    before, memory_kb = held(), rss_kb()
    for by in WAYS[:-1]:
        once(run, "--by", by)
    wait_for("its descriptors to be closed", lambda: held() <= before)
    assert rss_kb() < memory_kb + 1024


def test_memory_is_handed_out_for_reading_only(run: Run) -> None:
    from supervisor.ctl import ask

    descriptors: list[int] = []
    answer = next(ask(run.directory, {"command": "top"}, descriptors))
    assert len(descriptors) == len(answer["programs"]) + 2 + len(answer["maps"])
    for fd in descriptors[: len(answer["programs"]) + 2]:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(fd, b"x", 0)
    for fd in descriptors:
        os.close(fd)


def test_it_goes_on_through_a_new_aggregator_and_tells_when_the_supervisor_has_gone() -> None:
    with supervisor("--only", "fd", groups=f"busy: {NAME}\n") as own:
        command = [str(CTL), "--runtime-dir", str(own.directory), "--json", "top"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as top:
            assert top.stdout
            assert top.stderr
            top.stdout.readline()
            os.kill(own.pid_of("aggregator"), 9)
            for _ in range(3):
                assert json.loads(top.stdout.readline())["by"] == "apps"
            assert own.end() == 0
            *_, last = top.stderr
            assert top.wait(15 * SLOW) == 4
            assert last.startswith("ebpfctl: ")
