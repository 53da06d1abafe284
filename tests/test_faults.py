"""Every single step of a plan can fail, stand still or die: it is named, and nothing is left."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import pycontainer
from pycontainer import base, spawn
from pycontainer.base import bases
from pycontainer.linux import native
from pycontainer.plan import recipe
from pycontainer.plan import rootfs as rootfs_plan
from pycontainer.plan.steps import Plan
from pycontainer.process import Launch
from tests import leaks
from tests.inside import own_bases
from tests.require import require

FAULTS = Path(native.__file__).parents[1] / "_launcher_faults"
STOPS, DIES = -1, -2
ERRNOS = (errno.EPERM, errno.ENOMEM, errno.ENOSPC, errno.EMFILE)
PROGRAMS_OWN = {"execute": "true", "change_directory": "/tmp"}
WAITING = (Launch.receive.__code__, native.receive.__code__)
PATIENCE = 0.01  # seconds until a launch that stands still is ended; it stands after 2 ms

Options = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def faults_launcher() -> Iterator[None]:
    """The test build's launcher in place of the one that is shipped."""
    require("test_build", FAULTS.exists(), "built without PYCONTAINER_TEST_BUILD=1")
    fd = native.sealed_memfd("pycontainer-launcher", FAULTS.read_bytes(), executable=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "launcher_fd", lambda: fd)
        yield
    os.close(fd)


@pytest.fixture(autouse=True)
def bases_of_this_test() -> Iterator[None]:
    with own_bases():
        yield


