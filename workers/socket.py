"""socket: calls, bytes and errors of TCP and UDP, connections, closes and retransmits, by process.

Sends and receipts are seen at their end, in both load modes: only then is known what was moved. A kretprobe
misses calls while more of them wait than it has places for (10, or two for each CPU), so the tracepoints of
6.4 and later go before it.
"""

import contextlib
import socket
from collections.abc import Iterator

from supervisor.kernel.plans import Hook, Plan, Target, function_plan, raw_tracepoint_plan
from workers import connections
from workers.declaration import Column, Program

_COLUMNS = (
    Column("accept_tcp", "accept"),
    Column("accept_udp", "accept udp"),
    Column("connect_v4", "connect v4"),
    Column("connect_v6", "connect v6"),
    Column("tcp_sent", "tcp sent"),
    Column("tcp_sent_bytes", "tcp sent"),
    Column("tcp_sent_error", "tcp sent", return_mode_only=True),
    Column("tcp_received", "tcp received"),
    Column("tcp_received_bytes", "tcp received"),
    Column("tcp_received_error", "tcp received", return_mode_only=True),
    Column("tcp_close", "tcp close"),
    Column("tcp_retransmit", "tcp retransmit"),
    Column("udp_sent", "udp sent"),
    Column("udp_sent_bytes", "udp sent"),
    Column("udp_sent_error", "udp sent", return_mode_only=True),
    Column("udp_received", "udp received"),
    Column("udp_received_bytes", "udp received"),
    Column("udp_received_error", "udp received", return_mode_only=True),
)
_PLACE = {column.name: place for place, column in enumerate(_COLUMNS)}

# What the targets must know of the kernel's types.
_FAMILY = "sock_common.skc_family"
_PROTOCOL = f"{_FAMILY} sock.sk_protocol"
_VERSION = f"{_PROTOCOL} sock_common.skc_v6_daddr"
_RECEIVE = "tcp_recvmsg()"
# Where a trampoline has the socket and the message of a call.
_MESSAGE = "number_at(args), number_at(args + 1)"

_STATES = "sock:inet_sock_set_state"
_SENT = "sock:sock_send_length"
_RECEIVED = "sock:sock_recv_length"

_ACCEPT = (
    # 6.10 put three of the four parameters into a structure (kernel commit 92ef0fd55ac8).
    Plan(
        "fexit",
        (
            Target(
                "inet_csk_accept",
                "on_accept",
                "number_at(args + INET_CSK_ACCEPT_ARGS)",
                field="inet_csk_accept()",
            ),
        ),
    ),
    # These see connections that are established, before the server takes them.
    raw_tracepoint_plan(
        "on_inbound",
        "is_accepted(args[1], args[2]) ? protocol_of(args[0]) : 0",
        _STATES,
        field=_PROTOCOL,
    ),
    function_plan("kretprobe", "inet_csk_accept", "on_accept", "PT_REGS_RC(args)"),
)


def _syn_plan(handler: str) -> Plan:
    """Connects that have got as far as their first packet."""
    return raw_tracepoint_plan(
        handler, "args[0], connects(args[1], args[2]) ? version_of(args[0]) : 0", _STATES, field=_VERSION
    )


_CONNECT_V4 = (
    function_plan("fentry", "tcp_v4_connect", "on_connect_v4", "number_at(args)"),
    function_plan("kprobe", "tcp_v4_connect", "on_connect_v4", "PT_REGS_PARM1(args)"),
    _syn_plan("on_syn_v4"),
)
_CONNECT_V6 = (
    function_plan("fentry", "tcp_v6_connect", "on_connect_v6", "number_at(args), args[1]"),
    function_plan("kprobe", "tcp_v6_connect", "on_connect_v6", "PT_REGS_PARM1(args), PT_REGS_PARM2(args)"),
    _syn_plan("on_syn_v6"),
)
_CLOSE = (
    function_plan("fentry", "tcp_close", "on_close"),
    function_plan("kprobe", "tcp_close", "on_close"),
    raw_tracepoint_plan("on_destroy", "args[0]", "tcp:tcp_destroy_sock"),
)
# The tracepoint stands in the function that all ways of sending again go through, even where the compiler has
# put that into its caller (6.1). The caller alone is not passed by loss probes (tcp_send_loss_probe).
_RETRANSMIT = (
    raw_tracepoint_plan(
        "on_retransmit",
        "args[0], RETRANSMIT_ERROR(args)",
        "tcp:tcp_retransmit_skb",
        field="__bpf_trace_tcp_retransmit_skb()?",
    ),
    function_plan("fexit", "tcp_retransmit_skb", "on_retransmit", "number_at(args), (int)args[3]"),
    Plan(
        "kretprobe",
        (
            Target("tcp_retransmit_skb", "on_retransmit_enter", "PT_REGS_PARM1(args)", mechanism="kprobe"),
            Target("tcp_retransmit_skb", "on_retransmit_exit", "(int)PT_REGS_RC(args)"),
        ),
    ),
)
# sendfile and splice went by tcp_sendpage until 6.5 (kernel commit dc97391e6610).
_TCP_SENT = (
    Plan(
        "fexit",
        (
            Target("tcp_sendmsg", "on_tcp_sent", "number_at(args), (int)args[3]"),
            Target("tcp_sendpage", "on_tcp_sent", "number_at(args), (int)args[5]", optional=True),
        ),
    ),
    raw_tracepoint_plan("on_sent_tcp", "args[0], protocol_of(args[0]), (int)args[1]", _SENT, field=_PROTOCOL),
    Plan(
        "kretprobe",
        (
            Target("tcp_sendmsg", "on_tcp_send_enter", "PT_REGS_PARM1(args)", mechanism="kprobe"),
            Target("tcp_sendmsg", "on_tcp_send_exit", "(int)PT_REGS_RC(args)"),
            Target("tcp_sendpage", "on_tcp_send_enter", "PT_REGS_PARM1(args)", True, "kprobe"),
            Target("tcp_sendpage", "on_tcp_send_exit", "(int)PT_REGS_RC(args)", optional=True),
        ),
    ),
)


