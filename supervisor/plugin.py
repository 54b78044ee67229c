"""`ebpf-supervisor.plugin UPDATE_EVERY`: what Netdata starts."""

import os
import signal
import sys

from supervisor import cli

_DISABLE = "DISABLE"


def main() -> None:
    """As root it runs the supervisor itself; else it explains and asks not to be started again.

    Exit status 0 after DISABLE: an agent takes the word, not the number.
    """
    if os.geteuid() != 0:
        print(
            "ebpf-supervisor.plugin: needs root to load kernel programs, and is run by "
            f"uid {os.geteuid()}; run the supervisor as a service",
            file=sys.stderr,
        )
        # The agent answers DISABLE with SIGTERM, sooner than Python ends.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(_DISABLE, flush=True)
        sys.exit(0)
    sys.exit(cli.run_command(["run", *sys.argv[1:]]))
