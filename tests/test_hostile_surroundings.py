"""The application ends or is ended at any moment, or has nothing left to work with.

Each application here is a Python of its own, so that its end can be watched from outside.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import pycontainer
from pycontainer.linux import native
from tests import leaks

SOURCES = Path(__file__).parents[1]
ROUNDS = int(os.environ.get("PYCONTAINER_TEST_KILLS", "60"))
SEED = 20

RUN_FOR_EVER = """
import pycontainer
pycontainer.run(["true"])
print("ready", flush=True)
while True:
    pycontainer.run(["sh", "-c", "sleep 1000 & setsid sleep 1000 & true"], {options})
"""
ONE_LONG_RUN = """
import pycontainer
with pycontainer.Popen(
    ["sh", "-c", "sleep 1000 & setsid sleep 1000 & echo up; wait"], stdout=pycontainer.PIPE
) as process:
    print(process.stdout.readline().decode().strip(), process.pid, flush=True)
    process.wait()
"""
LIVE_AT_EXIT = """
import pycontainer
process = pycontainer.Popen(["sleep", "1000"])
print("up", process.pid, flush=True)
"""


@contextmanager
def application(code: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A Python that uses the library; the first line it prints says that it is under way."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    with subprocess.Popen(
        [sys.executable, *options, "-c", code],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def wait_for_end(pidfd: int, timeout: float) -> bool:
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


def cgroups_left(places: leaks.Places) -> list[str]:
    """Those of applications; this process's own are the leak check's business."""
    own = f"pycontainer-{os.getpid()}-"
    return [path for path in sorted(leaks.cgroups(places)) if f"/{own}" not in path]


def processes_left(places: leaks.Places) -> list[str]:
    """Processes in cgroups of this test run: whatever an application has started is in one."""
    found = {
        pid
        for directory in leaks.own_subdirectories(places.cgroup)
        for pid in leaks.read(directory / "cgroup.procs").split()
    }
    return [leaks.process(pid) for pid in sorted(found)]


def are_gone_soon(places: leaks.Places, seconds: float = 2.0) -> list[str]:
    """The processes that are still there after this long; a kill takes the kernel some time."""
    import time

    deadline = time.monotonic() + seconds
    while (left := processes_left(places)) and time.monotonic() < deadline:
        os.sched_yield()
    return left


def test_the_exit_of_an_application_with_a_live_container_is_quiet_and_ends_it(
    places: leaks.Places,
) -> None:
    with application(LIVE_AT_EXIT) as process:
        stdout, stderr = process.communicate(timeout=20)
    assert (0, "") == (process.returncode, stderr)
    assert stdout.startswith("up")
    assert ([], []) == (processes_left(places), cgroups_left(places))


def test_development_mode_has_nothing_to_say() -> None:
    code = "import pycontainer; pycontainer.run(['true'], capture_output=True, timeout=9)"
    with application(code, "-X", "dev", "-W", "error") as process:
        _, stderr = process.communicate(timeout=20)
    assert (0, "") == (process.returncode, stderr)


def test_ctrl_c_ends_the_whole_tree_before_the_application_is_gone(places: leaks.Places) -> None:
    with application(ONE_LONG_RUN) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline().split()[1])
        initfd = native.pidfd_open(pid)
        try:
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=20)
            assert wait_for_end(initfd, 0)
        finally:
            os.close(initfd)
    assert -signal.SIGINT == process.returncode
    assert stderr.rstrip().endswith("KeyboardInterrupt")
    assert ([], []) == (processes_left(places), cgroups_left(places))


@pytest.mark.parametrize("options", ["", "capture_output=True", "wall_time=0.01"])
def test_ctrl_c_at_a_random_moment_leaves_nothing(options: str, places: leaks.Places) -> None:
    chance = random.Random(SEED)
    found = []
    for _ in range(ROUNDS // 6):
        with application(RUN_FOR_EVER.format(options=options)) as process:
            assert process.stdout is not None
            process.stdout.readline()
            wait = chance.random() * 0.15
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(wait)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=20)
        left = [*processes_left(places), *cgroups_left(places)]
        if left:
            found.append(f"after {wait:.4f} s: {left}")
            are_gone_soon(places)
            pycontainer.recover()
    assert [] == found


def test_sigkill_of_the_application_at_a_random_moment_leaves_no_process_and_recover_the_rest(
    places: leaks.Places,
) -> None:
    chance = random.Random(SEED)
    found = []
    before = cgroups_left(places)
    for _ in range(ROUNDS):
        with application(RUN_FOR_EVER.format(options="wall_time=0.005")) as process:
            assert process.stdout is not None
            process.stdout.readline()
            wait = chance.random() * 0.1
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(wait)
            process.kill()
            process.communicate(timeout=20)
        processes = are_gone_soon(places)
        removed = pycontainer.recover()
        left = [*processes, *(path for path in cgroups_left(places) if path not in before)]
        if left:
            found.append(f"after {wait:.4f} s: {left}; recovered {removed}")
    assert [] == found
    assert [] == pycontainer.recover()


FEW_DESCRIPTORS = """
import errno, json, os, resource, sys
import pycontainer
from pycontainer import popen, spawn, recover
from tests import leaks
most, warm = int(sys.argv[1]), sys.argv[2] == "warm"
if warm:
    pycontainer.run(["true"])
def state():
    children = [leaks.read(f"/proc/self/task/{t}/children") for t in os.listdir("/proc/self/task")]
    return len(os.listdir("/proc/self/fd")), "".join(children)
def allow(most):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
outcomes = []
for _ in range(3):
    allow(most)
    try:
        outcomes.append(str(pycontainer.run(["true"]).returncode))
    except Exception as error:
        known = isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
        outcomes.append("typed" if known else repr(error))
    # What is opened once per process may still come with the first run, not with the later ones.
    allow(1000)
    outcomes.append(state())
print(json.dumps([outcomes, pycontainer.run(["true"]).returncode]))
"""


def with_few_descriptors(most: int, warm: str) -> Any:
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    done = subprocess.run(
        [sys.executable, "-c", FEW_DESCRIPTORS, str(most), warm],
        capture_output=True, text=True, env=environment, timeout=20, check=False,
    )  # fmt: skip
    return json.loads(done.stdout) if done.stdout else done.stderr[-600:]


@pytest.mark.parametrize("warm", ["warm", "cold"])
def test_every_number_of_descriptors_is_enough_or_a_typed_error(
    warm: str, places: leaks.Places
) -> None:
    found = []
    for most in range(3, 61):
        said = with_few_descriptors(most, warm)
        if isinstance(said, str):
            found.append(f"{most}: {said}")
            continue
        outcomes, afterwards = said
        ended, states = outcomes[::2], outcomes[1::2]
        grew = states[-1][0] > states[0][0] if ended[0] == ended[-1] else False
        if not set(ended) <= {"0", "typed"} or grew or states[-1][1] or afterwards:
            found.append(f"{most}: {ended} {states} {afterwards}")
    pycontainer.recover()
    assert [] == found
    assert [] == processes_left(places)
