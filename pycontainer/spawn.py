"""From a spec to a running container: acquires what it needs, runs its plan, and gives all back.

Order: everything is checked first, then recorded, then made; one failure undoes what was made. The
owner afterwards is `Running`.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import lru_cache
from typing import Any

import attrs

from pycontainer import identity, limits, newidmap
from pycontainer.base import Base, BaseFailed, IdMaps, bases
from pycontainer.cgroup import Cgroup, Parent
from pycontainer.errors import SetupError, SpecError, UnsupportedError, UnsupportedStepError
from pycontainer.hints import hint, is_unsupported
from pycontainer.idrange import LENGTH, id_ranges
from pycontainer.linux import state
from pycontainer.network.ready import owner_of, ready_networks
from pycontainer.plan.credentials import Identity
from pycontainer.plan.encode import Clock, Encoded, Program, complete, encode
from pycontainer.plan.host import Host, Subordinate
from pycontainer.plan.recipe import Process, Resources, compile_join, compile_plan
from pycontainer.plan.rootfs import BaseSpec, Point
from pycontainer.plan.steps import Plan, Step
from pycontainer.process import EARLY_STEPS, START_SECONDS, STARTED, Launch, LaunchFailed
from pycontainer.running import Running
from pycontainer.spec import Mount, Spec
from pycontainer.thishost import kernel_that_can, this_host

_numbers = itertools.count()
_faults = (-1, 0)  # test build: which step fails, and how


@attrs.frozen(kw_only=True)
class Command:
    """What to run and how, already in the kernel's words."""

    program: Program
    stdio: tuple[int, int, int]
    pass_fds: tuple[int, ...] = ()
    cwd: str = "/tmp"
    umask: int = 0o022
    process_group: int | None = None
    ignored_signals: tuple[int, ...] = ()
    executable: Any = ""  # as the caller wrote it, like `shown_cwd`: for the error's filename
    shown_cwd: Any = None
    pipes: tuple[int, ...] = ()  # made for this program alone: it may reopen them by /dev/stdout

    def process(self, who: Identity) -> Process:
        """The part of it that a plan depends on."""
        return Process(
            identity=who,
            cwd=self.cwd,
            umask=self.umask,
            process_group=self.process_group,
            pass_fds=self.pass_fds,
            ignored_signals=self.ignored_signals,
        )


@attrs.frozen(kw_only=True)
class Prepared:
    """What runs of the same spec share: the plan and its bytes."""

    plan: Plan
    encoded: Encoded


@lru_cache(maxsize=256)
def _prepare(
    compiler: Callable[[Spec, Host, Process, Resources], Plan],
    spec: Spec,
    host: Host,
    process: Process,
    resources: Resources,
) -> Prepared:
    """A plan and its bytes; reused when all it depends on is equal."""
    plan = compiler(spec, host, process, resources)
    return Prepared(plan=plan, encoded=encode(plan))


@attrs.frozen(kw_only=True)
class _Ids:
    """The id maps of one container, and of the base's user namespace where it has one."""

    maps: IdMaps
    base_maps: IdMaps | None = None
    subordinate: Subordinate | None = None


def spawn(spec: Spec, command: Command) -> Running:
    """Start a program in a container of its own. Raises what subprocess.Popen raises for a program
    that cannot be executed, SetupError for a step the kernel refused, UnsupportedError, SpecError.
    """
    kernel_that_can()
    host = this_host()
    _check_host_root(spec)
    parent = limits.parent_of(spec)
    enforcement = limits.enforce(spec, parent)
    who = identity.resolve(spec, ranged=host.privileged or (spec.id_range or 1) > 1)
    points = _points(spec)
    with ExitStack() as undo:
        session = _record(parent)
        cgroup = _make_cgroup(enforcement, parent, session.name, undo)
        at_end = undo.enter_context(ExitStack())  # what the container holds until its end
        ids = _map_ids(spec, host, who, at_end)
        if host.privileged:
            _hand_over(command.pipes, ids, who)
        base_spec = _base_spec(spec, points, ids)
        process = command.process(who)
        resources = Resources(
            attach=len(cgroup.attach_fds) if cgroup else 0,
            clone_into=cgroup is not None and cgroup.clone_into_fd is not None,
            cpu_usage=enforcement.cpu_time_by_cgroup,
            base_user=ids.base_maps is not None,
            ready_network=_takes_ready_network(spec),
            pids_by_rlimit=enforcement.pids_by_rlimit,
        )
        prepared = _prepare(compile_plan, spec, host, process, resources)
        content = complete(
            prepared.encoded, program=command.program, holes=ids.maps.holes(),
            clock=_clock(spec, host, cgroup), fault=_faults,
        )  # fmt: skip
        key = _base_key(base_spec, spec)
        try:
            with bases().hold(key, base_spec, host, ids.base_maps) as base:
                inputs = _base_inputs(base, resources)
                inputs += _cgroup_inputs(cgroup, resources)
                inputs += _network_inputs(spec, base, resources, at_end)
                launch = _start(content, command.stdio, [*inputs, *command.pass_fds])
                undo.callback(launch.abandon)
                launch.wait_for(STARTED, time.monotonic() + START_SECONDS)
        except BaseFailed as failure:
            raise _step_error(failure.plan, failure.step, failure.errno) from None
        except LaunchFailed as failure:
            raise _failure(prepared.plan, failure, command) from None
        except TimeoutError:
            raise _not_started() from None
        give_back = at_end.pop_all().close
        undo.pop_all()
    launch.reap_launcher()
    return Running(launch, cgroup, give_back=give_back, not_enforced=enforcement.not_enforced)


