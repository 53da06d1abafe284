"""Each limit has a program that runs into it: the verdict names that limit, every single time.

Each case is tried 25 times; `PYCONTAINER_REPEAT=200` tries it as often as the project promises.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import attrs
import pytest

import pycontainer
from pycontainer import CompletedProcess, ExitReason
from tests.require import require

REPEAT = int(os.environ.get("PYCONTAINER_REPEAT", "25"))
MEBIBYTE = 1 << 20
PATIENCE = 20.0  # seconds of wall time: none of these programs is to be ended by it
Expect = Callable[[CompletedProcess], None]

TAKE_MEMORY = "hoard = []\nwhile True: hoard.append(bytearray(1 << 20))"
FILL = """
import sys
with open(sys.argv[1], "wb", buffering=0) as file:
    while True: file.write(bytes(1 << 20))
"""
MANY_SMALL = """
import os, signal
for _ in range(40):
    if os.fork() == 0:
        hoard = bytearray(3 << 20)
        signal.pause()
signal.pause()
"""
A_CHILD_IS_KILLED = """
import os
if os.fork() == 0:
    hoard = []
    while True: hoard.append(bytearray(1 << 20))
os.wait()
print("went on")
"""
FORK_BOMB = """
import os
while True:
    try: os.fork()
    except OSError: pass
"""
SPIN = "while True: pass"
SHORT_CHILDREN = "while :; do /bin/true; done"
# SIGCHLD ignored: what ends is not counted among the children of anybody but init.
DAEMON_SPINS = """
import os, signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True: pass
    os._exit(0)
signal.pause()
"""
WRITE_BOTH = "while :; do echo 0123456789abcdef; echo 0123456789abcdef >&2; done"
OPEN_FILES = """
import os
opened = []
try:
    while True: opened.append(os.open("/dev/null", os.O_RDONLY))
except OSError as error:
    print(error.errno, len(opened) + 3 <= 32)
