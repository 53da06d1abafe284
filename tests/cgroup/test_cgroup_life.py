"""What is made is removed, what runs can be stopped, continued and killed, and nothing is left."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from pycontainer.cgroup import Cgroup, Parent, hierarchy, remove_leftovers
from pycontainer.errors import SetupError, SpecError
from pycontainer.spec import Limits
from tests.cgroup.conftest import Make
from tests.cgroup.members import Member, Members, spin, wait_for_ever
from tests.require import Require

Ability = Callable[..., None]
MEBIBYTE = 1 << 20


def state(process: int) -> str:
    stat = Path(f"/proc/{process}/stat").read_text()
    return stat.rpartition(")")[2].split()[0]


def ticks(process: int) -> int:
    stat = Path(f"/proc/{process}/stat").read_text()
    return sum(map(int, stat.rpartition(")")[2].split()[11:13]))


def fork_bomb() -> None:
    """Forks from every process until it is killed; the pids limit keeps it from the machine."""
    while True:
        try:
            os.fork()
        except BlockingIOError:
            continue


@pytest.fixture(params=["usual", "without cgroup.kill", "v1"], name="either")
def either_fixture(
    request: pytest.FixtureRequest, parent: Parent, parent_v1: Parent, require: Require
) -> Parent:
    """The usual parent; one as on Linux before 5.14; where there is one, version 1 alone."""
    if request.param == "usual":
        return parent
    if request.param == "without cgroup.kill":
        branches = (
            attrs.evolve(branch, files=branch.files - {"cgroup.kill"})
            for branch in parent._branches
        )
        return Parent(tuple(branches), {}, [])
    available = "freeze" in parent_v1.controllers
    require("cgroup1", available, "no version 1 freezer hierarchy can be written to")
    return parent_v1


def test_a_closed_cgroup_is_gone_from_every_hierarchy(make: Make, ability: Ability) -> None:
    ability("memory", "pids", "cpus")
    cgroup = make(memory=16 * MEBIBYTE, pids=4, cpus=1.0)
    directories = set(cgroup.paths.values())
    assert all(map(os.path.isdir, directories))
    cgroup.close()
    cgroup.close()
    assert not any(map(os.path.isdir, directories))
    assert cgroup.attach_fds == ()
    assert cgroup.clone_into_fd is None


def test_closing_kills_what_still_runs(
    make: Make, members: Members, either: Parent, ability: Ability
) -> None:
    ability("kill")
    cgroup = make(below=either, pids=20)
    children = [members.idle(cgroup) for _ in range(3)]
    assert sorted(cgroup.processes()) == sorted(child.pid for child in children)
    assert cgroup.populated()
    cgroup.close()
    assert [child.wait() for child in children] == [-signal.SIGKILL] * 3


def test_frozen_processes_do_not_run_and_continue_when_thawed(
    make: Make, members: Members, either: Parent, ability: Ability
) -> None:
    ability("freeze", "cpu_usage")
    cgroup = make(below=either)
    child = members.start(cgroup, spin)
    cgroup.freeze()
    before = ticks(child.pid)
    # The kernel's clock for processor time advances by 4 to 10 ms.
    deadline = time.monotonic() + 0.1
    while time.monotonic() < deadline:
        assert ticks(child.pid) == before
    cgroup.thaw()
    while ticks(child.pid) == before:
        assert child.running


def test_a_frozen_cgroup_can_be_killed(
    make: Make, members: Members, either: Parent, ability: Ability
) -> None:
    ability("freeze", "kill")
    cgroup = make(below=either)
    child = members.idle(cgroup)
    cgroup.freeze()
    cgroup.kill()
    assert child.wait(5) == -signal.SIGKILL
    assert cgroup.wait_empty(5)


def test_a_frozen_cgroup_can_be_closed(
    make: Make, members: Members, either: Parent, ability: Ability
) -> None:
    ability("freeze", "kill")
    cgroup = make(below=either)
    child = members.idle(cgroup)
    cgroup.freeze()
    cgroup.close()
    assert child.wait(5) == -signal.SIGKILL


def test_a_fork_bomb_is_killed_within_seconds(
    make: Make, members: Members, either: Parent, ability: Ability
) -> None:
    ability("pids", "kill")
    cgroup = make(below=either, pids=100)
    members.start(cgroup, fork_bomb)
    while not cgroup.read_usage().pids_refused:
        pass
    started = time.monotonic()
    cgroup.kill()
    assert cgroup.wait_empty(5)
    assert time.monotonic() - started < 5


def test_waiting_for_empty_gives_up_in_time(
    make: Make, members: Members, either: Parent, ability: Ability
) -> None:
    ability("kill")
    cgroup = make(below=either)
    assert cgroup.wait_empty(0)
    child = members.idle(cgroup)
    assert not cgroup.wait_empty(0.05)
    child.kill()
    child.wait()
    assert cgroup.wait_empty(5)
    assert not cgroup.populated()


def test_cgroups_made_inside_are_killed_and_removed_too(
    make: Make, members: Members, either: Parent, ability: Ability
) -> None:
    ability("kill")
    cgroup = make(below=either)
    child = members.idle(cgroup)
    for directory in dict.fromkeys(cgroup.paths.values()):
        nested = Path(directory, "a", "b")
        nested.mkdir(parents=True)
        (nested / "cgroup.procs").write_text(str(child.pid))
    assert cgroup.processes() == [child.pid]
    cgroup.close()
    assert child.wait(5) == -signal.SIGKILL


def test_a_failure_half_way_leaves_nothing(parent: Parent, ability: Ability) -> None:
    unified = parent.unified is not None and "cpu" in parent.unified.controllers
    ability("memory", "pids", "cpu_weight" if unified else "cpuset")
    # Version 1 clips a weight, version 2 takes any list of processors.
    limits = (
        Limits(memory=MEBIBYTE, pids=2, cpu_weight=999999)
        if unified
        else Limits(memory=MEBIBYTE, pids=2, cpuset="4095")
    )
    name = f"pycontainer-{os.getpid()}-half"
    with pytest.raises(SetupError) as raised:
        Cgroup.create(parent, name, limits)
    assert raised.value.op == "cgroup_write"
    assert raised.value.operands["path"].endswith("cpu.weight" if unified else "cpuset.cpus")
    assert raised.value.hint
    assert not any(os.path.exists(f"{path}/{name}") for path in parent.paths.values())


def test_the_cgroup_of_another_is_neither_used_nor_removed(
    make: Make, parent: Parent, members: Members, ability: Ability
) -> None:
    ability("kill")
    cgroup = make()
    child = members.idle(cgroup)
    with pytest.raises(SetupError) as raised:
        Cgroup.create(parent, cgroup.name, Limits())
    assert raised.value.errno == errno.EEXIST
    assert child.running
    assert cgroup.processes() == [child.pid]


def test_without_a_name_the_parent_is_where_it_may_be(members: Members, ability: Ability) -> None:
    ability("memory", "kill")
    parent = Parent.of(hierarchy.read(), None)
    try:
        assert {"memory", "kill"} <= parent.controllers
        limits = Limits(memory=64 * MEBIBYTE)
        with Cgroup.create(parent, f"pycontainer-{os.getpid()}-default", limits) as cgroup:
            child = members.idle(cgroup)
            assert cgroup.processes() == [child.pid]
    finally:
        parent.remove()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\0b", "a\n", "ü", "x" * 201, "-r /", "/abs"]
)
def test_a_hostile_name_is_refused(parent: Parent, name: str) -> None:
    with pytest.raises(SpecError):
        Cgroup.create(parent, name, Limits())


@pytest.mark.parametrize("name", ["../x", "/", "a//b", "a/./b", "/a/..", "a\nb", "x" * 300])
def test_a_hostile_parent_is_refused(name: str) -> None:
    with pytest.raises(SpecError):
        Parent.find(name)


def manager_that_dies(parent: Parent, prefix: str) -> int:
    """Run a manager in a process of its own that is killed with two containers running."""
    ready_read, ready_write = os.pipe()
    manager = os.fork()
    if manager == 0:
        try:
            with Members() as members:
                owned: list[Cgroup] = []  # garbage would give its cgroups back
                for number in range(2):
                    owned.append(Cgroup.create(parent, f"{prefix}{number}", Limits()))
                    members.idle(owned[-1])
                    if number:
                        owned[-1].freeze()
                os.write(ready_write, b"r")
                wait_for_ever()
        finally:
            os._exit(1)
    os.close(ready_write)
    said = os.read(ready_read, 1)
    os.close(ready_read)
    os.kill(manager, signal.SIGKILL)
    os.waitpid(manager, 0)
    assert said == b"r"
    return manager


def test_what_a_dead_manager_left_is_removed_by_another(
    make: Make, members: Members, either: Parent, ability: Ability
) -> None:
    ability("freeze", "kill")
    other = make(below=either)
    bystander = members.idle(other)
    prefix = f"pycontainer-{os.getpid()}-dead-"
    manager_that_dies(either, prefix)
    removed = remove_leftovers(either.paths, prefix)
    assert {os.path.basename(path) for path in removed} == {f"{prefix}0", f"{prefix}1"}
    assert not any(os.path.exists(path) for path in removed)
    assert remove_leftovers(either.paths, prefix) == []
    assert bystander.running


@pytest.mark.parametrize("prefix", ["", "a/b", "/"])
def test_leftovers_of_everybody_are_never_removed(parent: Parent, prefix: str) -> None:
    with pytest.raises(ValueError):
        remove_leftovers(parent.paths, prefix)


def test_init_can_read_the_processor_time_used(
    make: Make, members: Members, either: Parent, ability: Ability
) -> None:
    ability("cpu_usage")
    cgroup = make(below=either)
    fd = cgroup.cpu_usage_fd
    assert fd is not None
    members.start(cgroup, spin)

    def used() -> float:
        text = os.pread(fd, 4096, 0).decode()
        if cgroup.cpu_usage_format == "cpu.stat":
            return int(text.split()[1]) / 1e6
        return int(text) / 1e9

    deadline = time.monotonic() + 20
    while used() < 0.05:
        assert time.monotonic() < deadline
    assert cgroup.cpu_usage_fd == fd


def test_a_process_can_be_cloned_into_the_cgroup(
    make: Make, members: Members, ability: Ability
) -> None:
    ability("clone_into")
    cgroup = make()
    assert cgroup.clone_into_fd is not None
    child = Member(clone_into(cgroup.clone_into_fd))
    members.all.append(child)
    assert cgroup.processes() == [child.pid]


def clone_into(fd: int) -> int:
    """clone3(CLONE_INTO_CGROUP) of a process that sleeps. Source: clone(2)."""
    import ctypes

    flag, number = 0x200000000, 435  # the same on x86-64 and aarch64
    arguments = (ctypes.c_uint64 * 11)(flag, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, fd)
    libc = ctypes.PyDLL(None, use_errno=True)  # keeps the interpreter's lock over the fork
    pid: int = libc.syscall(number, ctypes.byref(arguments), ctypes.sizeof(arguments))
    if pid == 0:
        os.execv("/bin/sleep", ["sleep", "600"])
    if pid < 0:
        raise OSError(ctypes.get_errno(), "clone3")
    return pid
