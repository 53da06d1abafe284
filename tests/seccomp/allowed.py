"""What a profile allows, as text to review: `python tests/seccomp/allowed.py x86_64`."""

from __future__ import annotations

import sys
from pathlib import Path

from pycontainer.linux.syscalls import numbers
from pycontainer.plan.seccomp import ALLOW, Arg, Op, Profile
from pycontainer.plan.seccomp_default import default_profile

_SIGNS = {
    Op.NE: "!=",
    Op.LT: "<",
    Op.LE: "<=",
    Op.EQ: "==",
    Op.MASKED_EQ: "==",
    Op.GE: ">=",
    Op.GT: ">",
}


def allowed(profile: Profile, machine: str) -> list[str]:
    """A line for each way in which a call is allowed, sorted."""
    return sorted(
        " ".join([name, *map(_condition, rule.args)])
        for rule in profile.rules
        if rule.action == ALLOW
        for name in rule.names
        if name in numbers(machine)
    )


def _condition(arg: Arg) -> str:
    return f"arg{arg.index}&{arg.mask:#x}{_SIGNS[arg.op]}{arg.value:#x}"


def reviewed(machine: str) -> list[str]:
    """The lines that somebody has read and agreed to."""
    file = Path(__file__).with_name(f"allowed_{machine}.txt")
    return file.read_text(encoding="ascii").splitlines()


if __name__ == "__main__":
    print("\n".join(allowed(default_profile(), sys.argv[1])))
