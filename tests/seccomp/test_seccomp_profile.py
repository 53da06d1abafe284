"""Profiles in Docker's and the OCI specification's JSON mean what they mean to those."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycontainer.errors import SpecError
from pycontainer.linux.syscalls import AUDIT_ARCH, numbers
from pycontainer.plan.seccomp import (
    ALLOW,
    ERRNO,
    KILL_THREAD,
    LOG,
    TRACE,
    Action,
    Profile,
    compile_filter,
)
from pycontainer.plan.seccomp_profile import profile_from_json
from tests.seccomp.bpf import Call, decode, run

PROFILE = Path(__file__).with_name("profile.json").read_bytes()
NOTHING: frozenset[str] = frozenset()


def load(
    data: Any = PROFILE,
    capabilities: frozenset[str] = NOTHING,
    kernel: tuple[int, int] = (6, 18),
    machine: str = "x86_64",
) -> Profile:
    return profile_from_json(data, capabilities=capabilities, kernel=kernel, machine=machine)


def assert_decides(action: Action, profile: Profile, name: str, *args: int) -> None:
    (machine,) = profile.arches
    program = decode(compile_filter(profile, machine))
    padded = (*args, *(0,) * (6 - len(args)))
    call = Call(AUDIT_ARCH[machine], numbers(machine)[name], padded)
    assert action.value == run(program, call)


def changed(**keys: Any) -> dict[str, Any]:
    return {**json.loads(PROFILE), **keys}


@pytest.mark.parametrize(
    ("name", "action"),
    [
        ("read", ALLOW),
        ("open", ERRNO(13)),
        ("getpid", LOG),
        ("clone3", ERRNO(38)),
        ("bpf", ERRNO(22)),
        ("reboot", KILL_THREAD),
        ("acct", TRACE(9)),
    ],
)
def test_actions_and_their_errnos(name: str, action: Action) -> None:
    assert_decides(action, load(), name)


def test_all_included_capabilities_are_needed_and_one_excluded_is_enough() -> None:
    both = frozenset({"CAP_SYS_ADMIN", "CAP_CHOWN"})
    assert_decides(ERRNO(1), load(), "mount")
    assert_decides(ERRNO(13), load(capabilities=frozenset({"CAP_SYS_ADMIN"})), "mount")
    assert_decides(ALLOW, load(capabilities=both), "mount")


def test_rules_depend_on_the_kernel() -> None:
    assert_decides(ERRNO(13), load(kernel=(4, 7)), "ptrace")
    assert_decides(ALLOW, load(kernel=(4, 8)), "ptrace")
    assert_decides(ALLOW, load(kernel=(4, 10)), "ptrace")
    assert_decides(ALLOW, load(kernel=(5, 9)), "kcmp")
    assert_decides(ERRNO(13), load(kernel=(5, 10)), "kcmp")


def test_rules_depend_on_the_machine() -> None:
    for name in ("sync", "fsync"):
        assert_decides(ALLOW, load(), name)
        assert_decides(ERRNO(13), load(machine="aarch64"), name)


def test_a_masked_comparison_takes_the_mask_from_value_and_the_value_from_value_two() -> None:
    assert_decides(ALLOW, load(), "clone", 0x01200011)
    assert_decides(ERRNO(13), load(), "clone", 0x10000011)


def test_comparisons_of_one_argument_are_alternatives_as_in_runc() -> None:
    assert_decides(ALLOW, load(), "socket", 1)
    assert_decides(ALLOW, load(), "socket", 2)
    assert_decides(ERRNO(13), load(), "socket", 3)


def test_text_bytes_and_objects_are_the_same_profile() -> None:
    assert load(PROFILE.decode()) == load() == load(json.loads(PROFILE))


def test_the_oci_form_lists_architectures_and_has_no_default_errno() -> None:
    profile = load({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"]})
    assert_decides(ERRNO(1), profile, "read")


ENTRY = {"names": ["read"], "action": "SCMP_ACT_ALLOW"}


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe{", "not JSON"),
        (b"[]", "seccomp profile="),
        ({}, "profile defaultAction"),
        (changed(defaultAction="SCMP_ACT_MAYBE"), "profile defaultAction='SCMP_ACT_MAYBE'"),
        (changed(defaultErrnoRet=4096), "profile defaultErrnoRet=4096"),
        (changed(defaultErrnoRet=True), "profile defaultErrnoRet=True"),
        (changed(extra=1), "seccomp profile='extra'"),
        (changed(flags=["SECCOMP_FILTER_FLAG_LOG"]), "profile flags"),
        (changed(listenerPath="/run/agent.sock"), "profile listenerPath"),
        (changed(architectures=["SCMP_ARCH_X86"]), "either architectures or archMap"),
        (changed(archMap=None, architectures=["SCMP_ARCH_VAX"]), "'SCMP_ARCH_VAX'"),
        (changed(syscalls={}), "profile syscalls"),
        (changed(syscalls=[ENTRY, 7]), r"syscalls\[1\]=7"),
        (changed(syscalls=[ENTRY | {"arg": []}]), r"syscalls\[0\]='arg'"),
        (changed(syscalls=[ENTRY | {"name": "write"}]), r"syscalls\[0\] names"),
        (changed(syscalls=[ENTRY | {"names": []}]), r"syscalls\[0\] names"),
        (changed(syscalls=[ENTRY | {"names": [7]}]), r"syscalls\[0\].names=7"),
        (changed(syscalls=[ENTRY | {"errnoRet": 1}]), "ALLOW takes no errno"),
        (changed(syscalls=[ENTRY | {"args": [{"index": 6}]}]), r"args\[0\].op"),
        (
            changed(syscalls=[ENTRY | {"args": [{"index": 6, "op": "SCMP_CMP_EQ", "value": 0}]}]),
            r"syscalls\[0\].args\[0\].index=6",
        ),
        (
            changed(syscalls=[ENTRY | {"args": [{"index": 0, "op": "SCMP_CMP_EQ", "value": -1}]}]),
            r"syscalls\[0\].args\[0\].value=-1",
        ),
        (changed(syscalls=[ENTRY | {"includes": {"cap": []}}]), r"syscalls\[0\].includes='cap'"),
        (
            changed(syscalls=[ENTRY | {"excludes": {"minKernel": "new"}}]),
            r"syscalls\[0\].excludes.minKernel='new'",
        ),
    ],
)
def test_nonsense_is_refused_and_the_error_says_where_it_is(data: Any, where: str) -> None:
    with pytest.raises(SpecError, match=where):
        load(data)


def test_an_entry_that_does_not_apply_here_is_checked_all_the_same() -> None:
    entry = ENTRY | {"includes": {"arches": ["s390x"]}, "action": "SCMP_ACT_ALOW"}
    with pytest.raises(SpecError, match="SCMP_ACT_ALOW"):
        load(changed(syscalls=[entry]))


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)


@given(st.data(), junk)
def test_junk_anywhere_is_a_spec_error_or_harmless(data: st.DataObject, value: Any) -> None:
    profile = copy.deepcopy(json.loads(PROFILE))
    place: Any = profile
    while True:
        key = data.draw(st.sampled_from(range(len(place)) if isinstance(place, list) else [*place]))
        if not place[key] or not isinstance(place[key], dict | list) or data.draw(st.booleans()):
            place[key] = value
            break
        place = place[key]
    try:
        compile_filter(load(profile))
    except SpecError:
        pass
