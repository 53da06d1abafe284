"""Which command was asked for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import pycontainer
from pycontainer.cli import doctor, run
from pycontainer.cli.output import OWN_ERROR, complain


class _Parser(argparse.ArgumentParser):
    """A wrong command line is one line and 125; options are never abbreviated."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        complain(f"{message}; see {self.prog} --help")
        self.exit(OWN_ERROR)


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line; its exit status."""
    parser = _Parser(prog="pycontainer", description="Containers as a library, by hand.")
    parser.add_argument("--version", action="version", version=pycontainer.__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    doctor.add_parser(commands)
    run.add_parser(commands)
    options, program = run.split(sys.argv[1:] if arguments is None else arguments)
    parsed = parser.parse_args(options)
    if parsed.command == "run":
        return run.run(parsed, program)
    if program:
        parser.error("only run takes a program")
    return doctor.doctor(parsed)
