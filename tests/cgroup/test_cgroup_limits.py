"""Each limit holds against a process that goes past it, and what was refused is counted."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pycontainer.cgroup import Cgroup, Parent
from pycontainer.errors import SpecError, UnsupportedError
from pycontainer.spec import IoLimit, Limits
from tests.cgroup.conftest import Make
from tests.cgroup.members import Members, spin, wait_for_ever
from tests.require import Require

Ability = Callable[..., None]
MEBIBYTE = 1 << 20


def file(cgroup: Cgroup, controller: str, name: str) -> str:
    return Path(cgroup.paths[controller], name).read_text().strip()


def allocate(size: int) -> Callable[[], None]:
    def work() -> None:
        # Touched page by page; a page of zeros that is only read costs nothing.
        memory = bytearray(size)
        memory[::4096] = b"x" * len(range(0, size, 4096))

    return work


def test_a_process_that_takes_more_memory_is_killed_and_counted(
    make: Make, members: Members, ability: Ability
) -> None:
    ability("memory")
    cgroup = make(memory=16 * MEBIBYTE)
    assert members.start(cgroup, allocate(4 * MEBIBYTE)).wait() == 0
    assert cgroup.read_usage().oom_kills == 0
    assert members.start(cgroup, allocate(64 * MEBIBYTE)).wait() == -signal.SIGKILL
    # Where all processes are killed together, the kernel counts the first of them twice.
    assert cgroup.read_usage().oom_kills in (1, 2)


def test_peak_memory_is_what_was_used_and_not_above_the_limit(
    make: Make, members: Members, ability: Ability
) -> None:
    ability("memory", "peak_memory")
    cgroup = make(memory=64 * MEBIBYTE)
    assert members.start(cgroup, allocate(16 * MEBIBYTE)).wait() == 0
    peak = cgroup.read_usage().peak_memory
    assert peak is not None
    assert 16 * MEBIBYTE <= peak <= 64 * MEBIBYTE


def test_out_of_memory_ends_every_process_of_a_version_2_cgroup(
    make: Make, members: Members, ability: Ability, parent: Parent, require: Require
) -> None:
    ability("memory")
    unified = parent.unified is not None and "memory" in parent.unified.controllers
    require("cgroup2", unified, "the memory controller is not in version 2")
    cgroup = make(memory=16 * MEBIBYTE)
    bystander = members.idle(cgroup)
    assert members.start(cgroup, allocate(64 * MEBIBYTE)).wait() == -signal.SIGKILL
    assert bystander.wait() == -signal.SIGKILL


def test_swap_does_not_extend_the_memory_limit(make: Make, ability: Ability) -> None:
    ability("memory", "swap")
    cgroup = make(memory=16 * MEBIBYTE)
    directory = Path(cgroup.paths["memory"])
    if (directory / "memory.max").exists():
        assert file(cgroup, "memory", "memory.swap.max") == "0"
    else:
        assert file(cgroup, "memory", "memory.memsw.limit_in_bytes") == str(16 * MEBIBYTE)


def fork_until_refused() -> int:
    """How many processes there came to be, this one included."""
    count = 1
    try:
        while count < 100:
            if os.fork() == 0:
                wait_for_ever()
            count += 1
    except BlockingIOError:
        return count
    return 0


def test_more_processes_than_allowed_are_refused_and_counted(
    make: Make, members: Members, ability: Ability
) -> None:
    ability("pids", "kill")
    cgroup = make(pids=4)
    assert members.start(cgroup, fork_until_refused).wait() == 4
    usage = cgroup.read_usage()
    assert usage.pids_refused == 1
    assert usage.peak_pids in (4, None)
    cgroup.kill()
    assert cgroup.wait_empty(5)


def test_a_fraction_of_a_processor_throttles(
    make: Make, members: Members, ability: Ability
) -> None:
    ability("cpus", "cpu_usage")
    cgroup = make(cpus=0.1)
    started = time.monotonic()
    members.start(cgroup, spin)
    while True:
        usage, wall = cgroup.read_usage(), time.monotonic() - started
        assert usage.user_time is not None
        assert usage.system_time is not None
        assert usage.throttled is not None
        used = usage.user_time + usage.system_time
        # A period may be used up at once, and the tick that ends it can be late.
        if wall > 1:
            break
    assert usage.throttled > 0
    assert used <= 0.1 * wall + 0.1


def test_processor_time_is_divided_by_weight(
    make: Make, members: Members, ability: Ability
) -> None:
    ability("cpu_weight", "cpu_usage")
    one = {min(os.sched_getaffinity(0))}

    def spin_there() -> None:
        os.sched_setaffinity(0, one)
        spin()

    light, heavy = make(cpu_weight=10), make(cpu_weight=1000)
    for cgroup in (light, heavy):
        members.start(cgroup, spin_there)

    def used(cgroup: Cgroup) -> float:
        return cgroup.read_usage().user_time or 0

    # The first ran alone for as long as the second took to start.
    before, before_heavy, deadline = used(light), used(heavy), time.monotonic() + 20
    while used(heavy) - before_heavy < 0.5 and time.monotonic() < deadline:
        pass
    assert used(heavy) - before_heavy >= 0.5
    assert used(light) - before < 0.1


def test_a_process_runs_on_the_processors_of_its_cpuset_only(
    make: Make, members: Members, ability: Ability
) -> None:
    ability("cpuset")
    processor = min(os.sched_getaffinity(0))
    cgroup = make(cpuset=str(processor))
    child = members.start(cgroup, lambda: int(os.sched_getaffinity(0) != {processor}))
    assert child.wait() == 0


def test_writing_to_a_disk_keeps_to_its_rate(
    make: Make, members: Members, ability: Ability, tmp_path: Path
) -> None:
    ability("io")
    target = tmp_path / "written"
    try:
        cgroup = make(io=(IoLimit(device=str(tmp_path), write_bps="1M"),))
    except UnsupportedError as error:
        pytest.skip(f"blockdevice: {error}")

    def write() -> None:
        import mmap

        block = mmap.mmap(-1, MEBIBYTE // 4)  # O_DIRECT wants aligned memory
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
        for _ in range(6):
            os.write(fd, block)

    started = time.monotonic()
    assert members.start(cgroup, write).wait() == 0
    assert time.monotonic() - started >= 0.9
    usage = cgroup.read_usage()
    assert usage.written_bytes is not None
    assert usage.written_bytes >= 6 * MEBIBYTE // 4


def test_a_memory_limit_changes_up_and_down_while_processes_run(
    make: Make, members: Members, ability: Ability
) -> None:
    ability("memory")
    cgroup = make(memory=64 * MEBIBYTE)
    members.idle(cgroup)
    name = "memory.max" if "memory.max" in os.listdir(cgroup.paths["memory"]) else None
    for limit in (32 * MEBIBYTE, 128 * MEBIBYTE, 16 * MEBIBYTE):
        cgroup.update(Limits(memory=limit))
        assert file(cgroup, "memory", name or "memory.limit_in_bytes") == str(limit)
        if name is None:
            assert file(cgroup, "memory", "memory.memsw.limit_in_bytes") == str(limit)


def test_a_pids_limit_changes_while_processes_run(
    make: Make, members: Members, ability: Ability
) -> None:
    ability("pids", "kill")
    cgroup = make(pids=2)
    cgroup.update(Limits(pids=5))
    assert members.start(cgroup, fork_until_refused).wait() == 5


def test_a_limit_that_was_not_there_at_first_reaches_running_processes(
    make: Make, members: Members, ability: Ability
) -> None:
    ability("pids", "cpus", "freeze")
    cgroup = make(pids=50)
    members.start(cgroup, spin)
    cgroup.update(Limits(cpus=0.1))
    deadline = time.monotonic() + 20
    while not cgroup.read_usage().throttled and time.monotonic() < deadline:
        pass
    assert cgroup.read_usage().throttled


def test_a_new_limit_does_not_wake_what_is_frozen(
    make: Make, members: Members, ability: Ability
) -> None:
    ability("pids", "cpus", "freeze", "kill")
    cgroup = make(pids=50)
    members.start(cgroup, spin)
    cgroup.freeze()
    cgroup.update(Limits(cpus=0.1))
    assert cgroup.frozen()
    cgroup.thaw()
    assert not cgroup.frozen()


def test_a_limit_this_machine_cannot_enforce_is_refused_with_its_reason(
    parent: Parent, make: Make
) -> None:
    without = Parent.of((), None)
    with pytest.raises(UnsupportedError) as raised:
        make(below=without, memory=MEBIBYTE)
    assert raised.value.what == "memory"
    assert "no cgroup hierarchy with the memory controller is mounted" in raised.value.why
    assert raised.value.remedy


def test_a_limit_on_what_is_no_block_device_is_refused(make: Make, ability: Ability) -> None:
    ability("io")
    with pytest.raises(UnsupportedError) as raised:
        make(io=(IoLimit(device="/proc", write_bps=MEBIBYTE),))
    assert raised.value.what == "io"
    with pytest.raises(SpecError):
        make(io=(IoLimit(device="/nowhere/at/all", write_bps=MEBIBYTE),))
