"""Connections: known bytes and calls between processes, exactly at their services and in their direction.

They talk in a network namespace of their own, so that nobody else uses their addresses and ports.
"""

import contextlib
import os
import re
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from tests import crowd
from tests.harness import Run, supervisor, wait_for
from tests.kernel.conftest import PLANS, in_interrupts
from tests.kernel.counting import Growth, grows, missed
from tests.network import Peer

pytestmark = pytest.mark.kernel

SERVER, CLIENT = f"srv{os.getpid()}", f"cli{os.getpid()}"
GROUPS: Final = f"server: {SERVER}\nclient: {CLIENT}\n"
PORT: Final = 5100
UNIT: Final = 125  # bytes of a kilobit
LARGEST_KILOBITS: Final = 3  # that one call of the crowd transfers

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


def crowd_expected() -> tuple[Expected, Expected]:
    """Of the plan: at each service, and at the groups of server and clients."""
    services: Counter[tuple[str, str]] = Counter()
    groups: Counter[tuple[str, str]] = Counter()
    for talk in crowd.plan():
        of = talk.service
        services.update(sent(of.name, talk.calls, of.size, talk.answers, of.answer_size))
        there, back = talk.calls * of.size // UNIT, talk.answers * of.answer_size // UNIT
        kind = "tcp" if of.tcp else "udp"
        groups["apps.total_bandwidth_sent", "client"] += there
        groups["apps.total_bandwidth_recv", "server"] += there
        groups["apps.total_bandwidth_sent", "server"] += back
        groups["apps.total_bandwidth_recv", "client"] += back
        groups[f"apps.bandwidth_{kind}_send", "client"] += talk.calls
        groups[f"apps.bandwidth_{kind}_send", "server"] += talk.answers
        groups[f"apps.bandwidth_{kind}_recv", "client"] += talk.answers
        groups[f"apps.bandwidth_{kind}_recv", "server"] += talk.calls + of.tcp  # and the end
    return dict(services), dict(groups)


def differences(growth: Growth, expected: Expected) -> dict[tuple[str, str], tuple[int, int]]:
    """Of what has grown from what was expected, once nothing is missing or there was time for it."""
    with contextlib.suppress(AssertionError):
        wait_for("the counts", lambda: all(growth.by(*pair) >= n for pair, n in expected.items()), 20)
    return {pair: (growth.by(*pair), n) for pair, n in expected.items() if growth.by(*pair) != n}


def total(run: Run, chart: str, side: str) -> int:
    lines = list(run.charts()[chart].dimensions)  # the stream goes on meanwhile
    return sum(run.value(chart, line) for line in lines if line.endswith(side))


def test_3001_connections_of_97_clients_are_exact_and_their_sums_the_same_with_few_lines() -> None:
    """Two supervisors see the same: one has a line for each service, the other ten and that of all others."""
    services, groups = crowd_expected()
    sums = [
        (f"ebpf.{direction}_{what}", side)
        for direction in ("outbound", "inbound")
        for what in ("bytes", "packets")
        for side in ("_sent", "_recv")
    ]
    ports = f"[network connections]\nports = {crowd.FIRST_PORT}-{crowd.FIRST_PORT + crowd.SERVICES}\n"
    options = ("--only", "socket", "--attach", PLANS[0])
    with contextlib.ExitStack() as stack:
        run = stack.enter_context(supervisor(*options, groups=GROUPS, files={"ebpf.d/network.conf": ports}))
        few = stack.enter_context(
            supervisor(*options, files={"ebpf.d/network.conf": f"{ports}maximum dimensions = 20\n"})
        )
        server = stack.enter_context(crowd.Member(SERVER))
        clients = [stack.enter_context(crowd.Member(CLIENT)) for _ in range(crowd.CLIENTS)]
        server.do("isolate")
        server.do("serve")
        for client in clients:
            client.do("join", server.pid)
        with grows(run, {**services, **groups}) as growth, grows(few, dict.fromkeys(sums, 0)):
            before = {pair: total(few, *pair) for pair in sums}
            for order in ("open", "talk"):
                for number, client in enumerate(clients):
                    client.order(order, *([number] if order == "open" else []))
                for client in clients:
                    client.done()
            found = differences(growth, {**services, **groups})
            # Exactly, or as much less as the kernel says that it has kept from our programs.
            most = missed(run) * LARGEST_KILOBITS
            assert all(expected - most <= grown < expected for grown, expected in found.values()), found
            few.wait_frames(3)
            most = missed(few) * LARGEST_KILOBITS
            for chart, side in sums:
                expected = sum(n for (of, line), n in services.items() if of == chart and line.endswith(side))
                grown = total(few, chart, side) - before[chart, side]
                assert expected - most <= grown <= expected, (chart, side)
        for direction in ("outbound", "inbound"):
            lines = few.charts()[f"ebpf.{direction}_bytes"].dimensions
            assert len(lines) == 2 * 10 + 2
            assert {"other:ALL:other_sent", "other:ALL:other_recv"} <= lines.keys()


