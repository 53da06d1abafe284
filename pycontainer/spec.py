"""What to isolate and how far: `Spec` and its parts, checked when made, immutable afterwards.

None in a limit means the default below, applied where the host can and named in `.not_enforced`
where it cannot; a number must hold or `run` raises UnsupportedError; `"max"` means no limit.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypedDict

import attrs

from pycontainer import checks, sizes
from pycontainer.checks import CAPABILITIES, RLIMITS
from pycontainer.errors import SpecError

__all__ = ["CAPABILITIES", "RLIMITS", "IoLimit", "Limits", "Mount", "Spec", "SpecFields", "Tmpfs"]

PathLike = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Size = int | str | float | None

MEBIBYTE = 1 << 20
# Precedents for finite defaults: Podman 2,048 pids; Docker's shm 64 MiB; isolate 1,024 open files.
DEFAULTS: dict[str, int | float] = {
    "memory": 1024 * MEBIBYTE,
    "pids": 256,
    "output": 64 * MEBIBYTE,
    "tmp_size": 256 * MEBIBYTE,
    "shm_size": 64 * MEBIBYTE,
    "file_size": 1024 * MEBIBYTE,
    "open_files": 1024,
}
# namespaces(7), all of them new in every container.
NAMESPACES = frozenset({"mnt", "pid", "net", "ipc", "uts", "cgroup", "user", "time"})
# What can be given up by name with best_effort=.
BEST_EFFORT = frozenset({"memory", "pids", "cpus", "cpu_weight", "cpuset", "io", "cpu_time"})

_IO_CHECKS = {
    "device": lambda value: checks.path_text("device", value),
    "read_bps": checks.size("read_bps"),
    "write_bps": checks.size("write_bps"),
    "read_iops": checks.count("read_iops", 1, 2**32),
    "write_iops": checks.count("write_iops", 1, 2**32),
}
_MOUNT_CHECKS = {
    "source": lambda value: checks.path_text("source", value),
    "target": checks.inside_path,
    "read_only": checks.boolean("read_only"),
    "executable": checks.boolean("executable"),
}
_TMPFS_CHECKS = {
    "target": checks.inside_path,
    "size": lambda value: sizes.parse_size("size", value, smallest=4096),
    "inodes": checks.whole_number("inodes", 2, 2**31 - 1),
    "mode": checks.whole_number("mode", 0, 0o7777),
    "executable": checks.boolean("executable"),
}


@attrs.frozen(kw_only=True, field_transformer=checks.checked_by(_IO_CHECKS))
class IoLimit:
    """A cap on one block device: bytes and operations a second; None leaves that one free.

    `device` is a path on the host: a block device, or any file on the file system to limit.
    """

    device: Any
    read_bps: Any = None
    write_bps: Any = None
    read_iops: Any = None
    write_iops: Any = None


@attrs.frozen(field_transformer=checks.checked_by(_MOUNT_CHECKS))
class Mount:
    """A file or directory of the host, bound into the container: host path first.

    nosuid and nodev always, read-only and with all mounts below it unless said otherwise.
    """

    source: Any
    target: Any
    read_only: bool = attrs.field(default=True, kw_only=True)
    executable: bool = attrs.field(default=True, kw_only=True)


@attrs.frozen(field_transformer=checks.checked_by(_TMPFS_CHECKS))
class Tmpfs:
    """An empty file system in memory, private to the container and capped in bytes and files."""

    target: Any
    size: int | str | float = attrs.field(default=64 * MEBIBYTE, kw_only=True)
    inodes: int = attrs.field(default=65536, kw_only=True)
    mode: int = attrs.field(default=0o1777, kw_only=True)
    executable: bool = attrs.field(default=True, kw_only=True)


def _mounts(value: Any) -> tuple[Mount | Tmpfs, ...]:
    mounts: tuple[Mount | Tmpfs, ...] = checks.sequence_of("mounts", Mount, Tmpfs)(value)
    for mount in mounts:
        if mount.target == "/":
            raise SpecError("mounts", mount, "a target below '/' (the root itself is rootfs=)")
    return mounts


@attrs.frozen(kw_only=True)
class Limits:
    """What a cgroup enforces, in bytes, processors and counts. None: the kernel's default."""

    memory: int | None = None
    pids: int | None = None
    cpus: float | None = None
    cpu_weight: int | None = None
    cpuset: str | None = None
    io: tuple[IoLimit, ...] = ()


