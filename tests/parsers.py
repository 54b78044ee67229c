"""The command lines as their parsers know them: for the documents that must not fall behind."""

import argparse
from collections.abc import Iterator, Mapping
from typing import Final

from supervisor import cli, ctl

PARSERS: Final[Mapping[str, argparse.ArgumentParser]] = {
    "ebpf-supervisor": cli._parser(),
    "ebpfctl": ctl._parser(),
}


def commands(name: str) -> Mapping[str, argparse.ArgumentParser]:
    """The commands of a program, by name."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in PARSERS[name]._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= action.choices
    return found


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Every option that its help shows, in its longest form."""
    for action in parser._actions:
        if action.option_strings and action.help != argparse.SUPPRESS:
            yield max(action.option_strings, key=len)
