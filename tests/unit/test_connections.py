"""Connections: which line each row is counted in, what it is called, and that no count is lost on the way."""

import ipaddress
import itertools
import socket
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from supervisor.aggregator import resolver, storage
from supervisor.aggregator.connections import (
    NOT_SHOWN,
    WAITING,
    ConnectionAccount,
    Naming,
    Service,
    service_of,
)
from supervisor.aggregator.resolver import Names, clean
from supervisor.config import networks
from supervisor.config.model import Connections
from supervisor.pipeline import ledger, table
from supervisor.pipeline.sample import Sample
from workers.connections import CONNECTIONS, INBOUND, OTHER_INBOUND, OTHER_OUTBOUND, VERSION_6

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
SETTINGS = Connections(
    256, 500, False, False, networks.Selection(), networks.Selection(), "*", {19999: "Netdata"}
)
LIVE, IDLE = 1 << 48, 1 << 56


def with_lists(ports: str = "*", ips: str = "*", hostnames: str = "*", **more: object) -> Connections:
    lists = {
        "ports": networks.ports(ports)[0],
        "addresses": networks.addresses(ips)[0],
        "hostnames": hostnames,
    }
    return replace(SETTINGS, **{**lists, **more})  # type: ignore[arg-type]


def identity(port: int, address: str = "", protocol: int = TCP, tenure: int = 1) -> tuple[int, int, int]:
    """The last words of a row; without an address it is inbound."""
    packed = ipaddress.ip_address(address).packed if address else b""
    kind = INBOUND if not address else VERSION_6 if ":" in address else 0
    whole = packed.ljust(16, b"\0")
    word = port | protocol << 16 | kind << 24 | tenure << 32 | LIVE
    return int.from_bytes(whole[:8], "little"), int.from_bytes(whole[8:], "little"), word


NAMES = [
    (identity(443, "10.0.0.1"), "443:TCP:10.0.0.1"),
    (identity(53, "10.0.0.1", UDP), "53:UDP:10.0.0.1"),
    (identity(443, "2001:db8::1"), "443:TCP:[2001:db8::1]"),
    (identity(80), "80:TCP"),
    (identity(80, protocol=UDP), "80:UDP"),
    (identity(19999), "Netdata:TCP"),
]


@pytest.mark.parametrize(("words", "name"), NAMES)
def test_a_line_is_named_by_service_protocol_and_address(words: tuple[int, int, int], name: str) -> None:
    assert Naming(SETTINGS, None).name(service_of(words)) == name


def test_names_of_services_come_from_the_file_then_from_the_system() -> None:
    settings = replace(SETTINGS, resolve_services=True, names={80: "Shop 'x' =\n", 8080: "web"})
    naming = Naming(settings, None)
    named = [naming.name(Service(True, "TCP", port, None)) for port in (80, 8080, 443, 1)]
    assert named == ["Shop__x____:TCP", "web:TCP", "https:TCP", "tcpmux:TCP"]


def test_only_ports_and_addresses_of_the_lists_are_shown() -> None:
    naming = Naming(with_lists("1-1024 !145", "10.0.0.0/8 ::1"), None)
    shown = [
        naming.name(service_of(identity(port, address)))
        for port, address in (
            (80, "10.1.1.1"),
            (145, "10.1.1.1"),
            (80, "11.1.1.1"),
            (80, "::1"),
            (2000, "::1"),
        )
    ]
    assert shown == ["80:TCP:10.1.1.1", NOT_SHOWN, NOT_SHOWN, "80:TCP:[::1]", NOT_SHOWN]


class _Answers(Names):
    """Names that are known, and no channel."""

    def __init__(self, known: Mapping[str, str | None]) -> None:
        self.known = known

    def of(self, address: str) -> str | None:
        return self.known.get(address)

    def take_answers(self) -> None:
        return


@pytest.mark.parametrize(
    ("hostnames", "name"),
    [
        ("*", "80:TCP:www.example.com"),
        ("!example.com *", "80:TCP:www.example.com"),
        ("*.example.com", "80:TCP:www.example.com"),
        ("*.EXAMPLE.com", "80:TCP:www.example.com"),
        ("!*.example.com", NOT_SHOWN),
        ("* !www.*", NOT_SHOWN),
        ("example.com", NOT_SHOWN),
    ],
)
def test_hosts_are_shown_by_their_names(hostnames: str, name: str | int) -> None:
    naming = Naming(with_lists(hostnames=hostnames), _Answers({"10.0.0.1": "www.example.com"}))
    assert naming.name(service_of(identity(80, "10.0.0.1"))) == name


def test_a_host_without_a_name_is_shown_by_its_address() -> None:
    naming = Naming(SETTINGS, _Answers({"10.0.0.1": "", "::1": ""}))
    assert naming.name(service_of(identity(80, "10.0.0.1"))) == "80:TCP:10.0.0.1"
    assert naming.name(service_of(identity(80, "::1"))) == "80:TCP:[::1]"


