"""Other programs that isolate, each asked for what pycontainer does by default, as far as it can.

A peer that is not installed, or cannot run here, is named with the reason and left out.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import attrs
from programs import Scratch

from pycontainer.plan.seccomp import ALLOW, compile_filter
from pycontainer.plan.seccomp_default import default_profile

Argv = Sequence[str]
SECCOMP_FD = 9
HOST_DIRECTORIES = ("/usr", "/etc", "/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin")
# Host ids for the peers' user namespaces; a peer that makes none runs as NOBODY.
FIRST_ID, IDS = 0x6F00_0000, 65536
NOBODY = "65534"
SHOWING_ONLY_UNIFIED = (
    "unshare", "--mount", "--propagation", "private", "sh", "-ec",
    'mount --bind /sys/fs/cgroup/unified /sys/fs/cgroup; exec "$@"', "sh",
)  # fmt: skip


class Subject(Protocol):
    """Something that starts a program and waits for its end."""

    @property
    def name(self) -> str:
        """As in the table."""

    def run(self, argv: Argv) -> None:
        """Start, wait. Raises RuntimeError when the program did not exit with 0."""


@attrs.frozen
class CommandLine:
    """A peer that is a program: its own start is part of what it costs. No shell, no pipes."""

    name: str
    before: Callable[[Argv], list[str]]
    file_actions: tuple[tuple[Any, ...], ...] = ()

    def run(self, argv: Argv) -> None:
        command = self.before(argv)
        pid = os.posix_spawn(command[0], command, dict(os.environ), file_actions=self.file_actions)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status != 0:
            raise RuntimeError(f"{self.name}: exit status {status}")


class Served:
    """A subject in a process of its own, which answers each argv with the exit status."""

    def __init__(self, name: str, server: Argv) -> None:
        self.name = name
        self._process = subprocess.Popen(
            server, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def run(self, argv: Argv) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(list(argv)) + "\n")
        answer = self._process.stdout.readline().strip()
        if answer != "0":
            raise RuntimeError(f"{self.name}: {answer or 'its process has ended'}")

    def close(self) -> None:
        self._process.communicate()


@attrs.frozen
class Elsewhere:
    """A command line that another process starts (its answer is 0.05 ms of what it takes)."""

    name: str
    before: Callable[[Argv], list[str]]
    starter: Served

    def run(self, argv: Argv) -> None:
        self.starter.run(self.before(argv))


@attrs.frozen
class Missing:
    """A peer that could not take part, and why."""

    name: str
    why: str


@contextmanager
def available(scratch: Scratch, sandlock_python: str | None) -> Iterator[list[Subject | Missing]]:
    """Every known peer, made ready and tried once; what they need is taken down at the end."""
    with ExitStack() as undo:
        yield [
            _tried(name, make, scratch, undo)
            for name, make in {
                "bubblewrap": _bubblewrap,
                "bubblewrap + seccomp": _bubblewrap_seccomp,
                "minijail": _minijail,
                "isolate": _isolate,
                "nsjail": _nsjail,
                "crun": _crun,
                "runc": _runc,
                "sandlock": lambda scratch, undo: _sandlock(sandlock_python, undo),
            }.items()
        ]


def _tried(
    name: str,
    make: Callable[[Scratch, ExitStack], Subject],
    scratch: Scratch,
    undo: ExitStack,
) -> Subject | Missing:
    try:
        subject = make(scratch, undo)
        subject.run(["/bin/true"])
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        return Missing(name, str(error))
    return subject


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise RuntimeError("not installed")
    return found


def _bubblewrap_options() -> list[str]:
    return (
        "--unshare-all --die-with-parent --new-session --ro-bind / / --proc /proc --dev /dev "
        "--tmpfs /tmp --cap-drop ALL --uid 1000 --gid 1000 --clearenv"
    ).split()


def _bubblewrap(scratch: Scratch, undo: ExitStack) -> Subject:
    before = [_program("bwrap"), *_bubblewrap_options()]
    return CommandLine("bubblewrap", lambda argv: [*before, *argv])


def _bubblewrap_seccomp(scratch: Scratch, undo: ExitStack) -> Subject:
    """With pycontainer's own filter: the fastest that bubblewrap can be given."""
    path = scratch.path / "filter.bpf"
    path.write_bytes(compile_filter(default_profile(), platform.machine()))
    before = [_program("bwrap"), *_bubblewrap_options(), "--seccomp", str(SECCOMP_FD)]
    # Opened for each run: bubblewrap reads from where the descriptor stands.
    opening = (os.POSIX_SPAWN_OPEN, SECCOMP_FD, str(path), os.O_RDONLY, 0)
    return CommandLine("bubblewrap + seccomp", lambda argv: [*before, *argv], (opening,))


def _minijail(scratch: Scratch, undo: ExitStack) -> Subject:
    """Namespaces and an unprivileged id; no seccomp (its policies are by name), no cgroup."""
    options = f"-u {NOBODY} -g {NOBODY} -v -p -r -l -e -N --uts -t -n -c 0 -w".split()
    before = [_program("minijail0"), *options, "--"]
    return CommandLine("minijail", lambda argv: [*before, *argv])


def _isolate(scratch: Scratch, undo: ExitStack) -> Subject:
    program = _program("isolate")
    subprocess.run([program, "--init"], check=True, capture_output=True)
    undo.callback(subprocess.run, [program, "--cleanup"], capture_output=True)
    bench = f"--dir={scratch.path}={scratch.path}"
    before = [program, "--silent", bench, "--processes=256", "--mem=1048576", "--run", "--"]
    return CommandLine("isolate", lambda argv: [*before, *argv])


