"""CPU time of the whole tree on a crowded machine: many processes, groups, containers and connections."""

import contextlib
import platform
import resource
import threading
from collections.abc import Iterator
from typing import Final

from supervisor.kernel import cgroup_hierarchy
from tests.benchmarks.cpu import Usage, usage_of
from tests.benchmarks.figures import Benchmark, Section, Table, at_most
from tests.benchmarks.load import Load
from tests.harness import Run, supervisor
from tests.network import Peer

TITLE: Final = "A crowded machine"
FEW: Final = 100
PROCESSES, GROUPS, CONTAINERS, CONNECTIONS = 8000, 200, 500, 10_000
PORTS: Final = 100
_FIRST_PORT: Final = 20_000
_TALK_EVERY_S: Final = 10.0
_GOAL: Final = 2.0

_MEANING: Final = f"""\
CPU time of all processes of the supervisor as in *CPU*, on the host: with {FEW} processes and the packaged
groups, and with {PROCESSES:,} processes of {GROUPS} groups in {CONTAINERS} containers and {CONNECTIONS:,} TCP
connections to {PORTS} services, of which each says something every {_TALK_EVERY_S:.0f} s. A sleeper of few
wakes every 10 s, one of the crowd every 20 s, so that the crowd makes some 40 times the events."""


def run(guest: bool) -> Section:
    few, many = _few(), _many()
    goal = at_most("crowd by few", many.total / few.total, _GOAL, "{:.2f} times")
    names = [name for name in few.by_process if name in many.by_process]
    rows = [
        (what, f"{usage.total:.2%}", *(f"{usage.by_process[name]:.2%}" for name in names))
        for what, usage in (("few", few), ("crowd", many))
    ]
    table = Table(("host, share of a core", "all", *names), rows)
    return Section(TITLE, _MEANING, (f"kernel {platform.release()}",), (goal,), (table,))


def _few() -> Usage:
    with Load(FEW), supervisor() as running:
        return usage_of(running, FEW)


def _many() -> Usage:
    hierarchy = cgroup_hierarchy.find()
    load = (
        Load(PROCESSES, GROUPS, CONTAINERS, hierarchy.mount_point) if hierarchy else Load(PROCESSES, GROUPS)
    )
    groups = "".join(f"group{number}: sleeper{number}\n" for number in range(GROUPS))
    with load, supervisor(groups=groups) as running, _talk(running):
        return usage_of(running, PROCESSES)


@contextlib.contextmanager
def _talk(running: Run) -> Iterator[None]:
    """Connections that are there, and are used now and then."""
    with Peer("bench-server") as server, Peer("bench-client") as client:
        for peer in (server, client):
            resource.prlimit(peer.pid, resource.RLIMIT_NOFILE, (2 * CONNECTIONS, 2 * CONNECTIONS))
        server.do("isolate")
        client.do("join", server.pid)
        for port in range(_FIRST_PORT, _FIRST_PORT + PORTS):
            server.do("listen", 4, port)
            client.do("connect", 4, port, CONNECTIONS // PORTS)
            server.do("accept", port, CONNECTIONS // PORTS)
        over = threading.Event()

        def talk() -> None:
            while not over.wait(_TALK_EVERY_S):
                client.do("send_each", 100)
                server.do("receive_each", 100)

        talking = threading.Thread(target=talk)
        talking.start()
        try:
            yield
        finally:
            over.set()
            talking.join()


BENCHMARK: Final = Benchmark("crowd", "CPU time on a crowded machine", run)
