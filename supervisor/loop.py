"""The supervisor's event loop: descriptors and timers that call functions. One thread."""

import heapq
import itertools
import selectors
import time
from collections.abc import Callable

Callback = Callable[[], None]


class Timer:
    """A call at a moment; `cancel` makes it nothing."""

    def __init__(self, call: Callback) -> None:
        self.call: Callback | None = call

    def cancel(self) -> None:
        self.call = None


class Loop:
    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._stopped = False

    def watch(self, fd: int, call: Callback) -> None:
        """Calls whenever `fd` is readable or hung up."""
        self._selector.register(fd, selectors.EVENT_READ, call)

    def watch_writable(self, fd: int, call: Callback) -> None:
        """Calls whenever `fd` takes something or is hung up; replaces what was called for it before."""
        self._selector.modify(fd, selectors.EVENT_WRITE, call)

    def unwatch(self, fd: int) -> None:
        self._selector.unregister(fd)

    def after(self, delay_s: float, call: Callback) -> Timer:
        timer = Timer(call)
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._order), timer))
        return timer

    def stop(self) -> None:
        self._stopped = True

    def run(self) -> None:
        """Until `stop`."""
        while not self._stopped:
            self.turn()

    def turn(self) -> None:
        """Waits for the next event or timer and makes its calls."""
        timeout_s = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None
        for key, _ in self._selector.select(timeout_s):
            # An earlier call of this turn may have unwatched it.
            if self._selector.get_map().get(key.fd) is key:
                key.data()
        while self._timers and self._timers[0][0] <= time.monotonic():
            timer = heapq.heappop(self._timers)[2]
            if timer.call:
                timer.call()

    def close(self) -> None:
        self._selector.close()
