"""Storms of forks and connections, and a random child killed every few seconds, for as long as one likes:
`make soak MINUTES=60`. In `make test` it is a quarter of one (EBPF_TEST_SOAK_MINUTES)."""

import collections
import contextlib
import itertools
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import pytest

from tests.harness import Run, supervisor, wait_for
from tests.kernel.counting import Growth
from tests.network import Peer
from tests.process.test_cleaning import descriptors
from tests.process.test_fault_injection import zombies
from tests.process.test_faults import own_and_file_bytes, units
from tests.workload import Workload

pytestmark = pytest.mark.kernel

MINUTES: Final = float(os.environ.get("EBPF_TEST_SOAK_MINUTES", "0.25"))
KILL_EVERY_S: Final = 5.0
LOOK_EVERY_S: Final = 5.0
# What grows for good in the first minute: Python's caches, pages that are touched once.
WARM_UP_S: Final = min(60.0, MINUTES * 30)
MOST_GROWTH_BYTES: Final = 1 << 20

KAT: Final = f"kat{os.getpid()}"
CHURN: Final = f"churn{os.getpid()}"
PEER: Final = f"peer{os.getpid()}"
GROUPS: Final = f"kat: {KAT}\nchurn: {CHURN}\npeer: {PEER}\n"
SETTINGS: Final = """\
[supervisor]
    startretries = 1000
    backoff_initial_secs = 0.1
    backoff_max_secs = 0.2
"""
PROCESSES, OPENS_EACH, OPENS, CONNECTIONS = 101, 3, 1009, 53


@dataclass
class Seen:
    """Of the supervisor, once it has warmed up: each time its memory and number of descriptors."""

    anonymous_bytes: list[int] = field(default_factory=list)
    file_bytes: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def note(self, pid: int) -> None:
        anonymous, of_files = own_and_file_bytes(pid)
        self.anonymous_bytes.append(anonymous)
        self.file_bytes.append(of_files)
        self.descriptors.append(settled_descriptors(pid))

    def grown_bytes(self) -> int:
        first, *others = map(sum, zip(self.anonymous_bytes, self.file_bytes, strict=True))
        return max(others) - first

    def memory(self) -> str:
        return f"anonymous: {steps(self.anonymous_bytes)}; of files: {steps(self.file_bytes)}"


def settled_descriptors(pid: int) -> int:
    """How many there are once it is as many ten times: that of a client which has hung up, or of a child that
    has ended, is there until the supervisor has heard of it."""
    looks: collections.deque[int] = collections.deque(maxlen=10)

    def as_many() -> bool:
        looks.append(len(descriptors(pid)))
        return looks.count(looks[0]) == looks.maxlen

    wait_for("as many descriptors for a while", as_many)
    return looks[0]


@contextlib.contextmanager
def storms() -> Iterator[tuple[Workload, Workload, Peer, Peer]]:
    with Workload(KAT) as work, Workload(CHURN) as churn, Peer(PEER) as server, Peer(PEER) as client:
        server.do("isolate")
        client.do("join", server.pid)
        server.do("listen", 4, 5000)
        yield work, churn, server, client


def kill_one(run: Run, chance: random.Random) -> None:
    """A worker, the aggregator, the template, or a loader that happens to be there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(chance.choice(run.children()), signal.SIGKILL)


@pytest.mark.timeout(MINUTES * 60 + 300)
def test_storms_and_kills_cost_no_count_and_nothing_grows() -> None:
    chance = random.Random(4)
    with (
        supervisor("--only", "process,fd,socket", groups=GROUPS, files={"ebpf.d.conf": SETTINGS}) as run,
        storms() as workloads,
    ):
        pairs = {
            ("apps.file_open", "kat"): OPENS,
            ("apps.file_open", "churn"): PROCESSES * OPENS_EACH,
            ("apps.process_create", "churn"): PROCESSES,
            ("apps.outbound_conn_v4", "peer"): CONNECTIONS,
        }
        wait_for("all to run", lambda: len(units(run)) == 4)
        run.wait_frames(3)
        with Growth(run, *pairs) as growth:
            rounds, seen = storm(run, workloads, chance)
            wait_for("all to run again", lambda: len(units(run)) == 4, 30)
            expected = {pair: count * rounds for pair, count in pairs.items()}
            assert growth.settle(expected, 30) == expected
        assert rounds > 0
        print(f"{seen.memory()}; descriptors: {steps(seen.descriptors)}; rounds: {rounds}")
        assert seen.grown_bytes() < MOST_GROWTH_BYTES, seen.memory()
        assert max(seen.descriptors[1:]) - seen.descriptors[0] <= 2, steps(seen.descriptors)
        wait_for("no zombie", lambda: zombies(run) == [])
        assert "Traceback" not in run.stderr()


def steps(sizes: list[int]) -> str:
    """At which look each other size was seen first: growth for good looks otherwise than one jump."""
    changes = enumerate(itertools.pairwise(sizes), 1)
    return ", ".join([f"{sizes[0]}", *(f"look {n}: {now}" for n, (before, now) in changes if now != before)])


def storm(
    run: Run, workloads: tuple[Workload, Workload, Peer, Peer], chance: random.Random
) -> tuple[int, Seen]:
    """Until the time is up; how many rounds that were, and what was seen."""
    began_s = time.monotonic()
    kill_s, look_s, rounds, seen = began_s + KILL_EVERY_S, began_s + WARM_UP_S, 0, Seen()
    while time.monotonic() < began_s + MINUTES * 60 or len(seen.descriptors) < 2:
        one_round(*workloads)
        rounds += 1
        # Before the next kill: the last one was a round ago, and is known.
        if time.monotonic() > look_s:
            wait_for("all to run", lambda: len(units(run)) == 4, 30)
            seen.note(run.process.pid)
            look_s += LOOK_EVERY_S
        if time.monotonic() > kill_s:
            kill_one(run, chance)
            kill_s += KILL_EVERY_S
    return rounds, seen


def one_round(work: Workload, churn: Workload, server: Peer, client: Peer) -> None:
    """All at once."""
    work.order("open", OPENS)
    churn.order("churn", PROCESSES, OPENS_EACH)
    server.order("accept", 5000, CONNECTIONS)
    client.order("connect", 4, 5000, CONNECTIONS)
    for each in (work, churn, server, client):
        each.done()
    client.do("hang_up")
    server.do("hang_up")