def of_ours(more: str = "") -> dict[str, str]:
    """A configuration that shows the ports of these tests only: others use this machine too."""
    return {"ebpf.d/network.conf": f"{more}\n[network connections]\nports = {PORT}-{PORT + 999}\n"}


def isolated(stack: contextlib.ExitStack) -> tuple[Peer, Peer]:
    server, client = stack.enter_context(Peer(SERVER)), stack.enter_context(Peer(CLIENT))
    server.do("isolate")
    client.do("join", server.pid)
    return server, client


def test_no_count_is_lost_when_worker_and_aggregator_are_killed(
    watched: Run, peers: tuple[Peer, Peer]
) -> None:
    server, client = peers
    service = f"{PORT + 50}:TCP:127.0.0.1"
    expected = sent(service, 4 * 103, 125)
    with grows(watched, expected) as growth:
        server.do("listen", 4, PORT + 50)
        client.do("connect", 4, PORT + 50, 1)
        server.do("accept", PORT + 50, 1)
        for victim in ("socket", "aggregator", "socket", ""):
            client.do("send", 103, 125)
            server.do("receive", 103, 125)
            if victim:
                os.kill(watched.pid_of(victim), signal.SIGKILL)
        assert differences(growth, expected) == {}


def test_a_full_table_counts_in_the_line_of_all_others() -> None:
    """Half of the services have no row."""
    size = "[global]\nsocket monitoring table size = 256\n"
    with contextlib.ExitStack() as stack:
        run = stack.enter_context(supervisor("--only", "socket", "--attach", PLANS[0], files=of_ours(size)))
        _, client = isolated(stack)
        chart = "ebpf.outbound_bytes"
        with grows(run, {(chart, "other:ALL:other_sent"): 0}):
            before = total(run, chart, "_sent")
            for n in range(508):
                client.do("datagrams", 4, PORT + 100 + n, 1, 125)
            wait_for("the datagrams", lambda: total(run, chart, "_sent") >= before + 508)
            run.wait_frames(2)
            if "EBPF_TEST_ATTACH" in os.environ:
                assert total(run, chart, "_sent") == before + 508
        named = [line for line in run.charts()[chart].dimensions if not line.startswith("other")]
        assert len(named) <= 2 * 254
        assert run.value(chart, "other:ALL:other_sent") >= 508 - 254
        folded = "netdata.ebpf_connections_folded"
        run.wait_value(folded, "folded", 508 - 254, 30)
        assert run.value("netdata.ebpf_connection_table", "free") == 0


@pytest.mark.parametrize(
    "files",
    [
        {"ebpf.d/network.conf": "[network connections]\nenabled = no\n"},
        {"ebpf.d.conf": "[ebpf programs]\nnetwork connections = no\n"},
        {"ebpf.d.conf": "[network viewer]\nenabled = no\n"},
    ],
    ids=["its own file", "the switch", "the old section"],
)
def test_connections_that_are_switched_off_cost_nothing(watched: Run, files: dict[str, str]) -> None:
    with supervisor("--only", "socket", "--attach", PLANS[0], files=files) as run:
        program = run.program("socket")
        told = [hook["reason"] for hook in program["hooks"] if hook["hook"] == "connections"]
        assert told == ["the configuration switches it off"]
        assert program["kernel_bytes"] < watched.program("socket")["kernel_bytes"] - (1 << 20)
        assert not [name for name in run.charts() if name.startswith("ebpf.")]


def test_hosts_and_services_are_called_by_their_names() -> None:
    names = {
        "ebpf.d/network.conf": of_ours()["ebpf.d/network.conf"]
        + (
            "resolve hostnames = yes\nhostnames = !nobody.example localhost\n"
            f"[service name]\n{PORT + 10} = shop\n"
        )
    }
    with contextlib.ExitStack() as stack:
        run = stack.enter_context(supervisor("--only", "socket", "--attach", PLANS[0], files=names))
        _, client = isolated(stack)
        expected = {("ebpf.outbound_packets", "shop:UDP:localhost_sent"): 53}
        with grows(run, expected) as growth:
            client.do("datagrams", 4, PORT + 10, 53, 125)
            assert differences(growth, expected) == {}


