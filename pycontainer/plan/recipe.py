"""The whole order of making a container, on one screen, with the reason of each line beside it.

Rules:
1. What needs the caller's rights comes first and outside; what is hostile later does not exist yet.
2. A protection is in place before anything of the container's owner runs: the payload's section
   only takes rights away, and executes last.
3. `compile_plan` is a function of values: it opens, reads and asks nothing.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator

import attrs

from pycontainer.plan import credentials, procfs, rlimits
from pycontainer.plan.credentials import Identity
from pycontainer.plan.host import Host
from pycontainer.plan.rootfs import (
    AT_RECURSIVE,
    NODEV,
    NOEXEC,
    NOSUID,
    OPEN_TREE_CLONE,
    RDONLY,
    attach,
    bind,
    bind_attributes,
    map_steps,
    tmpfs,
    tmpfs_of,
)
from pycontainer.plan.seccomp_default import default_profile
from pycontainer.plan.steps import MODE_INIT, MODE_JOIN, Plan, Step, step
from pycontainer.spec import Mount, Spec

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_VFORK = 0x00004000
TMP_INODES = 65536
PTS_OPTIONS = "newinstance\0ptmxmode=0666\0mode=0620\0\0"


@attrs.frozen(kw_only=True)
class Process:
    """How one program runs: what subprocess has parameters for and the container does not."""

    identity: Identity
    cwd: str = "/tmp"
    umask: int = 0o022
    process_group: int | None = None
    pass_fds: tuple[int, ...] = ()
    ignored_signals: tuple[int, ...] = ()


@attrs.frozen(kw_only=True)
class Resources:
    """Which descriptors the spawn brings: the shape of a plan's inputs, not their numbers."""

    attach: int = 0
    clone_into: bool = False
    cpu_usage: bool = False
    base_user: bool = False
    ready_network: bool = False
    pids_by_rlimit: bool = False


def compile_plan(spec: Spec, host: Host, process: Process, resources: Resources) -> Plan:
    """Everything from clone to exec, as data. Raises UnsupportedError, SpecError."""
    tasks = tuple(f"tasks{i}" for i in range(resources.attach))
    binds = tuple(mount for mount in spec.mounts if isinstance(mount, Mount))
    return Plan(
        mode=MODE_INIT,
        clone_flags=_clone_flags(spec, host, resources),
        inputs=(
            "base_mnt",
            *(["base_user"] if resources.base_user else []),
            *tasks,
            *(["cgroup"] if resources.clone_into else []),
            *(["cpu_usage"] if resources.cpu_usage else []),
            *(["network"] if resources.ready_network else []),
            *(f"pass{i}" for i in range(len(process.pass_fds))),
        ),
        cgroup_slot="cgroup" if resources.clone_into else None,
        cpu_slot="cpu_usage" if resources.cpu_usage else None,
        outside=(
            *([] if resources.base_user else _open_binds(binds)),  # with the caller's own rights
            *_enter_base(resources),  # from here on the host's paths are out of sight
            *_time_steps(spec),  # offsets can be set only before the first process enters
            *([step("setns", namespace="network", nstype=0)] if resources.ready_network else []),
        ),
        beside=(
            step("send_child", control="control"),
            *map_steps(deny_setgroups=resources.base_user and not process.identity.ranged),
            step("release_child"),
        ),
        inside=(
            *(step("cgroup_attach", tasks=name) for name in tasks),  # first: all later is charged
            step("await_parent"),  # ids are mapped
            # Made after the cgroup was joined: /proc/self/cgroup says "/" and tells no host path.
            *([step("unshare", flags=CLONE_NEWCGROUP)] if host.cgroup_namespace else []),
            *credentials.become_root_steps(process.identity),
            # The caller's session keyring would be readable by id (E14).
            *([step("join_session_keyring")] if host.keyrings else []),
            step("setsid"),  # no controlling terminal: nothing can be typed into it (F03)
            *_root_steps(),
            *procfs.add_steps(spec),
            *_own_file_systems(spec),
            *_mount_steps(spec, resources),
            *_network_steps(spec, resources),
            step("set_hostname", hostname=spec.hostname.encode()),
            step("pivot_root", root="root"),  # the base and the host's procfs are gone with it
        ),
        payload=(
            step("setsid"),
            *_signal_steps(process),
            step("set_umask", mask=process.umask),
            *rlimits.add_steps(spec, host, pids_by_rlimit=resources.pids_by_rlimit),
            *_payload_steps(spec, host, process),
        ),
    )


