"""Errors of the configuration that leave nothing to go on with.

ConfigError      exit status 78 (EX_CONFIG of sysexits.h)
"""

from __future__ import annotations

from typing import ClassVar


class ConfigError(Exception):
    """The configuration that was asked for cannot be had; the text is one line: what, where, what to do."""

    exit_code: ClassVar[int] = 78
