"""libseccomp, the library that Docker's and everybody's filters come from, decides the same."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pycontainer.linux.syscalls import AUDIT_ARCH, numbers
from pycontainer.plan.seccomp import Op, Profile, compile_filter
from tests.require import require
from tests.seccomp.bpf import Call, Instruction, decode, run
from tests.seccomp.reference import NAMES, calls, profiles

PYTHON = "/usr/bin/python3"
EDGES = (0, 1, 2**31, 2**32 - 1, 2**32, 2**64 - 1)

Export = Callable[[Profile, str], list[Instruction]]


@pytest.fixture(scope="module")
def binding() -> None:
    """libseccomp's binding for the system's Python is there."""
    probe = subprocess.run([PYTHON, "-I", "-c", "import seccomp"], capture_output=True, check=False)
    why = f"{PYTHON} cannot import seccomp (Debian: python3-seccomp)"
    require("libseccomp", probe.returncode == 0, why)


@pytest.fixture(scope="module")
def libseccomp(binding: None) -> Iterator[Export]:
    """Compiles a profile with libseccomp."""
    script = Path(__file__).with_name("libseccomp_export.py")
    with subprocess.Popen(
        [PYTHON, "-I", str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        requests, answers = server.stdin, server.stdout

        def export(profile: Profile, machine: str) -> list[Instruction]:
            requests.write(_request(profile, machine) + "\n")
            requests.flush()
            return decode(bytes.fromhex(answers.readline()))

        yield export
        requests.close()


def _request(profile: Profile, machine: str) -> str:
    return json.dumps(
        {
            "arch": machine,
            "default": [profile.default_action.kind.name, profile.default_action.data],
            "rules": [
                {
                    "names": rule.names,
                    "action": [rule.action.kind.name, rule.action.data],
                    "args": [[arg.index, arg.op.name, arg.value, arg.mask] for arg in rule.args],
                }
                for rule in profile.rules
            ],
        }
    )


def _expressible(profile: Profile) -> Profile:
    """Without what libseccomp's interface has no words for: a mask under another operator than
    MASKED_EQ, one argument twice in a rule."""
    rules = (
        rule
        for rule in profile.rules
        if len({arg.index for arg in rule.args}) == len(rule.args)
        and all(arg.op is Op.MASKED_EQ or arg.mask == 2**64 - 1 for arg in rule.args)
    )
    return attrs.evolve(profile, rules=tuple(rules))


@settings(max_examples=300, deadline=None)
@given(st.data(), profiles.map(_expressible), st.sampled_from(sorted(AUDIT_ARCH)))
def test_a_random_profile_decides_as_libseccomps_filter_of_it_does(
    libseccomp: Export, data: st.DataObject, profile: Profile, machine: str
) -> None:
    ours, theirs = decode(compile_filter(profile, machine)), libseccomp(profile, machine)
    arch, known = AUDIT_ARCH[machine], numbers(machine)
    edges = [Call(arch, known[name], (edge,) * 6) for name in NAMES for edge in EDGES]
    drawn = data.draw(st.lists(calls(profile, machine), max_size=40))
    for call in edges + [call for call in drawn if call.nr in known.values()]:
        assert run(theirs, call) == run(ours, call), call


@pytest.mark.usefixtures("binding")
@pytest.mark.parametrize("machine", sorted(AUDIT_ARCH))
def test_the_numbers_are_those_of_libseccomp(machine: str) -> None:
    script = (
        "import json, sys, seccomp\n"
        "arch = getattr(seccomp.Arch, sys.argv[1].upper())\n"
        "print(json.dumps({n: seccomp.resolve_syscall(arch, n) for n in sys.argv[2:]}))\n"
    )
    done = subprocess.run(
        [PYTHON, "-I", "-c", script, machine, *numbers(machine)],
        capture_output=True,
        check=True,
        text=True,
    )
    # A negative number is libseccomp's own, for a name that it knows of another machine only.
    theirs = {name: number for name, number in json.loads(done.stdout).items() if number >= 0}
    assert len(theirs) > 290
    assert theirs == {name: numbers(machine)[name] for name in theirs}
