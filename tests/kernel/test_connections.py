"""Connections: known bytes and calls between processes, exactly at their services and in their direction.

They talk in a network namespace of their own, so that nobody else uses their addresses and ports.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

import pytest

from tests.harness import Run, supervisor
from tests.kernel.conftest import PLANS
from tests.kernel.counting import grows
from tests.network import Peer

pytestmark = pytest.mark.kernel

SERVER, CLIENT = f"srv{os.getpid()}", f"cli{os.getpid()}"
PORT: Final = 5100
UNIT: Final = 125  # bytes of a kilobit

Expected = dict[tuple[str, str], int]


def sent(service: str, calls: int, size: int, answers: int = 0, answer_size: int = 0) -> Expected:
    """What a client sends to `service`, and is answered: at its outbound service and at the server's port."""
    port = ":".join(service.split(":")[:2])
    found: Counter[tuple[str, str]] = Counter()
    for name, direction, (out, back) in (
        (service, "outbound", ("sent", "recv")),
        (port, "inbound", ("recv", "sent")),
    ):
        found[f"ebpf.{direction}_packets", f"{name}_{out}"] += calls
        found[f"ebpf.{direction}_bytes", f"{name}_{out}"] += calls * size // UNIT
        found[f"ebpf.{direction}_packets", f"{name}_{back}"] += answers
        found[f"ebpf.{direction}_bytes", f"{name}_{back}"] += answers * answer_size // UNIT
    return dict(found)


def all_of(*parts: Mapping[tuple[str, str], int]) -> Expected:
    total: Counter[tuple[str, str]] = Counter()
    for part in parts:
        total.update(part)
    return dict(total)


@pytest.fixture(scope="module", params=PLANS)
def watched(request: pytest.FixtureRequest) -> Iterator[Run]:
    with supervisor("--only", "socket", "--attach", request.param) as run:
        if not any(h["hook"] == "connections" and h["attached"] for h in run.program("socket")["hooks"]):
            pytest.skip("connections cannot be told apart here")
        yield run


@pytest.fixture
def peers() -> Iterator[tuple[Peer, Peer]]:
    with Peer(SERVER) as server, Peer(CLIENT) as client:
        server.do("isolate")
        client.do("join", server.pid)
        yield server, client


def test_bytes_and_calls_are_exact_at_each_service_over_both_protocols_and_versions(
    watched: Run, peers: tuple[Peer, Peer]
) -> None:
    """An IPv6 socket with an IPv4 address is an IPv4 connection."""
    server, client = peers
    expected = all_of(
        sent(f"{PORT}:TCP:127.0.0.1", 101, 250, 53, 125),
        sent(f"{PORT}:TCP:127.0.0.1", 29, 1000),
        sent(f"{PORT + 1}:TCP:[::1]", 67, 500),
        sent(f"{PORT + 2}:UDP:127.0.0.1", 103, 375),
        sent(f"{PORT + 3}:UDP:[::1]", 31, 125),
        sent(f"{PORT + 4}:UDP:127.0.0.1", 37, 250),
    )
    with grows(watched, expected) as growth:
        server.do("listen", 4, PORT)
        client.do("connect", 4, PORT, 1)
        server.do("accept", PORT, 1)
        client.do("send", 101, 250)
        server.do("receive", 101, 250)
        server.do("send", 53, 125)
        client.do("receive", 53, 125)
        client.do("connect", 46, PORT, 1)
        server.do("accept", PORT, 1)
        client.do("send", 29, 1000)
        server.do("receive", 29, 1000)
        server.do("listen", 6, PORT + 1)
        client.do("connect", 6, PORT + 1, 1)
        server.do("accept", PORT + 1, 1)
        client.do("send", 67, 500)
        server.do("receive", 67, 500)
        for bound, version, port, count, size in (
            (4, 4, PORT + 2, 103, 375),
            (6, 6, PORT + 3, 31, 125),
            (4, 46, PORT + 4, 37, 250),
        ):
            server.do("bind", bound, port)
            client.do("datagrams", version, port, count, size)
            server.do("take", count, size)
        assert growth.settle(expected) == expected
