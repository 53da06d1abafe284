"""How long it takes to start a program in a container and to know how it ended, beside peers.

    python benchmarks/spawn.py [--rounds N] [--subjects 'a;b'] [--programs 'a;b'] [--json FILE]

All subjects take turns, round by round, in one run, so that whatever else the machine does meets
them all; read the ratios, the milliseconds belong to one machine on one day. Two ways: back to
back, and after 60 ms of nothing (some costs of the kernel hide when runs follow each other).
Needs pycontainer importable; a C compiler for the static program; peers that are not installed are
named. docs/performance.md holds the tables and what is in them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import scale
from machine import CpuTime, machine_line, markdown
from peers import Argv, CommandLine, Missing, Subject, available
from programs import Scratch, scratch

import pycontainer

GAP = 0.060
SETTLE = 0.030  # what the kernel still does for one subject (taking down namespaces) ends here
FIRST = "posix_spawn"
OURS = "pycontainer"
BESIDE = (FIRST, "bubblewrap", "crun")
# One part left out at a time, to see what it costs.
LEFT_OUT: dict[str, dict[str, Any]] = {
    OURS: {},
    f"{OURS}, no cgroup limits": {"memory": "max", "pids": "max"},
    f"{OURS}, network=host": {"network": "host"},
    f"{OURS}, no seccomp": {"seccomp": "unconfined"},
    f"{OURS}, 4 networks prepared": {"prepared_networks": 4},
}


@attrs.frozen
class Subprocess:
    """subprocess.run: what an application does without a container."""

    name: str

    def run(self, argv: Argv) -> None:
        subprocess.run(argv, check=True)


@attrs.frozen
class Contained:
    """pycontainer.run of a spec."""

    name: str
    spec: pycontainer.Spec

    def run(self, argv: Argv) -> None:
        pycontainer.run(argv, check=True, spec=self.spec)


def own_subjects(scratch: Scratch) -> list[Subject]:
    """Those without a peer: nothing around the program, and pycontainer whole and in parts."""
    directory = str(scratch.path / "bin")
    shown = [pycontainer.Mount(directory, directory)]
    return [
        CommandLine(FIRST, list),
        Subprocess("subprocess.run"),
        *(
            Contained(name, pycontainer.Spec(mounts=shown, **fields))
            for name, fields in LEFT_OUT.items()
        ),
    ]


@attrs.define
class Measured:
    """All runs of one subject with one program; seconds."""

    back_to_back: list[float] = attrs.field(factory=list)
    spaced: list[float] = attrs.field(factory=list)
    cpu: CpuTime = attrs.field(factory=lambda: CpuTime(own=0, machine=0))
    cpu_runs: int = 0

    def medians(self) -> tuple[float, float]:
        return statistics.median(self.back_to_back), statistics.median(self.spaced)


def in_turns(subjects: Sequence[Subject], rounds: int) -> Iterator[Subject]:
    """Each subject once a round; who begins changes from round to round."""
    for number in range(rounds):
        first = number % len(subjects)
        yield from (*subjects[first:], *subjects[:first])


def timed(subject: Subject, argv: Argv) -> float:
    began = time.perf_counter()
    subject.run(argv)
    return time.perf_counter() - began


def run_back_to_back(subject: Subject, argv: Argv, batch: int, measured: Measured) -> None:
    """One run that does not count (it follows a pause), then the batch; the CPU time of them all,
    with what the kernel does later."""
    before = CpuTime.now()
    subject.run(argv)
    measured.back_to_back += [timed(subject, argv) for _ in range(batch)]
    time.sleep(SETTLE)
    measured.cpu += CpuTime.now() - before
    measured.cpu_runs += batch + 1


def run_spaced(subject: Subject, argv: Argv) -> list[float]:
    """Two runs, and before them one that does not count: runc mounts something on the host, which
    makes pycontainer prepare its mount namespace again."""
    times = []
    for _ in range(3):
        time.sleep(GAP)
        times.append(timed(subject, argv))
    return times[1:]


def measure(
    subjects: Sequence[Subject], argv: Argv, rounds: int, batch: int
) -> dict[str, Measured]:
    """Every subject with one program, both ways."""
    found = {subject.name: Measured() for subject in subjects}
    for subject in subjects:  # what is made once for all runs
        subject.run(argv)
    for subject in in_turns(subjects, rounds):
        run_back_to_back(subject, argv, batch, found[subject.name])
    for subject in in_turns(subjects, rounds):
        found[subject.name].spaced += run_spaced(subject, argv)
    return found


def table(program: str, found: dict[str, Measured]) -> str:
    """Milliseconds, and ratios to what is named in BESIDE."""
    medians = {name: measured.medians() for name, measured in found.items()}
    beside = {
        short: medians[name]
        for short in BESIDE
        for name in medians
        if name == short or name.startswith(short + " (")
    }
    header = [
        f"`{program}`", "back to back, ms", *(f"/ {name}" for name in beside),
        "spaced, ms", *(f"/ {name}" for name in beside), "CPU, ms", "CPU of the machine, ms",
    ]  # fmt: skip
    rows = []
    for name, measured in found.items():
        cells = [name]
        for way in (0, 1):
            mine = medians[name][way]
            cells += [f"{mine * 1e3:.2f}", *(f"{mine / it[way]:.2f}" for it in beside.values())]
        cpu = measured.cpu.per(measured.cpu_runs)
        own = "" if name == "sandlock" else f"{cpu.own * 1e3:.2f}"  # its server is not waited for
        rows.append([*cells, own, f"{cpu.machine * 1e3:.2f}"])
    return markdown(header, rows)


def verdicts(found: dict[str, Measured]) -> Iterator[list[str]]:
    """Targets for `/bin/true`: name, what it should be, what it was."""
    medians = {name: measured.medians() for name, measured in found.items()}
    ours, first = medians.get(OURS), medians.get(FIRST)
    if ours is None or first is None:
        return
    yield _at_most("/ posix_spawn, back to back", 4.7, ours[0] / first[0])
    yield _at_most("/ posix_spawn, spaced", 4, ours[1] / first[1])
    prepared = medians.get(f"{OURS}, 4 networks prepared")
    if prepared is not None:
        yield _at_most("/ posix_spawn, networks prepared", 3, prepared[0] / first[0])
    for name, least in (("bubblewrap", 1.5), ("crun", 5), ("crun (no cgroup)", 5)):
        if name in medians:
            yield _at_least(f"{name} / pycontainer", least, medians[name][0] / ours[0])


def _at_most(name: str, most: float, was: float, unit: str = "") -> list[str]:
    return [name, f"at most {most:g}{unit}", f"{was:.2f}{unit}", "yes" if was <= most else "no"]


def _at_least(name: str, least: float, was: float, unit: str = "") -> list[str]:
    return [name, f"at least {least:g}{unit}", f"{was:.2f}{unit}", "yes" if was >= least else "no"]


def scale_verdicts(rounds: int) -> Iterator[list[str]]:
    """Throughput, Python's share, and what the application's size costs."""
    one, two = scale.throughput(1, 2.0), scale.throughput(2, 2.0)
    share = scale.python_share(100 * rounds)
    flat = scale.flatness(rounds)
    yield _at_least(f"runs/s of two threads (of one: {one:.0f})", 700, two)
    kernel = f"caller's thread outside the kernel, each run (in it: {share.system * 1e6:.0f} µs)"
    yield _at_most(kernel, 150, share.user * 1e6, " µs")
    again = scale.with_new_base(rounds)
    yield ["a run after mounts of the host changed, ms", "", f"{again * 1e3:.2f}", ""]
    yield _at_most("2 GiB and 10,000 descriptors / small application", 1.3, flat.ratio)


def chosen(found: Sequence[Subject], wanted: str | None) -> list[Subject]:
    """Those asked for by name; the first is always there, for the ratios."""
    if wanted is None:
        return list(found)
    names = {name.strip() for name in wanted.split(";")} | {FIRST}
    return [subject for subject in found if subject.name in names]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="how often each has its turn")
    parser.add_argument("--batch", type=int, default=10, help="runs back to back in a turn")
    parser.add_argument("--subjects", help="names as in the table, joined by ';'")
    parser.add_argument("--programs", help="names as in the table, joined by ';'")
    parser.add_argument("--no-scale", action="store_true", help="without threads and sizes")
    parser.add_argument("--json", type=Path, help="write every single time here as well")
    parser.add_argument("--sandlock-python", help="the interpreter that can import sandlock")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    os.environ.setdefault("PYCONTAINER_CGROUP", "pycontainer-bench")
    print(f"{time.strftime('%Y-%m-%d')}; {machine_line()}\n", flush=True)
    results: dict[str, dict[str, Measured]] = {}
    with scratch() as made, available(made, options.sandlock_python) as peers:
        for peer in peers:
            if isinstance(peer, Missing):
                print(f"missing: {peer.name}: {peer.why}")
        everyone = own_subjects(made) + [peer for peer in peers if not isinstance(peer, Missing)]
        subjects = chosen(everyone, options.subjects)
        for program, argv in made.programs().items():
            if options.programs is None or program in options.programs.split(";"):
                results[program] = measure(subjects, argv, options.rounds, options.batch)
                print(f"\n{table(program, results[program])}", flush=True)
    rows = list(verdicts(results.get("/bin/true", {})))
    if not options.no_scale:
        rows += scale_verdicts(options.rounds)
    print("\n" + markdown(["target", "", "measured", "met"], rows))
    if options.json is not None:
        options.json.write_text(json.dumps({k: _plain(v) for k, v in results.items()}))
    return 0


def _plain(found: dict[str, Measured]) -> dict[str, Any]:
    return {name: attrs.asdict(measured) for name, measured in found.items()}


if __name__ == "__main__":
    sys.exit(main())
