"""The command `ebpf-supervisor`."""

import os

# numpy's BLAS starts threads at import unless it is told not to; a process that forks has one thread.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import supervisor
from supervisor import logs, runtime_dir, usage
from supervisor.config import load as configuration
from supervisor.config.model import Config
from supervisor.config.options import PROGRAMS
from supervisor.config.problems import Problem
from supervisor.errors import ConfigurationError, NotPermitted
from supervisor.usage import Parser

# Netdata's words for programs, and our own.
PROGRAM_WORDS: Final = {"net": "socket", "filedescriptor": "fd", **{name: name for name in PROGRAMS}}
ATTACH: Final = ("auto", "fentry", "kprobe", "tracepoint")

EXAMPLES: Final = """\
examples:
  ebpf-supervisor run                      every program, every second, the stream on stdout
  ebpf-supervisor run 5 --only fd,disk     two programs, every five seconds
  ebpf-supervisor run --ticks 10           ten frames, then an orderly end
  ebpf-supervisor serve                    the stream on a socket, for ebpf-supervisor.plugin to relay
  ebpf-supervisor check                    what this kernel offers, hook by hook
"""


def main() -> None:
    """Entry point."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(words: Sequence[str]) -> int:
    """Runs the command of these words; its exit status."""

    def command() -> int:
        arguments = _parser().parse_args(words)
        status: int = arguments.handler(arguments)
        return status

    return usage.run(command, logs.fatal)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="ebpf-supervisor",
        description="Counts what the kernel does, by process, and writes it as a Netdata plugin stream.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ebpf-supervisor {supervisor.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_run(commands, "run", "collect, and write the stream to stdout")
    _add_run(commands, "serve", "the same, with the stream offered on RUNTIME_DIR/stream.sock")
    _add_check(commands)
    _add_check_config(commands)
    _add_cleanup(commands)
    return parser


def _add_run(commands: "argparse._SubParsersAction[Parser]", name: str, text: str) -> None:
    run = commands.add_parser(name, help=text)
    run.add_argument("update_every", nargs="?", type=_seconds, metavar="UPDATE_EVERY", help="seconds")
    run.add_argument("--config-dir", type=Path, metavar="DIR", help="where ebpf.d.conf is")
    run.add_argument("--only", type=_programs, default=frozenset(), metavar="NAME[,NAME…]")
    run.add_argument("--load-mode", choices=("entry", "return"), help="over `ebpf load mode`")
    run.add_argument("--attach", choices=ATTACH, default="auto", help="the only kind of plan to use")
    run.add_argument("--ticks", type=_count, default=0, metavar="N", help="stop after N frames")
    _add_runtime_dir(run)
    run.add_argument("--user", metavar="NAME", help="account of workers and aggregator")
    _add_netdatas_words(run)
    run.set_defaults(handler=_run, serves=name == "serve")


def _add_netdatas_words(run: Parser) -> None:
    """The words that Netdata's own plugin takes as `command options`, with one dash or two."""
    words = run.add_argument_group("options of Netdata's ebpf.plugin")
    version = f"ebpf-supervisor {supervisor.__version__}"
    words.add_argument("--version", "-version", action="version", version=version)

    def add(name: str, target: str, value: object, text: str) -> None:
        words.add_argument(f"--{name}", f"-{name}", dest=target, action="store_const", const=value, help=text)

    add("return", "load_mode", "return", "the same as --load-mode return")
    add("all", "groups", True, "charts of apps and cgroups, whatever the files say")
    add("global", "groups", False, "no charts of apps and cgroups")
    add("legacy", "type_format", "legacy", "no trampolines")
    add("core", "type_format", "co-re", "the best hooks that the kernel offers")
    for name, program in PROGRAM_WORDS.items():
        words.add_argument(
            f"--{name}",
            f"-{name}",
            dest="named",
            action="append_const",
            const=program,
            default=[],
            help=argparse.SUPPRESS,
        )
    words.description = f"--NAME runs just that program: {', '.join(PROGRAM_WORDS)}"


def _add_check(commands: "argparse._SubParsersAction[Parser]") -> None:
    check = commands.add_parser("check", help="can this kernel do it: features, programs, hooks")
    check.add_argument("--json", action="store_true")
    check.set_defaults(handler=_check)


def _add_check_config(commands: "argparse._SubParsersAction[Parser]") -> None:
    check = commands.add_parser("check-config", help="every error of every file at once")
    check.add_argument("--config-dir", type=Path, metavar="DIR")
    check.set_defaults(handler=_check_config)


def _add_cleanup(commands: "argparse._SubParsersAction[Parser]") -> None:
    cleanup = commands.add_parser("cleanup", help="remove what a killed run can have left")
    _add_runtime_dir(cleanup)
    cleanup.set_defaults(handler=_cleanup)


def _add_runtime_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runtime-dir", type=Path, default=runtime_dir.DEFAULT, metavar="DIR")


def _seconds(text: str) -> int:
    value = _count(text)
    if not 1 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"expected seconds from 1 to 86400; found {text!r}")
    return value


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number; found {text!r}")
    return int(text)


def _programs(text: str) -> frozenset[str]:
    names = frozenset(filter(None, text.split(",")))
    unknown = sorted(names - set(PROGRAMS))
    if unknown or not names:
        raise argparse.ArgumentTypeError(
            f"no program {unknown[0] if unknown else text!r}; there are {', '.join(PROGRAMS)}"
        )
    return names


def _require_root() -> None:
    if os.geteuid() != 0:
        raise NotPermitted("loading kernel programs needs root; run it as root or by its systemd unit")


def _run(arguments: argparse.Namespace) -> int:
    from supervisor import run

    _require_root()
    return run.run(arguments, load_config(arguments), lambda: read_config(arguments))


def load_config(arguments: argparse.Namespace) -> Config:
    """The configuration, its problems told on stderr."""
    config, problems = read_config(arguments)
    for problem in problems:
        logs.fatal(f"{problem.severity}: {problem}")
    return config


def read_config(arguments: argparse.Namespace) -> tuple[Config, list[Problem]]:
    """What the files say under this command line, and their problems. Raises ConfigurationError."""
    return configuration.load(
        configuration.search_path(arguments.config_dir, os.environ),
        update_every_s=arguments.update_every,
        only=arguments.only | frozenset(arguments.named),
        load_mode=arguments.load_mode,
        groups=arguments.groups,
        type_format=arguments.type_format,
        internal_charts=configuration.wants_internal_charts(os.environ),
        agent=configuration.agent_version(os.environ),
        netdata_port=configuration.listen_port(os.environ),
    )


def _check(arguments: argparse.Namespace) -> int:
    from supervisor import check

    _require_root()
    return check.check(as_json=arguments.json)


def _check_config(arguments: argparse.Namespace) -> int:
    problems = configuration.check(configuration.search_path(arguments.config_dir, os.environ))
    for problem in problems:
        print(f"{problem.severity}: {problem}")
    if problems:
        raise ConfigurationError(f"{len(problems)} problems in the configuration")
    print("the configuration is sound")
    return 0


def _cleanup(arguments: argparse.Namespace) -> int:
    from supervisor import kprobe_events

    _require_root()
    removed = runtime_dir.clean(arguments.runtime_dir)
    removed += kprobe_events.clean(kprobe_events.tag(arguments.runtime_dir))
    for what in removed:
        print(f"removed {what}")
    if not removed:
        print("nothing was left behind")
    return 0
