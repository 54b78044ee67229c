"""The command `ebpfctl`: asks a running supervisor over its control socket."""

import argparse
import json
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import supervisor
from supervisor import colours, logs, runtime_dir, usage
from supervisor.config.options import PROGRAMS
from supervisor.errors import ConfigurationError, SupervisorError
from supervisor.top import CONNECTION_FIELDS, FIELDS, WAYS
from supervisor.usage import Parser

WELL: Final = frozenset({"RUNNING", "UNAVAILABLE"})
# Exit status of `status`, as LSB has it for init scripts.
OK: Final = 0
NOT_RUNNING: Final = 3
CANNOT_TELL: Final = 4

# A start waits for a compiler that has loader_timeout_secs of its own.
_ANSWER_S: Final = 120.0
_READ_BYTES: Final = 1 << 16
_MOST_DESCRIPTORS: Final = 253  # the kernel's SCM_MAX_FD

_SORT: Final = (
    f"total, name, pid, a program's name, or of connections {', '.join(CONNECTION_FIELDS)}; "
    "%(default)s if not given"
)

EXAMPLES: Final = """\
examples:
  ebpfctl status            every program, one line each
  ebpfctl status -v fd      its hooks, and why others were not taken
  ebpfctl restart fd        and wait until it runs
  ebpfctl top --by pids     who does it, each second
  ebpfctl reload            after a change of its configuration
  ebpfctl tail -f fd        its log as it comes
"""


class Unreachable(SupervisorError):
    """There is no supervisor, or it does not answer us."""

    exit_status = CANNOT_TELL


class Refused(SupervisorError):
    """The supervisor says no."""


class Invalid(ConfigurationError):
    """The configuration that was to be read again has errors; `problems` are one line each."""

    def __init__(self, message: str, problems: Sequence[str]) -> None:
        super().__init__(message)
        self.problems = problems


class Denied(SupervisorError):
    """This user may not."""

    exit_status = CANNOT_TELL


