"""Lists of ports and addresses, as the options `ports` and `ips` have them."""

import ipaddress

import pytest

from supervisor.config.networks import ADDRESSES, PORTS, addresses, ports

PORT_CASES = [
    ("*", [1, 80, 65535], []),
    ("", [1, 80, 65535], []),
    ("19999", [19999], [80, 1999]),
    ("1-1024", [1, 1024], [1025]),
    ("1:1024", [1, 1024], [1025]),
    ("1-1024 !145", [144, 146], [145, 2000]),
    ("!145 1-1024", [144, 146], [145, 2000]),
    ("!145", [144, 2000], [145]),
    ("!1-1024", [1025], [1, 1024]),
    ("* !22", [21, 23], [22]),
    ("!*", [], [1, 65535]),
    ("http", [80], [443]),
    ("1-1024 !domain", [52, 54], [53]),
    ("80 443 8000-8010", [80, 443, 8005], [81, 8011]),
]


@pytest.mark.parametrize(("text", "shown", "hidden"), PORT_CASES)
def test_ports_are_selected(text: str, shown: list[int], hidden: list[int]) -> None:
    selection, wrong = ports(text)
    assert wrong == []
    assert [selection.has(port) for port in shown] == [True] * len(shown)
    assert [selection.has(port) for port in hidden] == [False] * len(hidden)


ADDRESS_CASES = [
    ("*", ["10.0.0.1", "::1", "8.8.8.8"], []),
    ("10.0.0.1", ["10.0.0.1"], ["10.0.0.2", "::1"]),
    ("10.0.0.0/8", ["10.255.255.255"], ["11.0.0.0", "fc00::1"]),
    ("!127.0.0.1/8 10.0.0.0/8 fc00::/7 !::1/128", ["10.1.1.1", "fd00::1"], ["127.9.9.9", "::1", "8.8.8.8"]),
    ("!127.0.0.1/8", ["10.0.0.1", "::1"], ["127.0.0.1"]),
    ("192.168.1.10-192.168.1.20", ["192.168.1.10", "192.168.1.20"], ["192.168.1.9", "192.168.1.21"]),
    ("2001:db8::1-2001:db8::ff", ["2001:db8::f0"], ["2001:db8::100", "10.0.0.1"]),
    ("* !::1", ["::2", "127.0.0.1"], ["::1"]),
    ("fe80::/10", ["fe80::1"], ["fec0::1"]),
]


@pytest.mark.parametrize(("text", "shown", "hidden"), ADDRESS_CASES)
def test_addresses_are_selected(text: str, shown: list[str], hidden: list[str]) -> None:
    selection, wrong = addresses(text)
    assert wrong == []
    assert [selection.has_address(ipaddress.ip_address(a)) for a in shown] == [True] * len(shown)
    assert [selection.has_address(ipaddress.ip_address(a)) for a in hidden] == [False] * len(hidden)


@pytest.mark.parametrize("word", ["0", "65536", "10-9", "1-!5", "80,443", "-1", "no-such-service", "9" * 400])
def test_a_word_that_is_no_port_is_left_out_and_told(word: str) -> None:
    parsed = PORTS.parse(f"80 {word}")
    assert parsed.value == "80"
    assert word in parsed.remark


@pytest.mark.parametrize(
    "word", ["300.0.0.1", "10.0.0.0/33", "10.0.0.9-10.0.0.1", "10.0.0.1-::1", "example.com", "10.0.0.1 - ::"]
)
def test_a_word_that_is_no_address_is_left_out_and_told(word: str) -> None:
    parsed = ADDRESSES.parse(f"10.0.0.1 {word}")
    assert str(parsed.value).startswith("10.0.0.1")
    assert parsed.remark


def test_a_list_of_wrong_words_only_leaves_nothing_out() -> None:
    assert PORTS.parse("none").value == "*"
