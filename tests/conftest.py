"""What holds for every test: places of its own for each run, and a leak check around each test."""

from __future__ import annotations

import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from pycontainer.spawn import drop_caches
from tests import leaks
from tests.require import Require, asked, require, required

hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")

PLACES = pytest.StashKey[leaks.Places]()


def pytest_configure(config: pytest.Config) -> None:
    """Two runs on one machine share neither cgroups, nor state, nor temporary files."""
    hear_signals()
    name = f"pycontainer-test-{os.getpid()}"
    directory = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    temporary = directory / "tmp"
    temporary.mkdir()
    os.environ["PYCONTAINER_CGROUP"] = name
    os.environ["PYCONTAINER_STATE"] = str(directory / "state")
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    config.stash[PLACES] = leaks.Places(cgroup=name, state=directory / "state", temporary=temporary)


def hear_signals() -> None:
    """Whoever started the tests may ignore these (nohup, a shell's background job), and with it
    every application that a test starts and sends one to."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def pytest_unconfigure(config: pytest.Config) -> None:
    # Not ignore_errors: what is still mounted in there must be seen, not deleted.
    shutil.rmtree(config.stash[PLACES].temporary.parent)
    tempfile.tempdir = None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lane = os.environ.get("PYCONTAINER_LANE")
    if lane:
        names = ", ".join(sorted(required())) or "nothing"
        terminalreporter.write_line(f"lane {lane}: uid {os.getuid()}, required: {names}")
    unused = sorted(required() - asked)
    if unused:
        terminalreporter.write_line(f"required, but no test asked for it: {', '.join(unused)}")


@pytest.fixture(scope="session", name="places")
def places_fixture(pytestconfig: pytest.Config) -> leaks.Places:
    return pytestconfig.stash[PLACES]


@pytest.fixture(name="require")
def require_fixture() -> Require:
    """`require(name, available, why)`: go on, skip, or fail in a lane that must have it."""
    return require


@pytest.fixture(scope="session", autouse=True)
def session_owned(places: leaks.Places, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is made once per process is made before the first snapshot, and gone at the end."""
    tmp_path_factory.getbasetemp()
    warm_up()
    yield
    left = remove_cgroups(places.cgroup)
    if left:
        pytest.fail("left at the end: " + "; ".join(left), pytrace=False)


def warm_up() -> None:
    """One container, so that the descriptors which the library keeps per process are open."""
    import pycontainer
    from pycontainer.errors import UnsupportedError

    try:
        pycontainer.run(["true"])
    except UnsupportedError:
        pass  # the tests that need more than this machine has say so themselves


def remove_cgroups(name: str, *, settle: float = 2.0) -> list[str]:
    """Remove the run's own, empty, parent cgroups; what could not be removed, and why."""
    deadline = time.monotonic() + settle
    while True:
        left = [error for parent in leaks.own_cgroups() if (error := remove_cgroup(parent / name))]
        if not left or time.monotonic() >= deadline:
            return left
        select.select([], [], [], 0.01)


def remove_cgroup(directory: Path) -> str | None:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return None
    except OSError as error:  # EBUSY: a child cgroup or a process is left
        below = [str(path) for path in directory.iterdir() if path.is_dir()]
        pids = leaks.read(directory / "cgroup.procs").split()
        return f"cgroup {directory}: {error.strerror}; below it {below}, pids {pids}"
    return None


@pytest.fixture(autouse=True)
def leak_check(session_owned: None, places: leaks.Places) -> Iterator[None]:
    """Before == after: what a test makes is gone when it ends, what it changes is changed back."""
    drop_caches()
    before = leaks.snapshot(places)
    yield
    drop_caches()
    found = leaks.settled_differences(before, places)
    if found:
        pytest.fail("not as it was before the test:\n  " + "\n  ".join(found), pytrace=False)