def test_a_resolver_that_hangs_holds_up_no_frame_and_loses_no_count() -> None:
    names = {"ebpf.d/network.conf": of_ours()["ebpf.d/network.conf"] + "resolve hostnames = yes\n"}
    with contextlib.ExitStack() as stack:
        run = stack.enter_context(supervisor("--only", "socket", "--attach", PLANS[0], files=names))
        _, client = isolated(stack)
        resolver = next(
            pid for pid in run.children() if b"resolver" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        status = Path(f"/proc/{resolver}/status").read_text()
        assert re.search(r"^CapEff:\s0+$", status, re.MULTILINE)
        assert not re.search(r"^Uid:.*\b0\b", status, re.MULTILINE)
        os.kill(resolver, signal.SIGSTOP)
        expected = {("ebpf.outbound_packets", f"{PORT + 11}:UDP:127.0.0.1_sent"): 53}
        with grows(run, expected) as growth:
            client.do("datagrams", 4, PORT + 11, 53, 125)
            run.wait_frames(3)
            assert differences(growth, expected) == {}


def test_connections_that_were_there_before_the_start_have_their_direction() -> None:
    """The ports that are listened on are read at the start, in every network namespace."""
    with contextlib.ExitStack() as stack:
        server, client = isolated(stack)
        server.do("listen", 6, PORT + 20)
        client.do("connect", 6, PORT + 20, 1)
        server.do("accept", PORT + 20, 1)
        run = stack.enter_context(supervisor("--only", "socket", "--attach", PLANS[0], files=of_ours()))
        expected = sent(f"{PORT + 20}:TCP:[::1]", 53, 125, 31, 250)
        with grows(run, expected) as growth:
            client.do("send", 53, 125)
            server.do("receive", 53, 125)
            server.do("send", 31, 250)
            client.do("receive", 31, 250)
            assert differences(growth, expected) == {}


def sent_again(run: Run, client: Peer) -> int:
    """Of the namespace."""
    plans = [
        h["plan"] for h in run.program("socket")["hooks"] if h["hook"] == "tcp retransmit" and h["attached"]
    ]
    return client.retransmits(loss_probes=plans == ["tracepoint"])


@in_interrupts
def test_retransmits_and_the_rest_after_the_end_are_counted_at_the_service() -> None:
    """What is received after both ends have closed, too: the socket has lost its port then."""
    with contextlib.ExitStack() as stack:
        server, client = isolated(stack)
        run = stack.enter_context(supervisor("--only", "socket", "--attach", PLANS[0], files=of_ours()))
        service = f"{PORT + 30}:TCP:127.0.0.1"
        expected = sent(service, 7, 125)
        with grows(run, {**expected, ("ebpf.outbound_retransmit", service): 0}) as growth:
            server.do("listen", 4, PORT + 30)
            client.do("connect", 4, PORT + 30, 7)
            server.do("accept", PORT + 30, 7)
            before = sent_again(run, client)
            server.do("deaf")
            client.do("send_each", 125)
            wait_for("13 retransmits", lambda: sent_again(run, client) >= before + 13, 30)
            server.do("hear")
            client.do("acknowledged")
            server.do("shut")
            client.do("hang_up")
            server.do("receive_each", 125)
            expected[("ebpf.outbound_retransmit", service)] = sent_again(run, client) - before
            assert differences(growth, expected) == {}


def test_only_addresses_of_the_list_are_shown_in_either_direction() -> None:
    """Inbound connections to one port are then told apart by who makes them."""
    only = {"ebpf.d/network.conf": of_ours()["ebpf.d/network.conf"] + "ips = !127.0.0.0/8 ::1\n"}
    with contextlib.ExitStack() as stack:
        server, client = isolated(stack)
        run = stack.enter_context(supervisor("--only", "socket", "--attach", PLANS[0], files=only))
        expected = sent(f"{PORT + 41}:TCP:[::1]", 53, 125)
        with grows(run, expected) as growth:
            for version, port in ((4, PORT + 40), (6, PORT + 41)):
                server.do("listen", version, port)
                client.do("connect", version, port, 1)
                server.do("accept", port, 1)
                client.do("send", 53, 125)
                server.do("receive", 53, 125)
            assert differences(growth, expected) == {}
        for direction in ("outbound", "inbound"):
            lines = run.charts()[f"ebpf.{direction}_bytes"].dimensions
            assert not [line for line in lines if line.startswith(str(PORT + 40))]
