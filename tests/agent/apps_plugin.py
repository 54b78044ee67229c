"""The real apps.plugin of Debian's netdata-core, by itself: which group it counts each process in."""

import json
import os
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

PROGRAM: Final = Path("/usr/lib/netdata/plugins.d/apps.plugin")
_ANSWER_S: Final = 30.0


class AppsPlugin:
    """A context manager. folder: has its apps_groups.conf."""

    def __init__(self, folder: Path) -> None:
        env = {**os.environ, "NETDATA_USER_CONFIG_DIR": str(folder), "NETDATA_STOCK_CONFIG_DIR": str(folder)}
        self._process = subprocess.Popen(
            [str(PROGRAM), "1"],
            stdin=subprocess.PIPE,  # it ends when this does
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,
            text=True,
            errors="replace",
        )
        self._answer: list[str] = []
        self._answered = threading.Event()
        self.scans = 0
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.kill()
        self._process.wait()
        self._thread.join()
        self._process.stdin.close()
        self._process.stdout.close()

    def _read(self) -> None:
        """The stream, and in it the answers to functions."""
        assert self._process.stdout
        answer: list[str] | None = None
        for line in self._process.stdout:
            if line.startswith("FUNCTION_RESULT_BEGIN"):
                answer = []
            elif line.startswith("FUNCTION_RESULT_END"):
                self._answer = answer or []
                answer = None
                self._answered.set()
            elif answer is not None:
                answer.append(line)
            elif line.startswith("BEGIN apps.processes"):
                self.scans += 1

    def groups(self) -> Mapping[int, str]:
        """By process id, as its function `processes` says."""
        assert self._process.stdin
        self._answered.clear()
        self._process.stdin.write('FUNCTION t 10 "processes"\n')
        self._process.stdin.flush()
        assert self._answered.wait(_ANSWER_S), "apps.plugin does not answer"
        told: dict[str, Any] = json.loads("".join(self._answer))
        pid, group = (list(told["columns"]).index(name) for name in ("Pid", "Category"))
        return {row[pid]: row[group] for row in told["data"]}
