"""The leak check sees what it is there to see."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import leaks
from tests.require import require

IPC_PRIVATE, IPC_CREAT, IPC_RMID = 0, 0o1000, 0


@pytest.fixture(name="found")
def found_fixture(places: leaks.Places) -> Callable[[], list[str]]:
    """What changed since the fixture was made, without settling."""
    before = leaks.snapshot(places)
    return lambda: leaks.differences(before, leaks.snapshot(places))


Found = Callable[[], list[str]]


def test_nothing_changed_is_no_difference(found: Found) -> None:
    assert [] == found()


def test_a_leaked_descriptor_is_reported_by_number_and_target(found: Found) -> None:
    nullfd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    try:
        assert [f"left: descriptor {nullfd} -> /dev/null"] == found()
    finally:
        os.close(nullfd)


def test_a_descriptor_closed_for_somebody_else_is_reported(places: leaks.Places) -> None:
    nullfd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    before = leaks.snapshot(places)
    os.close(nullfd)
    expected = [f"gone: descriptor {nullfd} -> /dev/null"]
    assert expected == leaks.differences(before, leaks.snapshot(places))


def test_a_child_that_nobody_reaped_is_reported_with_its_pid_and_state(found: Found) -> None:
    pid = os.posix_spawnp("true", ["true"], os.environ)
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert [f"left: child pid {pid} true Z (zombie)"] == found()
    finally:
        os.waitpid(pid, 0)


def test_a_thread_that_still_runs_is_reported(found: Found) -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        (line,) = found()
        assert line.startswith(f"left: thread tid {thread.native_id} ")
    finally:
        end.set()
        thread.join()


@pytest.mark.parametrize("where", ["state", "temporary"])
def test_a_directory_that_is_left_is_reported_by_path(
    where: str, found: Found, places: leaks.Places
) -> None:
    place: Path = getattr(places, where)
    is_new = not place.exists()
    left = place / "left"
    left.mkdir(parents=True)
    try:
        assert [f"left: file {left}"] == found()
    finally:
        left.rmdir()
        if is_new:
            place.rmdir()


def test_a_file_in_dev_shm_is_reported_by_path(found: Found) -> None:
    left = Path(f"/dev/shm/pycontainer-test-{os.getpid()}")
    left.touch()
    try:
        assert [f"left: file {left}"] == found()
    finally:
        left.unlink()


@contextmanager
def left_cgroup(name: str) -> Iterator[Path]:
    """A cgroup below the run's parent, in the first hierarchy that lets us."""
    made: list[Path] = []
    for parent in leaks.own_cgroups():
        try:
            for directory in (parent / name, parent / name / "left"):
                if not directory.exists():
                    directory.mkdir()
                    made.append(directory)
            break
        except OSError:  # EACCES, EROFS, ENOSPC (cpuset): the next hierarchy may be ours
            continue
    require("cgroup", bool(made), "no hierarchy lets this user make a cgroup")
    try:
        yield made[-1]
    finally:
        for directory in reversed(made):
            directory.rmdir()


def test_a_cgroup_that_is_left_is_reported_by_path(found: Found, places: leaks.Places) -> None:
    with left_cgroup(places.cgroup) as directory:
        assert [f"left: cgroup {directory} holds pids []"] == found()


def test_a_shared_memory_segment_is_reported(found: Found) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    shmid = libc.shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0o600)
    assert shmid >= 0
    try:
        assert [f"left: sysv object shm id {shmid} key 0"] == found()
    finally:
        libc.shmctl(shmid, IPC_RMID, None)


def change_umask() -> Callable[[], object]:
    old = os.umask(0o077)
    return lambda: os.umask(old)


def change_directory() -> Callable[[], object]:
    old = os.getcwd()
    os.chdir("/")
    return lambda: os.chdir(old)


def change_signal_mask() -> Callable[[], object]:
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    return lambda: signal.pthread_sigmask(signal.SIG_SETMASK, old)


def change_disposition() -> Callable[[], object]:
    old = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    return lambda: signal.signal(signal.SIGUSR1, old)


def change_rlimit() -> Callable[[], object]:
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard if soft == 0 else 0, hard))
    return lambda: resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def change_dumpable() -> Callable[[], object]:
    libc = ctypes.CDLL(None)
    libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
    return lambda: libc.prctl(4, 1, 0, 0, 0)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (change_umask, "Umask"),
        (change_directory, "cwd"),
        (change_signal_mask, "SigBlk"),
        (change_disposition, "SigIgn"),
        (change_rlimit, "RLIMIT_CORE"),
    ],
)
def test_a_changed_attribute_of_the_process_is_reported(
    change: Callable[[], Callable[[], object]], name: str, found: Found
) -> None:
    change_back = change()
    try:
        lines = found()
    finally:
        change_back()
    assert any(line.startswith(f"left: attribute {name} = ") for line in lines)
    assert any(line.startswith(f"gone: attribute {name} = ") for line in lines)


def test_a_process_that_became_undumpable_is_reported(found: Found) -> None:
    require("root", os.getuid() == 0, "an undumpable process of a user cannot read its own /proc")
    change_back = change_dumpable()
    try:
        lines = found()
    finally:
        change_back()
    assert ["left: attribute dumpable = 0", "gone: attribute dumpable = 1"] == lines


def test_what_goes_away_while_the_check_settles_is_no_leak(places: leaks.Places) -> None:
    before = leaks.snapshot(places)
    pid = os.posix_spawnp("true", ["true"], os.environ)
    thread = threading.Thread(target=os.waitpid, args=(pid, 0))
    thread.start()
    try:
        assert [] == leaks.settled_differences(before, places, settle=60.0)
    finally:
        thread.join()
