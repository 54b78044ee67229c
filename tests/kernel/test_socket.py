"""socket: known numbers of connections, calls and bytes between two processes, at exactly these processes.

They talk in a network namespace of their own, whose counters in /proc are a second source. Of the host's
charts the exact growth is asked for in a guest, where nobody else has sockets; on a host it is the least.
"""

import os
import platform
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import pytest

from tests.harness import Run, supervisor, wait_for
from tests.kernel.conftest import PLANS, in_interrupts
from tests.kernel.counting import Growth, grows
from tests.kernel.coverage import covered
from tests.network import Peer
from workers.socket import PROGRAM

pytestmark = pytest.mark.kernel

ALONE: Final = "EBPF_TEST_ATTACH" in os.environ
SERVER, CLIENT = f"srv{os.getpid()}", f"cli{os.getpid()}"
GROUPS: Final = f"server: {SERVER}\nclient: {CLIENT}\n"
PORT, CLOSED_PORT = 5000, 4999

HOST: Final = {
    "accept_tcp": ("ip.inbound_conn", "inet_csk_accept_tcp"),
    "connect_v4": ("ip.tcp_outbound_conn", "tcp_connect_v4"),
    "connect_v6": ("ip.tcp_outbound_conn", "tcp_connect_v6"),
    "tcp_sent": ("ip.tcp_functions", "tcp_sendmsg"),
    "tcp_sent_bytes": ("ip.total_tcp_bandwidth", "tcp_sendmsg"),
    "tcp_sent_error": ("ip.tcp_error", "tcp_sendmsg"),
    "tcp_received": ("ip.tcp_functions", "tcp_cleanup_rbuf"),
    "tcp_received_bytes": ("ip.total_tcp_bandwidth", "tcp_cleanup_rbuf"),
    "tcp_received_error": ("ip.tcp_error", "tcp_cleanup_rbuf"),
    "tcp_close": ("ip.tcp_functions", "tcp_close"),
    "tcp_retransmit": ("ip.tcp_retransmit", "tcp_retransmit_skb"),
    "udp_sent": ("ip.udp_functions", "udp_sendmsg"),
    "udp_sent_bytes": ("ip.total_udp_bandwidth", "udp_sendmsg"),
    "udp_sent_error": ("ip.udp_error", "udp_sendmsg"),
    "udp_received": ("ip.udp_functions", "udp_recvmsg"),
    "udp_received_bytes": ("ip.total_udp_bandwidth", "udp_recvmsg"),
    "udp_received_error": ("ip.udp_error", "udp_recvmsg"),
}
APPS: Final = {
    "connect_v4": "apps.outbound_conn_v4",
    "connect_v6": "apps.outbound_conn_v6",
    "tcp_sent": "apps.bandwidth_tcp_send",
    "tcp_received": "apps.bandwidth_tcp_recv",
    "tcp_retransmit": "apps.bandwidth_tcp_retransmit",
    "udp_sent": "apps.bandwidth_udp_send",
    "udp_received": "apps.bandwidth_udp_recv",
    "tcp_sent_bytes": "apps.total_bandwidth_sent",
    "udp_sent_bytes": "apps.total_bandwidth_sent",
    "tcp_received_bytes": "apps.total_bandwidth_recv",
    "udp_received_bytes": "apps.total_bandwidth_recv",
}
UNIT: Final = 125  # bytes of a kilobit: whole numbers of it are exact in charts of kilobits

Events = Mapping[str, int]
Expected = dict[tuple[str, str], int]


