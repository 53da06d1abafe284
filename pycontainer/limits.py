"""Which of a spec's limits this host can hold, and by what: a cgroup, an rlimit, or not at all."""

from __future__ import annotations

import math
from functools import lru_cache

import attrs

from pycontainer.cgroup import Parent
from pycontainer.errors import UnsupportedError
from pycontainer.linux.application import once_per_process
from pycontainer.spec import Limits, Spec

BY_CGROUP = ("memory", "pids", "cpus", "cpu_weight", "cpuset", "io")


@attrs.frozen(kw_only=True)
class Enforcement:
    """The cgroup's limits, what rlimits stand in for, and what is given up (by name)."""

    limits: Limits
    pids_by_rlimit: bool = False
    cpu_time_by_cgroup: bool = False
    not_enforced: tuple[str, ...] = ()


class _Parents:
    """The parents found so far; owned by this process until it ends."""

    def __init__(self) -> None:
        self.find = lru_cache(maxsize=32)(Parent.find)


@once_per_process
def _parents() -> _Parents:
    return _Parents()


def parent_of(spec: Spec) -> Parent:
    """Where this spec's cgroups are made; found once per process and name."""
    import os

    return _parents().find(spec.cgroup_parent or os.environ.get("PYCONTAINER_CGROUP"))


@lru_cache(maxsize=256)
def enforce(spec: Spec, parent: Parent) -> Enforcement:
    """Raises UnsupportedError for a limit that was asked for and cannot hold here."""
    values: dict[str, object] = {}
    given_up: list[str] = []
    pids_by_rlimit = False
    for field in BY_CGROUP:
        value = spec.limit(field)
        if value in (None, math.inf, ()):
            continue
        if field in parent.controllers:
            values[field] = int(value) if isinstance(value, float) and field != "cpus" else value
        elif field == "pids" and not spec.capabilities:
            pids_by_rlimit = True  # RLIMIT_NPROC, counted for each user namespace
        else:
            _give_up(spec, parent, field, given_up)
    by_cgroup = "cpu_usage" in parent.controllers
    if spec.cpu_time is not None and not by_cgroup:
        _give_up(spec, parent, "cpu_time", given_up)
    return Enforcement(
        limits=Limits(**values),  # type: ignore[arg-type]
        pids_by_rlimit=pids_by_rlimit,
        cpu_time_by_cgroup=spec.cpu_time is not None and by_cgroup,
        not_enforced=tuple(given_up),
    )


def _give_up(spec: Spec, parent: Parent, field: str, given_up: list[str]) -> None:
    asked = getattr(spec, field) not in (None, ())
    if asked and field not in spec.best_effort:
        why, remedy = parent.why_not("cpu_usage" if field == "cpu_time" else field)
        name = f"{field}={getattr(spec, field)!r}"
        raise UnsupportedError(name, why, f"{remedy}, or give it up: best_effort={{{field!r}}}")
    given_up.append(field)
