"""Reads which cgroups there are: one walk over the folders of a hierarchy.

The kernel's id of a cgroup is the inode number of its folder since Linux 5.5, where kernfs
got inode numbers of 64 bits; such a number is not given twice. The root's is that of the mount point.
"""

import errno
import os
from dataclasses import dataclass, field
from typing import Final

# What an operation on a cgroup that is being removed says.
VANISHED: Final = frozenset({errno.ENOENT, errno.ENODEV, errno.ENOTDIR})

# A folder has a link for each folder in it, besides its name and its `.`; kernfs keeps count too
# (kernfs_refresh_inode). So most folders, being leaves, need not be opened. File systems that do not count
# say 1.
_LINKS_OF_A_LEAF: Final = 2


@dataclass
class Walk:
    """path_of_id: paths below the mount point, by inode number. error: the first that kept something from
    being seen; that cgroups vanish meanwhile is none."""

    path_of_id: dict[int, str] = field(default_factory=dict)
    error: OSError | None = None

    def note(self, error: OSError) -> None:
        if error.errno not in VANISHED:
            self.error = self.error or error


def walk(mount_point: str) -> Walk:
    """Every cgroup below `mount_point`, which is one itself. Links and other mounts are not followed."""
    seen = Walk()
    try:
        root = os.stat(mount_point)
    except OSError as error:
        seen.error = error
        return seen
    seen.path_of_id[root.st_ino] = "/"
    unread = [""]
    while unread:
        above = unread.pop()
        for entry in _folders(mount_point + above, seen):
            try:
                info = entry.stat(follow_symlinks=False)
            except OSError as error:
                seen.note(error)
                continue
            if info.st_dev == root.st_dev:
                path = f"{above}/{entry.name}"
                seen.path_of_id[info.st_ino] = path
                if info.st_nlink != _LINKS_OF_A_LEAF:
                    unread.append(path)
    return seen


def _folders(path: str, seen: Walk) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(path) as entries:
            return [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        seen.note(error)
        return []