def _receipt(symbol: str, handler: str, whose: str, *, optional: bool = False) -> Target:
    arguments = f"{whose}, args[FLAGS_INDEX], (int)args[TCP_RECVMSG_ARGS]"
    return Target(symbol, handler, arguments, optional, field=_RECEIVE)


def _probed_receipt(symbol: str, handler: str, *, optional: bool = False) -> tuple[Target, Target]:
    """Where the kernel does not tell where the flags are, what is only looked at counts as received too."""
    return (
        Target(
            symbol,
            "on_receive_enter",
            "FLAGS_REGISTER(args), PT_REGS_PARM1(args), PT_REGS_PARM2(args)",
            True,
            "kprobe",
            _RECEIVE,
        ),
        Target(symbol, handler, "(int)PT_REGS_RC(args)", optional),
    )


_TCP_RECEIVED = (
    Plan(
        "fexit",
        (
            _receipt("tcp_recvmsg", "on_tcp_received", "number_at(args)"),
            Target("tcp_splice_read", "on_tcp_spliced", "number_at(args), (long)args[5]", optional=True),
        ),
    ),
    raw_tracepoint_plan(
        "on_received_tcp", "args[0], protocol_of(args[0]), args[2], (int)args[1]", _RECEIVED, field=_PROTOCOL
    ),
    Plan(
        "kretprobe",
        (
            *_probed_receipt("tcp_recvmsg", "on_tcp_receive_exit"),
            Target("tcp_splice_read", "on_tcp_splice_enter", "PT_REGS_PARM1(args)", True, "kprobe"),
            Target("tcp_splice_read", "on_tcp_receive_exit", "(long)PT_REGS_RC(args)", optional=True),
        ),
    ),
)
_UDP_SENT = (
    Plan(
        "fexit",
        (
            Target(
                "udp_sendmsg",
                "on_udp_v4_sent",
                f"family_of(args[0]), {_MESSAGE}, (int)args[3]",
                field=_FAMILY,
            ),
            Target("udpv6_sendmsg", "on_udp_sent", f"{_MESSAGE}, (int)args[3]", optional=True),
        ),
    ),
    raw_tracepoint_plan("on_sent_udp", "args[0], protocol_of(args[0]), (int)args[1]", _SENT, field=_PROTOCOL),
    Plan(
        "kretprobe",
        (
            # Without it, IPv4 out of an IPv6 socket would count twice.
            Target(
                "udp_sendmsg",
                "on_udp_v4_send_enter",
                "family_of(PT_REGS_PARM1(args)), PT_REGS_PARM1(args), PT_REGS_PARM2(args)",
                mechanism="kprobe",
                field=_FAMILY,
            ),
            Target("udp_sendmsg", "on_udp_v4_send_exit", "(int)PT_REGS_RC(args)"),
            Target(
                "udpv6_sendmsg",
                "on_udp_send_enter",
                "PT_REGS_PARM1(args), PT_REGS_PARM2(args)",
                True,
                "kprobe",
            ),
            Target("udpv6_sendmsg", "on_udp_send_exit", "(int)PT_REGS_RC(args)", optional=True),
        ),
    ),
)
_UDP_RECEIVED = (
    Plan(
        "fexit",
        (
            _receipt("udp_recvmsg", "on_udp_received", _MESSAGE),
            _receipt("udpv6_recvmsg", "on_udp_received", _MESSAGE, optional=True),
        ),
    ),
    raw_tracepoint_plan(
        "on_received_udp", "args[0], protocol_of(args[0]), args[2], (int)args[1]", _RECEIVED, field=_PROTOCOL
    ),
    Plan(
        "kretprobe",
        (
            *_probed_receipt("udp_recvmsg", "on_udp_receive_exit"),
            *_probed_receipt("udpv6_recvmsg", "on_udp_receive_exit", optional=True),
        ),
    ),
)

