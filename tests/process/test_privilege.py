"""Only what must be root is root: what workers and the aggregator may do, hold, and be asked by whom."""

import contextlib
import grp
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from supervisor import ctl
from supervisor.kernel import cgroup_hierarchy
from supervisor.kernel.maps import USED_PAGES
from supervisor.spawn import find_account
from tests.harness import SUPERVISOR, Run, supervisor
from tests.process.test_cleaning import descriptors, held_objects, with_title
from workers.registry import all_programs, find

pytestmark = pytest.mark.kernel

PROGRAMS: Final = ("process", "fd", "disk", "softirq")
ROLES: Final = (*(f"worker {name}" for name in PROGRAMS), "aggregator", "template")
NOBODY: Final = 65534
OWN_STATUS: Final = Path("/proc/self/status").read_text()


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with supervisor("--only", ",".join(PROGRAMS)) as run:
        for name in (*PROGRAMS, "aggregator"):
            run.pid_of(name)
        # Everybody may go as far as the runtime directory, as in /run.
        run.directory.parent.chmod(0o755)
        yield run


def pid_of(run: Run, role: str) -> int:
    """Of the process with this title, which is how an administrator finds it."""
    (pid,) = with_title(run, role)
    return pid


def as_nobody(act: Callable[[], int]) -> int:
    """What `act` returns in a process of the user nobody, without groups."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            status = act()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# ---- what a process is


@pytest.mark.parametrize("role", ROLES)
def test_it_has_no_privilege_and_cannot_get_one(run: Run, role: str) -> None:
    lines = Path(f"/proc/{pid_of(run, role)}/status").read_text().splitlines()
    status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    account = find_account(None)
    assert {name: int(status[name][0], 16) for name in status if name.startswith("Cap")} == dict.fromkeys(
        ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), 0
    )
    assert status["NoNewPrivs"] == ["1"]
    assert status["Uid"] == [str(account.uid)] * 4 != ["0"] * 4
    assert status["Gid"] == [str(account.gid)] * 4 != ["0"] * 4
    assert status["Groups"] == []


@pytest.mark.skipif("THP_enabled" not in OWN_STATUS, reason="this kernel does not tell who gets huge pages")
@pytest.mark.parametrize("role", ROLES)
def test_it_gets_no_huge_page_where_the_kernel_hands_them_out_unasked(run: Run, role: str) -> None:
    pids = (pid_of(run, role), run.process.pid)
    status = [Path(f"/proc/{pid}/status").read_text().split() for pid in pids]
    assert [words[words.index("THP_enabled:") + 1] for words in status] == ["0", "0"]


@pytest.mark.parametrize("role", ROLES)
def test_others_of_its_account_cannot_look_into_it(run: Run, role: str) -> None:
    """`nobody` is many services' account: they may not read its memory or take its descriptors."""
    pid = pid_of(run, role)

    def look() -> int:
        refused = 0
        for path in ("mem", "fd", "environ"):
            try:
                os.close(os.open(f"/proc/{pid}/{path}", os.O_RDONLY))
            except PermissionError:
                refused += 1
        return refused

    assert as_nobody(look) == 3


