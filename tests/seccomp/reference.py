"""What a profile means, written as plainly as it can be, and random profiles to compare with."""

from __future__ import annotations

import errno
import operator
from collections.abc import Callable, Sequence

import attrs
from hypothesis import strategies as st

from pycontainer.errors import SpecError
from pycontainer.linux.syscalls import AUDIT_ARCH, X32_SYSCALL_BIT, numbers
from pycontainer.plan.seccomp import (
    ALLOW,
    ERRNO,
    KILL_PROCESS,
    KILL_THREAD,
    LOG,
    NOTIFY,
    TRACE,
    TRAP,
    Action,
    Arg,
    Op,
    Profile,
    Rule,
    compile_filter,
)
from tests.seccomp.bpf import Call

OPERATORS: dict[Op, Callable[[int, int], bool]] = {
    Op.NE: operator.ne,
    Op.LT: operator.lt,
    Op.LE: operator.le,
    Op.EQ: operator.eq,
    Op.GE: operator.ge,
    Op.GT: operator.gt,
    Op.MASKED_EQ: operator.eq,
}


def expected(profile: Profile, machine: str, call: Call) -> Action:
    if call.arch != AUDIT_ARCH[machine]:
        return KILL_PROCESS
    if machine == "x86_64" and call.nr & X32_SYSCALL_BIT:
        return ERRNO(errno.ENOSYS)
    for name, number in numbers(machine).items():
        if number == call.nr:
            return _action_of(profile, name, call.args)
    return ERRNO(errno.ENOSYS)


def _action_of(profile: Profile, name: str, args: Sequence[int]) -> Action:
    for rule in profile.rules:
        if name in rule.names and all(_meets(arg, args) for arg in rule.args):
            return rule.action
    return profile.default_action


def _meets(arg: Arg, args: Sequence[int]) -> bool:
    return OPERATORS[arg.op](args[arg.index] & arg.mask, arg.value)


# Calls that both machines have, close together and far apart.
NAMES = (
    *("read", "write", "close", "mmap", "munmap", "brk", "ioctl", "socket", "clone", "execve"),
    *("personality", "prctl", "mount", "futex", "openat", "setns", "getrandom", "openat2"),
)

_HALVES = (0, 1, 2, 3, 4, 0x5412, 0x7E020000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
words = st.builds(
    lambda high, low: high << 32 | low, st.sampled_from(_HALVES), st.sampled_from(_HALVES)
) | st.integers(0, 2**64 - 1)
actions = st.sampled_from(
    [ALLOW, ERRNO(1), ERRNO(38), KILL_PROCESS, KILL_THREAD, TRAP, LOG, TRACE(7), NOTIFY]
)


@st.composite
def arguments(draw: st.DrawFn) -> Arg:
    op = draw(st.sampled_from(Op))
    full = st.just(2**64 - 1) if op is not Op.MASKED_EQ else st.nothing()
    mask = draw(full | words | st.just(0xFFFFFFFF))
    return Arg(index=draw(st.integers(0, 5)), op=op, value=draw(words) & mask, mask=mask)


rules = st.builds(
    Rule,
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True).map(tuple),
    action=actions,
    args=st.lists(arguments(), max_size=3).map(tuple),
)


def consistent(profile: Profile) -> Profile:
    """The profile without the rules that contradict an earlier one."""
    kept: list[Rule] = []
    for rule in profile.rules:
        try:
            compile_filter(attrs.evolve(profile, rules=(*kept, rule)))
        except SpecError:
            continue
        kept.append(rule)
    return attrs.evolve(profile, rules=tuple(kept))


profiles = st.builds(
    Profile, default_action=actions, rules=st.lists(rules, max_size=12).map(tuple)
).map(consistent)


@st.composite
def calls(draw: st.DrawFn, profile: Profile, machine: str) -> Call:
    """A call that is likely to be on an edge of one of the profile's rules."""
    named = [rule for rule in profile.rules if rule.names]
    if not named or draw(st.integers(0, 4)) == 0:
        nr = draw(st.integers(0, 600) | st.integers(0, 2**32 - 1))
        return Call(AUDIT_ARCH[machine], nr, tuple(draw(st.lists(words, min_size=6, max_size=6))))
    rule = draw(st.sampled_from(named))
    args = draw(st.lists(words, min_size=6, max_size=6))
    for arg in rule.args:
        nearby = arg.value + draw(st.integers(-1, 1))
        outside = draw(st.sampled_from([0, 1 << 32, 2**64 - 1])) & ~arg.mask
        args[arg.index] = (nearby | outside) % 2**64
    return Call(
        AUDIT_ARCH[machine], numbers(machine)[draw(st.sampled_from(rule.names))], tuple(args)
    )
