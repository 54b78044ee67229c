"""What the running kernel tells of its own types."""

from pathlib import Path

import pytest

from supervisor.kernel.btf import number_of
from supervisor.kernel.plans import Target

pytestmark = pytest.mark.skipif(
    not Path("/sys/kernel/btf/vmlinux").exists(), reason="this kernel does not describe its types (BTF)"
)


@pytest.mark.parametrize(
    ("name", "member", "expected"),
    [
        ("list_head", "prev", 8),
        ("sock_common", "skc_family", 16),  # behind three unions and a hash (include/net/sock.h)
        ("page", "flags", 0),
        ("page", "lru", 8),  # in a nameless structure in a nameless union
        ("pageflags", "PG_locked", 0),
    ],
)
def test_fields_are_found_in_nameless_parts_too_and_members_of_enumerations(
    name: str, member: str, expected: int
) -> None:
    assert number_of(name, member) == expected


def test_a_functions_parameters_are_counted() -> None:
    assert number_of("tcp_sendmsg", "arguments") == 3


def test_what_the_kernel_does_not_tell_is_none() -> None:
    assert number_of("no_such_structure", "x") is None
    assert number_of("list_head", "x") is None
    assert number_of("pageflags", "PG_x") is None
    assert number_of("no_such_function", "arguments") is None


def test_a_target_can_need_several_facts() -> None:
    target = Target("f", "on_f", field="sock_common.skc_family tcp_recvmsg() sock.sk_protocol?")
    assert target.needed() == ("sock_common.skc_family", "tcp_recvmsg()", "sock.sk_protocol?")
