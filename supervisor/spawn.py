"""From fork to a child's main function: everything that is given up on the way."""

import gc
import logging
import os
import pwd
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import setproctitle

from supervisor import linux, logs
from supervisor.errors import SupervisorError

SOFTWARE_ERROR: Final = 70  # EX_SOFTWARE of sysexits.h
_ROOT: Final = Path("/")

log = logging.getLogger("child")


@dataclass(frozen=True)
class Account:
    """An unprivileged user. capability: the one that its processes keep, where reading maps takes one
    (supervisor/kernel/reading.py)."""

    name: str
    uid: int
    gid: int
    capability: int | None = None


def find_account(name: str | None) -> Account:
    """The account of workers and aggregator. Raises SupervisorError for one that is not there or is root."""
    for candidate in [name] if name else ["ebpf-supervisor", "nobody"]:
        try:
            entry = pwd.getpwnam(candidate)
        except KeyError:
            continue
        if entry.pw_uid == 0 or entry.pw_gid == 0:
            raise SupervisorError(f"account {candidate}: it is root's; name an unprivileged one with --user")
        return Account(candidate, entry.pw_uid, entry.pw_gid)
    raise SupervisorError(f"account {name or 'nobody'}: no such user; name another one with --user")


@dataclass(frozen=True)
class Child:
    """One process of ours. pidfd: readable when it has ended; it reaches this process and no other."""

    name: str
    pid: int
    pidfd: int
    stderr_fd: int

    def signal(self, number: signal.Signals) -> None:
        """Raises ProcessLookupError when it has been reaped."""
        signal.pidfd_send_signal(self.pidfd, number)

    def reap(self) -> str | None:
        """How it ended, in words ("" for exit status 0), None while it lives."""
        result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        if result is None:
            return None
        return _ending(result.si_code, result.si_status)

    def close(self) -> None:
        os.close(self.pidfd)
        os.close(self.stderr_fd)


def _ending(code: int, status: int) -> str:
    if code == os.CLD_EXITED:
        return f"exit status {status}" if status else ""
    name = signal.Signals(status).name if status in signal.valid_signals() else f"signal {status}"
    hint = "; perhaps out of memory?" if status == signal.SIGKILL else ""
    return f"killed by {name}{hint}"


def spawn(
    name: str,
    main: Callable[[], int],
    keep: set[int],
    account: Account | None,
    log_level: str,
    folder: Path = _ROOT,
) -> Child:
    """Forks a child that runs `main` with the descriptors of `keep` and its stderr as a pipe to us.

    account: whom it becomes, with no capability left but the account's; None for a loader, which stays root.
    folder: its working directory, entered while it may still enter any.
    Raises OSError when the system has no process or descriptor to give.
    """
    reading, writing = os.pipe()
    gc.freeze()  # pages that the collector does not write to stay shared
    supervisor = os.getpid()
    # A signal that reaches the child before it has its own handlers would be taken by ours, which write to
    # the supervisor's wake-up socket: a child told to stop would stop the supervisor.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
    except OSError:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(reading)
        os.close(writing)
        raise
    if pid == 0:
        _become(name, main, keep, account, log_level, folder, writing, supervisor)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.close(writing)
    os.set_blocking(reading, False)
    return known(name, pid, reading)


def known(name: str, pid: int, stderr_fd: int) -> Child:
    """The record of a child of ours. One that no descriptor can be had for is ended: nobody would ever hear
    of its end. Raises OSError then, with its stderr closed."""
    try:
        return Child(name, pid, os.pidfd_open(pid), stderr_fd)
    except OSError:
        os.close(stderr_fd)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _become(
    name: str,
    main: Callable[[], int],
    keep: set[int],
    account: Account | None,
    log_level: str,
    folder: Path,
    stderr: int,
    supervisor: int,
) -> None:
    """Never returns: whatever happens, the supervisor's own code must not go on in a copy of it."""
    status = SOFTWARE_ERROR
    try:
        os.dup2(stderr, 2)
        _reset_signals()
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        linux.close_all_but(keep | {0, 1, 2})
        logs.for_child(log_level)
        setproctitle.setproctitle(f"ebpf-supervisor: {name}")
        os.chdir(folder)
        # A signal to the terminal's or the agent's process group is the supervisor's to act on.
        os.setsid()
        if account:
            give_up_privileges(account)
        # After setresuid, which clears it. It also covers a child that is stopped.
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == supervisor:
            status = main()
    except SupervisorError as error:
        log.error("%s", error)
        status = error.exit_status
    except BaseException as error:
        log.error("%s", logs.describe(error))
    finally:
        os._exit(status)


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    # Ctrl-C at a terminal reaches the whole group; children end when the supervisor says so.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def give_up_privileges(account: Account) -> None:
    """No capability in any set but the account's, no way to get one back, no group but the account's own. The
    bounding set has been emptied by the supervisor, for itself and all its children."""
    os.setgroups([])
    os.setresgid(account.gid, account.gid, account.gid)
    linux.prctl(linux.PR_SET_KEEPCAPS, int(account.capability is not None))
    os.setresuid(account.uid, account.uid, account.uid)
    linux.keep_capability(account.capability)
    linux.prctl(linux.PR_SET_KEEPCAPS, 0)
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    os.umask(0o077)


def socket_pair(kind: socket.SocketKind = socket.SOCK_STREAM) -> tuple[socket.socket, socket.socket]:
    """Ours (non-blocking) and the child's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    ours.setblocking(False)
    return ours, theirs
