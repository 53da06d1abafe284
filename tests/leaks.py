"""What this process has and could leave behind, as a value that can be compared.

A snapshot maps each kind to its things: identity -> description. The identity is what must be the
same before and after; the description says more about a thing that is left over. Kinds that other
processes of the machine change as well (links, System V objects, ...) are judged only by what was
added; what is our own must not vanish either.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import attrs

Things = Mapping[str, str]
Snapshot = Mapping[str, Things]

PR_GET_DUMPABLE = 3
PR_GET_KEEPCAPS = 7
PR_GET_CHILD_SUBREAPER = 37
STATUS_LINES = frozenset(
    "Umask Uid Gid Groups SigBlk SigIgn CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs"
    " Seccomp Seccomp_filters Cpus_allowed_list NSpid".split()
)
# pytest-timeout takes its SIGALRM handler away as soon as a test fails; glibc catches 32 and 33
# from the first thread on (nptl(7)).
CAUGHT_BY_OTHERS = sum(1 << (number - 1) for number in (signal.SIGALRM, 32, 33))


@attrs.frozen(kw_only=True)
class Places:
    """Where to look besides this process."""

    cgroup: str  # name of the test run's parent cgroup, below the own cgroup of every hierarchy
    state: Path
    temporary: Path


def own_cgroups() -> Iterator[Path]:
    """The directory of this process's cgroup in every mounted hierarchy. Source: cgroups(7)."""
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own[frozenset(controllers.split(","))] = path
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, tail = line.partition(" - ")
        root, target = fields.split()[3:5]
        fstype, _, options = tail.split(" ", 2)
        if fstype == "cgroup2":
            named = [path for controllers, path in own.items() if controllers == {""}]
        elif fstype == "cgroup":
            named = [path for controllers, path in own.items() if controllers <= set_of(options)]
        else:
            continue
        yield from (Path(target, os.path.relpath(path, root)) for path in named)


def set_of(options: str) -> frozenset[str]:
    return frozenset(options.split(","))


def own_subdirectories(name: str) -> Iterator[Path]:
    """The cgroup `name` of every hierarchy and all below it, the deepest first."""
    for parent in own_cgroups():
        for directory, _, _ in os.walk(parent / name, topdown=False):
            yield Path(directory)


def read(path: str | Path) -> str:
    """The text, or nothing if it is gone: what is listed in /proc may end before it is read."""
    try:
        return Path(path).read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def process(pid: str) -> str:
    status = read(f"/proc/{pid}/status").splitlines()
    about = [line.partition(":")[2].strip() for line in status if line[:5] in ("Name:", "State")]
    return f"pid {pid} {' '.join(about)}"


def children(places: Places) -> Things:
    found = {}
    for task in Path("/proc/self/task").iterdir():
        for pid in read(task / "children").split():
            found[pid] = process(pid)
    return found


def descriptors(places: Places) -> Things:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            text = f"{name} -> {os.readlink(f'/proc/self/fd/{name}')}"
        except FileNotFoundError:  # the one that listed the directory
            continue
        found[text] = text
    return found


def threads(places: Places) -> Things:
    return {
        tid: f"tid {tid} {read(f'/proc/self/task/{tid}/comm').strip()}"
        for tid in os.listdir("/proc/self/task")
    }


def mounts(places: Places) -> Things:
    lines = read("/proc/self/mountinfo").splitlines()
    return {line.split()[0]: line for line in lines}


def cgroups(places: Places) -> Things:
    return {
        str(directory): f"{directory} holds pids {read(directory / 'cgroup.procs').split()}"
        for directory in own_subdirectories(places.cgroup)
        if directory.name != places.cgroup
    }


def links(places: Places) -> Things:
    lines = read("/proc/thread-self/net/dev").splitlines()[2:]
    names = [line.split(":")[0].strip() for line in lines]
    return {name: name for name in names}


def sysv_objects(places: Places) -> Things:
    found = {}
    for kind in ("shm", "sem", "msg"):
        for line in read(f"/proc/sysvipc/{kind}").splitlines()[1:]:
            key, number = line.split()[:2]
            found[f"{kind} {number}"] = f"{kind} id {number} key {key}"
    return found


