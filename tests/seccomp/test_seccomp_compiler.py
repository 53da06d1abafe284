"""The filter compiler: what it writes decides as the profile says, for every call there is."""

from __future__ import annotations

import errno

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pycontainer.errors import SpecError
from pycontainer.linux.syscalls import AUDIT_ARCH, X32_SYSCALL_BIT, numbers
from pycontainer.plan.bpf import BPF_JEQ, Code, Return
from pycontainer.plan.seccomp import (
    ALLOW,
    ERRNO,
    KILL_PROCESS,
    KILL_THREAD,
    LOG,
    LOW32,
    NOTIFY,
    TRACE,
    TRAP,
    Action,
    ActionKind,
    Arg,
    Op,
    Profile,
    Rule,
    compile_filter,
)
from pycontainer.plan.seccomp_default import default_profile
from tests.seccomp.bpf import Call, decode, run
from tests.seccomp.reference import OPERATORS, actions, calls, expected, profiles

MACHINES = sorted(AUDIT_ARCH)
ENOSYS = ERRNO(errno.ENOSYS)
# i386, x32's absent own value, arm, big-endian arm64, ppc64le, s390x, riscv64, nothing, everything.
FOREIGN = (0x40000003, 0x3E, 0x40000028, 0xB7, 0xC0000015, 0x80000016, 0xC00000F3, 0, 0xFFFFFFFF)
EDGES = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1)


def test_actions_are_the_return_values_of_linux_seccomp_h() -> None:
    values = {
        KILL_PROCESS: 0x80000000,
        KILL_THREAD: 0,
        TRAP: 0x00030000,
        ERRNO(38): 0x00050026,
        NOTIFY: 0x7FC00000,
        TRACE(7): 0x7FF00007,
        LOG: 0x7FFC0000,
        ALLOW: 0x7FFF0000,
    }
    assert {action: action.value for action in values} == values


@pytest.mark.parametrize("machine", MACHINES)
def test_every_number_and_edge_of_the_arguments_decides_as_the_default_profile_says(
    machine: str,
) -> None:
    profile = default_profile()
    program = decode(compile_filter(profile, machine))
    around_x32 = range(X32_SYSCALL_BIT - 2, X32_SYSCALL_BIT + 601)
    for nr in (*range(601), *around_x32, 2**31 - 1, 2**31, 2**32 - 1):
        for value in EDGES:
            call = Call(AUDIT_ARCH[machine], nr, (value,) * 6)
            assert expected(profile, machine, call).value == run(program, call), (nr, value)


@pytest.mark.parametrize("machine", MACHINES)
def test_every_call_of_a_foreign_architecture_kills_the_process(machine: str) -> None:
    program = decode(compile_filter(Profile(default_action=ALLOW), machine))
    other = [value for name, value in AUDIT_ARCH.items() if name != machine]
    for arch in (*FOREIGN, *other):
        assert {KILL_PROCESS.value} == {run(program, Call(arch, nr)) for nr in range(601)}


def test_every_x32_call_is_refused_even_where_everything_is_allowed() -> None:
    program = decode(compile_filter(Profile(default_action=ALLOW)))
    for nr in range(601):
        assert ENOSYS.value == run(program, Call(AUDIT_ARCH["x86_64"], X32_SYSCALL_BIT | nr))


@pytest.mark.parametrize("machine", MACHINES)
def test_numbers_that_the_table_does_not_know_give_enosys(machine: str) -> None:
    program = decode(compile_filter(Profile(default_action=ALLOW), machine))
    known = set(numbers(machine).values())
    allowed = {
        nr for nr in range(4096) if run(program, Call(AUDIT_ARCH[machine], nr)) != ENOSYS.value
    }
    assert known == allowed


@settings(max_examples=300, deadline=None)
@given(st.data(), profiles, st.sampled_from(MACHINES))
def test_a_random_profile_decides_as_the_reference_does(
    data: st.DataObject, profile: Profile, machine: str
) -> None:
    program = decode(compile_filter(profile, machine))
    for call in data.draw(st.lists(calls(profile, machine), min_size=1, max_size=40)):
        assert expected(profile, machine, call).value == run(program, call), call


def _alternating(names: list[str], per_name: int) -> Profile:
    """Neighbours with long and different fates: nothing merges, everything is far away."""
    return Profile(
        default_action=ERRNO(1),
        rules=tuple(
            Rule(
                names=(name,),
                action=ALLOW,
                args=(Arg(index=0, op=Op.EQ, value=place << 33 | each),),
            )
            for place, name in enumerate(names)
            for each in range(per_name)
        ),
    )


@pytest.mark.parametrize("per_name", [1, 60, 63, 64, 65, 130, 260])
def test_jumps_over_more_than_255_instructions_arrive(per_name: int) -> None:
    names = ["read", "write", "open"]
    profile = _alternating(names, per_name)
    program = decode(compile_filter(profile))
    for place, name in enumerate(names):
        for each in (0, 1, per_name - 1, per_name):
            call = Call(
                AUDIT_ARCH["x86_64"],
                numbers("x86_64")[name],
                (place << 33 | each, *(0,) * 5),
            )
            assert expected(profile, "x86_64", call).value == run(program, call), (name, each)


