"""`ebpf-supervisor.plugin UPDATE_EVERY`: what Netdata starts.

    a stream is served ──▶ relay it, without privilege
    none is, but the unit is installed ──▶ wait for it: the agent may be up before it
    none is, and we are root ──▶ run the supervisor
    none of these ──▶ one line on stderr, and DISABLE

Only what decides this is imported here; a relay never imports more.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

from supervisor import relay

_DISABLE: Final = b"DISABLE\n"
_RUNTIME_DIR: Final = "/run/ebpf-supervisor"
_STREAM: Final = "stream.sock"
# Where systemd looks for units (systemd.unit(5)).
UNITS: Final = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
_UNIT: Final = "ebpf-supervisor.service"
# How long root waits for an installed unit that may just be starting, before it does the work itself; and
# how long others wait for a supervisor that has its runtime directory and not yet its socket.
_UNIT_S: Final = 10.0
_STARTING_S: Final = 5.0


def main() -> None:
    """Entry point. Exit status 0 after DISABLE: an agent takes the word, not the number."""
    closed = sys.stdout is None
    relay.occupy_standard_descriptors()
    try:
        sys.exit(0 if closed else _main(sys.argv[1:]))
    except relay.Over:
        sys.exit(0)


def _main(words: Sequence[str]) -> int:
    directory = option(words, "--runtime-dir") or _RUNTIME_DIR
    path = f"{directory}/{_STREAM}"
    root = os.geteuid() == 0
    installed = any(os.path.exists(f"{folder}/{_UNIT}") for folder in UNITS)
    agent = relay.Agent()
    try:
        patience_s = patience(root, installed, os.path.isdir(directory))
        connection = relay.wait_for_stream(path, agent, patience_s, f"waiting for {_UNIT}")
    except relay.NotOffered as why:
        agent.leave()
        return _run(words) if root else _give_up(why)
    relay.relay(connection, path, agent, seconds(words))
    return 0


def patience(root: bool, installed: bool, started: bool) -> float | None:
    """How long to wait for a stream; None = for ever. installed: the unit. started: there is a runtime
    directory."""
    if installed:
        return _UNIT_S if root else None
    return _STARTING_S if started and not root else 0.0


def option(words: Sequence[str], name: str) -> str:
    """The value of an option, the last one as in argparse, "" when it is not there. Others are for the
    supervisor."""
    value = ""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == name:
            value = following
        elif word.startswith(f"{name}="):
            value = word.removeprefix(f"{name}=")
    return value


def seconds(words: Sequence[str]) -> int:
    """UPDATE_EVERY, which an agent gives first."""
    return max(1, int(words[0])) if words and words[0].isascii() and words[0].isdigit() else 1


def _run(words: Sequence[str]) -> int:
    from supervisor import cli

    return cli.run_command(["run", *words])


def _give_up(why: relay.NotOffered) -> int:
    relay.say(
        f"no stream is served ({why}), and to load kernel programs itself it needs root, not uid "
        f"{os.geteuid()}; start {_UNIT}, or have the agent run it as root"
    )
    # The agent answers DISABLE with SIGTERM, sooner than Python ends.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # it has gone already
        os.write(1, _DISABLE)
    return 0