@pytest.fixture(name="rootfs", scope="module")
def rootfs_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories only: enough for every step but the last."""
    root = tmp_path_factory.mktemp("rootfs")
    for name in ("proc", "dev", "tmp", "sys", "data"):
        (root / name).mkdir()
    root.parent.chmod(0o755)
    root.chmod(0o755)
    return root


def plain(rootfs: Path) -> Options:
    return {}


def with_mounts(rootfs: Path) -> Options:
    mounts = (
        pycontainer.Mount(rootfs, "/data"),
        pycontainer.Mount(rootfs, "/tmp/deep/data", read_only=False, executable=False),
        pycontainer.Tmpfs("/scratch", size="1M"),
    )
    return {"mounts": mounts, "sysfs": "read-only"}


def with_capabilities(rootfs: Path) -> Options:
    return {"capabilities": {"NET_BIND_SERVICE", "SYS_ADMIN"}, "user": "root", "ptrace": True}


def with_descriptors(rootfs: Path) -> Options:
    return {"pass_fds": (0, 1, 2, 7, 9), "rlimits": {"stack": "1M"}, "umask": 0o077}


def with_rootfs(rootfs: Path) -> Options:
    return {"rootfs": rootfs, "mounts": (pycontainer.Tmpfs("/data", size="1M"),)}


def with_clocks(rootfs: Path) -> Options:
    return {"boottime_offset": 1000.5, "no_new_privileges": False, "wall_time": 60, "cpu_time": 60}


VARIANTS = (plain, with_mounts, with_capabilities, with_descriptors, with_rootfs, with_clocks)
Variant = Callable[[Path], Options]
variants = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.__name__)


@contextmanager
def descriptors_to_pass(numbers: tuple[int, ...]) -> Iterator[None]:
    """Descriptors 7 and 9 exist, and are what they were afterwards."""
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    saved = {fd: os.dup(fd) for fd in numbers if is_open(fd) and fd > 2}
    try:
        for fd in numbers:
            if fd > 2:
                os.dup2(null, fd, inheritable=False)
        yield
    finally:
        for fd in numbers:
            if fd > 2:
                os.close(fd)
        for fd, copy in saved.items():
            os.dup2(copy, fd, inheritable=False)
            os.close(copy)
        os.close(null)


def is_open(fd: int) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


class Runs:
    """Runs of one variant, with a fault in one step of its plan."""

    def __init__(self, options: Options, places: leaks.Places, patch: pytest.MonkeyPatch) -> None:
        self.options, self.places, self.patch = options, places, patch
        self.plans: list[Plan] = []
        compile_plan = recipe.compile_plan

        def compile_and_keep(*args: Any) -> Plan:
            self.plans.append(compile_plan(*args))
            return self.plans[-1]

        patch.setattr(spawn, "compile_plan", compile_and_keep)
        spawn._prepare.cache_clear()
        self.outcome(-1, 0)
        (self.plan,) = self.plans

    def outcome(self, index: int, fault: int) -> Any:
        """The error, or how the program ended."""
        self.patch.setattr(spawn, "_faults", (index, fault))
        try:
            return pycontainer.run(["true"], **self.options).returncode
        except OSError as error:
            return error

    def findings(self, judge: Callable[[int], str | None]) -> list[str]:
        """A line for each step whose fault is not told as `judge` wants, or leaves something."""
        found = []
        before = leaks.snapshot(self.places)
        for index, step in enumerate(self.plan.steps):
            said = judge(index)
            left = leaks.settled_differences(before, self.places)
            if said or left:
                found.append(f"{index} {self.plan.section_of(index)} {step.op}: {said} {left}")
            if left:
                before = leaks.snapshot(self.places)
        return found


@pytest.fixture(name="runs")
def runs_fixture(
    variant: Variant, rootfs: Path, places: leaks.Places, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Runs]:
    options = variant(rootfs)
    if "cpu_time" in options:
        require("root", os.getuid() == 0, "an ordinary user has no cgroup to count the time here")
    with descriptors_to_pass(options.get("pass_fds", ())):
        yield Runs(options, places, monkeypatch)


def wrong_name(runs: Runs, index: int, number: int) -> str | None:
    """What is wrong with the error of a step that failed with this errno."""
    step = runs.plan.steps[index]
    error = runs.outcome(index, number)
    if not isinstance(error, OSError) or error.errno != number:
        return f"{error!r} for {errno.errorcode[number]}"
    if runs.plan.section_of(index) == "payload" and step.op in PROGRAMS_OWN:
        is_subprocess_like = not isinstance(error, pycontainer.SetupError) and error.filename
        return None if is_subprocess_like else f"{error!r} without its file name"
    if not isinstance(error, pycontainer.SetupError):
        return f"{error!r} is no SetupError"
    if (error.op, error.operands) != (step.op, step.describe()):
        return f"called {error.op} {error.operands}"
    names = (error.op, errno.errorcode[number], *(f"{name}=" for name in error.operands))
    return None if all(name in str(error) for name in names) else f"the text is {error}"


@variants
def test_a_step_that_fails_is_named_with_operands_and_errno_and_leaves_nothing(
    runs: Runs,
) -> None:
    def judge(index: int) -> str | None:
        wrong = (wrong_name(runs, index, number) for number in ERRNOS)
        return next((text for text in wrong if text), None)

    assert [] == runs.findings(judge)


class StandsStill(BaseException):
    """What the test raises into a launch that goes no further, as Ctrl-C would."""


@contextmanager
def while_it_waits(act: Callable[[], None]) -> Iterator[None]:
    """`act` is called once, by a signal handler, while the library waits for its launcher."""

    def look(number: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code in WAITING:
            signal.setitimer(signal.ITIMER_REAL, 0)
            act()

    before = signal.signal(signal.SIGALRM, look)
    rest = signal.setitimer(signal.ITIMER_REAL, PATIENCE, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *rest)
        signal.signal(signal.SIGALRM, before)


def give_up() -> None:
    raise StandsStill


@variants
def test_a_step_that_stands_still_can_be_interrupted_and_leaves_nothing(runs: Runs) -> None:
    def judge(index: int) -> str | None:
        try:
            with while_it_waits(give_up):
                outcome = runs.outcome(index, STOPS)
        except StandsStill:
            return None
        return f"went on: {outcome!r}"

    assert [] == runs.findings(judge)


def kill_children() -> None:
    """SIGKILL to all that the library has started: nothing else is a child of this process."""
    for task in Path("/proc/self/task").iterdir():
        for pid in leaks.read(task / "children").split():
            os.kill(int(pid), signal.SIGKILL)


@variants
def test_a_process_that_dies_in_a_step_is_an_error_and_leaves_nothing(runs: Runs) -> None:
    """Not even the container's first process can make its own death by SIGKILL: we do."""

    def judge(index: int) -> str | None:
        section = runs.plan.section_of(index)
        if section == "inside":
            with while_it_waits(kill_children):
                outcome = runs.outcome(index, STOPS)
        else:
            outcome = runs.outcome(index, DIES)
        if section == "payload":  # as when the kernel is out of memory: the verdict says why
            return None if outcome == -signal.SIGKILL else f"told as {outcome!r}"
        return None if isinstance(outcome, pycontainer.SetupError) else f"told as {outcome!r}"

    assert [] == runs.findings(judge)


