"""From a spec to a running container: acquires what it needs, runs its plan, and gives all back.

Order: everything is checked first, then recorded, then made; one failure undoes what was made. The
owner afterwards is `Running`.
"""

from __future__ import annotations

import itertools
import os
import stat
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import lru_cache

import attrs

from pycontainer import identity, limits
from pycontainer.base import BaseFailed, IdMaps, bases
from pycontainer.cgroup import Cgroup, CgroupUsage
from pycontainer.errors import SetupError, UnsupportedError
from pycontainer.hints import hint
from pycontainer.idrange import LENGTH, id_ranges
from pycontainer.linux import state
from pycontainer.plan.encode import Clock, Encoded, Program, complete, encode
from pycontainer.plan.host import Host
from pycontainer.plan.recipe import Process, Resources, compile_plan
from pycontainer.plan.rootfs import BaseSpec, Point
from pycontainer.plan.steps import Plan, Step
from pycontainer.process import (
    COMMAND_END,
    COMMAND_SIGNAL,
    EARLY_STEPS,
    ENDED,
    STARTED,
    Launch,
    LaunchFailed,
    Report,
    has_ended,
)
from pycontainer.result import Usage
from pycontainer.spec import Mount, Spec
from pycontainer.thishost import kernel_that_can, this_host

GRACE = 5.0  # seconds in which a killed tree has to be gone; a disk that hangs takes longer
_numbers = itertools.count()
_faults = (-1, 0)


@attrs.frozen(kw_only=True)
class Ended:
    """What is known of a container that has ended. `report` is None when init was killed."""

    report: Report | None
    counted: CgroupUsage
    wall_time: float

    def usage(self) -> Usage:
        """The cgroup's figures, else what init reaped."""
        report, counted = self.report, self.counted
        user = report.user_time if report else 0.0
        system = report.system_time if report else 0.0
        if counted.user_time is not None and counted.system_time is not None:
            user, system = counted.user_time, counted.system_time
        read, written = counted.read_bytes, counted.written_bytes
        return Usage(
            wall_time=report.wall_time if report else self.wall_time,
            user_time=user,
            system_time=system,
            peak_memory=counted.peak_memory
            if counted.peak_memory is not None
            else (report.peak_rss if report else None),
            peak_pids=counted.peak_pids,
            read_bytes=read if read is not None else (report.read_bytes if report else None),
            written_bytes=written
            if written is not None
            else (report.written_bytes if report else None),
            throttled=counted.throttled,
            oom_kills=counted.oom_kills,
            pids_refused=counted.pids_refused,
        )


class Running:
    """Owns a running container: its init, its cgroup, its ids."""

    def __init__(self, launch: Launch, cgroup: Cgroup | None, id_first: int | None) -> None:
        self.launch = launch
        self.cgroup = cgroup
        self.not_enforced: tuple[str, ...] = ()
        self._id_first = id_first
        self._started = time.monotonic()
        self._report: Report | None = None
        self._ended: Ended | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        """The container's init, as this process sees it."""
        return self.launch.child_pid

    def poll(self) -> Ended | None:
        """How it ended, or None while it runs."""
        return self.wait(0)

    def wait(self, timeout: float | None = None) -> Ended | None:
        """Wait for the end at most `timeout` seconds. None when it has not come."""
        if self._ended is not None:
            return self._ended
        if not self._lock.acquire(timeout=-1 if timeout is None else timeout):
            return None
        try:
            if self._ended is None and self._receive_end(timeout):
                self._finish()
            return self._ended
        finally:
            self._lock.release()

    def _receive_end(self, timeout: float | None) -> bool:
        try:
            report = self.launch.receive(timeout)
        except (TimeoutError, BlockingIOError):
            return False
        except ConnectionResetError:
            report = None  # init was killed with a command unread
        self._report = report if report is not None and report.kind == ENDED else None
        return True

    def _finish(self) -> None:
        """Init has said the last: all is dead. Wait until it is gone, count, give back."""
        if not self.launch.close(GRACE):
            self.launch.kill()
            self.launch.close(None)
        counted = CgroupUsage()
        try:
            if self.cgroup is not None:
                counted = self.cgroup.read_usage()
                self.cgroup.close()
        finally:
            self._ended = Ended(
                report=self._report,
                counted=counted,
                wall_time=time.monotonic() - self._started,
            )
            if self._id_first is not None:
                id_ranges().release(self._id_first)

    def signal_payload(self, number: int) -> None:
        """A signal to the payload, not to init. Nothing happens when it has ended."""
        if self._ended is None:
            self.launch.command(COMMAND_SIGNAL, number)

    def end(self) -> None:
        """End the whole tree now; `wait` tells how it went."""
        if self._ended is None and not self.launch.command(COMMAND_END):
            self.launch.kill()

    def destroy(self) -> Ended:
        """End the tree by force and give everything back."""
        if self._ended is None:
            self.end()
            if self.wait(GRACE) is None:
                self.launch.kill()
                if self.cgroup is not None:
                    self.cgroup.kill()
        ended = self.wait(None)
        assert ended is not None
        return ended

    def has_ended(self) -> bool:
        return self._ended is not None or has_ended(self.launch.childfd)


