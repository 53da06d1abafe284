"""A spec in words: what its plan makes, shows, limits and takes away, and what is not the default.

Rules:
1. What can be read from the compiled plan is read from it, so the words follow the steps.
2. Every field of Spec has an entry in DIFFERENCES: a new field without a sentence fails a test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from pycontainer.plan.credentials import Identity
from pycontainer.plan.host import Bind, Host
from pycontainer.plan.recipe import Process, Resources, compile_plan
from pycontainer.plan.steps import Plan
from pycontainer.sizes import show_size
from pycontainer.spec import DEFAULTS, RLIMITS, Mount, Spec, Tmpfs

# linux/sched.h; the plan names namespaces by these bits.
NAMESPACES = {
    0x00020000: "mnt", 0x20000000: "pid", 0x40000000: "net", 0x08000000: "ipc",
    0x04000000: "uts", 0x02000000: "cgroup", 0x10000000: "user", 0x00000080: "time",
}  # fmt: skip
SIZES = frozenset({"memory", "output", "file_size", "tmp_size", "shm_size"})
_WHO = Identity(uid=1000, gid=1000)


def explain(spec: Spec, host: Host | None = None) -> str:
    """The plan for `spec` in words, a heading and its lines for each matter; no host: a usual one.

    Raises what compiling a plan raises: SpecError, UnsupportedError.
    """
    host = host or Host()
    plan = compile_plan(spec, host, Process(identity=_WHO), Resources())
    parts = (
        ("New, and the container's own", _new(plan, spec, host)),
        ("Visible inside", _visible(plan, spec, host)),
        ("Limits", _limits(spec)),
        ("Taken away", _taken(plan, spec)),
        ("Other than the default", _differences(spec)),
    )
    return "\n".join(_section(heading, tuple(lines)) for heading, lines in parts)


def printable(text: str) -> str:
    """The text on one line: what a terminal would act upon is escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _section(heading: str, lines: tuple[str, ...]) -> str:
    return "\n".join((f"{heading}:", *(f"  - {printable(line)}" for line in lines or ("nothing",))))


def _ops(plan: Plan, op: str) -> list[dict[str, Any]]:
    return [dict(step.operands) for step in plan.steps if step.op == op]


def namespaces_of(plan: Plan) -> tuple[str, ...]:
    """The kinds of namespaces that a plan makes."""
    flags = plan.clone_flags
    for operands in _ops(plan, "unshare"):
        flags |= operands["flags"]
    return tuple(name for flag, name in NAMESPACES.items() if flags & flag)


def _new(plan: Plan, spec: Spec, host: Host) -> Iterator[str]:
    made = namespaces_of(plan)
    yield f"namespaces: {' '.join(made)}"
    shared = [name for name in NAMESPACES.values() if name not in made]
    if shared:
        yield f"shared with the host, not new: {' '.join(shared)}"
    yield f"the host name {spec.hostname!r}"
    yield f"{_ids(spec, host)}; the program is user {spec.user!r}"
    keyring = " and session keyring" if _ops(plan, "join_session_keyring") else ""
    yield f"session{keyring}, without a controlling terminal"


def _ids(spec: Spec, host: Host) -> str:
    if host.privileged or (spec.id_range or 1) > 1:
        count = spec.id_range or 65536
        return f"ids 0 to {count - 1} inside, each an id outside that nobody else has"
    return f"one id, which is uid {host.uid} outside"


def _visible(plan: Plan, spec: Spec, host: Host) -> Iterator[str]:
    yield from _root(spec, host)
    for mount in spec.mounts:
        yield _mount(mount)
    yield f"/tmp, empty, {_size(spec, 'tmp_size')}; /dev/shm, empty, {_size(spec, 'shm_size')}"
    yield "/dev: null zero full random urandom tty, and terminals of its own in /dev/pts"
    masked = [str(operands["path"]) for operands in _ops(plan, "mask_proc")]
    sealed = [str(operands["path"]) for operands in _ops(plan, "seal_proc")]
    proc = "/proc of its own processes"
    proc += f"; empty: {' '.join(masked)}" if masked else "; nothing in it is masked"
    yield proc + (f"; read-only: {' '.join(sealed)}" if sealed else "; nothing in it is sealed")
    yield "no /sys" if spec.sysfs == "none" else "/sys, read-only"
    if spec.network == "host":
        yield "the host's network, with every interface and service that it reaches"
    else:
        yield "no network but its own loopback"


