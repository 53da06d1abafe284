"""Limits as the texts that the kernel's control files take, for both versions. Pure.

A setting is (file, text); within a controller the order is the order of writing. Source: the
kernel's Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/*.rst.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pycontainer.spec import IoLimit, Limits

Settings = list[tuple[str, str]]
# The kernel's own default; a shorter period costs more switches, a longer one stutters.
PERIOD_US = 100_000
_SMALLEST_QUOTA_US = 1_000  # kernel/sched/core.c: min_cfs_quota_period
# The controller that enforces each limit, by version.
CONTROLLER_V1 = {
    "memory": "memory",
    "swap": "memory",
    "pids": "pids",
    "cpus": "cpu",
    "cpu_weight": "cpu",
    "cpuset": "cpuset",
    "io": "blkio",
}
CONTROLLER_V2 = CONTROLLER_V1 | {"io": "io"}


def settings_v1(
    controller: str, limits: Limits, files: frozenset[str], devices: Mapping[IoLimit, str]
) -> Settings:
    """What to write into a cgroup of version 1 that has these files. `devices`: 254:0 of each."""
    match controller:
        case "memory" if limits.memory is not None:
            return _memory_v1(limits.memory, files)
        case "pids" if limits.pids is not None:
            return [("pids.max", _number(limits.pids))]
        case "cpu":
            return _cpu_v1(limits)
        case "cpuset" if limits.cpuset is not None:
            return [("cpuset.cpus", limits.cpuset)]
        case "blkio":
            return [pair for limit in limits.io for pair in _io_v1(limit, devices[limit])]
    return []


def settings_v2(
    limits: Limits,
    files: frozenset[str],
    controllers: frozenset[str],
    devices: Mapping[IoLimit, str],
) -> Settings:
    """What to write into a cgroup of version 2 that has these files and controllers.

    Limits of the others are those of a version 1 hierarchy beside it.
    """
    settings: Settings = []
    if limits.memory is not None and "memory" in controllers:
        settings.append(("memory.max", _number(limits.memory)))
        # The limit is a limit of memory and swap together, as in version 1: no swap at all.
        # One process killed out of many leaves a container in an unknown state: all or none.
        for file, text in (("memory.swap.max", "0"), ("memory.oom.group", "1")):
            if file in files:
                settings.append((file, text))
    if limits.pids is not None and "pids" in controllers:
        settings.append(("pids.max", _number(limits.pids)))
    if limits.cpus is not None and "cpu" in controllers:
        quota = "max" if limits.cpus == math.inf else str(quota_us(limits.cpus))
        settings.append(("cpu.max", f"{quota} {PERIOD_US}"))
    if limits.cpu_weight is not None and "cpu" in controllers:
        settings.append(("cpu.weight", str(limits.cpu_weight)))
    if limits.cpuset is not None and "cpuset" in controllers:
        settings.append(("cpuset.cpus", limits.cpuset))
    if "io" in controllers:
        settings += [("io.max", _io_v2(limit, devices[limit])) for limit in limits.io]
    return settings


def quota_us(cpus: float) -> int:
    """Microseconds of run time in a period; the kernel takes no less than one millisecond."""
    return max(_SMALLEST_QUOTA_US, round(cpus * PERIOD_US))


def shares(weight: int) -> int:
    """cpu.weight (1 to 10000, default 100) as cpu.shares (2 to 262144, default 1024)."""
    return max(2, weight * 1024 // 100)


def _memory_v1(memory: int, files: frozenset[str]) -> Settings:
    limit = ("memory.limit_in_bytes", _number(memory, "-1"))
    if "memory.memsw.limit_in_bytes" in files:
        # memsw may never be below the limit: down in this order, up in the reverse one.
        return [limit, ("memory.memsw.limit_in_bytes", _number(memory, "-1"))]
    # Kernels booted with swapaccount=0: the nearest thing is not to swap this cgroup.
    return [limit, ("memory.swappiness", "0")]


def _cpu_v1(limits: Limits) -> Settings:
    settings: Settings = []
    if limits.cpus is not None:
        # A new cgroup's period is PERIOD_US already (kernel/sched/core.c: default_cfs_period).
        quota = "-1" if limits.cpus == math.inf else str(quota_us(limits.cpus))
        settings.append(("cpu.cfs_quota_us", quota))
    if limits.cpu_weight is not None:
        settings.append(("cpu.shares", str(shares(limits.cpu_weight))))
    return settings


def _rates(limit: IoLimit) -> list[tuple[str, str, Any]]:
    rates = (
        ("rbps", "read_bps", limit.read_bps),
        ("wbps", "write_bps", limit.write_bps),
        ("riops", "read_iops", limit.read_iops),
        ("wiops", "write_iops", limit.write_iops),
    )
    return [(key, file, rate) for key, file, rate in rates if rate is not None]


def _io_v1(limit: IoLimit, device: str) -> Settings:
    return [
        (f"blkio.throttle.{file}_device", f"{device} {_number(rate, '0')}")
        for _, file, rate in _rates(limit)
    ]


def _io_v2(limit: IoLimit, device: str) -> str:
    return " ".join([device, *(f"{key}={_number(rate)}" for key, _, rate in _rates(limit))])


def _number(value: int | float, unlimited: str = "max") -> str:
    return unlimited if value == math.inf else str(int(value))
