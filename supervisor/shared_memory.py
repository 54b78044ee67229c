"""The memory that outlives those who write to it: the supervisor makes it once, and lends it to workers and
the aggregator."""

from supervisor import linux
from supervisor.aggregator import board as boards
from supervisor.aggregator import storage
from supervisor.aggregator.storage import Storage
from supervisor.config.difference import Shared
from supervisor.config.model import ProgramConfig
from supervisor.kernel import cpus, identities
from supervisor.kernel.maps import KernelMap, MapInfo
from supervisor.units.configured import shards
from supervisor.units.program import Companion
from workers.connections import IDLE
from workers.declaration import Program


class SharedMemory:
    """What all programs have in common; and it makes what is each one's own.

    group_places: how many app groups there can be.
    """

    def __init__(self, programs: int, group_places: int, made: Shared) -> None:
        self.group_places = group_places
        self.board_fd = boards.create(programs)
        self.board = boards.Board(self.board_fd, programs)
        self.slots = identities.whole_pages(made.slots)
        self.identities_fd = storage.create_slots(self.slots)
        self.cgroups_fd = storage.create_cgroups()

    def of_program(self, program: Program, config: ProgramConfig) -> Storage:
        return storage.create(program, self.slots, self.group_places, shards(config), cpus.possible())

    def of_companion(self, program: Program, config: ProgramConfig) -> Companion | None:
        """For the connections of a program that tells them apart."""
        if not program.companion or not config.connections:
            return None
        own = storage.create_connections(config.connections)
        rows = program.companion.rows
        idle = KernelMap(MapInfo(IDLE, 1, rows, linux.BPF_F_MMAPABLE), own.idle_fd)
        made = storage.create(program.companion, 0, 0, 1, 0, config.connections)
        return Companion(made, own, {IDLE: idle})
