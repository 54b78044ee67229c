"""The paths of new cgroups, from the kernel: task.bpf.c notes each as it is made.

A ring of the last ones in a map. The kernel numbers them from 1 on; an entry that it overwrites has no number
meanwhile.
"""

import os
from typing import Final

import numpy as np

from supervisor.kernel import arrays
from supervisor.kernel.identities import CGROUPS_MADE
from supervisor.kernel.maps import Maps

# Layout of `struct cgroup_path` in kernel_progs/task.bpf.c.
_PATH_BYTES: Final = 496
ENTRY: Final = np.dtype([("number", "<u8"), ("id", "<u8"), ("path", f"S{_PATH_BYTES}")])
PATHS: Final = "cgroup_paths"
TALLIES: Final = "tallies"


class CgroupBirths:
    """root: the cgroup that paths are told below of, as in cgroup_hierarchy.Hierarchy."""

    def __init__(self, maps: Maps, root: str) -> None:
        self._maps = maps
        self._root = root.rstrip("/")
        self._seen = 0

    def news(self) -> dict[int, str]:
        """Paths by id of those made since the last call, as far as the ring goes back. Those too long for it,
        or outside of `root`, are left out."""
        made = self._maps[TALLIES].words()[CGROUPS_MADE]
        if made == self._seen:
            return {}
        ring = arrays.records(self._maps[PATHS], ENTRY)
        first = max(self._seen, made - len(ring))
        self._seen = made
        found = {}
        for number in range(first, made):
            entry = ring[number % len(ring)]
            identity, text = int(entry["id"]), bytes(entry["path"])
            if int(entry["number"]) != number + 1:
                continue  # overwritten meanwhile: more were made than the ring has places
            path = self._below(os.fsdecode(text.split(b"\0", 1)[0]))
            if path and len(text) < _PATH_BYTES - 1:
                found[identity] = path
        return found

    def _below(self, path: str) -> str:
        """ "" for one that is not below the root."""
        inside = path.startswith(f"{self._root}/")
        return path.removeprefix(self._root) if inside else ""
