"""The identity program as a unit."""

from collections.abc import Callable

from supervisor.kernel import identities
from supervisor.kernel.reasons import lacking
from supervisor.kernel.request import Request
from supervisor.states import State
from supervisor.units.house import House
from supervisor.units.loading import LoadingUnit


class CoreUnit(LoadingUnit):
    """The identity program: it has kernel objects and no worker. RUNNING means that they are there."""

    def __init__(
        self,
        house: House,
        make_request: Callable[[], Request],
        ready: Callable[[], None],
        reading: str,
    ) -> None:
        super().__init__("task", house)
        self._make_request = make_request
        self._ready_call = ready
        self._reading = reading

    def request(self) -> Request:
        return self._make_request()

    def launch(self) -> None:
        self.load()

    def accepted(self) -> None:
        attached = {hook.hook for hook in self.hooks if hook.attached}
        if not attached.issuperset(hook.name for hook in identities.HOOKS):
            self.unload()
            self.unavailable(f"processes cannot be followed: {lacking(self.hooks)}")
        else:
            without = "" if self.follows_cgroups else "without cgroups"
            self.enter(
                State.RUNNING, "; ".join(filter(None, ("identities are kept", without, self._reading)))
            )
        self._ready_call()

    @property
    def follows_cgroups(self) -> bool:
        """Whether the identities say which cgroup a process is in."""
        return any(hook.hook == identities.CGROUP.name and hook.attached for hook in self.hooks)

    def unavailable(self, why: str) -> None:
        super().unavailable(why)
        self._ready_call()

    def failed(self, why: str) -> None:
        """What does not need identities goes on without them, when they have been tried for often enough."""
        super().failed(why)
        if self.state is State.FATAL:
            self._ready_call()
