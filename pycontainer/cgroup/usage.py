"""What a cgroup counted, read out of the texts of its files. Pure."""

from __future__ import annotations

from collections.abc import Callable

import attrs

# Reads a file of the cgroup by the controller that it belongs to; None where it does not exist.
Read = Callable[[str, str], str | None]


@attrs.frozen(kw_only=True)
class CgroupUsage:
    """Times in seconds, sizes in bytes; None is a figure that this cgroup does not count.

    `oom_kills` of version 2 counts the first process of each group kill twice, as the kernel does
    (mm/oom_kill.c; measured on 6.1).
    """

    user_time: float | None = None
    system_time: float | None = None
    peak_memory: int | None = None
    peak_pids: int | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None
    throttled: float | None = None
    oom_kills: int | None = None
    pids_refused: int | None = None


def usage_v1(read: Read) -> CgroupUsage:
    """The figures of version 1; processor time only where there is no version 2 beside it."""
    user, system = read("cpuacct", "cpuacct.usage_user"), read("cpuacct", "cpuacct.usage_sys")
    return CgroupUsage(
        user_time=None if user is None else int(user) / 1e9,
        system_time=None if system is None else int(system) / 1e9,
        peak_memory=_integer(read("memory", "memory.max_usage_in_bytes")),
        peak_pids=_integer(read("pids", "pids.peak")),
        read_bytes=_blkio_bytes(read("blkio", "blkio.throttle.io_service_bytes"), "Read"),
        written_bytes=_blkio_bytes(read("blkio", "blkio.throttle.io_service_bytes"), "Write"),
        throttled=_scaled(keyed(read("cpu", "cpu.stat")).get("throttled_time"), 1e9),
        oom_kills=keyed(read("memory", "memory.oom_control")).get("oom_kill"),
        pids_refused=keyed(read("pids", "pids.events")).get("max"),
    )


def usage_v2(read: Read) -> CgroupUsage:
    """The figures of version 2; without controllers these are user_time and system_time alone."""
    cpu = keyed(read("unified", "cpu.stat"))
    io = read("io", "io.stat")
    return CgroupUsage(
        user_time=_scaled(cpu.get("user_usec"), 1e6),
        system_time=_scaled(cpu.get("system_usec"), 1e6),
        peak_memory=_integer(read("memory", "memory.peak")),
        peak_pids=_integer(read("pids", "pids.peak")),
        read_bytes=_io_bytes(io, "rbytes"),
        written_bytes=_io_bytes(io, "wbytes"),
        throttled=_scaled(cpu.get("throttled_usec"), 1e6),
        oom_kills=keyed(read("memory", "memory.events")).get("oom_kill"),
        pids_refused=keyed(read("pids", "pids.events")).get("max"),
    )


def merged(first: CgroupUsage, second: CgroupUsage) -> CgroupUsage:
    """Each figure from the first that has it."""
    mine, other = attrs.asdict(first), attrs.asdict(second)
    return CgroupUsage(**{key: mine[key] if mine[key] is not None else other[key] for key in mine})


def keyed(text: str | None) -> dict[str, int]:
    """A flat keyed file: one `key number` a line."""
    pairs = (line.split() for line in (text or "").splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _integer(text: str | None) -> int | None:
    return None if text is None else int(text)


def _scaled(value: int | None, unit: float) -> float | None:
    return None if value is None else value / unit


def _blkio_bytes(text: str | None, direction: str) -> int | None:
    # 254:0 Read 4096
    if text is None:
        return None
    rows = (line.split() for line in text.splitlines())
    return sum(int(row[2]) for row in rows if len(row) == 3 and row[1] == direction)


def _io_bytes(text: str | None, key: str) -> int | None:
    # 254:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0
    if text is None:
        return None
    pairs = (word.partition("=") for word in text.split())
    return sum(int(value) for name, _, value in pairs if name == key)
