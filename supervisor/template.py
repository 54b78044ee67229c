"""The template: an idle process without privileges, of which every worker is a copy.

    supervisor ── title, message, descriptors ──▶ template ── clone(CLONE_PARENT) ──▶ worker
        ▲ ◀── the worker's id ───────────────────────┘                                   │
        └─────────────────────────── its parent, as if it had forked it ─────────────────┘

Memory is why. Whatever a process writes to after a fork, it has for itself; and what its parent writes to,
too. The template has imported and tried out all that a worker needs, and then does next to nothing: what is
its own stays the workers' common property. It hands requests on and does not read them.

A worker does not notice the template's end, and the next worker to be started finds a new one.
"""

import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import setproctitle

from supervisor import linux, logs
from supervisor.errors import SupervisorError
from supervisor.spawn import SOFTWARE_ERROR, Child, known

# A template that has just been made tries everything out first, which an emulated machine takes long for.
_ANSWER_S: Final = 5.0
_REQUEST_BYTES: Final = 1 << 16
_MOST_DESCRIPTORS: Final = 253  # the kernel's SCM_MAX_FD
_ANSWER_BYTES: Final = 32
# What a worker does leaves no cycles; each search for some would write to a hundred pages.
_GARBAGE_OBJECTS: Final = 50_000

log = logging.getLogger("template")


@dataclass(frozen=True)
class Work:
    """What copies are made for. main: takes a request's message and descriptors, and gives the exit status.
    warm_up: does once all that `main` does, as far as it can be done without them."""

    main: Callable[[bytes, Sequence[int]], int]
    warm_up: Callable[[], None]


# ---- the supervisor's side


def channel() -> tuple[socket.socket, socket.socket]:
    """Ours and the template's: messages are whole or absent."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(_ANSWER_S)
    return ours, theirs


def request(channel: socket.socket, title: str, message: bytes, descriptors: Sequence[int]) -> Child:
    """Has a copy made that works on `message` with its own copies of `descriptors`, and waits for it.

    Raises OSError when the template has gone or does not answer: whoever asked ends it then, since an answer
    that comes too late would be taken for that to the next request; or when there is no process to be had.
    A copy whose template was killed before it could answer is a stranger to us: nobody reads its "ready",
    and it ends by that.
    """
    reading, writing = os.pipe()
    try:
        socket.send_fds(channel, [b"%s\0%s" % (title.encode(), message)], [writing, *descriptors])
        pid = _answer(channel)
    except OSError:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    os.set_blocking(reading, False)
    try:
        return known(title, pid, reading)
    except OSError as error:
        raise BlockingIOError(error.errno, error.strerror) from error


def _answer(channel: socket.socket) -> int:
    answer = channel.recv(_ANSWER_BYTES)
    if not answer:
        raise ConnectionResetError("the template has ended")
    pid = int(answer)
    if pid < 0:
        raise BlockingIOError(-pid, f"no process to be had: {os.strerror(-pid)}")
    return pid


# ---- the template's side


def run(channel: socket.socket, ready: socket.socket, work: Work) -> int:
    """The template's main function: copies itself until the supervisor closes its end. `ready` is written
    to once everything has been tried out."""
    supervisor = os.getppid()
    # A worker waits for SIGTERM and nothing else; it must not come before that.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
    work.warm_up()
    with ready:
        ready.send(b"READY")
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE_OBJECTS)
    linux.close_gaps()
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, _REQUEST_BYTES, _MOST_DESCRIPTORS)
        if not message:
            return 0
        try:
            pid = linux.clone_sibling()
        except OSError as error:
            pid = -(error.errno or 0)
        if pid == 0:
            _become(channel, work, supervisor, message, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        channel.send(b"%d" % pid)


def _become(
    channel: socket.socket, work: Work, supervisor: int, request: bytes, descriptors: list[int]
) -> None:
    """Never returns: a copy must not go on as a second template."""
    status = SOFTWARE_ERROR
    try:
        channel.close()
        stderr, *given = descriptors
        os.dup2(stderr, 2)
        os.close(stderr)
        title, _, message = request.partition(b"\0")
        setproctitle.setproctitle(f"ebpf-supervisor: {title.decode()}")
        os.setsid()
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == supervisor:
            status = work.main(message, given)
    except SupervisorError as error:
        log.error("%s", error)
        status = error.exit_status
    except BaseException as error:
        log.error("%s", logs.describe(error))
    finally:
        os._exit(status)
