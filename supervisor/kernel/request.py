"""What a loader is asked for: what to load, and what to do with the maps of it."""

import ctypes
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor.kernel import btf, libbcc
from supervisor.kernel.maps import KernelMap
from supervisor.kernel.plans import Hook, Mode, Preference


@dataclass(frozen=True)
class Tables:
    """The maps of a program while its loader runs."""

    maps: Mapping[str, KernelMap]

    def push(self, name: str, values: Iterable[int]) -> None:
        """Puts u32s into a queue or stack map, one after the other."""
        element = ctypes.c_uint32()
        for element.value in values:
            self._update(name, None, element)

    def set(self, name: str, index: int, value: int) -> None:
        """Sets a u64 of an array map."""
        self._update(name, ctypes.byref(ctypes.c_uint32(index)), ctypes.c_uint64(value))

    def put(self, name: str, index: int, value: bytes) -> None:
        """Sets an element of an array map."""
        element = ctypes.create_string_buffer(value, len(value))
        self._update(name, ctypes.byref(ctypes.c_uint32(index)), element)

    def _update(self, name: str, key: Any, value: Any) -> None:
        libbcc.update(self.maps[name], name, key, value)


@dataclass(frozen=True)
class Request:
    """What to load.

    defines: constants for the C source. shared: maps of the core program that this one uses, by name.
    numbers: see Program. btf_folder: where the kernel's types are.
    prepare: runs between loading and attaching, with the maps (fills a queue, for example).
    finish: runs after attaching.
    tag: stands in the name of every line of kprobe_events that is written. kprobe_lines: write them where the
    kernel could do without, too.
    """

    source: str
    hooks: tuple[Hook, ...]
    mode: Mode
    preference: Preference
    defines: Mapping[str, str | int]
    shared: Mapping[str, KernelMap]
    tag: str
    prepare: Callable[[Tables], None] | None = None
    finish: Callable[[Tables], None] | None = None
    numbers: tuple[str, ...] = ()
    btf_folder: Path = btf.FOLDER
    kprobe_lines: bool = False
