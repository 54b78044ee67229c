"""Numbers of the running kernel's types; its BTF is there on every kernel that the tests run on."""

import pytest

from supervisor.kernel.btf import number_of


@pytest.mark.parametrize(
    ("name", "member", "expected"),
    [
        ("list_head", "prev", 8),
        ("page", "flags", 0),
        ("page", "lru", 8),  # in a nameless structure in a nameless union
        ("pageflags", "PG_locked", 0),
    ],
)
def test_fields_are_found_in_nameless_parts_too_and_members_of_enumerations(
    name: str, member: str, expected: int
) -> None:
    assert number_of(name, member) == expected


def test_what_the_kernel_does_not_tell_is_none() -> None:
    assert number_of("no_such_structure", "x") is None
    assert number_of("list_head", "x") is None
    assert number_of("pageflags", "PG_x") is None
