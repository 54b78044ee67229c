"""The aggregator as a unit."""

import socket
from collections.abc import Callable

from supervisor import spawn
from supervisor.aggregator import main as aggregator
from supervisor.states import State
from supervisor.unit import Unit
from supervisor.units.house import House


class AggregatorUnit(Unit):
    """The aggregator. `done` is called when it says that all is over: no reader, or the last frame sent."""

    def __init__(
        self,
        house: House,
        assign: Callable[[socket.socket], aggregator.Assignment],
        done: Callable[[], None],
    ) -> None:
        super().__init__("aggregator", house.loop, house.settings, house.changed)
        self.house = house
        self._assign = assign
        self._done = done

    def launch(self) -> None:
        ours, theirs = spawn.socket_pair()
        assignment = self._assign(theirs)
        child = spawn.spawn(
            "aggregator",
            lambda: aggregator.run(assignment),
            assignment.descriptors(),
            self.house.account,
            self.settings.loglevel,
            self.house.samples_dir,
        )
        theirs.close()
        self.adopt_worker(child, ours)

    def ended(self, how: str) -> None:
        if how:
            super().ended(how)
            return
        self.enter(State.STOPPING, "its work is done")
        self.enter(State.STOPPED, "stopped")
        self._done()
