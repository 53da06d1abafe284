"""Where a measurement was made, and what it cost the whole machine."""

from __future__ import annotations

import os
import platform
import resource
import time
from pathlib import Path

import attrs

TICK = os.sysconf("SC_CLK_TCK")
CPUS = os.cpu_count() or 1


def machine_line() -> str:
    """One line that names processor, kernel, Python and how busy it was."""
    model = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if "model name" in line),
        platform.machine(),
    )
    memory = meminfo()["MemTotal"] / 2**30
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    return (
        f"{model}, {CPUS} CPUs, {memory:.0f} GiB; Linux {platform.release()}; "
        f"CPython {platform.python_version()}; {_user()}; load {load}"
    )


def _user() -> str:
    return "root" if os.geteuid() == 0 else "ordinary user"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def meminfo() -> dict[str, int]:
    """/proc/meminfo in bytes."""
    pairs = (line.split(":") for line in _lines("/proc/meminfo"))
    return {name: int(value.split()[0]) * 1024 for name, value in pairs}


@attrs.frozen(kw_only=True)
class CpuTime:
    """CPU seconds so far: of this process and its reaped children, and of the whole machine.

    The machine's are what was not idle: the kernel counts idle time exactly where it stops the
    tick, busy time only by sampling. Both are read in units of 10 ms, so take many runs together.
    Only the machine's include kernel workers, which take network namespaces and cgroups down.
    """

    own: float
    machine: float

    @classmethod
    def now(cls) -> CpuTime:
        own = 0.0
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            usage = resource.getrusage(who)
            own += usage.ru_utime + usage.ru_stime
        fields = _lines("/proc/stat")[0].split()
        idle = (int(fields[4]) + int(fields[5])) / TICK
        return cls(own=own, machine=time.monotonic() * CPUS - idle)

    def __sub__(self, earlier: CpuTime) -> CpuTime:
        return CpuTime(own=self.own - earlier.own, machine=self.machine - earlier.machine)

    def __add__(self, other: CpuTime) -> CpuTime:
        return CpuTime(own=self.own + other.own, machine=self.machine + other.machine)

    def per(self, runs: int) -> CpuTime:
        return CpuTime(own=self.own / runs, machine=self.machine / runs)


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table, first column left, numbers right."""
    rule = ["---", *("---:" for _ in header[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))
