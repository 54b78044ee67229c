"""The process that workers are copies of, as a unit."""

import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from supervisor import spawn, template
from supervisor.config.model import Supervision
from supervisor.loop import Loop
from supervisor.spawn import Account, Child
from supervisor.states import State
from supervisor.unit import Unit


class TemplateUnit(Unit):
    """The process that workers are copies of. A program that needs it while it is not there starts it."""

    def __init__(
        self,
        loop: Loop,
        settings: Supervision,
        account: Account,
        folder: Path,
        work: template.Work,
        changed: Callable[[Unit], None],
    ) -> None:
        super().__init__("template", loop, settings, changed)
        self._account = account
        self._folder = folder
        self._work = work
        self._channel: socket.socket | None = None

    def launch(self) -> None:
        self._hang_up()
        ours, theirs = template.channel()
        ready, tell_ready = spawn.socket_pair()
        with theirs, tell_ready:
            child = spawn.spawn(
                self.name,
                lambda: template.run(theirs, tell_ready, self._work),
                {theirs.fileno(), tell_ready.fileno()},
                self._account,
                self.settings.loglevel,
                self._folder,
            )
        self._channel = ours
        self.adopt_worker(child, ready)

    def running_description(self) -> str:
        return "workers can be made"

    def copy(self, title: str, message: bytes, descriptors: Sequence[int]) -> Child:
        """A child of ours that does `work`. Raises OSError when there is none to be had.

        Without a template it is a fork of ours: it has more memory of its own, and does the same.
        """
        if self.state is not State.STOPPING:
            self.start()
        if self._channel:
            try:
                return template.request(self._channel, title, message, descriptors)
            except BlockingIOError:
                raise
            except OSError as error:
                self._hang_up()
                self.kill(f"a worker was asked for and did not come: {error}")
        return self._fork(title, message, descriptors)

    def _fork(self, title: str, message: bytes, descriptors: Sequence[int]) -> Child:
        def main() -> int:
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
            return self._work.main(message, descriptors)

        level = self.settings.loglevel
        return spawn.spawn(title, main, set(descriptors), self._account, level, self._folder)

    def stopped(self) -> None:
        self._hang_up()

    def ended(self, how: str) -> None:
        self._hang_up()
        super().ended(how)

    def _hang_up(self) -> None:
        if self._channel:
            self._channel.close()
            self._channel = None