def test_each_process_bears_its_name(run: Run) -> None:
    """The supervisor's own title has nothing behind it; every other says what it is."""
    own = Path(f"/proc/{run.process.pid}/cmdline").read_bytes().rstrip(b"\0 ")
    assert own == b"ebpf-supervisor"
    titles = [Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0 ").decode() for pid in run.children()]
    assert sorted(titles) == sorted(f"ebpf-supervisor: {role}" for role in ROLES)


# ---- what a process holds

KINDS: Final = (
    (r"/dev/null", "null"),
    (r"pipe:.*", "pipe"),
    (r"socket:.*", "socket"),
    (r"anon_inode:bpf-map", "map"),
    (r"anon_inode:\[(eventpoll|eventfd|timerfd)\]", "event"),
    (r"/memfd:(.*) \(deleted\)", "memory"),
)


def kind_of(link: str) -> str:
    """Which of the kinds that may be held a descriptor is; else the link itself."""
    return next((kind for pattern, kind in KINDS if re.fullmatch(pattern, link)), link)


def memory_names(pid: int) -> set[str]:
    links = (re.fullmatch(r"/memfd:(.*) \(deleted\)", link) for link in descriptors(pid).values())
    return {match[1] for match in links if match}


@pytest.mark.parametrize("role", ROLES)
def test_its_standard_descriptors_lead_nowhere_but_to_the_log(run: Run, role: str) -> None:
    """No terminal, no stream but for the aggregator, and stderr is a pipe to the supervisor."""
    links = descriptors(pid_of(run, role))
    assert (links[0], links[1]) == ("/dev/null", "/dev/null")
    assert links[2].startswith("pipe:")
    assert links[2] in descriptors(run.process.pid).values()


CORE_MAPS: Final = ("task", USED_PAGES)


def maps_of(name: str) -> tuple[str, ...]:
    """What a program's worker reads: one that counts by process is told how far the table is used."""
    program = find(name)
    return program.maps + ((USED_PAGES,) if program.kind == "slot" else ())


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_worker_holds_what_it_works_with_and_nothing_else(run: Run, name: str) -> None:
    pid = pid_of(run, f"worker {name}")
    held = Counter(kind_of(link) for link in descriptors(pid).values())
    # Its log; "ready" and the samples' connection.
    assert held.keys() == {"null", "pipe", "socket", "map", "event", "memory"}
    assert (held["null"], held["pipe"]) == (2, 1)
    assert held["socket"] <= 2
    assert held["map"] == len(maps_of(name))
    assert memory_names(pid) == {f"table:{name}", f"ledger:{name}"}


def test_the_aggregator_holds_what_it_works_with_and_nothing_else(run: Run) -> None:
    pid = pid_of(run, "aggregator")
    held = Counter(kind_of(link) for link in descriptors(pid).values())
    assert held.keys() == {"null", "pipe", "socket", "map", "event", "memory"}
    # Its log and the stream; of the core program the identities, the words, the used pages, the tallies, and
    # the paths of cgroups where those are told apart.
    maps = 5 if cgroup_hierarchy.find() else 4
    assert (held["null"], held["pipe"], held["map"]) == (2, 2, maps)
    # "ready", the lifeline, the wake-up pair, the samples' socket, and a connection for each worker.
    assert held["socket"] <= 5 + len(PROGRAMS)
    # Of the programs too that the configuration does not run: somebody may start them.
    of_programs = {f"{what}:{name}" for what in ("table", "ledger") for name in all_programs()}
    of_connections = {"table:connections", "ledger:connections", "connections", "idle"}
    assert memory_names(pid) == {*of_programs, *of_connections, "board", "identities", "cgroups"}


def test_the_template_holds_its_log_and_its_line_to_the_supervisor_and_nothing_else(run: Run) -> None:
    held = Counter(kind_of(link) for link in descriptors(pid_of(run, "template")).values())
    assert held == {"null": 2, "pipe": 1, "socket": 1}


def test_a_worker_has_no_map_of_another_program(run: Run) -> None:
    """Those of the core program are read by more than one: identities are everybody's."""
    readers = Counter(
        held for name in PROGRAMS for held in held_objects(pid_of(run, f"worker {name}")) if held[0] == "map"
    )
    shared = Counter(held for name in PROGRAMS for held in maps_of(name) if held in CORE_MAPS)
    assert sum(count - 1 for count in readers.values()) == sum(count - 1 for count in shared.values())


@pytest.mark.parametrize("role", ROLES)
def test_its_sockets_are_local(run: Run, role: str) -> None:
    """None of them leads to a network."""
    local = {line.split()[6] for line in Path("/proc/net/unix").read_text().splitlines()[1:]}
    links = descriptors(pid_of(run, role)).values()
    sockets = {link.removeprefix("socket:[").rstrip("]") for link in links if link.startswith("socket:")}
    assert sockets <= local


# ---- the runtime directory

GROUP: Final = "ebpf-supervisor"


def group_id() -> int | None:
    with contextlib.suppress(KeyError):
        return grp.getgrnam(GROUP).gr_gid
    return None


def modes(directory: Path) -> dict[str, tuple[int, int, int]]:
    """Mode, owner and group of everything in a runtime directory."""
    found = {}
    for name in (".", "control.sock", "samples", "samples/samples.sock"):
        status = (directory / name).stat()
        found[name] = (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
    return found


def expected_modes() -> dict[str, tuple[int, int, int]]:
    account, group = find_account(None), group_id()
    return {
        ".": (0o755, 0, 0),
        "control.sock": (0o600, 0, 0) if group is None else (0o660, 0, group),
        "samples": (0o700, account.uid, account.gid),
        "samples/samples.sock": (0o600, account.uid, account.gid),
    }


def test_everything_in_the_runtime_directory_is_as_open_as_it_must_be(run: Run) -> None:
    assert modes(run.directory) == expected_modes()


@pytest.mark.parametrize("mask", ["000", "077"])
def test_whatever_the_umask_of_its_caller(mask: str) -> None:
    command = ["sh", "-c", f'umask {mask}; exec "$0" "$@"', str(SUPERVISOR), "run"]
    with supervisor("--only", "softirq", command=command) as run:
        assert modes(run.directory) == expected_modes()


# ---- who may ask

CHANGES: Final = ("shutdown", "stop fd", "start fd", "restart all", "tail fd")


@pytest.mark.parametrize("words", ["status", *CHANGES])
def test_ebpfctl_is_refused_to_a_user_without_the_group(run: Run, words: str) -> None:
    """With exit status 4, and nothing happens."""
    before = pids(run)
    command = ["--runtime-dir", str(run.directory), *words.split()]
    assert as_nobody(lambda: ctl.run_command(command)) == 4
    assert pids(run) == before


def pids(run: Run) -> dict[str, int]:
    return {program["name"]: program["pid"] for program in run.status()["programs"]}


@pytest.fixture
def open_door(run: Run) -> Iterator[Run]:
    """A control socket that everybody can connect to: the peer's credentials are all that is left."""
    path = run.directory / "control.sock"
    mode = stat.S_IMODE(path.stat().st_mode)
    path.chmod(0o666)
    yield run
    path.chmod(mode)


@pytest.mark.parametrize("words", CHANGES)
def test_whoever_is_not_root_may_only_ask_for_the_status(open_door: Run, words: str) -> None:
    """The mode of the socket is one lock; who the kernel says the peer is, the other."""
    before = pids(open_door)
    command = ["--runtime-dir", str(open_door.directory), *words.split()]
    assert as_nobody(lambda: ctl.run_command(command)) == 4
    assert pids(open_door) == before
