"""One run of the supervisor, from the command line to the exit status."""

import argparse
import logging
import os
import resource
import signal
import sys

import setproctitle

from supervisor import kprobe_events, linux, logs, spawn, stream_socket
from supervisor.arbiter import Arbiter, Options
from supervisor.config.model import Config
from supervisor.errors import SupervisorError
from supervisor.reload import Reread
from supervisor.runtime_dir import RuntimeDir
from workers.registry import all_programs

log = logging.getLogger("ebpf-supervisor")


def run(arguments: argparse.Namespace, config: Config, reread: Reread) -> int:
    """Runs in the foreground; returns when everything of it has ended. Raises SupervisorError.

    reread: gives the configuration as the files say it at the time of the call. arguments.serves: the stream
    is offered on a socket, not written to stdout.
    """
    linux.use_memory_sparingly()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    stream_fd = -1 if arguments.serves else take_stdout()
    logs.for_supervisor(config.supervision.loglevel)
    setproctitle.setproctitle("ebpf-supervisor")
    allow_locked_memory()
    # What we have we keep; but nothing of ours that is executed, by whatever trick, gets any of it.
    linux.drop_bounding_set()
    account = spawn.find_account(arguments.user)
    directory = RuntimeDir(arguments.runtime_dir)
    removed = directory.take(account)
    try:
        removed += kprobe_events.clean(kprobe_events.tag(directory.path))
        for what in removed:
            log.warning("a run before this one was killed; removed %s", what)
        if arguments.serves:
            # For the whole run: it is never closed, so the number stays the aggregators' too.
            stream_fd = stream_socket.listen(directory.stream, config.stream_group).detach()
        options = Options(
            config, reread, account, arguments.attach, stream_fd, arguments.ticks, arguments.serves
        )
        return Arbiter(options, all_programs(), directory).run()
    finally:
        directory.give_back()


def allow_locked_memory() -> None:
    """Before 5.11 maps and programs count as locked memory. Without CAP_SYS_RESOURCE the limit can only be
    used up to what it is."""
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except ValueError:
        hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))


def take_stdout() -> int:
    """Moves the stream away from descriptor 1 before anything can print: what does, goes to stderr."""
    if sys.stdout is None:
        raise SupervisorError("stdout is closed: the stream has nowhere to go; give it a reader or a file")
    # Whoever starts us may have closed stdin or stderr: nothing of ours may get their numbers.
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(spare)
    stream = os.dup(1)
    os.dup2(2, 1)
    return stream
