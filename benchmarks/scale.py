"""What one run's time does not tell: threads, large applications, and Python's own share.

`python scale.py serve [large]` is an application that starts containers on demand (see Flatness).
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from typing import Self

import attrs

import pycontainer
from pycontainer.base import bases

TRUE = ["/bin/true"]
LARGE_MEMORY = 2 << 30
LARGE_DESCRIPTORS = 10_000


def throughput(threads: int, seconds: float) -> float:
    """Runs a second of this many threads of one application together."""
    ready = threading.Barrier(threads + 1)
    counts = [0] * threads

    def work(number: int) -> None:
        ready.wait()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pycontainer.run(TRUE)
            counts[number] += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    ready.wait()
    began = time.monotonic()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.monotonic() - began)


@attrs.frozen(kw_only=True)
class Share:
    """CPU seconds that the calling thread spends on one run, outside and inside the kernel.

    The sum is exact. The kernel splits it by what each tick interrupted, so take 1,000 runs.
    """

    user: float
    system: float


def python_share(runs: int) -> Share:
    """What Python, the binding and the calls into the kernel take of the caller's thread."""
    for _ in range(10):
        pycontainer.run(TRUE)
    before = resource.getrusage(resource.RUSAGE_THREAD)
    for _ in range(runs):
        pycontainer.run(TRUE)
    after = resource.getrusage(resource.RUSAGE_THREAD)
    return Share(
        user=(after.ru_utime - before.ru_utime) / runs,
        system=(after.ru_stime - before.ru_stime) / runs,
    )


def with_new_base(runs: int) -> float:
    """Seconds of a run that first prepares the mount namespace that runs share (median)."""
    times = []
    for _ in range(runs):
        bases().clear()
        began = time.perf_counter()
        pycontainer.run(TRUE)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


class Application:
    """Owns an application of its own process, small or large, that starts containers on demand."""

    def __init__(self, *, large: bool) -> None:
        command = [sys.executable, __file__, "serve", *(["large"] if large else [])]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def times(self, runs: int) -> list[float]:
        """Seconds of so many runs back to back."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{runs}\n")
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the application has ended: see its error above")
        times: list[float] = json.loads(answer)
        return times

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.communicate()


@attrs.frozen(kw_only=True)
class Flatness:
    """Medians of a small application and of one with LARGE_MEMORY and LARGE_DESCRIPTORS."""

    small: float
    large: float

    @property
    def ratio(self) -> float:
        return self.large / self.small


def flatness(rounds: int, batch: int = 10) -> Flatness:
    """Both applications in turn, round by round."""
    small_times: list[float] = []
    large_times: list[float] = []
    with Application(large=False) as small, Application(large=True) as large:
        for application in (small, large):
            application.times(3)
        for _ in range(rounds):
            small_times += small.times(batch)
            large_times += large.times(batch)
    return Flatness(small=statistics.median(small_times), large=statistics.median(large_times))


def _grow() -> object:
    """2 GiB that are really there, and 10,000 open descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2 * LARGE_DESCRIPTORS), hard))
    memory = b"\1" * LARGE_MEMORY
    return memory, [os.open("/dev/null", os.O_RDONLY) for _ in range(LARGE_DESCRIPTORS)]


def _serve() -> None:
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            began = time.perf_counter()
            pycontainer.run(TRUE)
            times.append(time.perf_counter() - began)
        print(json.dumps(times), flush=True)


if __name__ == "__main__" and sys.argv[1:2] == ["serve"]:
    kept = _grow() if sys.argv[2:] == ["large"] else None
    _serve()
