"""A seccomp filter: rules about system calls, compiled to the classic BPF that the kernel runs.

Two rules of this file:
1. The result depends on the set of rules, never on their order. A call takes the action of the
   rules that match it, the profile's default when none does. Rules of different actions that could
   match one call are refused. (libseccomp lets an unconditional rule win and drops the other
   without a word, also when the other is the one that forbids.)
2. What the rules do not speak of is not let through: another architecture's entry kills the
   process, an x32 call and a number that the table does not know give ENOSYS, on which every libc
   falls back to an older call.

The kernel (since 5.11, `seccomp_cache_prepare`) runs the filter once for each number when it is
installed and lets calls pass without it whose answer is ALLOW whatever the arguments: such calls
cost nothing. Source for the rest: seccomp(2), Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from enum import Enum
from functools import lru_cache
from itertools import combinations, groupby

import attrs

from pycontainer.errors import SpecError
from pycontainer.linux.syscalls import AUDIT_ARCH, X32_SYSCALL_BIT, all_names, numbers
from pycontainer.plan.bpf import (
    BPF_JEQ,
    BPF_JGE,
    BPF_JGT,
    MAX_INSTRUCTIONS,
    Code,
    Return,
    Target,
)

_NR, _ARCH, _ARGS = 0, 4, 16  # offsets in struct seccomp_data
LOW32, _ALL64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF  # the masks of an `int` and a `long` argument
_MAX_ERRNO = 4095  # <linux/err.h>; the kernel cuts a greater SECCOMP_RET_DATA down to it


class ActionKind(Enum):
    """What the kernel does with a call: SECCOMP_RET_* of <linux/seccomp.h>."""

    KILL_THREAD = 0x00000000
    KILL_PROCESS = 0x80000000
    TRAP = 0x00030000
    ERRNO = 0x00050000
    NOTIFY = 0x7FC00000
    TRACE = 0x7FF00000
    LOG = 0x7FFC0000
    ALLOW = 0x7FFF0000


@attrs.frozen
class Action:
    """A kind and its 16 bits of data: the errno of ERRNO, the message of TRACE."""

    kind: ActionKind
    data: int = attrs.field(default=0)

    @data.validator
    def _check(self, attribute: attrs.Attribute[int], value: int) -> None:
        most = {ActionKind.ERRNO: _MAX_ERRNO, ActionKind.TRACE: 0xFFFF}.get(self.kind, 0)
        if not 0 <= value <= most:
            raise SpecError("seccomp action data", value, f"{self.kind.name} takes 0 to {most}")

    @property
    def value(self) -> int:
        """The return value of the filter."""
        return self.kind.value | self.data


ALLOW = Action(ActionKind.ALLOW)
KILL_PROCESS = Action(ActionKind.KILL_PROCESS)
KILL_THREAD = Action(ActionKind.KILL_THREAD)
TRAP = Action(ActionKind.TRAP)
LOG = Action(ActionKind.LOG)
NOTIFY = Action(ActionKind.NOTIFY)


def ERRNO(number: int) -> Action:
    """The call is not made and fails with this errno."""
    return Action(ActionKind.ERRNO, number)


def TRACE(message: int = 0) -> Action:
    """A tracer decides; without one the call fails with ENOSYS."""
    return Action(ActionKind.TRACE, message)


class Op(Enum):
    """A comparison, unsigned, of `argument & mask` with a value."""

    NE = "NE"
    LT = "LT"
    LE = "LE"
    EQ = "EQ"
    GE = "GE"
    GT = "GT"
    MASKED_EQ = "MASKED_EQ"  # EQ; the word that says a mask is meant


@attrs.frozen(kw_only=True)
class Arg:
    """A condition on one argument: `argument[index] & mask` `op` `value`, on 64 bits.

    The kernel hands the filter whole registers. Where a call takes an `int`, it looks at the low 32
    bits only and whoever calls may fill the high ones: compare such an argument under
    `mask=LOW32`, or `0x1_0000_5412` passes for something else than TIOCSTI.
    """

    index: int = attrs.field()
    op: Op
    value: int
    mask: int = attrs.field(default=_ALL64)

    @index.validator
    def _check_index(self, attribute: attrs.Attribute[int], value: int) -> None:
        if not 0 <= value <= 5:
            raise SpecError("seccomp argument index", value, "a call has arguments 0 to 5")

    @mask.validator
    def _check_mask(self, attribute: attrs.Attribute[int], value: int) -> None:
        if not 0 <= value <= _ALL64:
            raise SpecError("seccomp argument mask", value, "64 bits")
        if self.value & ~value:
            raise SpecError("seccomp argument value", self.value, f"no bit outside of {value:#x}")


@attrs.frozen(kw_only=True)
class Rule:
    """Calls of these names whose arguments meet *all* of `args` take `action`.

    Several rules for one name are alternatives. A name that only another machine has is skipped.
    """

    names: tuple[str, ...] = attrs.field()
    action: Action
    args: tuple[Arg, ...] = ()

    @names.validator
    def _check(self, attribute: attrs.Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
        for name in value:
            if name not in all_names():
                raise SpecError("seccomp rule name", name, "no system call of that name is known")


@attrs.frozen(kw_only=True, cache_hash=True)
class Profile:
    """What a filter says: `default_action` where no rule matches; `arches` are the machines (as
    `uname -m` spells them) that the rules were written for, empty for any."""

    default_action: Action
    rules: tuple[Rule, ...] = ()
    arches: tuple[str, ...] = ()


@lru_cache(maxsize=64)
def compile_filter(profile: Profile, machine: str = "x86_64") -> bytes:
    """The filter as an array of `struct sock_filter`, in this machine's byte order.

    Raises SpecError for rules that contradict each other, a machine without a table or outside of
    the profile's, and a filter longer than the kernel's 4096 instructions.
    """
    if machine not in AUDIT_ARCH:
        raise SpecError("seccomp machine", machine, f"one of {', '.join(AUDIT_ARCH)}")
    if profile.arches and machine not in profile.arches:
        raise SpecError("seccomp machine", machine, f"the profile is for {profile.arches}")
    code = Code()
    entry = _search(code, _segments(profile, machine), profile.default_action)
    entry = code.load(_NR, entry)
    entry = code.jump(BPF_JEQ, AUDIT_ARCH[machine], entry, Return(KILL_PROCESS.value))
    code.load(_ARCH, entry)
    if len(code) > MAX_INSTRUCTIONS:
        allowed = f"the kernel takes {MAX_INSTRUCTIONS}; name fewer calls or arguments"
        raise SpecError("seccomp filter length", len(code), allowed)
    return code.to_bytes()


# A system call's fate: its rules, as a tuple; () is the default. ENOSYS for a number nobody knows.
_Fate = tuple[Rule, ...]
_UNKNOWN: _Fate = (Rule(names=(), action=ERRNO(errno.ENOSYS)),)


@attrs.frozen
class _Segment:
    """The numbers from `first` up to the next segment share one fate."""

    first: int
    fate: _Fate


def _segments(profile: Profile, machine: str) -> list[_Segment]:
    """All 2^32 numbers, cut where the fate changes."""
    known = numbers(machine)
    fates: dict[int, _Fate] = dict.fromkeys(known.values(), ())
    for name, rules in _rules_by_name(profile.rules).items():
        if name in known:
            fates[known[name]] = _without_contradiction(name, rules)
    cuts = {0, *fates, *(number + 1 for number in fates)}
    assert max(cuts) <= X32_SYSCALL_BIT  # so the last, unknown segment holds every x32 call
    each = [_Segment(first, fates.get(first, _UNKNOWN)) for first in sorted(cuts)]
    return [next(same) for _, same in groupby(each, key=lambda segment: segment.fate)]


def _rules_by_name(rules: Iterable[Rule]) -> dict[str, list[Rule]]:
    """The rules of each name, without their names, so that equal fates compare equal."""
    found: dict[str, list[Rule]] = {}
    for rule in rules:
        nameless = attrs.evolve(rule, names=())
        for name in rule.names:
            found.setdefault(name, []).append(nameless)
    return found


def _without_contradiction(name: str, rules: Sequence[Rule]) -> _Fate:
    for one, other in combinations(rules, 2):
        if one.action != other.action and _can_both_match(one, other):
            shown = f"{name}: {one.action.kind.name} and {other.action.kind.name}"
            raise SpecError("seccomp rules", shown, "rules of different actions match one call")
    unconditional = [rule for rule in rules if not rule.args]
    return tuple(unconditional[:1]) or tuple(dict.fromkeys(rules))


def _can_both_match(one: Rule, other: Rule) -> bool:
    args = one.args + other.args
    return all(
        _satisfiable(tuple(arg for arg in args if arg.index == index))
        for index in {arg.index for arg in args}
    )


@lru_cache(maxsize=1024)
def _satisfiable(conditions: tuple[Arg, ...]) -> bool:
    """Whether some 64-bit value meets all conditions; exact for any mixture of masks.

    Walks the bits of that value from the top and keeps every state that can still come out well:
    how the masked value compares so far (-1, 0, 1) with each condition's value. The first
    difference decides.
    """
    states = {(0,) * len(conditions)}
    width = max(arg.mask for arg in conditions).bit_length()
    for bit in reversed(range(width)):
        states = {
            state
            for before in states
            for state in (_next_state(before, conditions, bit, digit) for digit in (0, 1))
            if all(map(_may_hold, conditions, state))
        }
    return any(
        all(_holds(arg.op, order) for order, arg in zip(state, conditions, strict=True))
        for state in states
    )


def _next_state(
    state: tuple[int, ...], conditions: tuple[Arg, ...], bit: int, digit: int
) -> tuple[int, ...]:
    return tuple(
        so_far or (digit & arg.mask >> bit) - (arg.value >> bit & 1)
        for so_far, arg in zip(state, conditions, strict=True)
    )


def _may_hold(arg: Arg, so_far: int) -> bool:
    return so_far == 0 or _holds(arg.op, so_far)


def _holds(op: Op, order: int) -> bool:
    """Whether `op` is true of a value that is less (-1), equal (0) or greater (1)."""
    return order in _ORDERS[op]


_ORDERS = {
    Op.NE: (-1, 1),
    Op.LT: (-1,),
    Op.LE: (-1, 0),
    Op.EQ: (0,),
    Op.MASKED_EQ: (0,),
    Op.GE: (0, 1),
    Op.GT: (1,),
}


def _search(code: Code, segments: Sequence[_Segment], default: Action) -> Target:
    """A balanced binary search for the segment that A, the number, lies in."""
    if len(segments) == 1:
        return _decide(code, segments[0].fate, default)
    middle = len(segments) // 2
    above = _search(code, segments[middle:], default)
    below = _search(code, segments[:middle], default)
    return code.jump(BPF_JGE, segments[middle].first, above, below)


def _decide(code: Code, fate: _Fate, default: Action) -> Target:
    """The rules of one call, one after the other; written from the last to the first."""
    entry: Target = Return(default.value)
    for rule in reversed(fate):
        otherwise, entry = entry, Return(rule.action.value)
        for arg in reversed(rule.args):
            entry = _compare(code, arg, entry, otherwise)
    return entry


# An op and its opposite are one test with the two ways out exchanged.
_OPPOSITE = {Op.NE: Op.EQ, Op.LT: Op.GE, Op.LE: Op.GT}
_JUMPS = {Op.EQ: BPF_JEQ, Op.MASKED_EQ: BPF_JEQ, Op.GE: BPF_JGE, Op.GT: BPF_JGT}


def _compare(code: Code, arg: Arg, yes: Target, no: Target) -> Target:
    """One condition, in the two 32-bit halves that BPF can load; a half that is masked out costs
    nothing."""
    if arg.op in _OPPOSITE:
        return _compare(code, attrs.evolve(arg, op=_OPPOSITE[arg.op]), no, yes)
    low = _ARGS + 8 * arg.index  # both machines are little endian
    mask, value = arg.mask & LOW32, arg.value & LOW32
    if mask:
        entry = _load(code, low, mask, code.jump(_JUMPS[arg.op], value, yes, no))
    else:
        entry = yes if _holds(arg.op, 0) else no
    mask, value = arg.mask >> 32, arg.value >> 32
    if not mask:
        return entry
    entry = code.jump(BPF_JEQ, value, entry, no)
    if _JUMPS[arg.op] != BPF_JEQ:
        entry = code.jump(BPF_JGT, value, yes, entry)
    return _load(code, low + 4, mask, entry)


def _load(code: Code, offset: int, mask: int, then: Target) -> Target:
    if mask != LOW32:
        then = code.mask(mask, then)
    return code.load(offset, then)
