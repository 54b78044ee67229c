"""In the guest with systemd: processes in services, slices, scopes and containers' cgroups open a known number of
files, and the stream of a relay is read for what was counted where.

    systemd_cgroups.py PLACES STREAM > FOUND

PLACES: JSON, of each place its name, how a process gets there (a command's words, or a folder that is made), the
chart and the dimension that stand for it, and how many files are opened. FOUND: JSON, of each how many were counted.
It runs as it is, without anything of the project.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

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


def wait_for(what: str, probe):  # type: ignore[no-untyped-def]
    end = time.monotonic() + WAIT_S
    while not (value := probe()):
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.5)
    return value


def counted(stream: Path, place: dict) -> int:  # type: ignore[type-arg]
    """What the chart grows by; it is at rest before and after."""
    chart = (place["chart"], place["dimension"])
    os.mkfifo(FIFO)
    opener = [sys.executable, "-c", OPENER, str(place["opens"]), str(FIFO)]
    process = subprocess.Popen([*place["command"], *opener], stdin=subprocess.DEVNULL)
    try:
        with FIFO.open(
            "wb", buffering=0
        ) as go:  # once the process has opened its end, the last of its own files
            wait_for(f"the chart {chart}", lambda: values(stream, *chart))
            wait_for("rest", lambda: len(set(values(stream, *chart)[-3:])) == 1)
            seen = values(stream, *chart)
            go.write(b"x")
            wait_for("the count", lambda: values(stream, *chart)[-1] >= seen[-1] + place["opens"])
            frames = len(values(stream, *chart))
            wait_for("two more frames", lambda: len(values(stream, *chart)) >= frames + 2)
            return values(stream, *chart)[-1] - seen[-1]
    finally:
        process.wait()
        FIFO.unlink()


def counted_of_short_life(stream: Path, place: dict) -> int:  # type: ignore[type-arg]
    """Of a cgroup that has gone before anybody can look."""
    folder = CGROUPS / place["folder"]
    folder.parent.mkdir(exist_ok=True)
    folder.mkdir()
    pid = os.fork()
    if pid == 0:
        (folder / "cgroup.procs").write_text("0")
        for _ in range(place["opens"]):
            os.close(os.open("/dev/null", os.O_RDONLY))
        os._exit(0)
    os.waitpid(pid, 0)
    folder.rmdir()
    chart = (place["chart"], place["dimension"])
    return wait_for(f"the chart {chart}", lambda: max(values(stream, *chart), default=0))  # type: ignore[no-any-return]


def main(places: Path, stream: Path) -> None:
    found = {}
    for place in json.loads(places.read_text()):
        try:
            found[place["name"]] = (counted if place["command"] else counted_of_short_life)(stream, place)
        except (OSError, TimeoutError) as error:
            found[place["name"]] = str(error)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