def _nsjail(scratch: Scratch, undo: ExitStack) -> Subject:
    roots = [option for path in _host_directories() for option in ("-R", path)]
    before = [
        _program("nsjail"), "-Mo", "--really_quiet", *roots, "-R", str(scratch.path), "-T", "/tmp",
        "--",
    ]  # fmt: skip
    return CommandLine("nsjail", lambda argv: [*before, *argv])


def _crun(scratch: Scratch, undo: ExitStack) -> Subject:
    """crun refuses mixed hierarchies of cgroups: there it is shown the one of version 2 alone, in
    a mount namespace of its own, and makes no cgroup."""
    program = _program("crun")
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return CommandLine("crun", _oci([program], scratch.make_directory("crun"), scratch))
    before = _oci([program, "--cgroup-manager=disabled"], scratch.make_directory("crun"), scratch)
    starter = Served("crun", [*SHOWING_ONLY_UNIFIED, sys.executable, str(_beside("spawn_server"))])
    undo.callback(starter.close)
    return Elsewhere("crun (no cgroup)", before, starter)


def _runc(scratch: Scratch, undo: ExitStack) -> Subject:
    return CommandLine("runc", _oci([_program("runc")], scratch.make_directory("runc"), scratch))


def _beside(module: str) -> Path:
    return Path(__file__).with_name(f"{module}.py")


def _oci(runtime: list[str], bundles: Path, scratch: Scratch) -> Callable[[Argv], list[str]]:
    """The command line that runs an argv: one bundle for each argv, all over one root."""
    for directory in ("root", "state"):
        (bundles / directory).mkdir()
    _make_root(bundles / "root", scratch)
    written: dict[Argv, Path] = {}

    def before(argv: Argv) -> list[str]:
        bundle = written.get(tuple(argv))
        if bundle is None:
            bundle = written[tuple(argv)] = bundles / f"bundle-{len(written)}"
            bundle.mkdir()
            config = oci_config(argv, bundles / "root", scratch)
            (bundle / "config.json").write_text(json.dumps(config))
        return [
            *runtime, "--root", str(bundles / "state"),
            "run", "--bundle", str(bundle), f"pycontainer-bench-{os.getpid()}",
        ]  # fmt: skip

    return before


def _host_directories() -> list[str]:
    return [path for path in HOST_DIRECTORIES if os.path.isdir(path)]


def _make_root(root: Path, scratch: Scratch) -> None:
    """Where the runtime mounts; what is a link on the host is the same link here."""
    for path in (*_host_directories(), "/proc", "/dev", "/tmp", str(scratch.path / "bin")):
        inside = root / path.lstrip("/")
        inside.parent.mkdir(parents=True, exist_ok=True)
        if os.path.islink(path):
            inside.symlink_to(os.readlink(path))
        else:
            inside.mkdir(parents=True, exist_ok=True)


def oci_config(argv: Argv, root: Path, scratch: Scratch) -> dict[str, Any]:
    """A configuration as Docker writes it, over the view of the host that pycontainer gives."""
    shown = [path for path in _host_directories() if not os.path.islink(path)]
    ids = [{"containerID": 0, "hostID": FIRST_ID, "size": IDS}]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 1000, "gid": 1000},
            "args": list(argv),
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/",
            "capabilities": {name: [] for name in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": str(root), "readonly": True},
        "hostname": "container",
        "mounts": [
            _mount("/proc", "proc", "proc"),
            _mount("/dev", "tmpfs", "tmpfs", "nosuid", "mode=755", "size=65536k"),
            _mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance"),
            _mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "size=65536k"),
            _mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
            _mount("/tmp", "tmpfs", "tmpfs", "nosuid", "nodev", "size=256m"),
            *(
                _mount(path, "bind", path, "rbind", "ro", "nosuid", "nodev")
                for path in (*shown, str(scratch.path / "bin"))
            ),
        ],
        "linux": {
            "namespaces": [
                {"type": kind}
                for kind in ("pid", "network", "ipc", "uts", "mount", "user", "cgroup")
            ],
            "uidMappings": ids,
            "gidMappings": ids,
            "cgroupsPath": f"pycontainer-bench-{os.getpid()}",
            "resources": {"memory": {"limit": 1 << 30}, "pids": {"limit": 256}},
            "seccomp": _seccomp(),
            "maskedPaths": [
                "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
            ],
        },
    }  # fmt: skip


def _mount(target: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": list(options)}


def _seccomp() -> dict[str, Any]:
    """pycontainer's list by name alone, for the architectures that Docker's profile names."""
    machines = {
        "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
    }
    allowed = sorted(
        {name for rule in default_profile().rules if rule.action == ALLOW for name in rule.names}
    )
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": machines[platform.machine()],
        "syscalls": [{"names": allowed, "action": "SCMP_ACT_ALLOW"}],
    }


def _sandlock(python: str | None, undo: ExitStack) -> Subject:
    """Landlock, seccomp and a supervisor; no namespaces, no cgroup. From Python, as pycontainer."""
    interpreter = python or sys.executable
    subprocess.run([interpreter, "-c", "import sandlock"], check=True, capture_output=True)
    served = Served("sandlock", [interpreter, str(_beside("sandlock_server"))])
    undo.callback(served.close)
    return served
