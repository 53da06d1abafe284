"""What to isolate and how far: `Spec` and its parts, checked when made, immutable afterwards.

None in a limit means the default below, applied where the host can and named in `.not_enforced`
where it cannot; a number must hold or `run` raises UnsupportedError; `"max"` means no limit.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypedDict, TypeVar

import attrs

from pycontainer import sizes
from pycontainer.errors import SpecError

T = TypeVar("T")
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
CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
    "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO "
    "SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME "
    "SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG "
    "WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
).split()  # in the kernel's order: the index is the number (linux/capability.h)
# What can be given up by name with best_effort=.
BEST_EFFORT = frozenset(
    {"memory", "swap", "pids", "cpus", "cpu_weight", "cpuset", "io", "cpu_time", "time", "cgroup"}
)
_HOSTNAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9-]{1,63})*")
_LARGEST_ID = 2**32 - 2  # -1 means "no change" to the kernel


def path_text(field: str, value: Any) -> str:
    """A path as str (undecodable bytes escaped); refuses NUL, emptiness and over-long names."""
    try:
        text = os.fsdecode(value)
    except TypeError:
        raise SpecError(field, value, "a path: str, bytes or os.PathLike") from None
    if not text or "\0" in text:
        raise SpecError(field, value, "a path that is not empty and has no NUL")
    if len(os.fsencode(text)) > 4095:
        raise SpecError(field, value, "a path of at most 4,095 bytes (PATH_MAX)")
    return text


def _inside_path(value: Any) -> str:
    text = path_text("target", value)
    if not text.startswith("/") or ".." in text.split("/"):
        raise SpecError("target", value, "an absolute path inside the container, without '..'")
    return os.path.normpath("/" + text.lstrip("/"))


def _size(field: str, *, smallest: int = 1) -> Callable[[Any], int | float | None]:
    def convert(value: Any) -> int | float | None:
        return None if value is None else sizes.parse_size(field, value, smallest=smallest)

    return convert


def _count(field: str, smallest: int, largest: int) -> Callable[[Any], int | float | None]:
    def convert(value: Any) -> int | float | None:
        if value is None:
            return None
        return sizes.parse_count(field, value, smallest=smallest, largest=largest)

    return convert


def _seconds(field: str) -> Callable[[Any], float | None]:
    return lambda value: None if value is None else sizes.parse_seconds(field, value)


def _boolean(field: str) -> Callable[[Any], bool]:
    def convert(value: Any) -> bool:
        if not isinstance(value, bool):
            raise SpecError(field, value, "True or False")
        return value

    return convert


def _one_of(field: str, *allowed: Any) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if not isinstance(value, str) or value not in allowed:
            raise SpecError(field, value, "one of " + ", ".join(map(repr, allowed)))
        return value

    return convert


def _optional(convert: Callable[[Any], T]) -> Callable[[Any], T | None]:
    return lambda value: None if value is None else convert(value)


def parse_id(field: str, value: Any) -> int | str:
    """A numeric id (0 to 2^32-2) or a name to look up inside; "1" is the number one."""
    if isinstance(value, str):
        if re.fullmatch(r"0|[1-9][0-9]{0,9}", value, re.ASCII):
            value = int(value)
        elif re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,30}\$?", value, re.ASCII):
            return value
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST_ID:
        raise SpecError(field, value, f"an id from 0 to {_LARGEST_ID}, or a user or group name")
    return value


def _groups(value: Any) -> tuple[int | str, ...]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise SpecError("extra_groups", value, "a sequence of group ids or names")
    groups = tuple(parse_id("extra_groups", group) for group in value)
    if len(groups) > 65536:
        raise SpecError("extra_groups", f"{len(groups)} groups", "at most 65,536 (NGROUPS_MAX)")
    return groups


def _hostname(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 64 or not _HOSTNAME.fullmatch(value):
        raise SpecError("hostname", value, "letters, digits, '-' and '.', at most 64")
    return value


def _cpus(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.01 <= value <= 8192:
        raise SpecError("cpus", value, "a number of processors from 0.01 to 8192")
    return float(value)


def _cpuset(value: Any) -> str:
    text = value if isinstance(value, str) else None
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        text = ",".join(str(cpu) for cpu in value)
    if text is None or not re.fullmatch(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*", text, re.A):
        raise SpecError("cpuset", value, 'processors as the kernel writes them, such as "0-3,6"')
    return text


def _capabilities(value: Any) -> frozenset[str]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise SpecError("capabilities", value, 'a set of names such as {"NET_BIND_SERVICE"}')
    names = frozenset(str(name).upper().removeprefix("CAP_") for name in value)
    for name in sorted(names.difference(CAPABILITIES)):
        raise SpecError("capabilities", name, "a capability's name from capabilities(7)")
    return names


def _names(field: str, allowed: frozenset[str]) -> Callable[[Any], frozenset[str]]:
    def convert(value: Any) -> frozenset[str]:
        if isinstance(value, str | bytes) or not isinstance(value, Iterable):
            raise SpecError(field, value, "a collection of names")
        names = frozenset(value)
        for name in sorted(map(str, names.difference(allowed))):
            raise SpecError(field, name, "one of " + ", ".join(sorted(allowed)))
        return names

    return convert


def _rlimits(value: Any) -> tuple[tuple[str, int], ...]:
    if not isinstance(value, Mapping):
        if isinstance(value, tuple):
            value = dict(value)
        else:
            raise SpecError("rlimits", value, 'a mapping such as {"stack": "64M"}')
    return tuple(sorted((name, _rlimit(name, limit)) for name, limit in value.items()))


# The kernel's numbers on x86-64 and aarch64 (asm-generic/resource.h).
RLIMITS = {
    "cpu": 0, "fsize": 1, "data": 2, "stack": 3, "core": 4, "rss": 5, "nproc": 6, "nofile": 7,
    "memlock": 8, "as": 9, "locks": 10, "sigpending": 11, "msgqueue": 12, "nice": 13,
    "rtprio": 14, "rttime": 15,
}  # fmt: skip


def _rlimit(name: Any, limit: Any) -> int:
    if name not in RLIMITS:
        raise SpecError("rlimits", name, "one of " + ", ".join(RLIMITS))
    size = sizes.parse_size(f"rlimits[{name!r}]", limit, smallest=0)
    return 2**64 - 1 if size == math.inf else int(size)


@attrs.frozen(kw_only=True)
class IoLimit:
    """A cap on one block device: bytes and operations a second; None leaves that one free.

    `device` is a path on the host: a block device, or any file on the file system to limit.
    """

    device: str = attrs.field(converter=lambda value: path_text("device", value))
    read_bps: int | float | None = attrs.field(default=None, converter=_size("read_bps"))
    write_bps: int | float | None = attrs.field(default=None, converter=_size("write_bps"))
    read_iops: int | float | None = attrs.field(
        default=None, converter=_count("read_iops", 1, 2**32)
    )
    write_iops: int | float | None = attrs.field(
        default=None, converter=_count("write_iops", 1, 2**32)
    )


@attrs.frozen
class Mount:
    """A file or directory of the host, bound into the container: host path first.

    nosuid and nodev always, read-only and with all mounts below it unless said otherwise.
    """

    source: str = attrs.field(converter=lambda value: path_text("source", value))
    target: str = attrs.field(converter=_inside_path)
    read_only: bool = attrs.field(
        default=True, converter=_boolean("read_only"), kw_only=True
    )
    executable: bool = attrs.field(
        default=True, converter=_boolean("executable"), kw_only=True
    )


@attrs.frozen
class Tmpfs:
    """An empty file system in memory, private to the container and capped in bytes and files."""

    target: str = attrs.field(converter=_inside_path)
    size: int | float = attrs.field(
        default=64 * MEBIBYTE,
        converter=lambda value: sizes.parse_size("size", value, smallest=4096),
        kw_only=True,
    )
    inodes: int = attrs.field(
        default=65536,
        converter=lambda value: int(
            sizes.parse_count("inodes", value, smallest=2, largest=2**31 - 1)
        ),
        kw_only=True,
    )
    mode: int = attrs.field(default=0o1777, kw_only=True)
    executable: bool = attrs.field(
        default=True, converter=_boolean("executable"), kw_only=True
    )

    @mode.validator
    def _check_mode(self, attribute: Any, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 0o7777:
            raise SpecError("mode", value, "permission bits from 0 to 0o7777")


def _mounts(value: Any) -> tuple[Mount | Tmpfs, ...]:
    if isinstance(value, str | bytes | Mount | Tmpfs) or not isinstance(value, Iterable):
        raise SpecError("mounts", value, "a sequence of Mount and Tmpfs")
    mounts = tuple(value)
    for mount in mounts:
        if not isinstance(mount, Mount | Tmpfs):
            raise SpecError("mounts", mount, "a Mount or a Tmpfs")
        if mount.target == "/":
            raise SpecError("mounts", mount, "a target below '/' (the root itself is rootfs=)")
    if len(mounts) > 4096:
        raise SpecError("mounts", f"{len(mounts)} mounts", "at most 4,096")
    return mounts


def _io(value: Any) -> tuple[IoLimit, ...]:
    limits = (value,) if isinstance(value, IoLimit) else tuple(value)
    for limit in limits:
        if not isinstance(limit, IoLimit):
            raise SpecError("io", limit, "an IoLimit, or a sequence of them")
    return limits


def _seccomp(value: Any) -> Any:
    """The name of a built-in profile, or an OCI profile kept as canonical JSON text (hashable)."""
    import json

    if isinstance(value, str) and (value in ("default", "unconfined") or value[:1] == "{"):
        return value
    if isinstance(value, Mapping):
        return json.dumps(value, sort_keys=True)
    raise SpecError(
        "seccomp", value, '"default", "unconfined", or a profile in Docker\'s JSON format'
    )


@attrs.frozen(kw_only=True)
class Limits:
    """What a cgroup enforces, in bytes, processors and counts. None: the kernel's default."""

    memory: int | None = None
    pids: int | None = None
    cpus: float | None = None
    cpu_weight: int | None = None
    cpuset: str | None = None
    io: tuple[IoLimit, ...] = ()


