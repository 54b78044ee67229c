"""Whose loader runs now, and whose after it."""

import collections
import os
from typing import Final, Protocol

# More at a time would be hardly faster, and each takes memory.
_MOST_LOADERS: Final = 4


class Loads(Protocol):
    """What a unit does in its turn, and what it hears."""

    description: str

    def fork_loader(self) -> None: ...

    def failed(self, why: str) -> None: ...


class Loaders:
    """Lets a few loaders run at a time: each takes a processor and 100 MB. Units get their turn in
    the order in which they asked."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: collections.deque[Loads] = collections.deque()

    def admit(self, unit: Loads) -> None:
        """Has it fork its loader, now or when a place is free. Raises OSError when that is now and fails."""
        if unit in self._waiting:
            return
        if not self._free:
            self._waiting.append(unit)
            unit.description = "waiting for its turn to load"
            return
        unit.fork_loader()
        self._free -= 1

    def forget(self, unit: Loads) -> None:
        """It does not want to load any more."""
        if unit in self._waiting:
            self._waiting.remove(unit)

    def left(self) -> None:
        """A loader has ended."""
        self._free += 1
        while self._free and self._waiting:
            unit = self._waiting.popleft()
            try:
                self.admit(unit)
            except OSError as error:
                unit.failed(f"cannot be started: {error.strerror}")


def places() -> int:
    """How many loaders may run at a time here."""
    return min(_MOST_LOADERS, len(os.sched_getaffinity(0)))