def main() -> None:
    """Entry point."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(words: Sequence[str]) -> int:
    """Runs the command of these words; its exit status."""

    def command() -> int:
        arguments = _parser().parse_args(words)
        status: int = arguments.handler(arguments)
        return status

    return usage.run(command, _tell)


def _tell(message: str) -> None:
    print(f"ebpfctl: {logs.escaped(message)}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="ebpfctl",
        description="Asks and steers a running ebpf-supervisor.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runtime-dir", type=Path, default=runtime_dir.DEFAULT, metavar="DIR")
    parser.add_argument("--json", action="store_true", help="print the answer as one JSON object")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    status = commands.add_parser("status", help="what each program does")
    status.add_argument("names", nargs="*", metavar="NAME")
    status.add_argument("-v", "--verbose", action="store_true", help="each hook too")
    status.set_defaults(handler=_status)

    for name, what in (
        ("start", "start programs"),
        ("stop", "stop them"),
        ("restart", "stop and start them"),
    ):
        change = commands.add_parser(name, help=f"{what}, and wait for it")
        change.add_argument("names", nargs="+", metavar="NAME|all")
        change.set_defaults(handler=_change, command=name)

    reload = commands.add_parser("reload", help="read the configuration again and apply the difference")
    reload.set_defaults(handler=_reload)

    tail = commands.add_parser("tail", help="a program's last log lines")
    tail.add_argument("-f", "--follow", action="store_true", help="and those to come")
    tail.add_argument("names", nargs=1, metavar="NAME")
    tail.set_defaults(handler=_tail)

    top = commands.add_parser("top", help="events a second, by who makes them")
    top.add_argument(
        "--by", choices=WAYS, default=WAYS[0], help="whom to tell apart; %(default)s if not given"
    )
    top.add_argument("--sort", choices=(*FIELDS, *PROGRAMS), default=FIELDS[0], metavar="FIELD", help=_SORT)
    top.add_argument("--once", action="store_true", help="print one picture and end")
    top.set_defaults(handler=_top)

    commands.add_parser("shutdown", help="stop everything").set_defaults(handler=_shutdown)
    commands.add_parser("version", help="the version of both ends").set_defaults(handler=_version)
    for command in commands.choices.values():  # said after the command they are as good
        command.add_argument("--runtime-dir", type=Path, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        command.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser


def ask(
    directory: Path, request: dict[str, Any], descriptors: list[int] | None = None
) -> Iterator[dict[str, Any]]:
    """Sends one request and yields the answers, one object a line. Raises Unreachable and Refused.

    descriptors: those that come with the answer are appended, and are the caller's to close.
    """
    path = directory / runtime_dir.CONTROL
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_ANSWER_S)
        try:
            connection.connect(str(path))
        except FileNotFoundError as error:
            raise Unreachable(f"{path}: no such socket; is the supervisor running?") from error
        except ConnectionRefusedError as error:
            raise Unreachable(f"{path}: nobody listens; the supervisor was killed, start it again") from error
        except OSError as error:
            raise Unreachable(f"{path}: {error.strerror or error}") from error
        answered = False
        try:
            connection.sendall(json.dumps(request).encode() + b"\n")
            for line in _lines(connection, descriptors):
                answered = True
                yield _checked(json.loads(line))
                if request.get("follow"):
                    connection.settimeout(None)
        except (TimeoutError, ConnectionResetError, BrokenPipeError, ValueError) as error:
            raise Unreachable(f"{path}: no sound answer: {error}") from error
        if not answered:
            raise Unreachable(f"{path}: the supervisor closed the connection without an answer")


def _lines(connection: socket.socket, descriptors: list[int] | None) -> Iterator[bytes]:
    """Lines as they come, an unended last one too."""
    rest = b""
    while True:
        if descriptors is None:
            data = connection.recv(_READ_BYTES)
        else:
            data, came, _, _ = socket.recv_fds(connection, _READ_BYTES, _MOST_DESCRIPTORS)
            descriptors += came
        *lines, rest = (rest + data).split(b"\n")
        yield from lines
        if not data:
            if rest:
                yield rest
            return


def _checked(answer: Any) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise ValueError("not an object")
    if not answer.pop("ok", False):
        error = str(answer.get("error", "refused without a reason"))
        if isinstance(problems := answer.get("problems"), list):
            raise Invalid(error, [str(problem) for problem in problems])
        raise Denied(error) if answer.get("denied") else Refused(error)
    return answer


def _ask_once(arguments: argparse.Namespace, command: str, **fields: Any) -> dict[str, Any]:
    return next(ask(arguments.runtime_dir, {"command": command, **fields}))


def _print(arguments: argparse.Namespace, answer: Any, text: str) -> None:
    if arguments.json:
        print(json.dumps(answer))
    else:
        print((colours.painted(text) if colours.wanted(sys.stdout) else text).rstrip("\n"))


def _status(arguments: argparse.Namespace) -> int:
    from supervisor import status_table

    try:
        answer = _ask_once(arguments, "status", names=arguments.names, verbose=arguments.verbose)
    except Refused as error:
        raise Unreachable(str(error)) from error
    _print(arguments, answer, status_table.table(answer, arguments.verbose))
    return OK if all(program["state"] in WELL for program in answer["programs"]) else NOT_RUNNING


def _change(arguments: argparse.Namespace) -> int:
    answer = _ask_once(arguments, arguments.command, names=arguments.names)
    rows = (f"{p['name']}: {p['state']}: {p['description']}" for p in answer["programs"])
    _print(arguments, answer, "\n".join(rows))
    wanted = {"STOPPED"} if arguments.command == "stop" else WELL
    return OK if all(program["state"] in wanted for program in answer["programs"]) else NOT_RUNNING


def _reload(arguments: argparse.Namespace) -> int:
    from supervisor import status_table

    try:
        answer = _ask_once(arguments, "reload")
    except Invalid as error:
        if arguments.json:
            print(json.dumps({"problems": error.problems}))
        for problem in () if arguments.json else error.problems:
            _tell(problem)
        raise
    for warning in () if arguments.json else answer["warnings"]:
        _tell(warning)
    _print(arguments, answer, status_table.changes(answer))
    return OK if all(p["state"] in WELL | {"STOPPED"} for p in answer["programs"]) else NOT_RUNNING


def _tail(arguments: argparse.Namespace) -> int:
    request = {"command": "tail", "names": arguments.names, "follow": arguments.follow}
    for answer in ask(arguments.runtime_dir, request):
        if not arguments.follow:
            _print(arguments, answer, "\n".join(answer["lines"]))
        elif "line" in answer:
            _print(arguments, answer, answer["line"])
            sys.stdout.flush()
    return OK


def _top(arguments: argparse.Namespace) -> int:
    from supervisor.top import command  # numpy, which no other command needs

    return command.run(arguments)


def _shutdown(arguments: argparse.Namespace) -> int:
    """Waits until the connection is closed: nothing of it is left in the kernel then, and no child."""
    list(ask(arguments.runtime_dir, {"command": "shutdown"}))
    _print(arguments, {"shutdown": True}, "the supervisor has stopped")
    return OK


def _version(arguments: argparse.Namespace) -> int:
    answer = _ask_once(arguments, "version")
    both = {"ebpfctl": supervisor.__version__, "supervisor": answer["version"]}
    _print(arguments, both, f"ebpfctl {both['ebpfctl']}, supervisor {both['supervisor']}")
    return OK
