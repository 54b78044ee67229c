"""A private Netdata agent as the client of one plugin, and what it says of it.

    with agent("--only", "fd", groups="kat: kat\n") as netdata:
        netdata.wait_chart("apps.file_open")
        print(netdata.total("apps.file_open", "kat"))

It listens on one loopback port, has no collector but the plugin, speaks to nobody else, and everything of it
is in one temporary folder. It counts in its own time: tests wait for its points and never look at a clock.
"""

import contextlib
import json
import os
import pwd
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.harness import PLUGIN, SLOW, descendants, wait_for

NETDATA: Final = Path("/usr/sbin/netdata")
NAME: Final = "ebpf-supervisor"
GRACE_S: Final = 5.0  # what a plugin's processes may take to end once the agent has gone
_LOOPBACK: Final = "127.0.0.1"
_NOWHERE: Final = f"http://{_LOOPBACK}:9"  # the discard port, where nobody listens
_IPC: Final = Path("/tmp/netdata-ipc")  # compiled into the agent
_COLLECTORS: Final = (
    *("cgroups", "diskspace", "idlejitter", "netdata monitoring"),
    *("proc", "slabinfo", "statsd", "tc", "timex"),
)
_FOLDERS: Final = ("cache", "config", "home", "lib/registry", "log", "plugins.d", "run", "stock", "web")

# "2026-11-20 10:20:30: netdata ERROR : PLUGINSD[name] : text": level, thread, text.
_LINE: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d: netdata (\w+) *: (.*?) *: (.*)")
_STARTED: Final = re.compile(r"connected to '.*' running on pid (\d+)")
_OVER: Final = re.compile(r"\(pid (\d+)\) disconnected after (\d+) successful")
_EXIT: Final = re.compile(r"child pid (\d+) (exited with code|killed by signal) (\d+)")
# Said once the plugin has ended. Most errors of a plugin are followed by the end of its thread and no word.
_DISABLED: Final = re.compile(
    r"thread with task id \d+ finished|.* Will not start it again|.* Disabling it\."
)


@dataclass
class History:
    """What the agent's log tells of the plugin.

    collections: of each run that has ended, by pid. hung_up: runs that the agent ended, which it does in
    silence at a keyword that it does not know. exits: status of those that ended unwell, negative for a
    signal. disabled: it will never start the plugin again. errors: its own error lines. stderr: the plugin's
    lines.
    """

    starts: list[int] = field(default_factory=list)
    collections: dict[int, int] = field(default_factory=dict)
    hung_up: list[int] = field(default_factory=list)
    exits: dict[int, int] = field(default_factory=dict)
    called_disable: bool = False
    disabled: bool = False
    errors: list[str] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)


def read_history(lines: list[str]) -> History:
    """Reads an error.log from its beginning."""
    history = History()
    closed = stopping = False
    for line in lines:
        words = _LINE.fullmatch(line)
        if words is None:
            history.stderr.append(line)
            continue
        level, thread, text = words.groups()
        stopping = stopping or text.startswith("stopping plugin thread")
        if thread != f"PLUGINSD[{NAME}]":
            continue
        if level == "ERROR":
            history.errors.append(text)
        if found := _STARTED.match(text):
            history.starts.append(int(found[1]))
            closed = False
        elif found := _OVER.search(text):
            history.collections[int(found[1])] = int(found[2])
            if not closed:
                history.hung_up.append(int(found[1]))
        elif found := _EXIT.match(text):
            history.exits[int(found[1])] = int(found[3]) if found[2].startswith("exited") else -int(found[3])
        closed = closed or text.startswith("read failed: end of file")
        if "called DISABLE" in text:
            history.called_disable = True
        elif _DISABLED.match(text) and not stopping:
            history.disabled = True
    return history


