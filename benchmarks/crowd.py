"""Many containers alive at once: what each costs in memory, and how fast they end together.

    python benchmarks/crowd.py [--count 1000]

The same is done with the bare program first. Memory is what the machine has less of (MemAvailable,
kernel memory included) and the processes' PSS (shared pages divided by who shares them). Everything
is ended on every way out, and within TIME_LIMIT.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import attrs
from machine import machine_line, markdown, meminfo

import pycontainer

SLEEP = ["/bin/sleep", "600"]
TIME_LIMIT = 180  # seconds
SETTLE = 1.0  # the kernel frees some of what a start took only after a grace period
DESCRIPTORS_EACH = 16
Start = Callable[[], "subprocess.Popen[bytes]"]


@attrs.frozen(kw_only=True)
class Crowd:
    """So many of one kind. Bytes and seconds; `outside`: our processes that are in no container."""

    count: int
    starting: float
    available: int
    pss: int
    processes: int
    outside: int
    ending: float

    def row(self, name: str) -> list[str]:
        return [
            name, f"{self.available / self.count / 1024:.0f}",
            f"{self.pss / self.count / 1024:.0f}", f"{self.processes / self.count:.1f}",
            str(self.outside), f"{self.starting:.2f}", f"{self.ending:.2f}",
        ]  # fmt: skip


def descendants(ancestor: int) -> list[int]:
    """Every process below this one, at this moment."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    waiting = [ancestor]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _parents() -> Iterator[tuple[int, int]]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except OSError:  # it has ended since: ENOENT, ESRCH
                continue
            yield int(entry), int(stat.rpartition(")")[2].split()[1])


def pss_of(pid: int) -> int:
    """Bytes of a process's memory, what it shares divided by the number of those who share it."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except ProcessLookupError:  # it has ended and nobody has waited for it: no memory
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024


def measure(start: Start, count: int) -> Crowd:
    """Start them, look, end them."""
    with ExitStack() as undo:
        undo.callback(_end_all, [start()])  # what the first makes for all is not counted
        time.sleep(SETTLE)
        before = meminfo()["MemAvailable"]
        already = {os.getpid(), *descendants(os.getpid())}
        crowd: list[subprocess.Popen[bytes]] = []
        undo.callback(_end_all, crowd)
        began = time.monotonic()
        crowd.extend(start() for _ in range(count))
        starting = time.monotonic() - began
        time.sleep(SETTLE)
        available = before - meminfo()["MemAvailable"]
        processes = [pid for pid in descendants(os.getpid()) if pid not in already]
        pss = sum(pss_of(pid) for pid in processes)
        outside = sum(not in_container(pid) for pid in processes)
        began = time.monotonic()
        _end_all(crowd)
        ending = time.monotonic() - began
        return Crowd(
            count=count, starting=starting, available=available, pss=pss,
            processes=len(processes), outside=outside, ending=ending,
        )  # fmt: skip


def in_container(pid: int) -> bool:
    """Whether it is in another pid namespace than we are; who has ended is in none."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid") != os.readlink("/proc/self/ns/pid")
    except FileNotFoundError:
        return False


def _end_all(crowd: list[subprocess.Popen[bytes]]) -> None:
    """All at once: none waits for another to end."""
    for each in crowd:
        each.kill()
    for each in crowd:
        each.wait()


def allow_descriptors(count: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1024 + count * DESCRIPTORS_EACH), hard))


def _too_late(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"not done within {TIME_LIMIT} s")


def verdicts(contained: Crowd) -> list[list[str]]:
    """The targets: name, what it should be, what it was."""
    each = contained.count * 1024
    found = [
        ("MemAvailable each, KiB", 500, contained.available / each),
        ("PSS each, KiB", 200, contained.pss / each),
        ("processes outside", 0, contained.outside),
        ("ended together, s", 2, contained.ending),
    ]
    return [
        [name, f"at most {most}", f"{was:.4g}", "yes" if was <= most else "no"]
        for name, most, was in found
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="how many at once, up to 2,000")
    count = min(parser.parse_args().count, 2000)
    os.environ.setdefault("PYCONTAINER_CGROUP", "pycontainer-bench")
    allow_descriptors(count)
    signal.signal(signal.SIGALRM, _too_late)
    signal.alarm(TIME_LIMIT)
    bare = measure(lambda: subprocess.Popen(SLEEP), count)
    contained = measure(lambda: pycontainer.Popen(SLEEP), count)
    print(f"{time.strftime('%Y-%m-%d')}; {machine_line()}; {count} at once\n")
    header = [
        "`sleep 600`", "MemAvailable each, KiB", "PSS each, KiB", "processes each",
        "outside", "started in, s", "ended in, s",
    ]  # fmt: skip
    print(markdown(header, [bare.row("bare"), contained.row("pycontainer")]))
    print("\n" + markdown(["target", "", "measured", "met"], verdicts(contained)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
