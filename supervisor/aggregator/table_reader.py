"""The aggregator's side of the shared table (supervisor/pipeline/table.py)."""

from typing import Any

import numpy.typing as npt

from supervisor.kernel import arrays
from supervisor.kernel.arrays import U32Array, U64Array
from supervisor.pipeline.table import COUNT, HOLDS, Shape


class Reader:
    def __init__(self, fd: int, shape: Shape) -> None:
        self._shape = shape
        self._at: dict[str, npt.NDArray[Any]] = arrays.views(fd, shape.fields(), writable=False)

    def take(self, sequence: int) -> tuple[U32Array, U64Array] | None:
        """Numbers and contents, u64 [blocks, words], of that sample's blocks; None when the half holds
        another one by now, or what it holds cannot be."""
        half = sequence % 2
        head = self._at[f"half{half}"]
        if int(head[HOLDS]) != sequence:
            return None
        count = int(head[COUNT])
        if count > self._shape.blocks:
            return None
        numbers = self._at[f"numbers{half}"][:count].copy()
        values = self._at[f"values{half}"][:count].copy()
        if int(head[HOLDS]) != sequence or (count and int(numbers.max()) >= self._shape.blocks):
            return None
        return numbers, values
