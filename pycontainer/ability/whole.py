"""Runs a program as `run` does, and looks from inside at what protects it."""

from __future__ import annotations

import subprocess

from pycontainer.ability.report import Ability
from pycontainer.errors import SetupError, SpecError, UnsupportedError
from pycontainer.popen import run

# A damaged host may hang where no limit helps.
_ANSWER_SECONDS = 30.0
# What /proc/self/status (proc(5)) says of a program under every default protection.
EXPECTED = {"NoNewPrivs": "1", "Seccomp": "2", "CapEff": "0" * 16, "CapBnd": "0" * 16}


def whole_run() -> Ability:
    """Everything together, as a caller gets it."""
    try:
        result = run(
            ["cat", "/proc/self/status"],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=_ANSWER_SECONDS,
        )  # fmt: skip
    except UnsupportedError as error:
        return _not(f"{error.what}: {error.why}", error.remedy)
    except SetupError as error:
        return _not(str(error), "see the abilities above")
    except (OSError, SpecError, subprocess.SubprocessError) as error:
        return _not(str(error), "see the abilities above")
    if result.returncode:
        said = result.stderr.decode(errors="replace").strip()
        return _not(f"exit status {result.returncode}: {said}", "see the abilities above")
    wrong = _unexpected(result.stdout.decode(errors="replace"))
    if wrong:
        return _not(f"inside, {wrong}", "see the abilities above")
    if result.not_enforced:
        missing = ", ".join(result.not_enforced)
        return _not(f"works, without a limit on {missing}", f"see cgroup.{result.not_enforced[0]}")
    return Ability(name="run", available=True, why="ran a program with every default", needed=True)


def _not(why: str, remedy: str) -> Ability:
    return Ability(name="run", available=False, why=why, remedy=remedy, needed=True)


def _unexpected(status: str) -> str:
    """The first line that is not as it should be; "" when all are."""
    found = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    for name, value in EXPECTED.items():
        if found.get(name, "").strip() != value:
            return f"{name} is {found.get(name, '').strip()!r} instead of {value!r}"
    return ""
