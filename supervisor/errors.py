"""What can go wrong, and the exit status that goes with it.

SupervisorError          1   nothing could be collected, or a failure of our own
 ├─ UsageError           2   wrong command line
 ├─ NotPermitted        77   not root (EX_NOPERM of sysexits.h)
 ├─ ConfigurationError  78   the configuration cannot be used (EX_CONFIG)
 ├─ AlreadyRunning       1   another supervisor has this runtime directory
 └─ Unavailable          1   this kernel cannot do what a program needs
"""

from typing import ClassVar


class SupervisorError(Exception):
    """One line for the user: what happened, to what, why, what to do."""

    exit_status: ClassVar[int] = 1


class UsageError(SupervisorError):
    exit_status = 2


class NotPermitted(SupervisorError):
    exit_status = 77


class ConfigurationError(SupervisorError):
    exit_status = 78


class AlreadyRunning(SupervisorError):
    pass


class Unavailable(SupervisorError):
    pass
