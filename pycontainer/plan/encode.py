"""A plan as bytes for the launcher: the wire format of csrc/plan.h."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence

import attrs

from pycontainer.plan.steps import FIXED_SLOTS, SECTIONS, Hole, Operand, Plan, op_table

MAGIC = 0x31435950
NO_SLOT = 0xFFFFFFFF
HEADER = struct.Struct("<8I Q 4I QQ II ii")
STEP = struct.Struct("<II6Q")
NANOSECONDS = 10**9


@attrs.frozen(kw_only=True)
class Encoded:
    """A plan's unchanging bytes, and where what changes from run to run goes."""

    content: bytes
    holes: Mapping[str, tuple[int, int]]
    header: tuple[int, ...]


@attrs.frozen(kw_only=True)
class Program:
    """What is executed: `candidates` are tried in order, as execvpe does."""

    candidates: tuple[bytes, ...]
    argv: tuple[bytes, ...]
    environment: tuple[bytes, ...]


@attrs.frozen(kw_only=True)
class Clock:
    """What init watches: limits in seconds or None, and how fast CPU time can pass."""

    wall_time: float | None = None
    cpu_time: float | None = None
    processors: int = 1
    cpu_format: int = 0


NO_PROGRAM = Program(candidates=(), argv=(), environment=())
NO_CLOCK = Clock()


class _Strings:
    """The bytes behind the steps; equal ones are stored once."""

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.content = bytearray()
        self.known: dict[bytes, int] = {}
        self.holes: dict[str, tuple[int, int]] = {}

    def add(self, value: bytes) -> int:
        if value not in self.known:
            self.content += b"\0" * (-len(self.content) % 8)  # seccomp filters want alignment
            self.known[value] = self.offset + len(self.content)
            self.content += value
        return self.known[value]

    def add_hole(self, hole: Hole) -> int:
        at = self.offset + len(self.content)
        self.holes[hole.name] = (at, hole.length)
        self.content += b"\0" * hole.length
        return at


def encode(plan: Plan) -> Encoded:
    """The part of a plan that every run shares."""
    slots = {name: i for i, name in enumerate(FIXED_SLOTS + plan.inputs)}
    steps = plan.steps
    strings = _Strings(HEADER.size + STEP.size * len(steps))
    encoded = b"".join(_encode_step(each.op, each.operands, slots, strings) for each in steps)
    ends, at = [], 0
    for name in SECTIONS:
        at += len(getattr(plan, name))
        ends.append(at)
    header = (
        len(steps), *ends, plan.mode, plan.clone_flags, len(FIXED_SLOTS + plan.inputs),
        _slot(slots, plan.cgroup_slot), _slot(slots, plan.cpu_slot),
    )  # fmt: skip
    strings.content += b"\0" * (8 - len(strings.content) % 8)
    return Encoded(
        content=bytes(HEADER.size) + encoded + bytes(strings.content),
        holes=strings.holes,
        header=header,
    )


def _slot(slots: Mapping[str, int], name: str | None) -> int:
    return NO_SLOT if name is None else slots[name]


def _encode_step(
    op: str,
    operands: Sequence[tuple[str, Operand | Hole]],
    slots: dict[str, int],
    strings: _Strings,
) -> bytes:
    number, shape = op_table()[op]
    words: list[int] = []
    for (_, kind), (_, value) in zip(shape, operands, strict=True):
        if kind in ("slot", "newslot"):
            assert isinstance(value, str)
            if kind == "newslot":
                slots.setdefault(value, len(slots))
            words.append(slots[value])
        elif isinstance(value, int):
            words.append(value & (2**64 - 1))
        elif isinstance(value, Hole):
            words += [strings.add_hole(value), value.length]
        else:
            content = os.fsencode(value) if isinstance(value, str) else value
            words.append(strings.add(content + b"\0"))
            if kind == "data":
                words.append(len(content))
    return STEP.pack(number, 0, *words, *[0] * (6 - len(words)))


def complete(
    encoded: Encoded,
    *,
    program: Program = NO_PROGRAM,
    holes: Mapping[str, bytes] | None = None,
    clock: Clock = NO_CLOCK,
    fault: tuple[int, int] = (-1, 0),
) -> bytearray:
    """The plan of one run: holes filled, the program and the limits added."""
    whole = bytearray(encoded.content)
    for name, content in (holes or {}).items():
        at, length = encoded.holes[name]
        if len(content) != length:
            raise ValueError(f"{name}: {len(content)} bytes for a hole of {length}")
        whole[at : at + length] = content
    at = len(whole)
    whole += encode_program(program, at)
    count, end0, end1, end2, end3, mode, flags, slot_count, cgroup_slot, cpu_slot = encoded.header
    HEADER.pack_into(
        whole, 0, MAGIC, len(whole), count, end0, end1, end2, end3, mode, flags, slot_count,
        cgroup_slot, cpu_slot, clock.cpu_format, _nanoseconds(clock.wall_time),
        _nanoseconds(clock.cpu_time), clock.processors, at, *fault,
    )  # fmt: skip
    return whole


def _nanoseconds(seconds: float | None) -> int:
    return 0 if seconds is None else max(1, int(seconds * NANOSECONDS))


def encode_program(program: Program, at: int) -> bytes:
    """Counts, offsets (argv and envp each ended by 0), then the strings; `at` is its own offset."""
    candidates, argv, environment = program.candidates, program.argv, program.environment
    entries = len(candidates) + len(argv) + len(environment)
    where = at + 8 * (3 + entries + 2)
    offsets: list[int] = []
    for group, ended in ((candidates, False), (argv, True), (environment, True)):
        for text in group:
            offsets.append(where)
            where += len(text) + 1
        if ended:
            offsets.append(0)
    counts = (len(candidates), len(argv), len(environment))
    table = struct.pack(f"<{3 + len(offsets)}Q", *counts, *offsets)
    strings = b"\0".join((*candidates, *argv, *environment))
    return table + strings + b"\0"