def _root(spec: Spec, host: Host) -> Iterator[str]:
    if spec.rootfs is not None:
        yield f"the root: {spec.rootfs!r}, read-only"
        return
    binds = [entry.path for entry in host.view if isinstance(entry, Bind)]
    shown = " ".join(path for path in binds if not path.startswith("/etc/"))
    etc = sum(path.startswith("/etc/") for path in binds)
    yield f"the host view, read-only: {shown or 'the system and the running interpreter'}"
    yield f"of the host's /etc: {etc} entries that programs need; passwd, group and hosts are made"
    yield "nothing of /root, /home, /var, /run and /srv unless it is named here"


def _mount(mount: Mount | Tmpfs) -> str:
    executable = "" if mount.executable else ", not executable"
    if isinstance(mount, Tmpfs):
        size, files = show_size(float(mount.size)), mount.inodes
        return f"{mount.target!r}: empty, at most {size} and {files} files{executable}"
    access = "read-only" if mount.read_only else "writable"
    return f"{mount.target!r}: {mount.source!r} of the host, {access}{executable}"


def _size(spec: Spec, field: str) -> str:
    limit = spec.limit(field)
    return "without limit" if limit is None or limit == math.inf else f"at most {show_size(limit)}"


def _limits(spec: Spec) -> Iterator[str]:
    for field in LIMITS:
        value = spec.limit(field)
        if value in (None, math.inf, ()):
            continue
        asked = getattr(spec, field) is not None
        kept = "" if asked or field not in ("memory", "pids") else " (where this host can)"
        yield f"{LIMITS[field]}: {_show(field, value)}{kept}"
    unlimited = [field for field in LIMITS if spec.limit(field) in (None, math.inf, ())]
    if unlimited:
        yield f"not limited: {' '.join(unlimited)}"
    for name, limit in spec.rlimits:
        yield f"rlimit {name}: {'no limit' if limit == 2**64 - 1 else limit}"


def _taken(plan: Plan, spec: Spec) -> Iterator[str]:
    granted = " ".join(sorted(spec.capabilities))
    yield f"all capabilities but {granted}" if granted else "all capabilities"
    if _ops(plan, "set_no_new_privs"):
        yield "gaining privileges by executing setuid programs (no_new_privs)"
    if _ops(plan, "set_seccomp"):
        rule = "the default filter" if spec.seccomp == "default" else "a profile of your own"
        yield f"system calls that {rule} does not allow"
    if any(limit["resource"] == RLIMITS["core"] and not limit["hard"] for limit in _rlimits(plan)):
        yield "core dumps"
    yield "the application's environment, descriptors, signal masks and handlers"


def _rlimits(plan: Plan) -> list[dict[str, Any]]:
    return _ops(plan, "set_rlimit")


def _differences(spec: Spec) -> Iterator[str]:
    for field in attrs.fields(Spec):
        value = getattr(spec, field.name)
        if value != field.default:
            yield f"{field.name}={_show(field.name, value)}: {DIFFERENCES[field.name](value)}"


def _show(field: str, value: Any) -> str:
    if value == math.inf:
        return "'max'"
    if field in SIZES:
        return show_size(value)
    if isinstance(value, frozenset):
        return "{" + ", ".join(map(repr, sorted(value))) + "}"
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:79] + "…"


LIMITS = {
    "memory": "memory, swap included",
    "pids": "processes and threads",
    "cpus": "processors' worth of time",
    "cpu_weight": "weight when processors are short (others have 100)",
    "cpuset": "processors to run on",
    "io": "block devices",
    "wall_time": "seconds until it is ended",
    "cpu_time": "seconds of processor time until it is ended",
    "output": "bytes that it may write into pipes",
    "file_size": "size of one file",
    "open_files": "open files of one process",
}

Difference = Callable[[Any], str]


def _says(text: str) -> Difference:
    return lambda value: text


def _limit(field: str, without: str) -> Difference:
    """For limits that have a default: tighter, looser, or none at all."""

    def difference(value: Any) -> str:
        default = DEFAULTS[field]
        usual = show_size(default) if field in SIZES else str(default)
        if value == math.inf:
            return f"gives away the limit of {usual}: {without}"
        if value > default:
            return f"gives more than the default of {usual}: {without}, up to this"
        kept = "" if field not in ("memory", "pids") else "; and now it must hold, or nothing runs"
        return f"tightens the default of {usual}{kept}"

    return difference


