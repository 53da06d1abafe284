"""Tries each limit in a cgroup of its own, and what systemd gives."""

from __future__ import annotations

import errno
import os
import secrets
import shlex
import subprocess
from collections.abc import Iterator

from pycontainer.ability.report import Ability
from pycontainer.cgroup import Cgroup, Parent, hierarchy
from pycontainer.cgroup.settings import CONTROLLER_V1
from pycontainer.errors import SpecError, UnsupportedError
from pycontainer.limits import parent_of
from pycontainer.linux.ability import booted_by_systemd
from pycontainer.spec import Limits, Spec

_ANSWER_SECONDS = 5.0
# Without this one `run` gives up a limit that it has by default; pids has an rlimit beside it.
NEEDED = frozenset({"memory"})
# What comes with the parent and is not a number to write.
WITHOUT_NUMBER = ("swap", "io", "kill", "freeze", "cpu_usage", "peak_memory", "peak_pids")


def cgroups() -> Iterator[Ability]:
    """Every limit and ability of cgroups, with the directory it is made in."""
    names = (*_numbers(), *WITHOUT_NUMBER, "clone_into")
    try:
        parent = parent_of(Spec())
    except SpecError as error:
        for name in names:
            yield _ability(name, str(error), "unset PYCONTAINER_CGROUP")
        return
    for name in names:
        yield _try(parent, name)


def _numbers() -> dict[str, Limits]:
    """A modest number for each limit: nothing ever runs under it."""
    return {
        "memory": Limits(memory=16 << 20),
        "pids": Limits(pids=16),
        "cpus": Limits(cpus=0.5),
        "cpu_weight": Limits(cpu_weight=50),
        "cpuset": Limits(cpuset=str(min(os.sched_getaffinity(0)))),
    }


def _try(parent: Parent, name: str) -> Ability:
    if name not in parent.controllers:
        why, remedy = parent.why_not(name)
        return _ability(name, why, give_cgroup(name) or remedy)
    limits = _numbers().get(name)
    if limits is None:
        return _ability(name, "", where=_where(parent, name))
    try:
        Cgroup.create(parent, f"pycontainer-probe-{secrets.token_hex(6)}", limits).close()
    except UnsupportedError as error:
        return _ability(name, error.why, error.remedy)
    except OSError as error:
        why = errno.errorcode.get(error.errno or 0, str(error))
        return _ability(name, f"{_where(parent, name)}: {why}", parent.why_not(name)[1])
    return _ability(name, "", where=_where(parent, name))


def give_cgroup(name: str) -> str:
    """The command with which root gives this user a cgroup of version 1; "" for all else."""
    controller = CONTROLLER_V1.get(name)
    for tree in hierarchy.read():
        given = os.environ.get("PYCONTAINER_CGROUP") or "pycontainer"
        directory = tree.directory(os.path.join(tree.own, given))
        if os.geteuid() and controller in tree.controllers and directory is not None:
            return (
                f"sudo install -d -o {os.geteuid()} {shlex.quote(directory)}; "
                f"export PYCONTAINER_CGROUP={shlex.quote(given)}"
            )
    return ""


def _ability(name: str, why_not: str, remedy: str = "", *, where: str = "") -> Ability:
    return Ability(
        name=f"cgroup.{name}",
        available=not why_not,
        why=why_not or where,
        remedy=remedy,
        needed=name in NEEDED,
    )


def _where(parent: Parent, name: str) -> str:
    """The directory below which containers get it."""
    try:
        return f"in {parent.branch_of(name).path}"
    except KeyError:  # not a limit: it is where processes are killed and counted
        paths = sorted({branch.path for branch in parent.always})
        return f"in {', '.join(paths)}" if paths else ""


def systemd_delegation() -> Ability:
    """A scope with cgroups of its own, asked of this user's systemd for a moment."""
    if not booted_by_systemd():
        return Ability(
            name="systemd.delegation",
            available=False,
            why="systemd is not this machine's init",
            remedy="PYCONTAINER_CGROUP=NAME, naming a cgroup that this user may write",
        )
    manager = ["--user"] if os.geteuid() else []
    command = ["systemd-run", *manager, "--scope", "--quiet", "--collect"]
    try:
        subprocess.run(
            [*command, "--property=Delegate=yes", "true"],
            check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=_ANSWER_SECONDS,
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()
        return _no_delegation(said, f"loginctl enable-linger {os.geteuid()}")
    except (OSError, subprocess.SubprocessError) as error:
        return _no_delegation(str(error), "apt-get install systemd dbus-user-session")
    return Ability(name="systemd.delegation", available=True, why="got a delegated scope")


def _no_delegation(why: str, remedy: str) -> Ability:
    return Ability(name="systemd.delegation", available=False, why=why, remedy=remedy)