class Sockets:
    """A supervisor with this program alone, by one family of plans in one mode."""

    def __init__(self, run: Run, family: str, mode: str) -> None:
        self.run, self.family, self.mode = run, family, mode
        hooks = run.program("socket")["hooks"]
        self.plan = {hook["hook"]: hook["plan"] for hook in hooks if hook["attached"]}
        self.columns = {
            column.name
            for column in PROGRAM.columns
            if column.hook in self.plan and (mode == "return" or not column.return_mode_only)
        }

    def expect(self, server: Events, client: Events) -> Expected:
        """What the charts grow by; of the two groups, charts that are not named by not at all."""
        expected: Counter[tuple[str, str]] = Counter()
        for group, events in (("server", server), ("client", client)):
            for column in self.columns:
                value = events.get(column, 0)
                if column.endswith("_bytes"):
                    assert value % UNIT == 0, f"{value} bytes are no whole kilobits"
                    value //= UNIT
                expected[HOST[column]] += value
                if column in APPS:
                    expected[(APPS[column], group)] += value
        return dict(expected)

    def agrees(self, growth: Growth, expected: Expected, *columns: str) -> None:
        """What has grown is what was expected, and shows these columns."""
        grown = growth.settle(expected)
        for pair, count in expected.items():
            if ALONE or pair[1] in ("server", "client"):
                assert grown[pair] == count, f"{pair}: {grown[pair]}, not {count}"
        there = [column for column in columns if column in self.columns]
        exact = [column for column in there if ALONE or column in APPS]
        covered(self.run, "socket", *exact)
        for column in set(there).difference(exact):
            covered(self.run, "socket", column, how="at least the known number; others use sockets too")


@pytest.fixture(
    scope="module", params=[(plan, mode) for mode in ("entry", "return") for plan in PLANS], ids="-".join
)
def sockets(request: pytest.FixtureRequest) -> Iterator[Sockets]:
    plan, mode = request.param
    with supervisor("--only", "socket", "--attach", plan, "--load-mode", mode, groups=GROUPS) as run:
        yield Sockets(run, plan, mode)


@pytest.fixture
def peers() -> Iterator[tuple[Peer, Peer]]:
    with Peer(SERVER) as server, Peer(CLIENT) as client:
        server.do("isolate")
        client.do("join", server.pid)
        yield server, client


def test_every_column_is_there_that_the_kernel_has_a_hook_for(sockets: Sockets) -> None:
    """Sends and receipts have tracepoints since 6.4 only; nothing accepts UDP."""
    expected = {column.name for column in PROGRAM.columns} - {"accept_udp"}
    if sockets.family == "tracepoint" and kernel_version() < (6, 4):
        moving = ("tcp_sent", "tcp_received", "udp_sent", "udp_received")
        expected = {name for name in expected if not name.startswith(moving)}
    if sockets.mode == "entry":
        expected = {name for name in expected if not name.endswith("_error")}
    assert sockets.columns == expected, sockets.run.program("socket")["hooks"]


def kernel_version() -> tuple[int, int]:
    major, minor, *_ = platform.release().split(".")
    return int(major), int(re.sub(r"\D.*", "", minor))


def test_connections_and_closes_are_counted_each_once_by_the_address_they_go_to(
    sockets: Sockets, peers: tuple[Peer, Peer]
) -> None:
    """An IPv6 socket with an IPv4 address makes an IPv4 connection, and one only."""
    server, client = peers
    expected = sockets.expect(
        {"accept_tcp": 101 + 29 + 53, "tcp_close": 101 + 29 + 53},
        {"connect_v4": 101 + 29, "connect_v6": 53, "tcp_close": 101 + 29 + 53 + 13},
    )
    with grows(sockets.run, expected) as growth:
        server.do("listen", 4, PORT)
        server.do("listen", 6, PORT + 1)
        client.do("connect", 4, PORT, 101)
        client.do("connect", 46, PORT, 29)
        client.do("connect", 6, PORT + 1, 53)
        server.do("accept", PORT, 101 + 29)
        server.do("accept", PORT + 1, 53)
        client.do("hang_up")
        server.do("hang_up")
        client.do("close_unused", 13)
        sockets.agrees(growth, expected, "accept_tcp", "connect_v4", "connect_v6", "tcp_close")
    assert client.counter("Tcp", "ActiveOpens") == 101 + 29 + 53
    assert client.counter("Tcp", "PassiveOpens") == 101 + 29 + 53


