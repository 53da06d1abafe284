"""`run` works in every application: threads, loops, forks, others' waits, many descriptors."""

from __future__ import annotations

import asyncio
import mmap
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

import pycontainer
from pycontainer import ExitReason
from tests import leaks
from tests.inside import sh
from tests.require import require
from tests.test_hostile_surroundings import application, are_gone_soon, cgroups_left

GIBIBYTE = 1 << 30
THREADS = 16


def run_echo(number: int) -> str:
    return sh(f"echo {number}").strip()


def test_sixteen_threads_run_at_once() -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        assert [str(n) for n in range(96)] == list(pool.map(run_echo, range(96)))


def test_threads_that_share_a_popen_all_hear_how_it_ended() -> None:
    with pycontainer.Popen(["sh", "-c", "exit 7"]) as process, ThreadPoolExecutor(8) as pool:
        assert {7} == set(pool.map(lambda _: process.wait(), range(8)))


def test_run_works_in_the_thread_of_a_running_event_loop() -> None:
    async def main() -> str:
        assert asyncio.get_running_loop().is_running()
        return run_echo(1)

    assert "1" == asyncio.run(main())


def in_child(act: Any) -> int:
    """The exit status of a forked child in which `act` is called: 0 when it returned True."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if act() else 2
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_run_works_in_a_forked_child_and_afterwards_in_its_parent() -> None:
    assert "1" == run_echo(1)
    assert 0 == in_child(lambda: run_echo(2) == "2")
    assert "3" == run_echo(3)
    pycontainer.recover()  # os._exit() is an end without good-byes: the child's record is left


def test_parent_and_forked_children_run_at_the_same_time() -> None:
    pids = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            os._exit(0 if all(run_echo(n) == str(n) for n in range(10)) else 1)
        pids.append(pid)
    assert [str(n) for n in range(10)] == [run_echo(n) for n in range(10)]
    assert [0] * 4 == [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    pycontainer.recover()


def test_a_forked_child_that_exits_leaves_its_parents_container_running() -> None:
    with pycontainer.Popen(["sleep", "1000"]) as process:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        assert process.poll() is None
        process.kill()
        assert -signal.SIGKILL == process.wait()


@contextmanager
def handler(number: signal.Signals, action: Any) -> Iterator[None]:
    before = signal.signal(number, action)
    try:
        yield
    finally:
        signal.signal(number, before)


def test_results_are_exact_when_sigchld_is_ignored() -> None:
    """The kernel reaps then by itself, and waitpid() has nothing to tell (wait(2), NOTES)."""
    with handler(signal.SIGCHLD, signal.SIG_IGN):
        done = pycontainer.run(["sh", "-c", "exit 3"])
        killed = pycontainer.run(["sh", "-c", "kill -TERM $$"])
    assert (3, ExitReason.EXITED) == (done.returncode, done.exit_reason)
    assert (-signal.SIGTERM, ExitReason.SIGNALED) == (killed.returncode, killed.exit_reason)


def test_results_are_exact_while_another_thread_reaps_every_child() -> None:
    stop = threading.Event()

    def reap_everything() -> None:
        while not stop.is_set():
            try:
                os.wait()
            except ChildProcessError:  # nobody is there at the moment
                stop.wait(0.0001)

    thread = threading.Thread(target=reap_everything)
    thread.start()
    try:
        codes = [pycontainer.run(["sh", "-c", f"exit {n}"]).returncode for n in range(60)]
    finally:
        stop.set()
        thread.join()
    assert list(range(60)) == codes


@contextmanager
def many_descriptors(count: int) -> Iterator[list[int]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = hard == resource.RLIM_INFINITY or hard > count + 1000
    require("descriptors", enough, f"the hard limit of open files is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 1000), hard))
    opened: list[int] = []
    try:
        opened += (os.open("/dev/null", os.O_RDONLY) for _ in range(count))
        yield opened
    finally:
        for fd in opened:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_ten_thousand_descriptors_of_the_application_stay_outside() -> None:
    with many_descriptors(10_000) as opened:
        for fd in opened[::97]:
            os.set_inheritable(fd, True)
        assert "0 1 2 3" == " ".join(sh("ls /proc/self/fd").split())  # 3 is ls's own


def test_a_run_from_two_gibibytes_of_memory_works() -> None:
    available = int(leaks.read("/proc/meminfo").split("MemAvailable:")[1].split()[0]) * 1024
    require("memory", available > 4 * GIBIBYTE, f"only {available} bytes are available")
    with mmap.mmap(-1, 2 * GIBIBYTE) as memory:
        for at in range(0, 2 * GIBIBYTE, mmap.PAGESIZE):
            memory[at] = 1
        started = time.monotonic()
        assert "1" == run_echo(1)
        passed = time.monotonic() - started
    assert passed < 1  # a fork of as much takes 75 ms; a hang would be longer than a second


def test_a_run_under_a_storm_of_signals_gives_the_right_results() -> None:
    """Every system call of the library is interrupted over and over."""
    count = 0

    def tick(*_: Any) -> None:
        nonlocal count
        count += 1

    with handler(signal.SIGVTALRM, tick), handler(signal.SIGALRM, tick):
        rest = signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
        try:
            codes = [pycontainer.run(["sh", "-c", f"exit {n}"]).returncode for n in range(100)]
        finally:
            signal.setitimer(signal.ITIMER_REAL, *rest)
    assert list(range(100)) == codes
    assert count > 100


RAISING = """
import signal, pycontainer
class Interrupt(BaseException): pass
def interrupt(*_): raise Interrupt
signal.signal(signal.SIGALRM, interrupt)
pycontainer.run(["true"])  # an import that is interrupted is not what is tested
print("begun", flush=True)
for step in range(120):
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-6 + step * 37e-6)
        pycontainer.run(["true"])
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Interrupt:
        pass
print("done")
"""


def test_a_handler_that_raises_at_any_moment_leaves_nothing(places: leaks.Places) -> None:
    """Ctrl-C, as a handler sees it, at steps of 37 µs through a whole run."""
    with application(RAISING) as process:
        output, errors = process.communicate(timeout=60)
    assert (0, "begun\ndone\n") == (process.returncode, output), errors
    assert ([], []) == (are_gone_soon(places), cgroups_left(places))


def test_an_exception_inside_with_ends_the_container_at_once() -> None:
    with pytest.raises(ZeroDivisionError), pycontainer.Popen(["sleep", "1000"]) as process:
        raise ZeroDivisionError
    assert process.returncode is not None


def test_a_timeout_ends_grandchildren_that_hold_the_pipes() -> None:
    started = time.monotonic()
    script = "(setsid sleep 1000 &) ; (setsid sleep 1000 &) ; echo begun; sleep 1000"
    with pytest.raises(pycontainer.TimeoutExpired) as caught:
        pycontainer.run(["sh", "-c", script], capture_output=True, timeout=0.3)
    assert b"begun\n" == caught.value.output
    assert time.monotonic() - started < 2
