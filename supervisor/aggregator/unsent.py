"""What is still to be sent of some frames: their blocks, which are not copied to be in one piece."""

import os
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Final

# So many parts one call takes (writev(2), sendmsg(2)).
MOST_PARTS: Final = os.sysconf("SC_IOV_MAX")
# What a chart's lines begin with.
_BEGINNINGS: Final = (b"CHART ", b"BEGIN ")


class Unsent:
    """False when nothing is left. size_bytes: how much that is."""

    def __init__(self, blocks: Iterable[bytes] = ()) -> None:
        self._blocks: deque[bytes] = deque()
        self._begun = 0  # so much of the first one has been sent
        self.size_bytes = 0
        self.add(blocks)

    def __bool__(self) -> bool:
        return bool(self._blocks)

    def add(self, blocks: Iterable[bytes]) -> None:
        """None of them may be empty."""
        for block in blocks:
            self._blocks.append(block)
            self.size_bytes += len(block)

    def parts(self, size: int) -> list[memoryview]:
        """The next so many bytes, as far as one call can take them."""
        parts: list[memoryview] = []
        begin = self._begun
        for block in islice(self._blocks, MOST_PARTS):
            parts.append(memoryview(block)[begin : begin + size])
            size -= len(parts[-1])
            if size <= 0:
                break
            begin = 0
        return parts

    def fitting(self, room: int) -> int:
        """How much of it fits: it ends before a chart's lines, or at the end of a line within those of a
        chart that is larger."""
        size, begin = 0, self._begun
        for block in islice(self._blocks, MOST_PARTS):
            end = cut(block, begin, room - size)
            if size and end < len(block) and not block.startswith(_BEGINNINGS, end):
                break
            size += end - begin
            if end < len(block) or size == room:
                break
            begin = 0
        return size

    def sent(self, size: int) -> None:
        """So many bytes of it are not left any more."""
        self.size_bytes -= size
        size += self._begun
        while self._blocks and size >= len(self._blocks[0]):
            size -= len(self._blocks.popleft())
        self._begun = size


def cut(block: bytes, begin: int, size: int) -> int:
    """Where a piece ends that begins there and has so many bytes at most."""
    end = begin + size
    if end >= len(block):
        return len(block)
    found = max(block.rfind(b"\n" + word, begin, end + len(word)) for word in _BEGINNINGS) + 1
    return found if found > begin else block.rfind(b"\n", begin, end) + 1 or end
