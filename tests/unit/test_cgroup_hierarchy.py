"""Which hierarchy of cgroups is followed, by the files of a made-up /proc."""

from pathlib import Path

import pytest

from supervisor.kernel.cgroup_hierarchy import Hierarchy, find

SECOND = "30 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
UNIFIED = "42 31 0:39 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n"
MEMORY = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:4 - cgroup cgroup rw,memory\n"
CPUSET = "34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
SYSTEMD = "33 31 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
ROOT_OF_ALL = "9:name=systemd:/\n4:memory:/\n3:cpuset:/\n0::/\n"


def proc(folder: Path, mounts: str, own: str, **others: str) -> Path:
    """others: /proc/PID/cgroup of p1, p2 and so on."""
    for name, text in {"self": own, **{pid.removeprefix("p"): text for pid, text in others.items()}}.items():
        (folder / name).mkdir()
        (folder / name / "cgroup").write_text(text)
    (folder / "self" / "mountinfo").write_text(f"23 1 8:1 / / rw - ext4 /dev/vda rw\n{mounts}")
    return folder


MOUNTED_SECOND = Hierarchy(2, 0, Path("/sys/fs/cgroup"), "/")
MOUNTED_UNIFIED = Hierarchy(2, 0, Path("/sys/fs/cgroup/unified"), "/")
MOUNTED_MEMORY = Hierarchy(1, 4, Path("/sys/fs/cgroup/memory"), "/")
MOUNTED_CPUSET = Hierarchy(1, 3, Path("/sys/fs/cgroup/cpuset"), "/")


@pytest.mark.parametrize(
    ("mounts", "somebody", "expected"),
    [
        ("", "0::/\n", None),
        (SYSTEMD, "9:name=systemd:/a\n", None),
        (SECOND, "0::/\n", MOUNTED_SECOND),
        (SECOND, "0::/a.slice\n", MOUNTED_SECOND),
        (SYSTEMD + CPUSET + MEMORY + UNIFIED, "4:memory:/\n0::/a.slice\n", MOUNTED_UNIFIED),
        (SYSTEMD + CPUSET + MEMORY + UNIFIED, "4:memory:/\n3:cpuset:/\n0::/\n", MOUNTED_CPUSET),
        (SYSTEMD + CPUSET + MEMORY + UNIFIED, "4:memory:/a\n3:cpuset:/\n0::/\n", MOUNTED_MEMORY),
        (MEMORY + CPUSET, "4:memory:/a\n3:cpuset:/a\n0::/a\n", MOUNTED_CPUSET),
        (CPUSET + UNIFIED, "3:cpuset:/\n0::/a (deleted)\n", MOUNTED_CPUSET),
        (CPUSET + UNIFIED, "3:cpuset:/\n0::/../a\n", MOUNTED_CPUSET),
    ],
)
def test_the_hierarchy_is_the_one_that_processes_are_in(
    tmp_path: Path, mounts: str, somebody: str, expected: Hierarchy | None
) -> None:
    assert find(proc(tmp_path, mounts, ROOT_OF_ALL, p7=somebody)) == expected


def test_mount_that_shows_all_of_a_hierarchy_goes_before_one_that_shows_a_part(tmp_path: Path) -> None:
    part = r"50 31 0:28 /a /srv/c\040d rw - cgroup2 cgroup2 rw" + "\n"
    assert find(proc(tmp_path, part + SECOND, "0::/\n")) == MOUNTED_SECOND
    (tmp_path / "self" / "mountinfo").write_text(part)
    assert find(tmp_path) == Hierarchy(2, 0, Path("/srv/c d"), "/a")


def test_id_of_a_cgroup_is_its_folders_inode_and_0_outside_of_what_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    shown = Hierarchy(2, 0, tmp_path, "/a")
    processes = proc(tmp_path, "", "0::/\n", p1="0::/a/b\n", p2="0::/ab\n", p3="0::/a\n", p4="0::/a/c\n")
    found = [shown.id_of(pid, processes) for pid in (1, 2, 3, 4, 5)]
    assert found == [(tmp_path / "b").stat().st_ino, 0, tmp_path.stat().st_ino, 0, 0]