@attrs.frozen(kw_only=True)
class Prepared:
    """What runs of the same spec share: the plan and its bytes."""

    plan: Plan
    encoded: Encoded


@lru_cache(maxsize=256)
def prepare(spec: Spec, host: Host, process: Process, resources: Resources) -> Prepared:
    """A plan and its bytes; reused when all it depends on is equal."""
    plan = compile_plan(spec, host, process, resources)
    return Prepared(plan=plan, encoded=encode(plan))


@attrs.frozen(kw_only=True)
class Command:
    """What to run and how, already in the kernel's words."""

    program: Program
    stdio: tuple[int, int, int]
    pass_fds: tuple[int, ...] = ()
    cwd: str = "/tmp"
    umask: int = 0o022
    process_group: int | None = None
    executable: str = ""
    shown_cwd: str | None = None


def spawn(spec: Spec, command: Command) -> Running:
    """Start a program in a container of its own. Raises what subprocess.Popen raises for a program
    that cannot be executed, SetupError for a step the kernel refused, UnsupportedError, SpecError.
    """
    kernel_that_can()
    host = this_host()
    _check_host_root(spec)
    parent = limits.parent_of(spec)
    enforcement = limits.enforce(spec, parent)
    ranged = host.privileged or (spec.id_range or 1) > 1
    if ranged and not host.privileged:
        raise UnsupportedError(
            "id_range", "ranges for ordinary users are made by newuidmap", "ask for one id"
        )
    who = identity.resolve(spec, ranged=ranged)
    points = _points(spec)
    with ExitStack() as undo:
        session = state.session()
        session.record(parent.paths.values())
        cgroup = _make_cgroup(spec, enforcement, parent, session.name)
        if cgroup is not None:
            undo.callback(cgroup.close)
        id_first, base_maps, maps = _make_maps(spec, host, who, undo)
        base_spec = _base_spec(spec, points, user_namespace=base_maps is not None)
        resources = _resources(cgroup, enforcement, base_maps is not None)
        process = Process(
            identity=who, cwd=command.cwd, umask=command.umask,
            process_group=command.process_group, pass_fds=command.pass_fds,
        )  # fmt: skip
        prepared = prepare(spec, host, process, resources)
        content = complete(
            prepared.encoded, program=command.program, holes=maps.holes(),
            clock=_clock(spec, host, cgroup), fault=_faults,
        )  # fmt: skip
        try:
            with bases().hold(_base_key(base_spec, spec), base_spec, host, base_maps) as base:
                inputs = _inputs(base.mntfd, base.userfd, cgroup, enforcement, command)
                launch = _start(content, command.stdio, inputs)
                undo.callback(launch.abandon)
                launch.wait_for(STARTED)
        except BaseFailed as failure:
            raise _step_error(failure.plan, failure.step, failure.errno) from None
        except LaunchFailed as failure:
            raise _failure(prepared.plan, failure, command) from None
        undo.pop_all()
    running = Running(launch, cgroup, id_first)
    running.not_enforced = enforcement.not_enforced
    return running


def _check_host_root(spec: Spec) -> None:
    if spec.host_root_id:
        raise UnsupportedError(
            "host_root_id", "no plan maps host uid 0", "leave it False: ids come from a free range"
        )


def _points(spec: Spec) -> tuple[Point, ...]:
    """What kind of place each mount needs; a source that is not there is the caller's mistake."""
    points = []
    for mount in spec.mounts:
        is_directory = True
        if isinstance(mount, Mount):
            kind = os.stat(mount.source).st_mode
            is_directory = stat.S_ISDIR(kind)
        points.append(Point(target=mount.target, is_directory=is_directory))
    return tuple(points)


def _make_cgroup(
    spec: Spec, enforcement: limits.Enforcement, parent: limits.Parent, session: str
) -> Cgroup | None:
    if not parent.controllers:
        return None
    name = f"pycontainer-{session}-{next(_numbers)}"
    return Cgroup.create(parent, name, enforcement.limits)