class BaseRuns(Runs):
    """Runs whose base is made anew each time, with a fault in one step of making it."""

    def __init__(self, options: Options, places: leaks.Places, patch: pytest.MonkeyPatch) -> None:
        self.options, self.places, self.patch = options, places, patch
        plans: list[Plan] = []
        compile_base = rootfs_plan.compile_base

        def compile_and_keep(*args: Any) -> Plan:
            plans.append(compile_base(*args))
            return plans[-1]

        patch.setattr(base, "compile_base", compile_and_keep)
        with own_bases():
            self.outcome(-1, 0)
        (self.plan,) = plans

    def outcome(self, index: int, fault: int) -> Any:
        self.patch.setattr(base, "_faults", (index, fault))
        try:
            return pycontainer.run(["true"], **self.options).returncode
        except OSError as error:
            return error


@pytest.fixture(name="base_runs")
def base_runs_fixture(
    variant: Variant, rootfs: Path, places: leaks.Places, monkeypatch: pytest.MonkeyPatch
) -> BaseRuns:
    # A mount of its own gives each variant a base that no run before has made.
    options = variant(rootfs)
    own = pycontainer.Tmpfs("/data" if "rootfs" in options else "/only-here", size="1M")
    return BaseRuns(
        {**options, "mounts": (*options.get("mounts", ())[:1], own)}, places, monkeypatch
    )


base_variants = pytest.mark.parametrize(
    "variant", [plain, with_mounts, with_rootfs], ids=lambda variant: variant.__name__
)


@base_variants
def test_a_failing_step_of_the_base_is_named_and_leaves_nothing(base_runs: BaseRuns) -> None:
    def judge(index: int) -> str | None:
        wrong = (wrong_name(base_runs, index, number) for number in ERRNOS[:2])
        return next((text for text in wrong if text), None)

    assert [] == base_runs.findings(judge)


@base_variants
def test_a_base_that_stands_still_can_be_interrupted(base_runs: BaseRuns) -> None:
    def judge(index: int) -> str | None:
        try:
            with while_it_waits(give_up):
                outcome = base_runs.outcome(index, STOPS)
        except StandsStill:
            return None
        return f"went on: {outcome!r}"

    assert [] == base_runs.findings(judge)


@base_variants
def test_a_base_that_dies_is_an_error_and_leaves_nothing(base_runs: BaseRuns) -> None:
    def judge(index: int) -> str | None:
        outcome = base_runs.outcome(index, DIES)
        return None if isinstance(outcome, pycontainer.SetupError) else f"told as {outcome!r}"

    assert [] == base_runs.findings(judge)


@base_variants
def test_after_a_failed_base_the_next_run_makes_one_that_works(base_runs: BaseRuns) -> None:
    assert isinstance(base_runs.outcome(3, errno.ENOMEM), pycontainer.SetupError)
    outcome = base_runs.outcome(-1, 0)
    assert outcome == 0 or "rootfs" in base_runs.options
    assert bases()._bases
