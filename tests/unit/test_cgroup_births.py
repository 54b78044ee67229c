"""The ring of new cgroups' paths, written here as the kernel writes it."""

import os
from collections.abc import Iterator

import numpy as np
import pytest

from supervisor import linux
from supervisor.aggregator.cgroup_births import ENTRY, PATHS, TALLIES, CgroupBirths
from supervisor.kernel.identities import CGROUPS_MADE
from supervisor.kernel.maps import KernelMap, MapInfo

PLACES = 8


class Kernel:
    """The two maps and their writer."""

    def __init__(self) -> None:
        sizes = {PATHS: (PLACES, ENTRY.itemsize), TALLIES: (2, 8)}
        self.maps = {}
        for name, (entries, value_bytes) in sizes.items():
            fd = os.memfd_create(name)
            os.ftruncate(fd, 1 << 13)
            self.maps[name] = KernelMap(MapInfo(name, entries, value_bytes, linux.BPF_F_MMAPABLE), fd)
        self.made = 0

    def make(self, identity: int, path: bytes, *, half: bool = False) -> None:
        """half: the kernel is still at it."""
        entry = np.zeros(1, ENTRY)
        entry["number"], entry["id"], entry["path"] = 0 if half else self.made + 1, identity, path
        os.pwrite(self.maps[PATHS].fd, entry.tobytes(), self.made % PLACES * ENTRY.itemsize)
        self.made += 1
        os.pwrite(self.maps[TALLIES].fd, self.made.to_bytes(8, "little"), 8 * CGROUPS_MADE)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    yield made
    for held in made.maps.values():
        os.close(held.fd)


def test_each_new_cgroup_is_told_once(kernel: Kernel) -> None:
    births = CgroupBirths(kernel.maps, "/")
    assert births.news() == {}
    kernel.make(101, b"/docker/a")
    kernel.make(102, b"/docker/b\xff")
    assert births.news() == {101: "/docker/a", 102: "/docker/b\udcff"}
    assert births.news() == {}
    kernel.make(103, b"/c")
    assert births.news() == {103: "/c"}


def test_another_aggregator_hears_of_those_that_are_still_there(kernel: Kernel) -> None:
    for number in range(20):
        kernel.make(number, b"/%d" % number)
    assert CgroupBirths(kernel.maps, "/").news() == {number: f"/{number}" for number in range(12, 20)}


def test_one_that_is_overwritten_while_it_is_read_is_left_out(kernel: Kernel) -> None:
    births = CgroupBirths(kernel.maps, "/")
    for number in range(PLACES):
        kernel.make(number, b"/x")
    kernel.make(99, b"/y", half=True)
    assert births.news() == dict.fromkeys(range(1, PLACES), "/x")


def test_paths_begin_below_the_root_that_is_mounted(kernel: Kernel) -> None:
    births = CgroupBirths(kernel.maps, "/lxc/here")
    for number, path in enumerate((b"/lxc/here/a/b", b"/lxc/hereafter/a", b"/lxc/here", b"/other")):
        kernel.make(number, path)
    assert births.news() == {0: "/a/b"}


def test_a_path_that_had_to_be_cut_is_none(kernel: Kernel) -> None:
    births = CgroupBirths(kernel.maps, "/")
    kernel.make(1, b"/" + b"a" * 493)
    kernel.make(2, b"/" + b"a" * 494)
    assert births.news().keys() == {1}