def _make_maps(
    spec: Spec, host: Host, who: identity.Identity, undo: ExitStack
) -> tuple[int | None, IdMaps | None, IdMaps]:
    """(the range held, the map of the base's own user namespace, the container's map)."""
    if host.privileged:
        first = id_ranges().acquire()
        undo.callback(id_ranges().release, first)
        return first, None, identity.range_maps(first, spec.id_range or LENGTH)
    base, inner = identity.single_maps(host, who)
    return None, base, inner


def _base_spec(spec: Spec, points: tuple[Point, ...], *, user_namespace: bool) -> BaseSpec:
    """What of a spec its base depends on. An ordinary user's binds have to be part of the base:
    only there may it clone mounts of the host."""
    pairs = [(m, p) for m, p in zip(spec.mounts, points, strict=True) if isinstance(m, Mount)]
    return BaseSpec(
        rootfs=spec.rootfs,
        sysfs=spec.sysfs == "read-only",
        points=points,
        binds=tuple(mount for mount, _ in pairs) if user_namespace else (),
        bind_points=tuple(point for _, point in pairs) if user_namespace else (),
        user_namespace=user_namespace,
    )


def _base_key(base_spec: BaseSpec, spec: Spec) -> object:
    """Bases are shared only while the paths in them still lead to the same directories."""
    paths = [mount.source for mount in base_spec.binds]
    if base_spec.rootfs is not None:
        paths.append(base_spec.rootfs)
    found = [os.stat(path) for path in paths]
    return base_spec, tuple((each.st_dev, each.st_ino) for each in found)


def _resources(
    cgroup: Cgroup | None, enforcement: limits.Enforcement, base_user: bool
) -> Resources:
    return Resources(
        attach=len(cgroup.attach_fds) if cgroup else 0,
        clone_into=cgroup is not None and cgroup.clone_into_fd is not None,
        cpu_usage=enforcement.cpu_time_by_cgroup,
        base_user=base_user,
        pids_by_rlimit=enforcement.pids_by_rlimit,
    )


def _inputs(
    mntfd: int,
    userfd: int,
    cgroup: Cgroup | None,
    enforcement: limits.Enforcement,
    command: Command,
) -> list[int]:
    """Descriptors in the order of the plan's inputs (recipe.compile_plan)."""
    inputs = [mntfd]
    if userfd >= 0:
        inputs.append(userfd)
    if cgroup is not None:
        inputs += cgroup.attach_fds
        if cgroup.clone_into_fd is not None:
            inputs.append(cgroup.clone_into_fd)
        if enforcement.cpu_time_by_cgroup and cgroup.cpu_usage_fd is not None:
            inputs.append(cgroup.cpu_usage_fd)
    return [*inputs, *command.pass_fds]


def _clock(spec: Spec, host: Host, cgroup: Cgroup | None) -> Clock:
    nanoseconds = cgroup is not None and cgroup.cpu_usage_format == "cpuacct.usage"
    return Clock(
        wall_time=spec.wall_time,
        cpu_time=spec.cpu_time,
        processors=host.processors,
        cpu_format=int(nanoseconds),
    )


def _start(content: bytearray, stdio: Sequence[int], inputs: Sequence[int]) -> Launch:
    try:
        return Launch(content, stdio, inputs)
    except OSError as error:
        number = error.errno or 0
        raise SetupError(number, "start_launcher", {}, hint("start_launcher", number)) from error


def _failure(plan: Plan, failure: LaunchFailed, command: Command) -> OSError:
    """The error of subprocess for what is the program's, SetupError for what is the kernel's."""
    step = _step(plan, failure.step)
    if step is not None and plan.section_of(failure.step) == "payload":
        if step.op == "execute":
            name = command.executable
            return OSError(failure.errno, os.strerror(failure.errno), name)
        if step.op == "change_directory":
            shown = command.shown_cwd or command.cwd
            return OSError(failure.errno, os.strerror(failure.errno), shown)
    return _step_error(plan, failure.step, failure.errno)


def _step(plan: Plan, index: int) -> Step | None:
    return plan.steps[index] if index >= 0 else None


def _step_error(plan: Plan, index: int, errno: int) -> SetupError:
    import errno as names

    step = _step(plan, index)
    op = step.op if step else EARLY_STEPS.get(index, "launch")
    if not errno:
        return SetupError(
            names.ECANCELED, "launch", {}, "the launcher was killed before it could say anything"
        )
    return SetupError(errno, op, dict(step.describe()) if step else {}, hint(op, errno))
