"""The command itself: asks, reads, and prints or draws."""

import argparse
import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import supervisor
from supervisor.ctl import OK, Refused, ask
from supervisor.top import By, screen, table
from supervisor.top.rates import Pace, Picture
from supervisor.top.reading import Memory, NoConnections, Reading

# How long `--once` waits for every program's next sample, besides the interval.
_LATE_S: Final = 3.0
_POLL_S: Final = 0.1


class Top:
    """One run of the command."""

    def __init__(self, directory: Path, by: By) -> None:
        self._directory = directory
        self._by = by
        self._pace = Pace()
        self.every_s = 1.0

    def picture(self) -> Picture:
        return self._pace.take(self._read())

    def first_picture(self) -> Picture:
        """Once every program that runs has been sampled a second time."""
        first = self._read()
        self._pace.take(first)
        deadline_s = time.monotonic() + self.every_s + _LATE_S
        while (now := self._read()) and not _newer(first, now) and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
        return self._pace.take(now)

    def _read(self) -> Reading:
        with self._memory() as memory:
            try:
                return memory.read(self._by)
            except NoConnections as error:
                raise Refused(
                    "top: there are no connections to tell of: socket does not run, or `network connections` "
                    "is no; see ebpfctl status socket"
                ) from error

    @contextlib.contextmanager
    def _memory(self) -> Iterator[Memory]:
        descriptors: list[int] = []
        answer = next(ask(self._directory, {"command": "top"}, descriptors))
        if answer["version"] != supervisor.__version__:
            raise Refused(
                f"top: the supervisor is version {answer['version']}, this is {supervisor.__version__}; "
                "restart the supervisor"
            )
        self.every_s = answer["every_s"]
        memory = Memory(answer, descriptors)
        try:
            yield memory
        finally:
            memory.close()


def _newer(first: Reading, now: Reading) -> bool:
    pairs = zip(first.sampled_ns, now.sampled_ns, now.running, strict=True)
    columns = zip(first.counted, now.counted, strict=False)
    return all(after > before for before, after, running in pairs if running) and all(
        after.sampled_ns > before.sampled_ns for before, after in columns
    )


def run(arguments: argparse.Namespace) -> int:
    """arguments: of the command line. Raises Unreachable, Refused and Denied."""
    top = Top(arguments.runtime_dir, arguments.by)
    picture = top.first_picture()
    if not (arguments.once or arguments.json) and sys.stdout.isatty() and screen.possible():
        screen.run(lambda width, height: _lines(top.picture(), arguments, width, height), top.every_s)
        return OK
    while True:
        _print(picture, arguments)
        if arguments.once:
            return OK
        time.sleep(top.every_s)
        picture = top.picture()


def _print(picture: Picture, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json.dumps(_told(picture, arguments)))
    else:
        print("\n".join(_lines(picture, arguments, shutil.get_terminal_size().columns)), end="\n\n")
    sys.stdout.flush()


def _lines(
    picture: Picture, arguments: argparse.Namespace, width: int, height: int | None = None
) -> list[str]:
    return table.lines(picture, arguments.by, arguments.sort, width, height)


def _told(picture: Picture, arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "by": arguments.by,
        "seconds": round(picture.seconds, 3),
        "host": {name: round(rate, 1) for name, rate in picture.host.items()},
        "rows": [row.told() for row in table.ordered(picture.rows, arguments.sort)],
    }