_SPEC_CHECKS: dict[str, checks.Check] = {
    "rootfs": checks.optional(lambda value: checks.path_text("rootfs", value)),
    "mounts": _mounts,
    "hostname": checks.hostname,
    "network": checks.one_of("network", "none", "host"),
    "prepared_networks": checks.whole_number("prepared_networks", 0, 64),
    "user": lambda value: checks.parse_id("user", value),
    "group": checks.optional(lambda value: checks.parse_id("group", value)),
    "extra_groups": checks.groups,
    "id_range": checks.optional(checks.whole_number("id_range", 1, 65536)),
    "capabilities": checks.capabilities,
    "seccomp": checks.seccomp,
    "ptrace": checks.boolean("ptrace"),
    "no_new_privileges": checks.boolean("no_new_privileges"),
    "nesting": checks.boolean("nesting"),
    "host_root_id": checks.boolean("host_root_id"),
    "sysfs": checks.one_of("sysfs", "none", "read-only"),
    "boottime_offset": checks.optional(checks.offset),
    "memory": checks.size("memory", smallest=MEBIBYTE),
    "pids": checks.count("pids", 1, 4194304),
    "cpus": checks.optional(checks.cpus),
    "cpu_weight": checks.count("cpu_weight", 1, 10000),
    "cpuset": checks.optional(checks.cpuset),
    "io": checks.sequence_of("io", IoLimit),
    "wall_time": checks.seconds("wall_time"),
    "cpu_time": checks.seconds("cpu_time"),
    "output": checks.size("output", smallest=0),
    "file_size": checks.size("file_size", smallest=0),
    "tmp_size": checks.size("tmp_size", smallest=4096),
    "shm_size": checks.size("shm_size", smallest=4096),
    "open_files": checks.count("open_files", 3, 1048576),
    "rlimits": checks.rlimits,
    "best_effort": checks.names("best_effort", BEST_EFFORT),
    "cgroup_parent": checks.optional(lambda value: checks.path_text("cgroup_parent", value)),
}


@attrs.frozen(kw_only=True, cache_hash=True, field_transformer=checks.checked_by(_SPEC_CHECKS))
class Spec:
    """Everything that isolates, for `run`, `Popen` and all that stands on them.

    The defaults are the strongest settings under which ordinary programs run. Each relaxation is
    one named argument; `explain()` says what it gives away. Raises SpecError naming the field.
    """

    rootfs: Any = None
    mounts: Any = ()
    hostname: str = "container"
    network: Literal["none", "host"] = "none"
    prepared_networks: int = 0
    user: int | str = 1000
    group: int | str | None = None
    extra_groups: Any = ()
    id_range: int | None = None
    capabilities: Any = frozenset()
    seccomp: Any = "default"
    ptrace: bool = False
    no_new_privileges: bool = True
    nesting: bool = False
    host_root_id: bool = False
    sysfs: Literal["none", "read-only"] = "none"
    boottime_offset: float | None = None

    memory: Size = None
    pids: int | str | float | None = None
    cpus: float | None = None
    cpu_weight: int | str | float | None = None
    cpuset: Any = None
    io: Any = ()
    wall_time: float | None = None
    cpu_time: float | None = None
    output: Size = None
    file_size: Size = None
    tmp_size: Size = None
    shm_size: Size = None
    open_files: int | str | float | None = None
    rlimits: Any = ()
    best_effort: Any = frozenset()
    cgroup_parent: Any = None

    def limit(self, field: str) -> int | float | None:
        """A limit's number with the default filled in; `math.inf` and None both mean no limit."""
        value: int | float | None = getattr(self, field)
        return DEFAULTS.get(field) if value is None else value

    def explain(self) -> str:
        """The plan for this spec on this host in words, and what each relaxation gives away."""
        # By name: this module stands below both, and is loaded without them.
        words = importlib.import_module("pycontainer.plan.explain")
        host = importlib.import_module("pycontainer.thishost")
        return str(words.explain(self, host.this_host()))


class SpecFields(TypedDict, total=False):
    """The fields of Spec as keywords of `run`, `Popen` and the rest."""

    rootfs: PathLike | None
    mounts: Iterable[Mount | Tmpfs]
    hostname: str
    network: Literal["none", "host"]
    prepared_networks: int
    id_range: int | None
    capabilities: Iterable[str]
    seccomp: str | Mapping[str, Any]
    ptrace: bool
    no_new_privileges: bool
    nesting: bool
    host_root_id: bool
    sysfs: Literal["none", "read-only"]
    boottime_offset: float | None
    memory: Size
    pids: int | str | float | None
    cpus: float | None
    cpu_weight: int | str | float | None
    cpuset: str | Iterable[int] | None
    io: IoLimit | Iterable[IoLimit]
    wall_time: float | None
    cpu_time: float | None
    output: Size
    file_size: Size
    tmp_size: Size
    shm_size: Size
    open_files: int | str | float | None
    rlimits: Mapping[str, Size]
    best_effort: Iterable[str]
    cgroup_parent: PathLike | None