def test_calls_and_bytes_are_those_that_moved_over_either_protocol_and_version(
    sockets: Sockets, peers: tuple[Peer, Peer]
) -> None:
    """And not one of a unix socket."""
    server, client = peers
    tcp_bytes = 1009 * 125 + 503 * 4000
    udp_bytes = 1013 * 250 + 307 * 125 + 211 * 375
    expected = sockets.expect(
        {
            "accept_tcp": 2,
            "tcp_received": 1009 + 503,
            "tcp_received_bytes": tcp_bytes,
            "udp_received": 1013 + 307 + 211,
            "udp_received_bytes": udp_bytes,
        },
        {
            "connect_v4": 1,
            "connect_v6": 1,
            "tcp_sent": 1009 + 503,
            "tcp_sent_bytes": tcp_bytes,
            "udp_sent": 1013 + 307 + 211,
            "udp_sent_bytes": udp_bytes,
        },
    )
    with grows(sockets.run, expected) as growth:
        for version, port, count, size in ((4, PORT, 1009, 125), (6, PORT + 1, 503, 4000)):
            server.do("listen", version, port)
            client.do("connect", version, port, 1)
            server.do("accept", port, 1)
            server.order("receive", count, size)
            client.do("send", count, size)
            server.done()
        for bound, version, port, count, size in (
            (4, 4, PORT, 1013, 250),
            (6, 6, PORT + 1, 307, 125),
            (4, 46, PORT + 2, 211, 375),
        ):
            server.do("bind", bound, port)
            client.do("datagrams", version, port, count, size)
            server.do("take", count, size)
        client.do("unix", 101, 1000)
        sockets.agrees(
            growth,
            expected,
            *("tcp_sent", "tcp_sent_bytes", "tcp_received", "tcp_received_bytes"),
            *("udp_sent", "udp_sent_bytes", "udp_received", "udp_received_bytes"),
        )
    assert client.counter("Udp", "OutDatagrams") == 1013 + 211
    assert client.counter("Udp", "InDatagrams") == 1013 + 211
    assert client.counter_v6("Udp6InDatagrams") == 307


def test_bytes_are_what_was_moved_and_not_what_was_asked_for(
    sockets: Sockets, peers: tuple[Peer, Peer]
) -> None:
    """Sends that take less than given, data that is looked at before it is taken, files sent and spliced."""
    server, client = peers
    server.do("listen", 4, PORT)
    client.do("connect", 4, PORT, 1)
    server.do("accept", PORT, 1)
    server.do("bind", 4, PORT)
    # splice takes data from a socket without a receiving call, which the tracepoint does not see.
    splices = 0 if sockets.plan.get("tcp received") == "tracepoint" else 31
    sends: Counter[str] = Counter()
    with Growth(sockets.run, *sockets.expect({}, {})) as growth:
        for _ in range(3):
            taken = client.ask("send_short")
            server.do("receive", 1, taken)
            sends.update(calls=1, bytes=taken)
        rest = -sends["bytes"] % UNIT + UNIT
        client.do("send", 1, rest)
        server.do("receive", 1, rest)
        client.do("send_file", 103, 125)
        server.do("receive", 103, 125)
        client.do("send", 1, 250)
        server.do("peek", 17, 250)
        server.do("receive", 1, 250)
        client.do("send", splices, 125)
        server.do("splice", splices, 125)
        client.do("datagrams", 4, PORT, 1, 500)
        server.do("peek_datagrams", 19, 500)
        server.do("take", 1, 500)
        moved = sends["bytes"] + rest + 103 * 125 + 250 + splices * 125
        expected = sockets.expect(
            {
                "tcp_received": 3 + 1 + 103 + 17 + 1 + splices,
                "tcp_received_bytes": moved,
                "udp_received": 19 + 1,
                "udp_received_bytes": 500,
            },
            {
                "tcp_sent": 3 + 1 + 103 + 1 + splices,
                "tcp_sent_bytes": moved,
                "udp_sent": 1,
                "udp_sent_bytes": 500,
            },
        )
        # A buffer that is full for long makes the kernel probe for loss, on a slow machine.
        for pair in (HOST["tcp_retransmit"], (APPS["tcp_retransmit"], "client")):
            expected.pop(pair)
        sockets.agrees(growth, expected, "tcp_sent_bytes", "tcp_received_bytes", "udp_received_bytes")


