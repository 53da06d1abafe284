"""`doctor`: what works here, why the rest does not, and the command that changes it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

import attrs

import pycontainer
from pycontainer.ability import Ability, HostReport, probe
from pycontainer.cli.output import put
from pycontainer.plan.explain import printable


def add_parser(commands: Any) -> None:
    """The `doctor` command and its options."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "doctor",
        help="what this host can do, and how to get the rest",
        description="Tries everything that containers need, as this user. The exit status is 0 "
        "only if `run` works here at full strength: with every protection and every limit that "
        "it has by default; otherwise 1.",
    )
    parser.add_argument("--format", choices=("text", "json"), default="text")


def doctor(options: argparse.Namespace) -> int:
    """Print the report; 0 at full strength, 1 below it."""
    report = probe()
    put(as_json(report) if options.format == "json" else "\n".join(as_text(report)))
    return 0 if report.full_strength else 1


def as_json(report: HostReport) -> str:
    """The report for programs; text in it is escaped to ASCII."""
    values = {"version": pycontainer.__version__, "full_strength": report.full_strength}
    return json.dumps(values | attrs.asdict(report), indent=2)


def as_text(report: HostReport) -> Iterator[str]:
    """One line for each ability, one more for its remedy."""
    who = "root" if report.privileged else f"uid {report.uid}"
    kernel = printable(report.kernel)
    yield f"pycontainer {pycontainer.__version__}, Linux {kernel}, {report.machine}, {who}"
    width = max(len(ability.name) for ability in report.abilities)
    for ability in report.abilities:
        yield from _lines(ability, width)
    yield ""
    if report.full_strength:
        yield "run works at full strength"
    else:
        names = [each.name for each in report.missing if each.needed]
        yield f"run does not work at full strength: {printable(', '.join(names))}"


def _lines(ability: Ability, width: int) -> Iterator[str]:
    mark = "yes" if ability.available else "NO " if ability.needed else "no "
    yield printable(f"{mark}  {ability.name:<{width}}  {ability.why}").rstrip()
    if ability.remedy:
        yield printable(f"     {'':<{width}}  -> {ability.remedy}")
