"""A parent of this test run's own, and children that join a container's cgroups."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import pytest

from pycontainer.cgroup import Cgroup, Parent, hierarchy
from pycontainer.spec import Limits
from tests.cgroup.members import Members
from tests.require import Require

Make = Callable[..., Cgroup]


@pytest.fixture(scope="session", name="parent")
def parent_fixture() -> Iterator[Parent]:
    """The parent that `PYCONTAINER_CGROUP` names: unique to this run, removed at its end."""
    parent = Parent.find()
    yield parent
    directories = set(parent.paths.values())
    parent.remove()
    for directory in directories:  # made by another `Parent` of this process, before this one
        if os.path.isdir(directory):
            os.rmdir(directory)


@pytest.fixture(scope="session", name="parent_v1")
def parent_v1_fixture() -> Iterator[Parent]:
    """The hierarchies of version 1 alone, as on a machine that mounts no version 2."""
    seen = tuple(each for each in hierarchy.read() if each.version == 1)
    parent = Parent.of(seen, os.environ["PYCONTAINER_CGROUP"])
    yield parent
    parent.remove()


@pytest.fixture(name="ability")
def ability_fixture(parent: Parent, require: Require) -> Callable[..., None]:
    """`ability("memory", …)`: skip, or fail in lane that has to have it, without these."""

    def need(*abilities: str) -> None:
        for ability in abilities:
            available = ability in parent.controllers
            why = "" if available else ": ".join(parent.why_not(ability))
            # Kernels are built without these two; the rest is there wherever cgroups are.
            name = ability if ability in ("cpuset", "io") else "cgroup"
            require(name, available, f"{ability}: {why}")

    return need


@pytest.fixture(name="make")
def make_fixture(parent: Parent) -> Iterator[Make]:
    """`make(memory=…)`: a container's cgroups with these limits, closed when the test ends."""
    numbers = itertools.count()
    made: list[Cgroup] = []

    def make(*, below: Parent = parent, **limits: object) -> Cgroup:
        name = f"pycontainer-{os.getpid()}-{next(numbers)}"
        cgroup = Cgroup.create(below, name, Limits(**limits))  # type: ignore[arg-type]
        made.append(cgroup)
        return cgroup

    yield make
    for cgroup in made:
        cgroup.close()


@pytest.fixture(name="members")
def members_fixture(make: Make) -> Iterator[Members]:
    """Starts children inside cgroups; what still lives at the end is killed and reaped."""
    with Members() as members:
        yield members