class Agent:
    """One running agent; made by `agent()`."""

    def __init__(self, folder: Path, port: int, process: "subprocess.Popen[bytes]") -> None:
        self.runtime_dir = runtime_dir(folder)
        self.process = process
        self._folder = folder
        self._port = port

    # ---- what it shows

    def api(self, call: str, **query: str | int) -> Any:
        """The answer of /api/v1/CALL. Raises OSError when there is none."""
        url = f"http://{_LOOPBACK}:{self._port}/api/v1/{call}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10 * SLOW) as answer:
            return json.loads(answer.read())

    def charts(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = self.api("charts")["charts"]
        return found

    def wait_chart(self, chart: str) -> dict[str, Any]:
        """Its definition, once the agent has stored a point of it."""
        wait_for(f"a point of {chart}", lambda: self.points(chart))
        return self.charts()[chart]

    def points(self, chart: str) -> list[dict[str, float]]:
        """Every point stored, the oldest first: `time` and a rate for each dimension by its name, which an
        empty one lacks."""
        about = self.charts().get(chart)
        if about is None or not about["last_entry"]:
            return []
        every = about["update_every"]
        span = {"after": about["first_entry"] - every, "before": about["last_entry"]}
        count = (span["before"] - span["after"]) // every
        answer = self.api("data", chart=chart, format="json", points=count, **span)
        rows = [dict(zip(answer["labels"], row, strict=True)) for row in reversed(answer["data"])]
        return [{name: value for name, value in row.items() if value is not None} for row in rows]

    def total(self, chart: str, *dimensions: str) -> float:
        """Events that the rates of all points amount to; of all dimensions when none is named."""
        rates = 0.0
        for point in self.points(chart):
            rates += sum(point.get(name, 0.0) for name in dimensions or point.keys() - {"time"})
        return rates * float(self.charts()[chart]["update_every"])

    def wait_points(self, chart: str, count: int) -> None:
        """Until so many more points have been stored."""
        before = len(self.points(chart))
        every = self.charts()[chart]["update_every"]
        timeout_s = 10.0 + 2 * count * every
        wait_for(f"{count} points of {chart}", lambda: len(self.points(chart)) >= before + count, timeout_s)

    # ---- what its log says

    def log(self) -> list[str]:
        path = self._folder / "log/error.log"
        return path.read_text(errors="replace").splitlines() if path.exists() else []

    def history(self) -> History:
        return read_history(self.log())

    # ---- its end

    def plugin_processes(self) -> list[int]:
        """The plugin and everything below it."""
        plugin = self.history().starts[-1]
        return [plugin, *descendants(plugin)]

    def end(self, number: signal.Signals = signal.SIGTERM) -> list[str]:
        """Ends the agent by this signal; names what was still there a while after it, and kills that."""
        below = _watch(descendants(self.process.pid))
        self.process.send_signal(number)
        try:
            self.process.wait(20 * SLOW)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return _outlasting(below)


def runtime_dir(folder: Path) -> Path:
    return folder / "run" / "plugin"


def _watch(pids: list[int]) -> dict[int, str]:
    """Names of processes, by a pidfd of each."""
    watched = {}
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            name = (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            watched[os.pidfd_open(pid)] = f"{pid} {name}"
    return watched


def _outlasting(watched: dict[int, str]) -> list[str]:
    """Those that have not ended by themselves in time."""
    left = dict(watched)
    poller = select.poll()
    for pidfd in left:
        poller.register(pidfd, select.POLLIN)
    deadline = time.monotonic() + GRACE_S * SLOW
    while left and (left_s := deadline - time.monotonic()) > 0:
        for pidfd, _ in poller.poll(left_s * 1000):
            poller.unregister(pidfd)
            del left[pidfd]
    for pidfd in left:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    for pidfd in watched:
        os.close(pidfd)
    return list(left.values())


@contextlib.contextmanager
def agent(
    *options: str,
    groups: str | None = None,
    files: Mapping[str, str] | None = None,
    update_every: int = 1,
    user: str = "root",
    plugin: Path = PLUGIN,
) -> Iterator[Agent]:
    """A running agent that has started the plugin with these options.

    groups: text of apps_groups.conf in its user config folder; the plugin's own else. files: others there, by
    name. user: whom the agent,
    and so the plugin, becomes. plugin: another executable under the plugin's name.
    Ended at exit, its log shown when a test has failed.
    """
    with tempfile.TemporaryDirectory(prefix="netdata-") as name:
        folder, port = Path(name), _free_port()
        if plugin is PLUGIN:
            options = ("--runtime-dir", str(runtime_dir(folder)), *options)
        texts = {**(files or {}), **({} if groups is None else {"apps_groups.conf": groups})}
        _install(folder, _settings(folder, port, user, update_every, " ".join(options)), plugin, texts, user)
        with (folder / "log/console.log").open("wb") as console:
            process = subprocess.Popen(
                [str(NETDATA), "-D", "-c", str(folder / "netdata.conf")],
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DISABLE_TELEMETRY": "1"},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        netdata = Agent(folder, port, process)
        try:
            wait_for("the agent's answer", lambda: _answers(netdata))
            yield netdata
        except BaseException:
            print((folder / "log/console.log").read_text(errors="replace")[-4000:], file=sys.stderr)
            print("\n".join(netdata.log()[-100:]), file=sys.stderr)
            raise
        finally:
            left = netdata.end() if process.poll() is None else []
            _remove_stale_ipc()
        assert not left, f"outlasted the agent: {left}"


def _answers(netdata: Agent) -> bool:
    assert netdata.process.poll() is None, "the agent has ended"
    try:
        return bool(netdata.api("info"))
    except (OSError, urllib.error.URLError):
        return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((_LOOPBACK, 0))
        return int(listener.getsockname()[1])


def _settings(
    folder: Path, port: int, user: str, update_every: int, options: str
) -> Mapping[str, Mapping[str, object]]:
    return {
        "global": {"run as user": user, "process scheduling policy": "keep", "OOM score": "keep"},
        "directories": {
            "config": folder / "config",
            "stock config": folder / "stock",
            "plugins": f'"{folder}/plugins.d"',
            "cache": folder / "cache",
            "home": folder / "home",
            "lib": folder / "lib",
            "lock": folder / "run",
            "log": folder / "log",
            "registry": folder / "lib/registry",
            "web": folder / "web",
        },
        "db": {"mode": "ram", "retention": 3600, "update every": 1},
        # Nothing is left out of the log, however much there is of it.
        "logs": {
            "error": folder / "log/error.log",
            "errors flood protection period": 0,
            **dict.fromkeys(("access", "debug", "health"), "none"),
        },
        "web": {"bind to": _LOOPBACK, "default port": port, "allow connections from": "localhost"},
        "health": {"enabled": "no"},
        "registry": {"enabled": "no", "registry to announce": _NOWHERE},
        "plugins": {**dict.fromkeys(_COLLECTORS, "no"), "enable running new plugins": "no", NAME: "yes"},
        f"plugin:{NAME}": {"update every": update_every, "command options": options},
    }


def _install(
    folder: Path,
    settings: Mapping[str, Mapping[str, object]],
    plugin: Path,
    texts: Mapping[str, str],
    user: str,
) -> None:
    """Everything that the agent finds in its folder, all of it the user's own."""
    for name in (*_FOLDERS, "lib/cloud.d"):
        (folder / name).mkdir(parents=True)
    (folder / "plugins.d" / f"{NAME}.plugin").symlink_to(plugin)
    (folder / "config/.opt-out-from-anonymous-statistics").touch()
    (folder / "lib/cloud.d/cloud.conf").write_text(
        f"[global]\n    enabled = no\n    cloud base url = {_NOWHERE}\n"
    )
    for name, text in texts.items():
        (folder / "config" / name).write_text(text, errors="surrogateescape")
    lines = []
    for section, values in settings.items():
        lines += [f"[{section}]", *(f"    {key} = {value}" for key, value in values.items())]
    (folder / "netdata.conf").write_text("\n".join(lines) + "\n")
    folder.chmod(0o755)
    account = pwd.getpwnam(user)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def _remove_stale_ipc() -> None:
    """A killed agent leaves it; one that is answered belongs to another agent."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(_IPC))
        except ConnectionRefusedError:
            _IPC.unlink(missing_ok=True)
        except OSError:
            return