def drop_caches() -> None:
    """Let go of what is kept for the next run: bases and networks made ahead."""
    for kept in (bases.peek(), ready_networks.peek()):
        if kept is not None:
            kept.clear()


def join(running: Running, spec: Spec, command: Command) -> Running:
    """Start a further program in a running container, with the same protections as the first."""
    host = this_host()
    if not host.privileged:
        raise UnsupportedError(
            "joining a running container",
            "the kernel opens the namespaces of init, which cannot be traced, only to root",
            "run the programs from the container's first one, or as root",
        )
    enforcement = limits.enforce(spec, limits.parent_of(spec))
    who = identity.resolve(spec, ranged=True)
    cgroup = running.cgroup
    resources = Resources(
        attach=len(cgroup.attach_fds) if cgroup else 0,
        clone_into=cgroup is not None and cgroup.clone_into_fd is not None,
        cpu_usage=enforcement.cpu_time_by_cgroup,
        pids_by_rlimit=enforcement.pids_by_rlimit,
    )
    prepared = _prepare(compile_join, spec, host, command.process(who), resources)
    content = complete(
        prepared.encoded, program=command.program, clock=_clock(spec, host, cgroup), fault=_faults
    )
    inputs = [running.launch.childfd, *_cgroup_inputs(cgroup, resources), *command.pass_fds]
    launch = _start(content, command.stdio, inputs)
    try:
        launch.wait_for(STARTED, time.monotonic() + START_SECONDS)
    except BaseException as error:
        launch.abandon()
        if isinstance(error, LaunchFailed):
            raise _failure(prepared.plan, error, command) from None
        if isinstance(error, TimeoutError):
            raise _not_started() from None
        raise
    return Running(launch, not_enforced=running.not_enforced)


def _record(parent: Parent) -> state.Session:
    """This application's record, before the first object that it would be needed for."""
    try:
        session = state.session()
        session.record(parent.paths.values())
    except OSError as error:
        number = error.errno or errno.EIO
        where = {"path": error.filename or state.state_path()}
        raise SetupError(number, "write_record", where, hint("write_record", number)) from error
    return session


def _check_host_root(spec: Spec) -> None:
    if spec.host_root_id:
        raise UnsupportedError(
            "host_root_id", "no plan maps host uid 0", "leave it False: ids come from a free range"
        )


def _points(spec: Spec) -> tuple[Point, ...]:
    """What kind of place each mount needs. Raises SpecError for a source that is not there."""
    points = []
    for mount in spec.mounts:
        is_directory = True
        if isinstance(mount, Mount):
            try:
                is_directory = stat.S_ISDIR(os.stat(mount.source).st_mode)
            except OSError as error:
                raise SetupError(
                    error.errno or 0, "open_tree", {"source": mount.source},
                    "the mount's source, on this host",
                ) from None  # fmt: skip
        points.append(Point(target=mount.target, is_directory=is_directory))
    return tuple(points)


def _make_cgroup(
    enforcement: limits.Enforcement, parent: Parent, session: str, undo: ExitStack
) -> Cgroup | None:
    if not parent.controllers:
        return None
    name = f"pycontainer-{session}-{next(_numbers)}"
    cgroup = Cgroup.create(parent, name, enforcement.limits)
    undo.callback(cgroup.close)
    return cgroup


