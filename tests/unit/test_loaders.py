"""Turns of loaders, with units that only note what is asked of them."""

from supervisor.units.loaders import Loaders


class _Unit:
    def __init__(self, order: list[str], name: str, error: OSError | None = None) -> None:
        self.name, self.description, self.failure = name, "", ""
        self._order, self._error = order, error

    def fork_loader(self) -> None:
        if self._error:
            raise self._error
        self._order.append(self.name)

    def failed(self, why: str) -> None:
        self.failure = why


def ask(loaders: Loaders, *units: _Unit) -> None:
    for unit in units:
        loaders.admit(unit)


def test_no_more_loaders_run_at_a_time_than_there_are_places() -> None:
    order: list[str] = []
    loaders = Loaders(2)
    ask(loaders, *(_Unit(order, name) for name in "abcd"))
    assert order == ["a", "b"]
    loaders.left()
    assert order == ["a", "b", "c"]


def test_a_unit_that_asks_again_while_it_waits_loads_once() -> None:
    """As the identities' coming has every unit that has not loaded yet do."""
    order: list[str] = []
    loaders = Loaders(1)
    first, second = _Unit(order, "a"), _Unit(order, "b")
    ask(loaders, first, second, second)
    loaders.left()
    loaders.left()
    assert order == ["a", "b"]


def test_a_unit_that_was_stopped_while_it_waited_does_not_load() -> None:
    order: list[str] = []
    loaders = Loaders(1)
    stopped = _Unit(order, "b")
    ask(loaders, _Unit(order, "a"), stopped, _Unit(order, "c"))
    loaders.forget(stopped)
    loaders.left()
    assert order == ["a", "c"]


def test_the_next_one_gets_the_turn_of_a_unit_whose_loader_cannot_be_forked() -> None:
    order: list[str] = []
    loaders = Loaders(1)
    unlucky = _Unit(order, "b", OSError(11, "Resource temporarily unavailable"))
    ask(loaders, _Unit(order, "a"), unlucky, _Unit(order, "c"))
    loaders.left()
    assert unlucky.failure == "cannot be started: Resource temporarily unavailable"
    assert order == ["a", "c"]
