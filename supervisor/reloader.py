"""Applying a configuration that was read again, while programs that it does not concern go on."""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from supervisor import reload
from supervisor.aggregator.apps_groups import AppsGroups
from supervisor.config.difference import Effect, Shared
from supervisor.config.model import Config
from supervisor.loop import Loop
from supervisor.reload import Plan, Reread
from supervisor.restart import restart, when_stopped
from supervisor.shared_memory import SharedMemory
from supervisor.states import State
from supervisor.unit import Unit
from supervisor.units.aggregator import AggregatorUnit
from supervisor.units.core import CoreUnit
from supervisor.units.program import ProgramUnit
from supervisor.units.template import TemplateUnit

Done = Callable[[Plan, Sequence[Unit]], None]

log = logging.getLogger("ebpf-supervisor")


class Arbiter(Protocol):
    """What a reload needs of it; it is given the configuration and the groups that hold from now on."""

    config: Config
    groups: AppsGroups
    units: list[ProgramUnit]
    core: CoreUnit
    template: TemplateUnit
    aggregator: AggregatorUnit
    loop: Loop
    ending: bool


class Reloader:
    """made: what the programs have in common, which was made of the first configuration."""

    def __init__(self, arbiter: Arbiter, reread: Reread, memory: SharedMemory, made: Shared) -> None:
        self._arbiter = arbiter
        self._reread = reread
        self._memory = memory
        self._made = made

    def reload(self, done: Done) -> None:
        """Reads the configuration again and applies what is different. Raises Refused: nothing has changed.

        done: is called once all units concerned have been told to stop and start.
        """
        arbiter = self._arbiter
        try:
            plan = reload.plan(
                self._reread, arbiter.config, arbiter.groups, self._memory.group_places, self._made
            )
        except reload.Refused as error:
            for problem in error.problems:
                log.error("reload: %s", problem)
            log.error("reload: %s", error)
            raise
        for problem in plan.warnings:
            log.warning("reload: %s", problem)
        for change in plan.told(len(arbiter.units)):
            log.info("reload: %s", reload.line(change))
        if not plan.changes:
            log.info("reload: nothing has changed")
        self._apply(plan, done)

    def _apply(self, plan: Plan, done: Done) -> None:
        """Programs first: the aggregator takes the last counts of those that stop before it is made anew."""
        arbiter = self._arbiter
        relaunch: list[Unit] = []
        if plan.config.supervision.loglevel != arbiter.config.supervision.loglevel:
            logging.getLogger().setLevel(plan.config.supervision.loglevel.upper())
            relaunch.append(arbiter.template)  # workers log at the level that it was made with
        arbiter.config, arbiter.groups = plan.config, plan.groups
        for unit in (*arbiter.units, arbiter.core, arbiter.template, arbiter.aggregator):
            unit.settings = plan.config.supervision
        stopped: list[Unit] = [u for u in arbiter.units if self._change_program(u, plan.effects(u.name))]
        if plan.concerns_aggregator:
            relaunch.append(arbiter.aggregator)
            for program in arbiter.units:
                self._memory.board.leaving[program.number] = plan.leaving(program.name)
        when_stopped(arbiter.loop, stopped, lambda: self._relaunch(plan, stopped, relaunch, done))

    def _change_program(self, unit: ProgramUnit, effects: frozenset[Effect]) -> bool:
        """Gives it its new configuration; whether it has been told to stop."""
        unit.configure(self._arbiter.config.programs[unit.name])
        if Effect.STOPS in effects or (Effect.LOADED in effects and unit.state is not State.STOPPED):
            unit.stop()
            return True
        if Effect.STARTS in effects:
            unit.start()
        elif Effect.SAMPLED in effects:
            unit.renew_worker()
            return True
        return False

    def _relaunch(self, plan: Plan, stopped: Sequence[Unit], others: Sequence[Unit], done: Done) -> None:
        """Starts what has stopped to be loaded anew; stops and starts the others."""
        if self._arbiter.ending:
            return
        for unit in stopped:
            if Effect.STOPS not in plan.effects(unit.name):
                unit.start()
        concerned = [*(unit for unit in self._arbiter.units if plan.effects(unit.name)), *others]
        restart(self._arbiter, others, lambda: done(plan, concerned))
