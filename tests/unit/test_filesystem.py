"""filesystem: which types are mounted, which parts they need, and which rows are shown."""

import re

import pytest

from supervisor.kernel.source import expand
from tests.harness import ROOT
from workers.filesystem import PROGRAM, Mounts, parts_of, points_of, types_in

MOUNTINFO = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 propagate_from:2 - xfs /dev/sda1 rw,errors=continue
37 22 0:20 / /a\\040-b rw - nfs4 10.0.0.1:/a\\040-\\040b rw,vers=4.2
38 22 0:21 / /run rw,nosuid - tmpfs tmpfs rw
"""


def test_types_are_read_whatever_stands_before_and_behind_them() -> None:
    assert types_in(MOUNTINFO) == {"ext4", "xfs", "nfs4", "tmpfs"}
    assert types_in("") == frozenset()


def test_mount_points_are_read_with_their_blanks() -> None:
    assert points_of("nfs4", MOUNTINFO) == ["/a -b"]
    assert points_of("ext4", MOUNTINFO) == ["/"]
    assert points_of("btrfs", MOUNTINFO) == []


@pytest.mark.parametrize(
    ("mounted", "parts"),
    [
        ({"ext4", "tmpfs"}, {"ext4"}),
        ({"tmpfs"}, set()),
        ({"nfs"}, {"nfs"}),
        ({"nfs4"}, {"nfs4"}),
        ({"nfs", "nfs4", "zfs"}, {"nfs4", "zfs"}),  # both versions have the same reads and writes
    ],
)
def test_each_type_is_a_part_and_both_versions_of_nfs_are_one(mounted: set[str], parts: set[str]) -> None:
    assert parts_of(frozenset(mounted)) == parts


def test_the_mounts_of_this_machine_are_found_again_and_again() -> None:
    mounts = Mounts()
    first = mounts.types()
    assert "proc" in first
    assert mounts.types() == first


def hooks_of(*parts: str) -> frozenset[str]:
    return frozenset(hook.name for hook in PROGRAM.hooks if hook.part in parts)


def test_a_type_is_shown_when_all_its_calls_are_seen() -> None:
    assert PROGRAM.names
    assert PROGRAM.names({}, hooks_of("ext4", "nfs4")) == {0: "ext4", 3: "nfs"}
    assert PROGRAM.names({}, hooks_of("nfs")) == {3: "nfs"}
    assert PROGRAM.names({}, hooks_of("ext4") - {"ext4 sync"}) == {}


def test_rows_and_calls_stand_in_the_order_of_the_source() -> None:
    source = expand(ROOT / "kernel_progs" / PROGRAM.source)
    words = dict(re.findall(r"enum (type|call) \{([^}]*)\}", source))
    order = {name: [word.strip().lower() for word in text.split(",")] for name, text in words.items()}
    assert PROGRAM.names
    every = frozenset(hook.name for hook in PROGRAM.hooks)
    assert list(dict(sorted(PROGRAM.names({}, every).items())).values()) == order["type"][:-1]
    calls = dict.fromkeys(column.name.rpartition(" ")[0] for column in PROGRAM.columns)
    assert list(calls) == order["call"][:-1]
