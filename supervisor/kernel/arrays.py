"""BPF maps and shared memory as numpy arrays."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from supervisor import linux
from supervisor.kernel.maps import ROWS_PER_PAGE, TASK_MEMBERS, KernelMap
from supervisor.pipeline import memory

U64Array = npt.NDArray[np.uint64]
U32Array = npt.NDArray[np.uint32]

_KINDS: Final[Mapping[str, Any]] = {
    "B": np.uint8,
    "H": np.uint16,
    "i": np.int32,
    "I": np.uint32,
    "Q": np.uint64,
    "16s": "S16",
}
TASK: Final = np.dtype([(name, _KINDS[code]) for name, code in TASK_MEMBERS.items()])


def view(held: KernelMap, entries: int = 0) -> npt.NDArray[np.uint8]:
    """Bytes [entries, stride] of the first entries, 0 = all; a mapping lasts as long as the array.
    Raises OSError where the kernel refuses it."""
    entries = entries or held.info.entries
    content = held.open(entries)
    flat: npt.NDArray[np.uint8] = np.asarray(content.memory)[: content.size_bytes]
    return flat.reshape(entries, held.info.stride_bytes)


def words(held: KernelMap, pages: int = 0) -> U64Array:
    """The same as u64 [rows, words of a row]; pages: how many of a map of pages, 0 = all."""
    rows = pages * ROWS_PER_PAGE or held.info.rows
    return view(held, pages).view(np.uint64).reshape(rows, -1)


def records(held: KernelMap, dtype: np.dtype[Any], pages: int = 0) -> npt.NDArray[Any]:
    """The same as records [rows]; a record must fill its row."""
    return view(held, pages).view(dtype).reshape(-1)


def views(fd: int, fields: Mapping[str, memory.Field], *, writable: bool) -> dict[str, npt.NDArray[Any]]:
    """The fields of shared memory as arrays."""
    mapped = np.asarray(linux.SharedMemory(fd, memory.size_of(fields), writable=writable))
    return {
        name: np.ndarray(shape, _KINDS[code], mapped, offset)
        for (name, (code, shape)), offset in zip(fields.items(), memory.offsets(fields), strict=True)
    }


def comm(task: Any) -> str:
    """The name of a task, a record of TASK: behind its end the kernel has what was left of longer ones."""
    return bytes(task["comm"]).split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