def _map_ids(spec: Spec, host: Host, who: Identity, at_end: ExitStack) -> _Ids:
    if host.privileged:
        first = id_ranges().acquire()
        at_end.callback(id_ranges().release, first)
        return _Ids(maps=identity.range_maps(first, spec.id_range or LENGTH))
    if host.uid == 0 and host.initial_user_namespace:
        raise UnsupportedError(
            "root without its capabilities", "the only id it could map is the host's root",
            "keep CAP_SYS_ADMIN, CAP_SETUID, CAP_SETGID and CAP_DAC_OVERRIDE, or be another user",
        )  # fmt: skip
    own = IdMaps(uid=(host.uid, host.uid, 1), gid=(host.gid, host.gid, 1))
    if who.ranged:
        length = spec.id_range or LENGTH
        return _Ids(
            maps=identity.range_maps(newidmap.FIRST_INSIDE, length),
            base_maps=own,
            subordinate=newidmap.subordinate_of(host, length),
        )
    inner = IdMaps(uid=(who.uid, host.uid, 1), gid=(who.gid, host.gid, 1))
    return _Ids(maps=inner, base_maps=own)


def _hand_over(pipes: tuple[int, ...], ids: _Ids, who: Identity) -> None:
    """A pipe belongs to who made it, and only its owner may open it again through /dev/stderr."""
    for fd in pipes:
        os.fchown(fd, ids.maps.uid[1] + who.uid, ids.maps.gid[1] + who.gid)


def _base_spec(spec: Spec, points: tuple[Point, ...], ids: _Ids) -> BaseSpec:
    """What of a spec its base depends on. An ordinary user's binds have to be part of the base:
    only there may it clone mounts of the host."""
    in_base = ids.base_maps is not None
    pairs = [(m, p) for m, p in zip(spec.mounts, points, strict=True) if isinstance(m, Mount)]
    return BaseSpec(
        rootfs=spec.rootfs,
        sysfs=spec.sysfs == "read-only",
        points=points,
        binds=tuple(mount for mount, _ in pairs) if in_base else (),
        bind_points=tuple(point for _, point in pairs) if in_base else (),
        user_namespace=in_base,
        subordinate=ids.subordinate,
    )


def _base_key(base_spec: BaseSpec, spec: Spec) -> object:
    """Bases are shared only while the paths in them still lead to the same directories."""
    paths = [mount.source for mount in base_spec.binds]
    if base_spec.rootfs is not None:
        paths.append(base_spec.rootfs)
        if not os.path.isdir(base_spec.rootfs):
            raise SpecError("rootfs", spec.rootfs, "a directory on this host")
    found = [os.stat(path) for path in paths]
    return base_spec, tuple((each.st_dev, each.st_ino) for each in found)


# The three below together give the descriptors in the order of the plan's inputs (compile_plan).
def _base_inputs(base: Base, resources: Resources) -> list[int]:
    return [base.mntfd, base.userfd] if resources.base_user else [base.mntfd]


def _cgroup_inputs(cgroup: Cgroup | None, resources: Resources) -> list[int]:
    if cgroup is None:
        return []
    inputs = list(cgroup.attach_fds)
    if cgroup.clone_into_fd is not None:
        inputs.append(cgroup.clone_into_fd)
    if resources.cpu_usage and cgroup.cpu_usage_fd is not None:
        inputs.append(cgroup.cpu_usage_fd)
    return inputs


def _takes_ready_network(spec: Spec) -> bool:
    """A container that mounts a sysfs has to own its network namespace."""
    return spec.prepared_networks > 0 and spec.network == "none" and spec.sysfs == "none"


def _network_inputs(spec: Spec, base: Base, resources: Resources, at_end: ExitStack) -> list[int]:
    if not resources.ready_network:
        return []
    stock = ready_networks()
    fd = stock.take(base.userfd)
    at_end.callback(stock.give_back, owner_of(base.userfd), fd, spec.prepared_networks)
    return [fd]


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
    if step is not None and step.op == "execute":
        return OSError(failure.errno, os.strerror(failure.errno), command.executable)
    if step is not None and step.op == "change_directory":
        shown = command.cwd if command.shown_cwd is None else command.shown_cwd
        return OSError(failure.errno, os.strerror(failure.errno), shown)
    return _step_error(plan, failure.step, failure.errno)


def _not_started() -> SetupError:
    stuck = (
        f"no program after {START_SECONDS:.0f} s: is the cgroup frozen, or a file system hanging"
    )
    return SetupError(errno.ETIMEDOUT, "launch", {}, stuck)


def _step(plan: Plan, index: int) -> Step | None:
    return plan.steps[index] if index >= 0 else None


def _step_error(plan: Plan, index: int, number: int) -> SetupError:
    step = _step(plan, index)
    op = step.op if step else EARLY_STEPS.get(index, "launch")
    operands = dict[str, Any](step.describe()) if step else {}
    fstype = operands.get("fstype")
    if not number:
        killed = "the launcher was killed before it could say anything"
        return SetupError(errno.ECANCELED, "launch", {}, killed)
    kind = UnsupportedStepError if is_unsupported(op, number, fstype) else SetupError
    return kind(number, op, operands, hint(op, number, fstype))
