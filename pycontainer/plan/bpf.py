"""Classic BPF, written from the last instruction to the first.

Jumps only go forward, so backwards every target has its place before the jump to it is written and
no second pass is needed. A conditional jump reaches 255 instructions; for a target further on, an
unconditional one (32 bits) is put behind the jump, or for a return the return itself once more.
"""

from __future__ import annotations

import struct

import attrs

# <linux/bpf_common.h>, <linux/filter.h>
_BPF_LD_W_ABS = 0x20
_BPF_ALU_AND_K = 0x54
_BPF_JMP_JA = 0x05
_BPF_RET_K = 0x06
BPF_JEQ = 0x15
BPF_JGT = 0x25
BPF_JGE = 0x35
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS

# Placing one target of a jump may move the other one further away, by one instruction.
_REACH = 255 - 1


@attrs.frozen
class Label:
    """An instruction that is written already: how many were written before it."""

    place: int


@attrs.frozen
class Return:
    """The end of the program with this value, wherever it is needed."""

    value: int


Target = Label | Return


class Code:
    """A program under construction; every method puts something in front of it.

    A method's result stands for what it has put there, to be the target of what comes before.
    """

    def __init__(self) -> None:
        self._backwards: list[tuple[int, int, int, int]] = []
        self._returns: dict[int, Label] = {}

    def __len__(self) -> int:
        return len(self._backwards)

    def to_bytes(self) -> bytes:
        """An array of `struct sock_filter`, in native byte order."""
        return b"".join(struct.pack("=HBBI", *each) for each in reversed(self._backwards))

    def load(self, offset: int, then: Target) -> Label:
        """A = the 32-bit word of `struct seccomp_data` at `offset`; go on with `then`."""
        self._fall_through(then)
        return self._put(_BPF_LD_W_ABS, 0, 0, offset)

    def mask(self, mask: int, then: Target) -> Label:
        """A &= mask; go on with `then`."""
        self._fall_through(then)
        return self._put(_BPF_ALU_AND_K, 0, 0, mask)

    def jump(self, test: int, value: int, yes: Target, no: Target) -> Target:
        """Go on with `yes` if A `test` value, otherwise with `no`."""
        if yes == no:
            return yes
        yes_label = self._near(yes)
        no_label = self._near(no)
        here = len(self)
        return self._put(test, here - yes_label.place - 1, here - no_label.place - 1, value)

    def _put(self, opcode: int, yes: int, no: int, value: int) -> Label:
        self._backwards.append((opcode, yes, no, value))
        return Label(len(self) - 1)

    def _near(self, target: Target) -> Label:
        """Something in reach of the next instruction (and of the one after it) that is `target`."""
        label = self._returns.get(target.value) if isinstance(target, Return) else target
        if label is not None and len(self) - label.place - 1 <= _REACH:
            return label
        if isinstance(target, Return):
            self._returns[target.value] = self._put(_BPF_RET_K, 0, 0, target.value)
            return self._returns[target.value]
        return self._put(_BPF_JMP_JA, 0, 0, len(self) - target.place - 1)

    def _fall_through(self, target: Target) -> None:
        """Makes the first instruction be `target`."""
        if isinstance(target, Return):
            self._put(_BPF_RET_K, 0, 0, target.value)
        elif target.place != len(self) - 1:
            self._put(_BPF_JMP_JA, 0, 0, len(self) - target.place - 1)