# Whatever the family of the others, this one is a tracepoint where it can be: it fires at no send or receipt.
_STATE_FACTS = f"{_PROTOCOL} " + " ".join(
    f"sock_common.skc_{field}" for field in ("daddr", "dport", "num", "state", "v6_daddr")
)
_CONNECTIONS = (
    raw_tracepoint_plan("on_state", "args[0], (int)args[1], (int)args[2]", _STATES, field=_STATE_FACTS),
    function_plan(
        "fentry", "inet_sk_state_store", "on_new_state", "number_at(args), (int)args[1]", field=_STATE_FACTS
    ),
    function_plan(
        "kprobe",
        "inet_sk_state_store",
        "on_new_state",
        "PT_REGS_PARM1(args), (int)PT_REGS_PARM2(args)",
        field=_STATE_FACTS,
    ),
)

# ---- events that the start makes to try a plan; those that need no peer end in an error, and count as calls


def _connect(family: socket.AddressFamily, address: str) -> None:
    """A connection to oneself. Raises OSError where that address does not exist."""
    with (
        socket.create_server((address, 0), family=family) as server,
        socket.create_connection(server.getsockname()[:2], timeout=1),
    ):
        server.settimeout(1)
        server.accept()[0].close()


def _connect_v4() -> None:
    _connect(socket.AF_INET, "127.0.0.1")


def _connect_v6() -> None:
    _connect(socket.AF_INET6, "::1")


@contextlib.contextmanager
def _failing(kind: socket.SocketKind) -> Iterator[socket.socket]:
    """A socket without a peer, on which every call fails at once."""
    with socket.socket(socket.AF_INET, kind) as lonely:
        lonely.setblocking(False)
        with contextlib.suppress(OSError):
            yield lonely


def _tcp_send() -> None:
    with _failing(socket.SOCK_STREAM) as lonely:
        lonely.send(b"x", socket.MSG_NOSIGNAL)


def _tcp_receive() -> None:
    with _failing(socket.SOCK_STREAM) as lonely:
        lonely.recv(1)


def _tcp_close() -> None:
    socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()


def _udp_send() -> None:
    with _failing(socket.SOCK_DGRAM) as lonely:
        lonely.send(b"x")


def _udp_receive() -> None:
    with _failing(socket.SOCK_DGRAM) as lonely:
        lonely.recv(1)


PROGRAM = Program(
    name="socket",
    source="socket.bpf.c",
    hooks=(
        Hook("accept", _ACCEPT, _ACCEPT, _connect_v4, _PLACE["accept_tcp"]),
        Hook("accept udp", (), (), impossible="UDP has no connections that could be accepted"),
        Hook("connect v4", _CONNECT_V4, _CONNECT_V4, _connect_v4, _PLACE["connect_v4"]),
        Hook("connect v6", _CONNECT_V6, _CONNECT_V6, _connect_v6, _PLACE["connect_v6"]),
        Hook("tcp sent", _TCP_SENT, _TCP_SENT, _tcp_send, _PLACE["tcp_sent"]),
        Hook("tcp received", _TCP_RECEIVED, _TCP_RECEIVED, _tcp_receive, _PLACE["tcp_received"]),
        Hook("tcp close", _CLOSE, _CLOSE, _tcp_close, _PLACE["tcp_close"]),
        Hook("tcp retransmit", _RETRANSMIT, _RETRANSMIT),
        Hook("udp sent", _UDP_SENT, _UDP_SENT, _udp_send, _PLACE["udp_sent"]),
        Hook("udp received", _UDP_RECEIVED, _UDP_RECEIVED, _udp_receive, _PLACE["udp_received"]),
        Hook(connections.HOOK, _CONNECTIONS, _CONNECTIONS),
    ),
    columns=_COLUMNS,
    row_words=18,
    prepare=connections.prepared(connections.CONNECTIONS.rows),
    fill={"listening": connections.listening_pages},
    defines=connections.defines(connections.CONNECTIONS.rows),
    numbers=(
        *_STATE_FACTS.split(),
        "inet_sock.inet_sport",
        "msghdr.msg_name",
        "sock.sk_userlocks",
        "sock.sk_userlocks:shift",
        "socket.sk",
    ),
    companion=connections.CONNECTIONS,
)
