"""An interpreter of classic BPF for seccomp, as strict as the kernel's checker.

Source: `bpf_check_classic` (net/core/filter.c), `seccomp_check_filter` (kernel/seccomp.c).
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable

import attrs

Instruction = tuple[int, int, int, int]

_LOAD, _AND, _JUMP_ALWAYS, _RETURN = 0x20, 0x54, 0x05, 0x06
_TESTS: dict[int, Callable[[int, int], bool]] = {
    0x15: operator.eq,
    0x25: operator.gt,
    0x35: operator.ge,
    0x45: lambda a, b: bool(a & b),  # JSET, which libseccomp writes
}


@attrs.frozen
class Call:
    """What the kernel shows a filter: `struct seccomp_data` without the instruction pointer."""

    arch: int
    nr: int
    args: tuple[int, ...] = (0,) * 6

    def to_bytes(self) -> bytes:
        return struct.pack("<IIQ6Q", self.nr, self.arch, 0, *self.args)


def decode(program: bytes) -> list[Instruction]:
    """The instructions of a program that the kernel would accept; AssertionError otherwise."""
    found = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    assert 0 < len(found) <= 4096
    assert len(program) == 8 * len(found)
    for place, (opcode, yes, no, value) in enumerate(found):
        if opcode == _LOAD:
            assert value % 4 == 0
            assert value < 64
        elif opcode == _JUMP_ALWAYS:
            assert place + 1 + value < len(found)
        elif opcode in _TESTS:
            assert place + 1 + max(yes, no) < len(found)
        else:
            assert opcode in (_AND, _RETURN)
    assert found[-1][0] == _RETURN
    return found


def run(program: list[Instruction], call: Call) -> int:
    """What the filter returns for this call."""
    data = call.to_bytes()
    accumulator, place = 0, 0
    while True:
        opcode, yes, no, value = program[place]
        place += 1
        if opcode == _LOAD:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif opcode == _AND:
            accumulator &= value
        elif opcode == _JUMP_ALWAYS:
            place += value
        elif opcode == _RETURN:
            return value
        else:
            place += yes if _TESTS[opcode](accumulator, value) else no
