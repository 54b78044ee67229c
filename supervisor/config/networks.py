"""Lists of ports and of addresses as Netdata's network viewer reads them.

    ports = 1-1024 !145 !domain https          ips = !127.0.0.1/8 10.0.0.0/8 fc00::/7 192.168.1.1-192.168.1.9

Words are separated by white space; `!` in front excludes, `*` is everything. What is excluded is looked at
first; where anything is included, the rest is not.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from supervisor.config.kinds import Parsed

Span = tuple[int, int]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MOST_PORT: Final = 65535
_RANGE: Final = re.compile(r"([0-9]{1,5})(?:[-:]([0-9]{1,5}))?")
_SERVICE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_+.-]{0,63}")
_ALL_V4: Final[tuple[int, Span]] = (4, (0, (1 << 32) - 1))
_ALL_V6: Final[tuple[int, Span]] = (6, (0, (1 << 128) - 1))


@dataclass(frozen=True)
class Selection:
    """What a list selects, as spans of a version (4, 6; 0 of ports), first and last both included."""

    included: tuple[tuple[int, Span], ...] = ()
    excluded: tuple[tuple[int, Span], ...] = ()

    @property
    def all(self) -> bool:
        """Whether it leaves nothing out."""
        return not self.excluded and not self.included

    def has(self, number: int, version: int = 0) -> bool:
        if _within(self.excluded, number, version):
            return False
        return not self.included or _within(self.included, number, version)

    def has_address(self, address: Address) -> bool:
        return self.has(int(address), address.version)


def _within(spans: Iterable[tuple[int, Span]], number: int, version: int) -> bool:
    return any(of == version and first <= number <= last for of, (first, last) in spans)


def ports(text: str) -> tuple[Selection, list[str]]:
    """The selection, and the words that are no ports."""
    return _selection(text, _ports_of, ((0, (1, MOST_PORT)),))


def addresses(text: str) -> tuple[Selection, list[str]]:
    """The selection, and the words that are no addresses."""
    return _selection(text, _addresses_of, (_ALL_V4, _ALL_V6))


def _selection(
    text: str,
    spans_of: Callable[[str], tuple[tuple[int, Span], ...]],
    everything: tuple[tuple[int, Span], ...],
) -> tuple[Selection, list[str]]:
    included: list[tuple[int, Span]] = []
    excluded: list[tuple[int, Span]] = []
    wrong = []
    with_everything = False
    for word in text.split():
        bare = word.removeprefix("!")
        spans = everything if bare == "*" else spans_of(bare)
        if not spans:
            wrong.append(word)
        elif bare != word:
            excluded += spans
        else:
            with_everything |= bare == "*"
            included += spans
    # Ports and addresses that no span has, such as port 0, are everything's too.
    return Selection(() if with_everything else tuple(included), tuple(excluded)), wrong


def _ports_of(word: str) -> tuple[tuple[int, Span], ...]:
    found = _RANGE.fullmatch(word)
    if found:
        first, last = int(found[1]), int(found[2] or found[1])
        return ((0, (first, last)),) if 1 <= first <= last <= MOST_PORT else ()
    if _SERVICE.fullmatch(word):
        for protocol in ("tcp", "udp"):
            try:
                port = socket.getservbyname(word, protocol)
            except OSError:
                continue
            return ((0, (port, port)),)
    return ()


def _addresses_of(word: str) -> tuple[tuple[int, Span], ...]:
    try:
        if "-" in word:
            first, last = map(ipaddress.ip_address, word.split("-", 1))
        else:
            network = ipaddress.ip_network(word, strict=False)
            first, last = network[0], network[-1]
    except ValueError:
        return ()
    if first.version != last.version or int(first) > int(last):
        return ()
    return ((first.version, (int(first), int(last))),)


@dataclass(frozen=True)
class Words:
    """A kind of value (kinds.py): a list whose wrong words are left out and told, as by Netdata."""

    expected: str
    read: Callable[[str], tuple[Selection, list[str]]]

    def parse(self, text: str) -> Parsed:
        _, wrong = self.read(text)
        kept = [word for word in text.split() if word not in wrong]
        if not wrong:
            return Parsed(text)
        return Parsed(" ".join(kept) or "*", f"expected {self.expected}; not so: {' '.join(wrong)}")


PORTS: Final = Words("ports, ranges such as 1-1024, names of services, each with ! to exclude, or *", ports)
ADDRESSES: Final = Words("addresses, ranges a-b, networks a/n, each with ! to exclude, or *", addresses)