@pytest.mark.parametrize("between", [0, 1, 2, 253])
@pytest.mark.parametrize("behind", range(250, 260))
def test_both_ways_out_of_a_jump_arrive_at_the_edge_of_its_reach(between: int, behind: int) -> None:
    code = Code()
    yes = code.load(0, Return(1))
    label = yes
    for _ in range(between):
        label = code.mask(LOW32, label)
    no = code.load(0, Return(2))
    label = no
    for _ in range(behind):
        label = code.mask(LOW32, label)
    for first, second in ((yes, no), (no, yes), (yes, Return(2)), (Return(1), no)):
        code.load(0, code.jump(BPF_JEQ, 5, first, second))
        program = decode(code.to_bytes())
        results = [run(program, Call(0, nr)) for nr in (5, 6)]
        assert results == ([2, 1] if first is no else [1, 2])


def test_a_filter_longer_than_the_kernel_takes_is_refused_with_its_length() -> None:
    with pytest.raises(SpecError, match=r"seccomp filter length=\d{4,}: the kernel takes 4096"):
        compile_filter(_alternating(sorted(numbers("x86_64")), 6))


small_conditions = st.builds(
    lambda op, value, mask: Arg(index=0, op=op, value=value & mask, mask=mask),
    st.sampled_from(Op),
    st.integers(0, 15),
    st.integers(0, 15),
)


@settings(max_examples=500, deadline=None)
@given(st.lists(small_conditions, max_size=3), st.lists(small_conditions, max_size=3))
@example([], [])
def test_rules_are_refused_exactly_when_one_call_matches_two_actions(
    ones: list[Arg], others: list[Arg]
) -> None:
    together = ones + others
    contradict = any(
        all(OPERATORS[arg.op](value & arg.mask, arg.value) for arg in together)
        for value in range(16)
    )
    profile = Profile(
        default_action=KILL_PROCESS,
        rules=(
            Rule(names=("read",), action=ALLOW, args=tuple(ones)),
            Rule(names=("read",), action=ERRNO(1), args=tuple(others)),
        ),
    )
    if contradict:
        with pytest.raises(SpecError, match="match one call"):
            compile_filter(profile)
    else:
        compile_filter(profile)


def test_an_unconditional_allow_does_not_silently_win_over_a_refusal() -> None:
    tiocsti = Arg(index=1, op=Op.EQ, value=0x5412)
    rules = (
        Rule(names=("ioctl",), action=ALLOW),
        Rule(names=("ioctl",), action=ERRNO(1), args=(tiocsti,)),
    )
    with pytest.raises(SpecError, match="ioctl: ALLOW and ERRNO"):
        compile_filter(Profile(default_action=ERRNO(1), rules=rules))


@settings(max_examples=50, deadline=None)
@given(profiles)
def test_the_order_of_rules_does_not_change_a_decision(profile: Profile) -> None:
    backwards = Profile(default_action=profile.default_action, rules=tuple(reversed(profile.rules)))
    one, other = decode(compile_filter(profile)), decode(compile_filter(backwards))
    for name in numbers("x86_64"):
        for value in EDGES:
            call = Call(AUDIT_ARCH["x86_64"], numbers("x86_64")[name], (value,) * 6)
            assert run(one, call) == run(other, call)


@given(actions)
def test_a_profile_without_rules_is_a_filter_too(action: Action) -> None:
    program = decode(compile_filter(Profile(default_action=action)))
    assert action.value == run(program, Call(AUDIT_ARCH["x86_64"], 0))


def test_a_name_that_only_another_machine_has_is_skipped() -> None:
    profile = Profile(default_action=ERRNO(1), rules=(Rule(names=("open",), action=ALLOW),))
    without = compile_filter(Profile(default_action=ERRNO(1)), "aarch64")
    assert without == compile_filter(profile, "aarch64")


def test_equal_profiles_are_compiled_once() -> None:
    def profile() -> Profile:
        return Profile(default_action=ERRNO(1), rules=(Rule(names=("sync",), action=ALLOW),))

    assert compile_filter(profile()) is compile_filter(profile())


def test_the_architecture_is_looked_at_first() -> None:
    load, compare = decode(compile_filter(default_profile()))[:2]
    assert (load[0], load[3]) == (0x20, 4)
    assert (compare[0], compare[3]) == (0x15, AUDIT_ARCH["x86_64"])


def test_nonsense_is_refused_where_it_is_written() -> None:
    with pytest.raises(SpecError, match="name='raed'"):
        Rule(names=("raed",), action=ALLOW)
    with pytest.raises(SpecError, match="index=6"):
        Arg(index=6, op=Op.EQ, value=0)
    with pytest.raises(SpecError, match="value=4294967296"):
        Arg(index=0, op=Op.EQ, value=2**32, mask=LOW32)
    with pytest.raises(SpecError, match="4096"):
        ERRNO(4096)
    with pytest.raises(SpecError, match="ALLOW takes 0 to 0"):
        Action(ActionKind.ALLOW, 1)
    with pytest.raises(SpecError, match="machine='sparc'"):
        compile_filter(default_profile(), "sparc")
    with pytest.raises(SpecError, match="the profile is for"):
        compile_filter(Profile(default_action=ALLOW, arches=("x86_64",)), "aarch64")
