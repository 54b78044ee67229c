"""What the kernel tells of its own types."""

from pathlib import Path

import pytest

from supervisor.kernel import btf
from supervisor.kernel.plans import Target

pytestmark = pytest.mark.skipif(
    not Path("/sys/kernel/btf/vmlinux").exists(), reason="this kernel does not describe its types (BTF)"
)


def test_an_offset_is_that_of_a_field_in_a_structure() -> None:
    """The three union members and the hash before it are 16 bytes (include/net/sock.h)."""
    assert btf.number_of("sock_common", "skc_family") == 16


def test_a_functions_parameters_are_counted() -> None:
    assert btf.number_of("tcp_sendmsg", "arguments") == 3


def test_what_the_kernel_does_not_have_is_told_as_none() -> None:
    assert btf.number_of("sock_common", "no such field") is None
    assert btf.number_of("no such structure", "field") is None
    assert btf.number_of("no_such_function", "arguments") is None


def test_a_target_can_need_several_facts() -> None:
    target = Target("f", "on_f", field="sock_common.skc_family tcp_recvmsg() sock.sk_protocol?")
    assert target.needed() == ("sock_common.skc_family", "tcp_recvmsg()", "sock.sk_protocol?")