def test_a_host_whose_name_may_still_come_waits() -> None:
    assert Naming(SETTINGS, _Answers({})).name(service_of(identity(80, "10.0.0.1"))) == WAITING


def test_inbound_connections_are_told_apart_by_address_only_where_a_list_asks_for_it() -> None:
    assert not SETTINGS.by_address
    assert with_lists(ips="10.0.0.0/8").by_address
    assert not with_lists(hostnames="*.com").by_address
    assert with_lists(hostnames="*.com", resolve_hosts=True).by_address


# ---- from rows to lines


class House:
    """The memory of a supervisor, and a worker that puts rows into it."""

    def __init__(self, settings: Connections, names: Names | None = None) -> None:
        self.settings, self.names = settings, names
        program = replace(CONNECTIONS, rows=settings.table_size)
        self.storage = storage.create(program, 0, 0, 1, 0, settings)
        self.memory = storage.create_connections(settings)
        shape = self.storage.table_shape
        self.writer = table.Writer(self.storage.table_fd, shape.layout())
        layout = self.storage.ledger_shape.layout(shape.block_bytes)
        self.baseline = ledger.Baseline(self.storage.ledger_fd, layout)
        self.live = np.zeros((settings.table_size, 8), np.uint64)
        self.account = self.new_aggregator()

    def new_aggregator(self) -> ConnectionAccount:
        self.account = ConnectionAccount(CONNECTIONS, self.storage, self.settings, self.memory, self.names)
        self.look_again()
        return self.account

    def look_again(self) -> None:
        """Lets idle lines be looked for, as time does."""
        self.account._look_s = dict.fromkeys((False, True), 0.0)

    def count(self, row: int, words: tuple[int, int, int], sent_bytes: int) -> None:
        self.live[row, :2] += np.array([1, sent_bytes], np.uint64)
        self.live[row, 5:] = words

    def sample(self) -> None:
        """What a worker does each second, and the aggregator after it."""
        numbers = self.baseline.changed(1, self.live.ctypes.data, self.live.nbytes)
        sequence = self.writer.sequence + 1
        self.writer.write(sequence, numbers, memoryview(self.live.tobytes()))
        said = Sample(
            "connections", 1, sequence, sequence, sequence, len(numbers), tuple(range(5)), {}, {}, 0
        )
        self.account.announce(said)
        assert self.account.take([])

    def bytes_of(self) -> dict[str, int]:
        """What each line has, those of nothing left out."""
        totals = self.account.ledger.totals[:, 1].tolist()
        groups = self.account.groups
        return {
            f"{scope}/{group.name}": totals[group.entity]
            for scope in ("outbound", "inbound")
            for group in groups[scope]
            if totals[group.entity]
        }


@pytest.fixture
def house() -> House:
    return House(replace(SETTINGS, maximum_dimensions=4))


def test_more_connections_than_lines_are_counted_together(house: House) -> None:
    house.count(OTHER_OUTBOUND, (0, 0, 0), 7)
    house.count(OTHER_INBOUND, (0, 0, 0), 11)
    for n in range(5):
        house.count(2 + n, identity(80 + n, "10.0.0.1"), 100 + n)
        house.count(20 + n, identity(90 + n), 200 + n)
    house.sample()
    assert house.bytes_of() == {
        "outbound/80:TCP:10.0.0.1": 100,
        "outbound/81:TCP:10.0.0.1": 101,
        "outbound/other:ALL:other": 102 + 103 + 104 + 7,
        "inbound/90:TCP": 200,
        "inbound/91:TCP": 201,
        "inbound/other:ALL:other": 202 + 203 + 204 + 11,
    }


def test_the_next_aggregator_counts_on_in_the_same_lines(house: House) -> None:
    for n in range(3):
        house.count(2 + n, identity(80 + n, "10.0.0.1"), 100)
    house.sample()
    house.new_aggregator()
    for n in (2, 1, 0):
        house.count(2 + n, identity(80 + n, "10.0.0.1"), n + 1)
    house.sample()
    assert house.bytes_of() == {
        "outbound/80:TCP:10.0.0.1": 101,
        "outbound/81:TCP:10.0.0.1": 102,
        "outbound/other:ALL:other": 103,
    }


def test_a_row_that_another_service_has_now_is_counted_there(house: House) -> None:
    house.count(2, identity(80, "10.0.0.1"), 100)
    house.sample()
    house.count(2, identity(81, "10.0.0.1", tenure=2), 30)
    house.sample()
    assert house.bytes_of() == {"outbound/80:TCP:10.0.0.1": 100, "outbound/81:TCP:10.0.0.1": 30}


def test_the_line_of_a_connection_that_is_idle_is_given_to_another_when_all_are_taken(house: House) -> None:
    for n in range(2):
        house.count(2 + n, identity(80 + n, "10.0.0.1"), 100 + n)
    house.sample()
    house.live[2, 7] |= np.uint64(IDLE)
    house.sample()
    house.count(4, identity(82, "10.0.0.1"), 5)
    house.sample()
    assert house.bytes_of() == {"outbound/81:TCP:10.0.0.1": 101, "outbound/82:TCP:10.0.0.1": 5}
    house.live[2, 7] &= ~np.uint64(IDLE)
    house.count(2, identity(80, "10.0.0.1"), 9)
    house.sample()
    assert house.bytes_of()["outbound/other:ALL:other"] == 9


