"""Command lines: wrong usage is one line and exit status 2."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from supervisor.errors import SupervisorError, UsageError


class Parser(argparse.ArgumentParser):
    """Raises UsageError instead of printing the usage and exiting."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")


def run(command: Callable[[], int], tell: Callable[[str], None]) -> int:
    """The exit status of a command whose output has been written; what goes wrong is told in one line."""
    try:
        try:
            status = command()
        except SystemExit as end:  # --help and --version
            status = int(end.code or 0)
        if sys.stdout:
            sys.stdout.flush()
    except SupervisorError as error:
        tell(str(error))
        return error.exit_status
    except BrokenPipeError:
        _discard_output()
        return 0
    except OSError as error:
        _discard_output()
        tell(f"{error.filename or 'output'}: {error.strerror or error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def _discard_output() -> None:
    """The interpreter would try to flush stdout once more and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