def compile_join(spec: Spec, host: Host, process: Process, resources: Resources) -> Plan:
    """A further program in a running container, with the same protections as the first.

    The launcher joins through the pidfd of the container's init and has a memory of its own, so
    nothing inside can reach the application through it.
    """
    tasks = tuple(f"tasks{i}" for i in range(resources.attach))
    everything = _clone_flags(spec, host, resources) | CLONE_NEWCGROUP
    return Plan(
        mode=MODE_JOIN,
        clone_flags=CLONE_VFORK,
        inputs=(
            "init",
            *tasks,
            *(["cgroup"] if resources.clone_into else []),
            *(["cpu_usage"] if resources.cpu_usage else []),
            *(f"pass{i}" for i in range(len(process.pass_fds))),
        ),
        cgroup_slot="cgroup" if resources.clone_into else None,
        cpu_slot="cpu_usage" if resources.cpu_usage else None,
        outside=(
            # All at once: the kernel checks the rights against the namespaces as they are now.
            step("setns", namespace="init", nstype=everything),
            step("set_dumpable", value=0),  # what is inside cannot trace what joins (E02)
        ),
        beside=(step("send_child", control="control"),),
        payload=(
            *(step("cgroup_attach", tasks=name) for name in tasks),
            *credentials.become_root_steps(process.identity),
            *([step("join_session_keyring")] if host.keyrings else []),
            step("setsid"),
            *_signal_steps(process),
            step("set_umask", mask=process.umask),
            *rlimits.add_steps(spec, host, pids_by_rlimit=resources.pids_by_rlimit),
            *_payload_steps(spec, host, process),
        ),
    )


def _clone_flags(spec: Spec, host: Host, resources: Resources) -> int:
    flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS
    if spec.network != "host" and not resources.ready_network:
        flags |= CLONE_NEWNET
    if host.time_namespace and spec.boottime_offset is None:
        flags |= CLONE_NEWTIME
    return flags


def _time_steps(spec: Spec) -> Iterator[Step]:
    if spec.boottime_offset is None:
        return
    seconds = math.floor(spec.boottime_offset)
    nanoseconds = int((spec.boottime_offset - seconds) * 1e9)
    yield step("unshare", flags=CLONE_NEWTIME)  # for children (time_namespaces(7))
    yield step(
        "write_proc", proc="proc", path="self/timens_offsets",
        content=f"boottime {seconds} {nanoseconds}\n".encode(),
    )  # fmt: skip


def _open_binds(binds: tuple[Mount, ...]) -> Iterator[Step]:
    for i, mount in enumerate(binds):
        yield bind(mount.source, bind_attributes(mount), result=f"bind{i}")


def _enter_base(resources: Resources) -> Iterator[Step]:
    if resources.base_user:
        yield step("setns", namespace="base_user", nstype=CLONE_NEWUSER)
    yield step("setns", namespace="base_mnt", nstype=CLONE_NEWNS)
    if resources.base_user:
        # Entering a user namespace made the launcher non-dumpable, and so the clone's maps would
        # belong to a root that it is not. Nothing hostile can see it yet.
        yield step("set_dumpable", value=1)


def _root_steps() -> Iterator[Step]:
    """A copy of the tree on top of itself: its topmost mount is ours to pivot into."""
    flags = OPEN_TREE_CLONE | AT_RECURSIVE
    yield step("open_tree", result="root", path="/tree", flags=flags, set=0, clear=0)
    yield step("mount_stack", mount="root", target="/tree")


def _own_file_systems(spec: Spec) -> Iterator[Step]:
    yield tmpfs(
        "mount", NOSUID | NODEV, mode="1777", size=_bytes(spec, "tmp_size"), nr_inodes=TMP_INODES
    )
    yield attach("mount", "root", "tmp")
    yield step("close_slot", descriptor="mount")
    yield tmpfs(
        "mount", NOSUID | NODEV | NOEXEC, mode="1777", size=_bytes(spec, "shm_size"),
        nr_inodes=TMP_INODES,
    )  # fmt: skip
    yield attach("mount", "root", "dev/shm")
    yield step("close_slot", descriptor="mount")
    yield step(
        "mount_new", result="mount", fstype="devpts", attributes=NOSUID | NOEXEC,
        options=PTS_OPTIONS,
    )  # fmt: skip
    yield attach("mount", "root", "dev/pts")
    yield step("close_slot", descriptor="mount")