"""


@attrs.frozen(kw_only=True)
class Case:
    """A program, the limit it runs into, and what has to be said of it."""

    args: list[str]
    limits: dict[str, Any]
    reason: ExitReason
    expect: tuple[Expect, ...] = ()
    options: dict[str, Any] = attrs.field(factory=dict)


def python(code: str, *args: str) -> list[str]:
    return ["python3", "-I", "-c", code, *args]


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def killed(result: CompletedProcess) -> None:
    assert -9 == result.returncode


def memory_peaks_near(limit: int) -> Expect:
    def check(result: CompletedProcess) -> None:
        assert result.usage.oom_kills
        assert result.usage.peak_memory is not None
        assert 0.9 * limit <= result.usage.peak_memory <= limit

    return check


def cpu_time_near(limit: float) -> Expect:
    def check(result: CompletedProcess) -> None:
        # The clock is looked at again after what two processors could at most have used.
        assert 0.95 * limit <= result.usage.cpu_time <= limit + 0.1
        assert not result.usage.oom_kills

    return check


def wall_time_near(limit: float) -> Expect:
    def check(result: CompletedProcess) -> None:
        assert limit <= result.usage.wall_time <= limit + 0.5

    return check


def refuses_processes(most: int) -> Expect:
    def check(result: CompletedProcess) -> None:
        assert result.usage.pids_refused
        assert result.usage.peak_pids is None or result.usage.peak_pids <= most + 1

    return check


def outputs(total: int) -> Expect:
    def check(result: CompletedProcess) -> None:
        assert result.truncated
        assert total == len(result.stdout or "") + len(result.stderr or "")

    return check


def says(text: str) -> Expect:
    def check(result: CompletedProcess) -> None:
        assert text in (result.stdout + result.stderr).decode()

    return check


def exit_status(expected: int) -> Expect:
    def check(result: CompletedProcess) -> None:
        assert expected == result.returncode

    return check


MEMORY = {"memory": 32 * MEBIBYTE}
CASES = {
    "memory, anonymous": Case(
        args=python(TAKE_MEMORY),
        limits=MEMORY,
        reason=ExitReason.OUT_OF_MEMORY,
        expect=(killed, memory_peaks_near(32 * MEBIBYTE)),
    ),
    "memory, a file in /tmp": Case(
        args=python(FILL, "/tmp/file"),
        limits=MEMORY,
        reason=ExitReason.OUT_OF_MEMORY,
        expect=(memory_peaks_near(32 * MEBIBYTE),),
    ),
    "memory, a file in /dev/shm": Case(
        args=python(FILL, "/dev/shm/file"),
        limits=MEMORY,
        reason=ExitReason.OUT_OF_MEMORY,
        expect=(memory_peaks_near(32 * MEBIBYTE),),
    ),
    "memory, many small processes": Case(
        args=python(MANY_SMALL),
        limits=MEMORY,
        reason=ExitReason.OUT_OF_MEMORY,
        expect=(memory_peaks_near(32 * MEBIBYTE),),
    ),
    "memory, in a child": Case(
        args=python(A_CHILD_IS_KILLED),
        limits=MEMORY,
        reason=ExitReason.OUT_OF_MEMORY,
        expect=(memory_peaks_near(32 * MEBIBYTE),),
    ),
    "pids": Case(
        args=python(FORK_BOMB),
        limits={"pids": 8, "cpu_time": 0.1},
        reason=ExitReason.CPU_TIME,
        expect=(killed, refuses_processes(8)),
    ),
    "wall_time": Case(
        args=["sleep", "3600"],
        limits={"wall_time": 0.1},
        reason=ExitReason.WALL_TIME,
        expect=(killed, wall_time_near(0.1)),
    ),
    "wall_time, while working": Case(
        args=python(SPIN),
        limits={"wall_time": 0.15, "cpu_time": 5},
        reason=ExitReason.WALL_TIME,
        expect=(killed, wall_time_near(0.15)),
    ),
    "cpu_time": Case(
        args=python(SPIN),
        limits={"cpu_time": 0.1},
        reason=ExitReason.CPU_TIME,
        expect=(killed, cpu_time_near(0.1)),
    ),
    "cpu_time, many short children": Case(
        args=sh(SHORT_CHILDREN),
        limits={"cpu_time": 0.1},
        reason=ExitReason.CPU_TIME,
        expect=(killed, cpu_time_near(0.1)),
    ),
    "cpu_time, a daemon": Case(
        args=python(DAEMON_SPINS),
        limits={"cpu_time": 0.1},
        reason=ExitReason.CPU_TIME,
        expect=(killed, cpu_time_near(0.1)),
    ),
    "output, stdout": Case(
        args=["yes"],
        limits={"output": 100_000},
        reason=ExitReason.OUTPUT_LIMIT,
        expect=(outputs(100_000),),
    ),
    "output, stderr": Case(
        args=sh("exec yes >&2"),
        limits={"output": 100_000},
        reason=ExitReason.OUTPUT_LIMIT,
        expect=(outputs(100_000),),
    ),
    "output, both": Case(
        args=sh(WRITE_BOTH),
        limits={"output": 20_000},
        reason=ExitReason.OUTPUT_LIMIT,
        expect=(outputs(20_000),),
    ),
    "output, text": Case(
        args=["yes"],
        limits={"output": 100_000},
        reason=ExitReason.OUTPUT_LIMIT,
        expect=(outputs(100_000),),
        options={"text": True},
    ),
    "file_size": Case(
        args=python(
            "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n" + FILL, "/tmp/f"
        ),
        limits={"file_size": 4 * MEBIBYTE},
        reason=ExitReason.SIGNALED,
        expect=(exit_status(-25),),  # SIGXFSZ
    ),
    "tmp_size": Case(
        args=python(FILL, "/tmp/file"),
        limits={"tmp_size": 4 * MEBIBYTE},
        reason=ExitReason.EXITED,
        expect=(exit_status(1), says("[Errno 28]")),  # ENOSPC
    ),
    "shm_size": Case(
        args=python(FILL, "/dev/shm/file"),
        limits={"shm_size": 4 * MEBIBYTE},
        reason=ExitReason.EXITED,
        expect=(exit_status(1), says("[Errno 28]")),
    ),
    "open_files": Case(
        args=python(OPEN_FILES),
        limits={"open_files": 32},
        reason=ExitReason.EXITED,
        expect=(exit_status(0), says("24 True")),  # EMFILE
    ),
}


def run_case(case: Case) -> CompletedProcess:
    limits = {"wall_time": PATIENCE, **case.limits}
    return pycontainer.run(case.args, capture_output=True, **{**limits, **case.options})


def mistakes(case: Case, result: CompletedProcess) -> str | None:
    """What is wrong with the verdict or the figures, if anything is."""
    try:
        assert case.reason is result.exit_reason
        for expect in case.expect:
            expect(result)
    except AssertionError as error:
        return f"{error}: {result.exit_reason}, {result.returncode}, {result.usage}"
    return None


@pytest.fixture(scope="module", autouse=True)
def controllers() -> None:
    usage = pycontainer.run(["true"]).usage
    found = usage.oom_kills is not None and usage.pids_refused is not None
    require("cgroup", found, "no memory and pids controllers may be used here")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", CASES)
def test_the_limit_is_named_every_time(name: str) -> None:
    case = CASES[name]
    found = [mistakes(case, run_case(case)) for _ in range(REPEAT)]
    assert [] == [f"run {i}: {each}" for i, each in enumerate(found) if each]


def test_a_program_that_stays_within_its_limits_has_simply_ended() -> None:
    done = pycontainer.run(
        ["echo", "x"], capture_output=True, memory="32M", pids=8, cpu_time=1, wall_time=PATIENCE
    )
    assert (ExitReason.EXITED, 0, b"x\n", False) == (
        done.exit_reason,
        done.returncode,
        done.stdout,
        done.truncated,
    )


def test_output_of_exactly_the_limit_is_no_excess() -> None:
    done = pycontainer.run(["printf", "%s", "12345678"], capture_output=True, output=8)
    assert (ExitReason.EXITED, b"12345678") == (done.exit_reason, done.stdout)


def test_output_read_by_the_application_itself_is_metered_too() -> None:
    with pycontainer.Popen(["yes"], stdout=pycontainer.PIPE, output=100_000) as process:
        assert 100_000 == len(process.stdout.read())  # type: ignore[union-attr]
    assert ExitReason.OUTPUT_LIMIT is process.exit_reason


def test_a_program_that_kills_itself_has_met_no_limit() -> None:
    done = pycontainer.run(sh("kill -9 $$"), memory="32M", wall_time=PATIENCE)
    assert (ExitReason.SIGNALED, -9) == (done.exit_reason, done.returncode)
