"""The aggregator's side of the shared table (supervisor/pipeline/table.py)."""

from collections.abc import Callable
from typing import Any

import numpy.typing as npt

from supervisor.kernel import arrays
from supervisor.kernel.arrays import U32Array, U64Array
from supervisor.pipeline.table import COUNT, HOLDS, REPEATED_NS, REPEATED_TICK, Shape

Pick = Callable[[U32Array, U64Array], tuple[U32Array, U64Array]]


class Reader:
    def __init__(self, fd: int, shape: Shape) -> None:
        self._shape = shape
        self._at: dict[str, npt.NDArray[Any]] = arrays.views(fd, shape.fields(), writable=False)

    def repeated(self) -> tuple[int, int]:
        """Tick and moment of the last sample that said the same as the one before it."""
        head = self._at["head"]
        return int(head[REPEATED_TICK]), int(head[REPEATED_NS])

    def take(self, sequence: int, pick: Pick) -> tuple[U32Array, U64Array] | None:
        """What `pick` takes out of that sample's blocks, given their numbers and their contents, u64 [blocks,
        words], in the shared memory itself; None when the half holds another one by now, or what it holds
        cannot be."""
        half = sequence % 2
        head = self._at[f"half{half}"]
        if int(head[HOLDS]) != sequence:
            return None
        count = int(head[COUNT])
        if count > self._shape.blocks:
            return None
        numbers = self._at[f"numbers{half}"][:count].copy()
        if count and int(numbers.max()) >= self._shape.blocks:
            return None
        taken = pick(numbers, self._at[f"values{half}"][:count])
        return taken if int(head[HOLDS]) == sequence else None