def keys(places: Places) -> Things:
    """One thing for each key of this uid: `/proc/key-users` tells only how many there are."""
    for line in read("/proc/key-users").splitlines():
        uid, _, usage = line.partition(":")
        if int(uid) == os.getuid():
            count = int(usage.split()[1].split("/")[0])
            return {str(n): f"key number {n} of uid {os.getuid()}" for n in range(count)}
    return {}


def files(places: Places) -> Things:
    found = [*places.state.rglob("*")] if places.state.is_dir() else []
    found += places.temporary.iterdir()
    found += [path for path in Path("/dev/shm").iterdir() if is_own(path)]
    return {str(path): str(path) for path in found}


def is_own(path: Path) -> bool:
    try:
        return path.lstat().st_uid == os.getuid()
    except FileNotFoundError:
        return False


def attributes(places: Places) -> Things:
    """What a caller would be surprised to find changed about its own process and thread."""
    values = dict(status_lines())
    values |= {f"namespace {name}": link("ns", name) for name in os.listdir("/proc/thread-self/ns")}
    values |= {name: link(name) for name in ("cwd", "root")}
    values |= {name: read(f"/proc/self/{name}").strip() for name in ("oom_score_adj",)}
    libc = ctypes.CDLL(None)
    values["dumpable"] = str(libc.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0))
    values["keepcaps"] = str(libc.prctl(PR_GET_KEEPCAPS, 0, 0, 0, 0))
    reaps = ctypes.c_int()
    libc.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(reaps), 0, 0, 0)
    values["child subreaper"] = str(reaps.value)
    for name in dir(resource):
        if name.startswith("RLIMIT_"):
            values[name] = str(resource.getrlimit(getattr(resource, name)))
    for number in signal.valid_signals() - {signal.SIGALRM}:
        values[f"handler of signal {int(number)}"] = repr(signal.getsignal(number))
    return {f"{name} = {value}": f"{name} = {value}" for name, value in values.items()}


def status_lines() -> Iterator[tuple[str, str]]:
    for line in read("/proc/thread-self/status").splitlines():
        name, _, value = line.partition(":")
        if name in ("SigCgt", "SigIgn"):
            yield name, f"{int(value, 16) & ~CAUGHT_BY_OTHERS:016x}"
        elif name in STATUS_LINES:
            yield name, value.strip()


def link(*parts: str) -> str:
    return os.readlink("/proc/thread-self/" + "/".join(parts))


@attrs.frozen
class Kind:
    find: Callable[[Places], Things]
    is_shared: bool = False  # others on this machine make and remove such things, too


KINDS = {
    "child": Kind(children),
    "descriptor": Kind(descriptors),
    "thread": Kind(threads),
    "mount": Kind(mounts, is_shared=True),
    "cgroup": Kind(cgroups),
    "link": Kind(links, is_shared=True),
    "sysv object": Kind(sysv_objects, is_shared=True),
    "key": Kind(keys, is_shared=True),
    "file": Kind(files, is_shared=True),
    "attribute": Kind(attributes),
}


def snapshot(places: Places) -> Snapshot:
    return {name: kind.find(places) for name, kind in KINDS.items()}


def differences(before: Snapshot, after: Snapshot) -> list[str]:
    """One line for each thing that came (`left: …`) or went (`gone: …`) in between."""
    lines = []
    for name, kind in KINDS.items():
        came = after[name].keys() - before[name].keys()
        went = before[name].keys() - after[name].keys() if not kind.is_shared else set()
        lines += [f"left: {name} {after[name][key]}" for key in sorted(came)]
        lines += [f"gone: {name} {before[name][key]}" for key in sorted(went)]
    return lines


def settled_differences(before: Snapshot, places: Places, *, settle: float = 2.0) -> list[str]:
    """The differences that are still there after `settle` seconds.

    The kernel takes mounts, namespaces, links and keys apart after the call that dropped the last
    reference has returned, and tells nobody when it is done: so this looks again and again.
    """
    deadline = time.monotonic() + settle
    while True:
        found = differences(before, snapshot(places))
        if not found or time.monotonic() >= deadline:
            return found
        select.select([], [], [], 0.01)
