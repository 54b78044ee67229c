"""What ebpfctl may ask for, and what is done about it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import supervisor
from supervisor import control, status
from supervisor.control import Client
from supervisor.loop import Loop
from supervisor.reload import Plan, Refused
from supervisor.states import SETTLED, State
from supervisor.top.offer import Offer
from supervisor.unit import Unit
from supervisor.units.aggregator import AggregatorUnit
from supervisor.units.core import CoreUnit
from supervisor.units.program import ProgramUnit


class Arbiter(Protocol):
    """What commands need of it."""

    units: list[ProgramUnit]
    core: CoreUnit
    aggregator: AggregatorUnit
    loop: Loop
    started_s: float
    ending: bool

    def counts(self, unit: ProgramUnit) -> status.Counts: ...

    def frames(self) -> int: ...

    def offer(self) -> Offer: ...

    def end(self, why: str, exit_status: int = 0) -> None: ...

    def reload(self, done: Callable[[Plan, Sequence[Unit]], None]) -> None: ...


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A client that is answered when all these units are in one of these states."""

    client: Client
    units: Sequence[Unit]
    until: frozenset[State]
    told: Mapping[str, Any]


class Commands:
    """Handlers of the control socket's requests, and the clients that wait for a state."""

    def __init__(self, arbiter: Arbiter) -> None:
        self._arbiter = arbiter
        self._waiting: list[_Waiting] = []

    def state_changed(self) -> None:
        """A unit has changed its state: who waited for it is answered."""
        for waiting in list(self._waiting):
            self._answer_if_settled(waiting)

    def handlers(self) -> dict[str, control.Handler]:
        return {
            "status": self._status,
            "start": self._start,
            "stop": self._stop,
            "restart": self._restart,
            "reload": self._reload,
            "tail": self._tail,
            "top": self._top,
            "shutdown": self._shutdown,
            "version": lambda c, n, r: c.answer({"ok": True, "version": supervisor.__version__}),
        }

    def _select(self, client: Client, names: tuple[str, ...], units: list[Unit]) -> list[Unit] | None:
        """The units of these names; answers the client and returns None when one is unknown."""
        if names == ("all",):
            return [unit for unit in units if not isinstance(unit, ProgramUnit) or unit.listed]
        known = {unit.name: unit for unit in units}
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            what = f"{unknown[0]}: no such program" if unknown else "name a program, or all"
            client.fail(f"{what}; there are {', '.join(known)}")
            return None
        return [known[name] for name in dict.fromkeys(names)]

    def _status(self, client: Client, names: tuple[str, ...], request: Mapping[str, Any]) -> None:
        units = self._select(client, names or ("all",), list(self._arbiter.units))
        if units is None:
            return
        core_bytes = self._arbiter.core.kernel_bytes + sum(unit.kernel_bytes for unit in self._arbiter.units)
        answer = status.overall(
            supervisor.__version__, self._arbiter.started_s, self._arbiter.frames(), core_bytes
        )
        answer["aggregator"] = status.of_unit(self._arbiter.aggregator)
        if request.get("verbose") and not names:
            answer["identities"] = status.of_identities(self._arbiter.core)
        answer["programs"] = [
            status.of_program(unit, self._arbiter.counts(unit))
            for unit in self._arbiter.units
            if unit in units
        ]
        client.answer({"ok": True, **answer})

    def _start(self, client: Client, names: tuple[str, ...], request: Mapping[str, Any]) -> None:
        """Starts what has no process, and what is stopping once it has stopped."""
        units = self._select(client, names, list(self._arbiter.units))
        if units is None:
            return
        for unit in units:
            unit.start()
        self._restart_stopped(client, units, {unit for unit in units if unit.state is State.STOPPING})

    def _stop(self, client: Client, names: tuple[str, ...], request: Mapping[str, Any]) -> None:
        units = self._select(client, names, list(self._arbiter.units))
        if units is None:
            return
        for unit in units:
            unit.stop()
        self._wait(client, units, frozenset({State.STOPPED}))

    def _restart(self, client: Client, names: tuple[str, ...], request: Mapping[str, Any]) -> None:
        """Stops, then starts what has stopped."""
        units = self._select(client, names, [*self._arbiter.units, self._arbiter.aggregator])
        if units is None:
            return
        for unit in units:
            unit.stop()
        self._restart_stopped(client, units, set(units))

    def _restart_stopped(self, client: Client, units: list[Unit], left: set[Unit]) -> None:
        for unit in list(left):
            if unit.state is State.STOPPED and not self._arbiter.ending:
                left.discard(unit)
                unit.start()
        if left and not self._arbiter.ending:
            self._arbiter.loop.after(0.02, lambda: self._restart_stopped(client, units, left))
        else:
            self._wait(client, units, SETTLED)  # STOPPED by now means that somebody has stopped it again

    def _reload(self, client: Client, names: tuple[str, ...], request: Mapping[str, Any]) -> None:
        """Answers when everything that it concerns has come to rest."""
        if self._arbiter.ending:
            client.fail("the supervisor is stopping")
            return

        def wait(plan: Plan, units: Sequence[Unit]) -> None:
            told = {"changes": plan.told(len(self._arbiter.units)), "warnings": list(plan.warnings)}
            self._wait(client, units, SETTLED, told)

        try:
            self._arbiter.reload(wait)
        except Refused as error:
            client.answer({"ok": False, "error": str(error), "problems": error.problems})

    def _wait(
        self,
        client: Client,
        units: Sequence[Unit],
        until: frozenset[State],
        told: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Answers when all units have come to one of these states; told: what else is in the answer."""
        waiting = _Waiting(client, units, until, told)
        self._waiting.append(waiting)
        client.on_close.append(lambda: self._waiting.remove(waiting) if waiting in self._waiting else None)
        self._answer_if_settled(waiting)

    def _answer_if_settled(self, waiting: _Waiting) -> None:
        if all(unit.state in waiting.until for unit in waiting.units) and waiting in self._waiting:
            self._waiting.remove(waiting)
            states = [
                {"name": unit.name, "state": unit.state.value, "description": unit.description}
                for unit in waiting.units
            ]
            waiting.client.answer({"ok": True, **waiting.told, "programs": states})

    def _tail(self, client: Client, names: tuple[str, ...], request: Mapping[str, Any]) -> None:
        units = self._select(
            client, names, [*self._arbiter.units, self._arbiter.aggregator, self._arbiter.core]
        )
        if units is None:
            return
        if not request.get("follow"):
            client.answer({"ok": True, "lines": [line for unit in units for line in unit.ring]})
            return
        for unit in units:
            for line in unit.ring:
                client.answer({"ok": True, "line": line}, last=False)
            self._follow(client, unit)

    def _follow(self, client: Client, unit: Unit) -> None:
        def tell(line: str) -> None:
            client.answer({"ok": True, "line": line}, last=False)

        unit.followers.append(tell)
        client.on_close.append(lambda: unit.followers.remove(tell))

    def _top(self, client: Client, names: tuple[str, ...], request: Mapping[str, Any]) -> None:
        offer = self._arbiter.offer()
        try:
            descriptors = offer.descriptors()
        except OSError as error:
            client.fail(f"no descriptors to be had: {error.strerror}")
        else:
            client.answer({"ok": True, **offer.told()}, descriptors=descriptors)

    def _shutdown(self, client: Client, names: tuple[str, ...], request: Mapping[str, Any]) -> None:
        client.answer({"ok": True}, last=False)
        self._arbiter.end("asked to by ebpfctl")