def _bytes(spec: Spec, field: str) -> int:
    size = spec.limit(field)
    return 0 if size is None or size == math.inf else int(size)  # tmpfs: 0 is no limit


def _mount_steps(spec: Spec, resources: Resources) -> Iterator[Step]:
    """The spec's mounts in the spec's order, each target resolved inside the root."""
    if spec.sysfs == "read-only":
        yield _sysfs(spec)
        yield attach("mount", "root", "sys")
        yield step("close_slot", descriptor="mount")
    binds = 0
    for mount in spec.mounts:
        yield from _own_points(mount.target)
        if isinstance(mount, Mount):
            name = f"bind{binds}"
            if resources.base_user:
                yield bind(f"/b{binds}", 0, result=name)
            binds += 1
        else:
            name = "mount"
            yield tmpfs_of(mount, name)
        yield attach(name, "root", mount.target, follow=True)
        yield step("close_slot", descriptor=name)


def _sysfs(spec: Spec) -> Step:
    """A sysfs shows the devices of the network namespace it is mounted for, and only who owns that
    namespace may mount one: with the host's network it is the host's sysfs, read-only."""
    attributes = NOSUID | NODEV | NOEXEC | RDONLY
    if spec.network == "host":
        return bind("/sys", attributes, result="mount")
    return step("mount_new", result="mount", fstype="sysfs", attributes=attributes, options="\0")


def _own_points(target: str) -> Iterator[Step]:
    """Mount points below a tmpfs that this run has just made, where no base can make them."""
    for top in ("/tmp/", "/dev/shm/"):
        if target.startswith(top):
            parts = target[len(top) :].split("/")
            for i in range(len(parts)):
                path = top + "/".join(parts[: i + 1])
                yield step("make_directory", root="root", path=path, mode=0o755)


def _network_steps(spec: Spec, resources: Resources) -> Iterator[Step]:
    if spec.network == "none" and not resources.ready_network:
        yield step("raise_loopback")


def _signal_steps(process: Process) -> Iterator[Step]:
    yield step("reset_signals")
    if process.ignored_signals:  # restore_signals=False
        yield step(
            "ignore_signals", mask=sum(1 << (number - 1) for number in process.ignored_signals)
        )


def _payload_steps(spec: Spec, host: Host, process: Process) -> Iterator[Step]:
    """Rights are taken away in the order in which taking them still needs the next one."""
    seccomp = list(_seccomp_steps(spec, host))
    if not spec.no_new_privileges:
        yield from seccomp  # without no_new_privs only CAP_SYS_ADMIN may install a filter
    yield from credentials.add_steps(spec, process.identity)
    if process.process_group is not None:
        yield step("set_process_group", pgid=process.process_group)
    yield step("change_directory", path=process.cwd)  # as the user: its permissions count
    numbers = tuple(sorted(process.pass_fds))
    yield step(
        "place_descriptors", count=len(numbers), first="pass0" if numbers else "control",
        numbers=struct.pack(f"<{len(numbers)}I", *numbers),
    )  # fmt: skip
    if spec.no_new_privileges:
        yield step("set_no_new_privs")
        yield from seccomp
    yield step("execute")


def _seccomp_steps(spec: Spec, host: Host) -> Iterator[Step]:
    if spec.seccomp == "unconfined":
        return
    yield step("set_seccomp", filter=seccomp_filter(spec, host))


def seccomp_filter(spec: Spec, host: Host) -> bytes:
    """The filter of this spec as an array of struct sock_filter."""
    from pycontainer.plan.seccomp import compile_filter

    if spec.seccomp == "default":
        profile = default_profile(
            capabilities=frozenset(f"CAP_{name}" for name in spec.capabilities),
            nesting=spec.nesting,
            ptrace=spec.ptrace,
        )
    else:
        from pycontainer.plan.seccomp_profile import profile_from_json

        profile = profile_from_json(
            spec.seccomp, capabilities=frozenset(f"CAP_{name}" for name in spec.capabilities),
            kernel=host.kernel, machine=host.machine,
        )  # fmt: skip
    return compile_filter(profile, host.machine)
