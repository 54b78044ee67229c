"""In the guest with systemd: processes in services, slices, scopes and containers open a known number of
files, and the stream of a relay is read for what was counted where.

    systemd_cgroups.py PLACES STREAM > FOUND

PLACES: JSON, of each place its name, the words of the command by which a process gets there or the folder
that is made, the chart and the dimension that stand for it, and how many files are opened. FOUND: JSON, of
each how many were counted. It runs as it is, without anything of the project.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
FIFO = Path("/tmp/go")
CGROUPS = Path("/sys/fs/cgroup")
WAIT_S = 300.0
OPENER = """
import os, sys
go = os.open(sys.argv[2], os.O_RDONLY)
os.read(go, 1)
for _ in range(int(sys.argv[1])):
    os.close(os.open("/dev/null", os.O_RDONLY))
os.read(go, 1)
"""


def values(stream: Path, chart: str, dimension: str) -> list[int]:
    """All that were set so far."""
    found, inside = [], False
    for line in stream.read_text(errors="replace").splitlines():
        if line.startswith("BEGIN "):
            inside = line.split()[1] == chart
        elif inside and line.startswith(f"SET {dimension} = "):
            found.append(int(line.rsplit(" ", 1)[1]))
    return found


def wait_for(what: str, probe: Callable[[], T]) -> T:
    end = time.monotonic() + WAIT_S
    while not (value := probe()):
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.5)
    return value


def at_rest(seen: list[int]) -> bool:
    """The first value of a new chart is 0, whatever has been counted."""
    return len(seen) > 4 and len(set(seen[-3:])) == 1


def counted(stream: Path, place: dict[str, Any]) -> int:
    """What the chart grows by; it is at rest before and after."""
    chart = (place["chart"], place["dimension"])
    os.mkfifo(FIFO)
    opener = [sys.executable, "-c", OPENER, str(place["opens"]), str(FIFO)]
    process = subprocess.Popen([*place["command"], *opener], stdin=subprocess.DEVNULL)
    try:
        # Waits until the process has opened its end, the last of its own files.
        with FIFO.open("wb", buffering=0) as go:
            wait_for(f"the chart {chart}", lambda: values(stream, *chart))
            wait_for("rest", lambda: at_rest(values(stream, *chart)))
            seen = values(stream, *chart)
            go.write(b"x")
            wait_for("the count", lambda: values(stream, *chart)[-1] >= seen[-1] + place["opens"])
            frames = len(values(stream, *chart))
            wait_for("two more frames", lambda: len(values(stream, *chart)) >= frames + 2)
            return values(stream, *chart)[-1] - seen[-1]
    finally:
        process.wait()
        FIFO.unlink()


def counted_of_short_life(stream: Path, place: dict[str, Any]) -> int:
    """Of a cgroup that has gone before anybody can look."""
    folder = CGROUPS / place["folder"]
    folder.parent.mkdir(exist_ok=True)
    folder.mkdir()
    begin, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(begin, 1)
        for _ in range(place["opens"]):
            os.close(os.open("/dev/null", os.O_RDONLY))
        os._exit(0)
    (folder / "cgroup.procs").write_text(str(pid))
    os.write(go, b"x")
    os.waitpid(pid, 0)
    folder.rmdir()
    chart = (place["chart"], place["dimension"])
    return wait_for(f"the chart {chart}", lambda: max(values(stream, *chart), default=0))


def main(places: Path, stream: Path) -> None:
    found: dict[str, int | str] = {}
    for place in json.loads(places.read_text()):
        try:
            found[place["name"]] = (counted if place["command"] else counted_of_short_life)(stream, place)
        except (OSError, TimeoutError) as error:
            found[place["name"]] = str(error)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