# What seals a container and cannot be given up by a default: namespaces(7), clone3's flags.
NAMESPACES = frozenset({"mnt", "pid", "net", "ipc", "uts", "cgroup", "user", "time"})


@attrs.frozen(kw_only=True)
class Spec:
    """Everything that isolates, for `run`, `Popen` and all that stands on them.

    The defaults are the strongest settings under which ordinary programs run. Each relaxation is
    one named argument; `explain()` says what it gives away. Raises SpecError naming the field.
    """

    rootfs: str | None = attrs.field(
        default=None, converter=_optional(lambda value: path_text("rootfs", value))
    )
    mounts: tuple[Mount | Tmpfs, ...] = attrs.field(default=(), converter=_mounts)
    hostname: str = attrs.field(default="container", converter=_hostname)
    network: Literal["none", "host"] = attrs.field(
        default="none", converter=_one_of("network", "none", "host")
    )
    prepared_networks: int = attrs.field(default=0)
    user: int | str = attrs.field(default=1000, converter=lambda v: parse_id("user", v))
    group: int | str | None = attrs.field(
        default=None, converter=_optional(lambda v: parse_id("group", v))
    )
    extra_groups: tuple[int | str, ...] = attrs.field(default=(), converter=_groups)
    id_range: int | None = attrs.field(default=None)
    capabilities: frozenset[str] = attrs.field(default=frozenset(), converter=_capabilities)
    seccomp: str = attrs.field(default="default", converter=_seccomp)
    ptrace: bool = attrs.field(default=False, converter=_boolean("ptrace"))
    no_new_privileges: bool = attrs.field(default=True, converter=_boolean("no_new_privileges"))
    nesting: bool = attrs.field(default=False, converter=_boolean("nesting"))
    host_root_id: bool = attrs.field(default=False, converter=_boolean("host_root_id"))
    sysfs: Literal["none", "read-only"] = attrs.field(
        default="none", converter=_one_of("sysfs", "none", "read-only")
    )
    boottime_offset: float | None = attrs.field(default=None)

    memory: int | float | None = attrs.field(
        default=None, converter=_size("memory", smallest=1 << 20)
    )
    pids: int | float | None = attrs.field(default=None, converter=_count("pids", 1, 4194304))
    cpus: float | None = attrs.field(default=None, converter=_optional(_cpus))
    cpu_weight: int | float | None = attrs.field(
        default=None, converter=_count("cpu_weight", 1, 10000)
    )
    cpuset: str | None = attrs.field(default=None, converter=_optional(_cpuset))
    io: tuple[IoLimit, ...] = attrs.field(default=(), converter=_io)
    wall_time: float | None = attrs.field(default=None, converter=_seconds("wall_time"))
    cpu_time: float | None = attrs.field(default=None, converter=_seconds("cpu_time"))
    output: int | float | None = attrs.field(default=None, converter=_size("output", smallest=0))
    file_size: int | float | None = attrs.field(
        default=None, converter=_size("file_size", smallest=0)
    )
    tmp_size: int | float | None = attrs.field(
        default=None, converter=_size("tmp_size", smallest=4096)
    )
    shm_size: int | float | None = attrs.field(
        default=None, converter=_size("shm_size", smallest=4096)
    )
    open_files: int | float | None = attrs.field(
        default=None, converter=_count("open_files", 3, 1048576)
    )
    rlimits: tuple[tuple[str, int], ...] = attrs.field(default=(), converter=_rlimits)
    best_effort: frozenset[str] = attrs.field(
        default=frozenset(), converter=_names("best_effort", BEST_EFFORT)
    )
    cgroup_parent: str | None = attrs.field(
        default=None, converter=_optional(lambda value: path_text("cgroup_parent", value))
    )

    @id_range.validator
    def _check_id_range(self, attribute: Any, value: Any) -> None:
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65536
        ):
            raise SpecError("id_range", value, "None, or a number of ids from 1 to 65,536")

    @prepared_networks.validator
    def _check_prepared(self, attribute: Any, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 64:
            raise SpecError("prepared_networks", value, "0 to 64 network namespaces made ahead")

    @boottime_offset.validator
    def _check_boottime(self, attribute: Any, value: Any) -> None:
        if value is not None and (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not -1e9 < value < 1e9
        ):
            raise SpecError("boottime_offset", value, "None, or seconds within ±10^9")

    def limit(self, field: str) -> int | float | None:
        """A limit's number with the default filled in; `math.inf` and None both mean no limit."""
        value: int | float | None = getattr(self, field)
        return DEFAULTS.get(field) if value is None else value

    def explain(self) -> str:
        """The plan for this spec on this host in words, and what each relaxation gives away."""
        from pycontainer.plan.explain import explain

        return explain(self)


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
