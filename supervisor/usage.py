"""Command lines: wrong usage is one line and exit status 2."""

import argparse
from typing import NoReturn

from supervisor.errors import UsageError


class Parser(argparse.ArgumentParser):
    """Raises UsageError instead of printing the usage and exiting."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see `{self.prog} --help`")
