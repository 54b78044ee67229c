"""The event loop: descriptors and timers call, in order, once, and not after they were taken away."""

import os
import socket
from collections.abc import Callable, Iterator

import pytest

from supervisor.loop import Loop

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


@pytest.fixture
def pairs() -> Iterator[Callable[[], Pair]]:
    made: list[Pair] = []

    def pair() -> Pair:
        made.append(socket.socketpair())
        return made[-1]

    yield pair
    for ours, theirs in made:
        ours.close()
        theirs.close()


def test_a_descriptor_that_can_be_read_calls_each_time(loop: Loop, pairs: Callable[[], Pair]) -> None:
    ours, theirs = pairs()
    read: list[bytes] = []
    loop.watch(ours.fileno(), lambda: read.append(ours.recv(10)))
    for word in (b"a", b"b"):
        theirs.send(word)
        loop.turn()
    assert read == [b"a", b"b"]


def test_the_end_of_the_other_side_calls_too(loop: Loop, pairs: Callable[[], Pair]) -> None:
    ours, theirs = pairs()
    read: list[bytes] = []
    loop.watch(ours.fileno(), lambda: read.append(ours.recv(10)))
    theirs.close()
    loop.turn()
    assert read == [b""]


def test_timers_call_in_the_order_of_their_times_and_then_of_their_making(loop: Loop) -> None:
    called: list[str] = []
    loop.after(0.02, lambda: called.append("late"))
    for name in ("first", "second", "third"):
        loop.after(0, lambda name=name: called.append(name))  # type: ignore[misc]
    loop.after(0.02, loop.stop)
    loop.run()
    assert called == ["first", "second", "third", "late"]


def test_a_cancelled_timer_does_not_call(loop: Loop) -> None:
    called: list[str] = []
    timer = loop.after(0, lambda: called.append("cancelled"))
    timer.cancel()
    timer.cancel()
    loop.after(0, loop.stop)
    loop.run()
    assert not called


def test_a_timer_can_cancel_the_next_and_make_another(loop: Loop) -> None:
    called: list[str] = []

    def first() -> None:
        doomed.cancel()
        loop.after(0, loop.stop)

    loop.after(0, first)
    doomed = loop.after(0, lambda: called.append("doomed"))
    loop.run()
    assert not called


def test_one_that_was_unwatched_earlier_in_the_turn_is_not_called(
    loop: Loop, pairs: Callable[[], Pair]
) -> None:
    both = [pairs(), pairs()]
    called: list[int] = []

    def first_of(number: int) -> Callable[[], None]:
        def call() -> None:
            called.append(number)
            loop.unwatch(both[1 - number][0].fileno())

        return call

    for number, (ours, theirs) in enumerate(both):
        loop.watch(ours.fileno(), first_of(number))
        theirs.send(b"x")
    loop.turn()
    assert len(called) == 1


def test_a_descriptor_that_was_closed_and_given_again_is_not_called_for_the_old_event(
    loop: Loop, pairs: Callable[[], Pair]
) -> None:
    """A new connection gets the number of the one that an earlier call of the turn has closed."""
    both = [pairs(), pairs()]
    called: list[str] = []
    fresh: list[int] = []

    def replace(number: int) -> Callable[[], None]:
        def call() -> None:
            called.append("old")
            other = both[1 - number][0].fileno()
            loop.unwatch(other)
            silent, keep = os.pipe()
            os.dup2(silent, other)
            fresh.extend((silent, keep))
            loop.watch(other, lambda: called.append("new"))

        return call

    for number, (ours, theirs) in enumerate(both):
        loop.watch(ours.fileno(), replace(number))
        theirs.send(b"x")
    loop.turn()
    assert called == ["old"]
    for fd in fresh:
        os.close(fd)


def test_a_descriptor_can_be_watched_for_room_in_place_of_data(loop: Loop, pairs: Callable[[], Pair]) -> None:
    ours, _ = pairs()
    called: list[str] = []
    loop.watch(ours.fileno(), lambda: called.append("data"))
    loop.watch_writable(ours.fileno(), lambda: called.append("room"))
    loop.turn()
    assert called == ["room"]
    loop.unwatch(ours.fileno())
    loop.watch(ours.fileno(), lambda: called.append("data"))
    loop.after(0, loop.stop)
    loop.run()
    assert called == ["room"]


def test_a_wait_ends_with_the_next_timer(loop: Loop, pairs: Callable[[], Pair]) -> None:
    ours, _ = pairs()
    loop.watch(ours.fileno(), lambda: pytest.fail("nothing was sent"))
    called: list[str] = []
    loop.after(0.01, lambda: called.append("timer"))
    while not called:
        loop.turn()
    assert called == ["timer"]
