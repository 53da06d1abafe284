"""Steps and plans as values. The table of ops is `ops.def`, which the C compiler reads too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

import attrs

OPS_FILE = Path(__file__).parent.parent / "linux" / "ops.def"
FIXED_SLOTS = ("control", "plan", "proc", "manager")
SECTIONS = ("outside", "beside", "inside", "payload")

Operand = int | str | bytes


@attrs.frozen
class Hole:
    """Bytes that differ from run to run: a plan is compiled once and filled in each time."""

    name: str
    length: int


@cache
def op_table() -> Mapping[str, tuple[int, tuple[tuple[str, str], ...]]]:
    """name -> (number on the wire, ((operand, type), ...))."""
    table = {}
    for number, match in enumerate(
        re.finditer(r'^OP\((\w+), "(.*)"\)', OPS_FILE.read_text(), re.MULTILINE)
    ):
        operands = tuple(
            (name, kind) for name, kind in (part.split(":") for part in match[2].split())
        )
        table[match[1]] = (number, operands)
    return MappingProxyType(table)


@attrs.frozen
class Step:
    """One op with its operands, in the order of ops.def. Slots are given by name."""

    op: str
    operands: tuple[tuple[str, Operand | Hole], ...]

    def describe(self) -> dict[str, Operand]:
        """The operands that help to understand a failure: no bytes, no holes."""
        return {k: v for k, v in self.operands if isinstance(v, int | str)}


def step(op: str, **operands: Operand | Hole) -> Step:
    """A step, checked against ops.def: a wrong name or a missing operand is a bug here."""
    _, shape = op_table()[op]
    if list(operands) != [name for name, _ in shape]:
        raise TypeError(f"{op} takes {[name for name, _ in shape]}, got {list(operands)}")
    return Step(op, tuple(operands.items()))


@attrs.frozen(kw_only=True)
class Plan:
    """What the launcher does, in order, in four sections: outside, beside, inside, payload."""

    mode: int
    clone_flags: int
    inputs: tuple[str, ...]
    outside: tuple[Step, ...] = ()
    beside: tuple[Step, ...] = ()
    inside: tuple[Step, ...] = ()
    payload: tuple[Step, ...] = ()
    cgroup_slot: str | None = None
    cpu_slot: str | None = None

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps; the index is what the launcher reports when one fails."""
        return self.outside + self.beside + self.inside + self.payload

    def section_of(self, index: int) -> str:
        """The name of the section that step `index` stands in."""
        for name in SECTIONS:
            index -= len(getattr(self, name))
            if index < 0:
                return name
        raise IndexError(index)


MODE_INIT, MODE_BASE, MODE_JOIN = range(3)
