"""The checks of what callers pass: each returns the value in its one form, or raises SpecError with
the field's name, the value and what is allowed."""

from __future__ import annotations

import json
import math
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from pycontainer import sizes
from pycontainer.errors import SpecError

T = TypeVar("T")
Check = Callable[[Any], Any]

CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
    "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO "
    "SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME "
    "SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG "
    "WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
).split()  # in the kernel's order: the index is the number (linux/capability.h)
# The kernel's numbers on x86-64 and aarch64 (asm-generic/resource.h).
RLIMITS = {
    "cpu": 0, "fsize": 1, "data": 2, "stack": 3, "core": 4, "rss": 5, "nproc": 6, "nofile": 7,
    "memlock": 8, "as": 9, "locks": 10, "sigpending": 11, "msgqueue": 12, "nice": 13,
    "rtprio": 14, "rttime": 15,
}  # fmt: skip
_HOSTNAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9-]{1,63})*")
_CPUSET = re.compile(r"\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*", re.ASCII)
_LARGEST_ID = 2**32 - 2  # -1 means "no change" to the kernel


def checked_by(checks: Mapping[str, Check]) -> Callable[[type, list[Any]], list[Any]]:
    """For `attrs.frozen(field_transformer=…)`: each field goes through its check when it is set."""

    def add(cls: type, fields: list[Any]) -> list[Any]:
        return [field.evolve(converter=checks.get(field.name)) for field in fields]

    return add


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


def inside_path(value: Any) -> str:
    text = path_text("target", value)
    if not text.startswith("/") or ".." in text.split("/"):
        raise SpecError("target", value, "an absolute path inside the container, without '..'")
    return posixpath.normpath("/" + text.lstrip("/"))


def size(field: str, *, smallest: int = 1) -> Callable[[Any], int | float | None]:
    def convert(value: Any) -> int | float | None:
        return None if value is None else sizes.parse_size(field, value, smallest=smallest)

    return convert


def count(field: str, smallest: int, largest: int) -> Callable[[Any], int | float | None]:
    def convert(value: Any) -> int | float | None:
        if value is None:
            return None
        return sizes.parse_count(field, value, smallest=smallest, largest=largest)

    return convert


def seconds(field: str) -> Callable[[Any], float | None]:
    return lambda value: None if value is None else sizes.parse_seconds(field, value)


def boolean(field: str) -> Callable[[Any], bool]:
    def convert(value: Any) -> bool:
        if not isinstance(value, bool):
            raise SpecError(field, value, "True or False")
        return value

    return convert


def one_of(field: str, *allowed: Any) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if not isinstance(value, str) or value not in allowed:
            raise SpecError(field, value, "one of " + ", ".join(map(repr, allowed)))
        return value

    return convert


def optional(convert: Callable[[Any], T]) -> Callable[[Any], T | None]:
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


def groups(value: Any) -> tuple[int | str, ...]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise SpecError("extra_groups", value, "a sequence of group ids or names")
    groups = tuple(parse_id("extra_groups", group) for group in value)
    if len(groups) > 65536:
        raise SpecError("extra_groups", f"{len(groups)} groups", "at most 65,536 (NGROUPS_MAX)")
    return groups


def hostname(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 64 or not _HOSTNAME.fullmatch(value):
        raise SpecError("hostname", value, "letters, digits, '-' and '.', at most 64")
    return value


def cpus(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.01 <= value <= 8192:
        raise SpecError("cpus", value, "a number of processors from 0.01 to 8192")
    return float(value)


def cpuset(value: Any) -> str:
    text = value if isinstance(value, str) else None
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        text = ",".join(str(cpu) for cpu in value)
    if text is None or not _CPUSET.fullmatch(text):
        raise SpecError("cpuset", value, 'processors as the kernel writes them, such as "0-3,6"')
    return text


def capabilities(value: Any) -> frozenset[str]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise SpecError("capabilities", value, 'a set of names such as {"NET_BIND_SERVICE"}')
    names = frozenset(str(name).upper().removeprefix("CAP_") for name in value)
    for name in sorted(names.difference(CAPABILITIES)):
        raise SpecError("capabilities", name, "a capability's name from capabilities(7)")
    return names


def names(field: str, allowed: frozenset[str]) -> Callable[[Any], frozenset[str]]:
    def convert(value: Any) -> frozenset[str]:
        if isinstance(value, str | bytes) or not isinstance(value, Iterable):
            raise SpecError(field, value, "a collection of names")
        names = frozenset(value)
        for name in sorted(map(str, names.difference(allowed))):
            raise SpecError(field, name, "one of " + ", ".join(sorted(allowed)))
        return names

    return convert


def rlimits(value: Any) -> tuple[tuple[str, int], ...]:
    if not isinstance(value, Mapping):
        if isinstance(value, tuple):
            value = dict(value)
        else:
            raise SpecError("rlimits", value, 'a mapping such as {"stack": "64M"}')
    return tuple(sorted((name, rlimit(name, limit)) for name, limit in value.items()))


def rlimit(name: Any, limit: Any) -> int:
    if name not in RLIMITS:
        raise SpecError("rlimits", name, "one of " + ", ".join(RLIMITS))
    size = sizes.parse_size(f"rlimits[{name!r}]", limit, smallest=0)
    return 2**64 - 1 if size == math.inf else int(size)


def seccomp(value: Any) -> str:
    """The name of a built-in profile, or an OCI profile kept as canonical JSON text (hashable)."""
    if value in ("default", "unconfined"):
        return str(value)
    if isinstance(value, str) and value[:1] == "{":
        try:
            value = json.loads(value)
        except ValueError as error:
            raise SpecError("seccomp", value, f"valid JSON ({error})") from None
    if isinstance(value, Mapping):
        return json.dumps(value, sort_keys=True)
    allowed = '"default", "unconfined", or a profile in Docker\'s JSON format'
    raise SpecError("seccomp", value, allowed)


def whole_number(field: str, smallest: int, largest: int) -> Check:
    """An int within bounds, without "max"."""

    def convert(value: Any) -> int:
        if (
            isinstance(value, bool)
            or not isinstance(value, int)
            or not smallest <= value <= largest
        ):
            raise SpecError(field, value, f"a whole number from {smallest} to {largest}")
        return value

    return convert


def offset(value: Any) -> float:
    """Seconds to either side."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e9 < value < 1e9:
        raise SpecError("boottime_offset", value, "None, or seconds within ±10^9")
    return float(value)


def sequence_of(field: str, *kinds: type, most: int = 4096) -> Check:
    """A tuple of values of these types, from any iterable or from a single one."""
    shown = " or ".join(kind.__name__ for kind in kinds)

    def convert(value: Any) -> tuple[Any, ...]:
        if isinstance(value, kinds):
            return (value,)
        if isinstance(value, str | bytes) or not isinstance(value, Iterable):
            raise SpecError(field, value, f"a sequence of {shown}")
        values = tuple(value)
        for each in values:
            if not isinstance(each, kinds):
                raise SpecError(field, each, f"a {shown}")
        if len(values) > most:
            raise SpecError(field, f"{len(values)} of them", f"at most {most:,}")
        return values

    return convert