def test_a_connection_among_all_others_gets_a_line_once_one_is_free(house: House) -> None:
    for n in range(3):
        house.count(2 + n, identity(80 + n, "10.0.0.1"), 100 + n)
    house.sample()
    house.live[3, 7] |= np.uint64(IDLE)
    house.sample()
    house.look_again()
    house.count(4, identity(82, "10.0.0.1"), 7)
    house.sample()
    assert house.bytes_of() == {
        "outbound/80:TCP:10.0.0.1": 100,
        "outbound/82:TCP:10.0.0.1": 7,
        "outbound/other:ALL:other": 102,
    }


def test_services_of_one_name_share_a_line() -> None:
    house = House(replace(SETTINGS, names={80: "web", 443: "web"}))
    house.count(2, identity(80), 1)
    house.count(3, identity(443), 2)
    house.sample()
    assert house.bytes_of() == {"inbound/web:TCP": 3}


def test_what_waits_for_a_name_is_counted_when_it_comes() -> None:
    known: dict[str, str | None] = {"10.0.0.2": ""}
    house = House(SETTINGS, _Answers(known))
    house.count(2, identity(80, "10.0.0.1"), 100)
    house.count(3, identity(80, "10.0.0.2"), 5)
    house.sample()
    assert house.bytes_of() == {"outbound/80:TCP:10.0.0.2": 5}
    house.count(2, identity(80, "10.0.0.1"), 20)
    house.sample()
    known["10.0.0.1"] = "a.example"
    house.sample()
    assert house.bytes_of() == {"outbound/80:TCP:a.example": 120, "outbound/80:TCP:10.0.0.2": 5}


def test_what_is_not_shown_is_counted_nowhere() -> None:
    house = House(with_lists("80"))
    house.count(2, identity(80, "10.0.0.1"), 100)
    house.count(3, identity(81, "10.0.0.1"), 100)
    house.sample()
    assert house.bytes_of() == {"outbound/80:TCP:10.0.0.1": 100}


def test_a_full_table_shows_in_the_facts(house: House) -> None:
    house.count(OTHER_OUTBOUND, (0, 0, 0), 7)
    house.count(2, identity(80, "10.0.0.1"), 100)
    house.sample()
    assert (house.account.used_rows, house.account.folded) == (1, 1)


# ---- names of hosts


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("www.example.com", "www.example.com"),
        ("WWW.Example.COM.", "www.example.com"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("_sip._tcp.example.com", "_sip._tcp.example.com"),
        ("a'b", ""),
        ("a b", ""),
        ("a\nSET x = 1", ""),
        ("a:b", ""),
        ("<script>", ""),
        ("-x", ""),
        ("", ""),
        ("ü.example", ""),
        ("a" * 254, ""),
    ],
)
def test_only_what_can_be_the_name_of_a_host_is_taken(name: str, taken: str) -> None:
    assert clean(name) == taken


def test_an_answer_that_does_not_come_is_not_waited_for_and_one_that_comes_late_counts() -> None:
    ours, theirs = resolver.channel()
    clock = [100.0]
    with ours, theirs:
        names = Names(ours, lambda: clock[0])
        assert names.of("10.0.0.1") is None
        assert theirs.recv(100) == b"10.0.0.1"
        clock[0] += resolver.PATIENCE_S + 1
        assert names.of("10.0.0.1") == ""
        theirs.send(b"10.0.0.1 late.example")
        names.take_answers()
        assert names.of("10.0.0.1") == "late.example"


def test_a_resolver_that_takes_nothing_in_holds_nobody_up() -> None:
    ours, theirs = resolver.channel()
    with ours, theirs:
        names = Names(ours)
        asked = (str(ipaddress.IPv4Address(n)) for n in itertools.count(1))
        assert next(a for a in itertools.islice(asked, 100_000) if names.of(a) == "")


@pytest.mark.parametrize(
    "answer", [b"", b" ", b"nonsense", b"10.0.0.1", b"\xff\xfe \xff", b"1.2.3 x", b"::1 a\nb"]
)
def test_an_answer_that_is_none_is_no_name(answer: bytes) -> None:
    ours, theirs = resolver.channel()
    with ours, theirs:
        names = Names(ours)
        theirs.send(answer)
        names.take_answers()
        assert names._known.get("10.0.0.1", ("",))[0] == ""
        assert names._known.get("::1", ("",))[0] == ""


def test_what_is_known_of_hosts_is_bounded() -> None:
    ours, theirs = resolver.channel()
    with ours, theirs:
        names = Names(ours)
        for n in range(resolver.MOST_NAMES + 100):
            names._note(str(ipaddress.IPv4Address(n)), "x")
        assert len(names._known) == resolver.MOST_NAMES
