"""The process that asks for names of hosts, as a unit."""

import dataclasses

from supervisor import spawn
from supervisor.aggregator import resolver
from supervisor.unit import Unit
from supervisor.units.house import House


class ResolverUnit(Unit):
    """The process that asks for names of hosts. Nobody waits for it, so that nothing depends on its state."""

    def __init__(self, house: House) -> None:
        super().__init__("resolver", house.loop, house.settings, house.changed)
        self._house = house
        self.aggregators_end, self._end = resolver.channel()

    def launch(self) -> None:
        ours, theirs = spawn.socket_pair()
        with theirs:
            child = spawn.spawn(
                self.name,
                lambda: resolver.run(self._end, theirs),
                {self._end.fileno(), theirs.fileno()},
                dataclasses.replace(self._house.account, capability=None),
                self.settings.loglevel,
                self._house.samples_dir,
            )
        self.adopt_worker(child, ours)

    def running_description(self) -> str:
        return "names of hosts can be asked for"