def _asked(text: str) -> Difference:
    """For limits that nobody has by default."""
    return lambda value: "no limit, as by default" if value == math.inf else f"tightens: {text}"


def _mounts(mounts: tuple[Mount | Tmpfs, ...]) -> str:
    binds = [mount for mount in mounts if isinstance(mount, Mount)]
    writable = [mount.source for mount in binds if not mount.read_only]
    if writable:
        names = ", ".join(map(repr, writable))
        return f"gives away what is written to {names}: the program can change it on the host"
    if binds:
        return "gives away the secrecy of what is shown: the program can read it"
    return "gives room in memory, each up to its size, counted to the memory limit"


def _capabilities(names: frozenset[str]) -> str:
    told = "gives away more of the kernel: it carries out what these allow, within the container's"
    told += " own namespaces"
    if "SYS_ADMIN" in names:
        told += "; SYS_ADMIN alone opens mounts and most of the kernel's past holes"
    return told


def _seccomp(value: str) -> str:
    if value == "unconfined":
        return "gives away the filter: every system call of the kernel can be attacked"
    return "replaces the default filter: what this profile allows, the program can call"


def _network(value: str) -> str:
    return (
        "gives away the network's isolation: the program reaches all that this machine reaches, "
        "its loopback services and abstract sockets included"
    )


def _user(value: int | str) -> str:
    if value in (0, "root"):
        return "root inside, an id without rights outside: owns what is root's in the container"
    return "another user inside; it gives nothing away outside"


def _id_range(value: int) -> str:
    if value == 1:
        return "tightens: one id, and nothing inside can become another user"
    return "how many ids are mapped: programs inside can become other users of the container"


DIFFERENCES: dict[str, Difference] = {
    "rootfs": _says(
        "replaces the host view: the program sees this directory's files and no others"
    ),
    "mounts": _mounts,
    "hostname": _says("another name; it gives nothing away"),
    "network": _network,
    "prepared_networks": _says(
        "network namespaces are made ahead: it gives away nothing, each serves one container"
    ),
    "user": _user,
    "group": _says("another group inside; it gives nothing away outside"),
    "extra_groups": _says("gives what these groups may read and write in the container"),
    "id_range": _id_range,
    "capabilities": _capabilities,
    "seccomp": _seccomp,
    "ptrace": _says(
        "gives away ptrace and process_vm_readv: programs inside can trace one another, and the "
        "kernel's tracing code can be attacked"
    ),
    "no_new_privileges": _says(
        "gives away no_new_privs: setuid programs inside change who the program is, within the "
        "container's ids"
    ),
    "nesting": _says(
        "gives away the second belt: user namespaces and mounts can be made inside, and /proc is "
        "neither masked nor sealed; most kernel exploits of the last years begin there"
    ),
    "host_root_id": _says(
        "gives away the host: root inside is root outside, and can write the kernel's settings"
    ),
    "sysfs": _says("gives away what /sys tells of the machine: devices, drivers, addresses"),
    "boottime_offset": _says("another time since boot (CLOCK_BOOTTIME); it gives nothing away"),
    "memory": _limit("memory", "the program can take the host's memory"),
    "pids": _limit("pids", "a fork bomb can use up the host's process numbers"),
    "cpus": _asked("its share of processor time has a ceiling"),
    "cpu_weight": lambda value: (
        "gives it more than the usual share of busy processors"
        if value != math.inf and value > 100
        else "its share of busy processors against the usual 100"
    ),
    "cpuset": _asked("it runs on these processors only"),
    "io": _asked("it reads and writes these devices only that fast"),
    "wall_time": _asked("it is ended when this much time has passed"),
    "cpu_time": _asked("it is ended when it has used this much processor time"),
    "output": _limit("output", "what it writes can fill the application's memory"),
    "file_size": _limit("file_size", "one file can fill a disk that it may write to"),
    "tmp_size": _limit("tmp_size", "/tmp can take memory, as far as the memory limit lets it"),
    "shm_size": _limit("shm_size", "/dev/shm can take memory, as far as the memory limit lets it"),
    "open_files": _limit("open_files", "each process can hold that many of the host's open files"),
    "rlimits": _says("these replace the defaults, never above what this process has itself"),
    "best_effort": _says(
        "gives away the promise that these hold: where the host cannot, the program runs without "
        "them and the result's not_enforced names them"
    ),
    "cgroup_parent": _says("its cgroups are made there, and that one's limits hold as well"),
}