def test_calls_that_fail_are_errors_and_move_nothing(sockets: Sockets, peers: tuple[Peer, Peer]) -> None:
    """In entry mode they are calls like others, and the charts of errors are not there."""
    server, client = peers
    server.do("listen", 4, PORT)
    client.do("connect", 4, PORT, 41)
    server.do("accept", PORT, 41)
    expected = sockets.expect(
        {"tcp_close": 41},
        {
            "tcp_sent": 41 + 61,
            "tcp_sent_error": 41 + 61,
            "tcp_received": 41 + 67,
            "tcp_received_error": 41 + 67,
            "tcp_close": 41 + 1,
            "udp_sent": 71 + 37 + 73 + 23,
            "udp_sent_bytes": (73 + 23) * 125,
            "udp_sent_error": 71 + 37,
            "udp_received": 73 + 23,
            "udp_received_error": 73 + 23,
        },
    )
    with grows(sockets.run, expected) as growth:
        server.do("reset")
        client.do("see_reset")
        client.do("hang_up")
        client.do("unconnected", 61, 67)
        client.do("too_long", 4, CLOSED_PORT, 71)
        client.do("too_long", 46, CLOSED_PORT, 37)
        client.do("refused", 4, CLOSED_PORT, 73, 125)
        client.do("refused", 6, CLOSED_PORT, 23, 125)
        errors = ("tcp_sent_error", "tcp_received_error", "udp_sent_error", "udp_received_error")
        sockets.agrees(growth, expected, *errors)
    for column in errors:
        assert (HOST[column][0] in sockets.run.charts()) == (column in sockets.columns), column


@in_interrupts
def test_retransmits_are_counted_at_the_process_whose_socket_it_is(
    sockets: Sockets, peers: tuple[Peer, Peer]
) -> None:
    """A timer's interrupt sends again, in whatever process it finds."""
    server, client = peers
    connect_seven(server, client)
    retransmit(sockets, server, client, lambda: server.do("deaf"), lambda: server.do("hear"))


@in_interrupts
def test_retransmits_over_a_link_that_loses_packets_are_counted_at_the_process_whose_socket_it_is(
    sockets: Sockets, peers: tuple[Peer, Peer]
) -> None:
    """All packets for a while: where some are lost, all may come through before enough is sent again."""
    server, client = peers
    connect_seven(server, client)
    if refusal := netem(server, "add", "loss", "1%"):
        pytest.skip(f"no netem here: {refusal}")
    retransmit(
        sockets, server, client, lambda: netem(server, "change", "loss", "100%"), lambda: netem(server, "del")
    )


def connect_seven(server: Peer, client: Peer) -> None:
    server.do("listen", 6, PORT)
    client.do("connect", 6, PORT, 7)
    server.do("accept", PORT, 7)


def retransmit(
    sockets: Sockets,
    server: Peer,
    client: Peer,
    lose: Callable[[], object],
    stop_losing: Callable[[], object],
) -> None:
    """The namespace says how many: each packet here is one segment."""

    def sent_again() -> int:
        return client.retransmits(loss_probes=sockets.plan["tcp retransmit"] == "tracepoint")

    before = sent_again()
    with Growth(sockets.run, *sockets.expect({}, {})) as growth:
        lose()
        client.do("send_each", UNIT)
        wait_for("13 retransmits", lambda: sent_again() >= before + 13, 30)
        stop_losing()
        server.do("receive_each", UNIT)
        client.do("acknowledged")
        again = sent_again() - before
        expected = sockets.expect(
            {"tcp_received": 7, "tcp_received_bytes": 7 * UNIT},
            {"tcp_sent": 7, "tcp_sent_bytes": 7 * UNIT, "tcp_retransmit": again},
        )
        sockets.agrees(growth, expected, "tcp_retransmit")


def netem(peer: Peer, verb: str, *words: str) -> str:
    """Why the loopback device of the process cannot be made to lose packets, "" where it was done."""
    tool = shutil.which("tc", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if not tool:
        return "tc is missing (Debian: iproute2)"
    enter = ["nsenter", f"--net=/proc/{peer.pid}/ns/net"]
    line = [*enter, tool, "qdisc", verb, "dev", "lo", "root", *(("netem", *words) if words else ())]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""
