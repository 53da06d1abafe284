"""The C extension with Python's types: every call raises OSError with the kernel's errno."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pycontainer._native import ffi, lib  # type: ignore[import-not-found]

CLONE_FS = 0x00000200
CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
NAMESPACE_FLAGS = {
    "mnt": CLONE_NEWNS,
    "pid": CLONE_NEWPID,
    "net": CLONE_NEWNET,
    "ipc": CLONE_NEWIPC,
    "uts": CLONE_NEWUTS,
    "cgroup": CLONE_NEWCGROUP,
    "user": CLONE_NEWUSER,
    "time": CLONE_NEWTIME,
}
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
CAP_SYS_ADMIN = 21
CAP_SETUID = 7


def _checked(value: int, path: str | None = None) -> int:
    if value < 0:
        raise OSError(-value, os.strerror(-value), path)
    return value


class Cell:
    """An int that C writes: what a call gives is kept even if a signal handler raises then."""

    def __init__(self) -> None:
        self._int = ffi.new("int *", -1)

    @property
    def value(self) -> int:
        """-1 until it has been written."""
        return int(self._int[0])

    def take(self) -> int:
        """The value, which the caller now has to close; -1 afterwards."""
        value, self._int[0] = self._int[0], -1
        return int(value)


def start(launcherfd: int, sources: Sequence[int], pid: Cell, pidfd: Cell) -> None:
    """Start the launcher with `sources[i]` as its descriptor i."""
    _checked(lib.pyc_start(launcherfd, list(sources), len(sources), pid._int, pidfd._int))


def receive(socketfd: int, length: int, timeout_ms: int, passed: Cell) -> bytes | None:
    """A packet, b"" at the end of file, None when none came in time; `passed`: a descriptor."""
    buffer = ffi.new("char[]", length)
    n = lib.pyc_receive(socketfd, buffer, length, timeout_ms, passed._int)
    if n in (-errno.EAGAIN, -errno.EINTR):
        return None
    return bytes(ffi.buffer(buffer, _checked(n)))


def sealed_memfd(name: str, content: bytes | bytearray, *, executable: bool = False) -> int:
    """A descriptor of `content` that nobody can change any more (memfd_create(2))."""
    buffer = ffi.from_buffer(content)
    return _checked(lib.pyc_sealed_memfd(name.encode(), buffer, len(content), executable))


def pidfd_open(pid: int) -> int:
    return _checked(lib.pyc_pidfd_open(pid))


def pidfd_send_signal(pidfd: int, signal: int, *, group: bool = False) -> None:
    """A signal to the process; with `group` to all of the group it leads (6.9, else EINVAL)."""
    _checked(lib.pyc_pidfd_send_signal(pidfd, signal, 4 if group else 0))


def setns(fd: int, namespaces: int) -> None:
    """Move this thread into namespaces given by a pidfd or an nsfs descriptor (setns(2))."""
    _checked(lib.pyc_setns(fd, namespaces))


def unshare(flags: int) -> None:
    _checked(lib.pyc_unshare(flags))


def openat2(dirfd: int, path: str, flags: int, *, mode: int = 0, resolve: int = 0) -> int:
    """A descriptor of `path`, close-on-exec, resolved under rules (openat2(2))."""
    return _checked(lib.pyc_openat2(dirfd, os.fsencode(path), flags, mode, resolve), path)


def ofd_lock(fd: int, start: int, length: int = 1) -> bool:
    """Take a byte range for this open file; False where another holds it (F_OFD_SETLK)."""
    value = lib.pyc_ofd_lock(fd, start, length, 1)
    if value in (-errno.EAGAIN, -errno.EACCES):
        return False
    _checked(value)
    return True


def ofd_unlock(fd: int, start: int, length: int = 1) -> None:
    _checked(lib.pyc_ofd_lock(fd, start, length, 0))


def effective_capabilities() -> int:
    """This thread's effective capabilities as a bit mask."""
    mask = ffi.new("unsigned long *")
    _checked(lib.pyc_capget_effective(mask))
    return int(mask[0])


def landlock_abi() -> int:
    """The kernel's Landlock ABI; 0 where it has none or it is switched off."""
    return max(0, int(lib.pyc_landlock_abi()))


def seccomp_action_available(action: int) -> bool:
    return int(lib.pyc_seccomp_action_available(action)) == 0


@cache
def launcher_fd() -> int:
    """The launcher as a sealed memfd, made once; its file where executable memfds are forbidden.

    A program inside that finds the launcher through /proc can never write it (CVE-2019-5736).
    """
    path = launcher_path()
    try:
        return sealed_memfd("pycontainer-launcher", path.read_bytes(), executable=True)
    except PermissionError:  # vm.memfd_noexec=2 (6.3)
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def launcher_path() -> Path:
    """The launcher's file; `PYCONTAINER_LAUNCHER=faults` is the test build's."""
    faults = os.environ.get("PYCONTAINER_LAUNCHER") == "faults"
    return Path(__file__).parent.parent / ("_launcher_faults" if faults else "_launcher")


def raw(name: str) -> Any:
    """A function of the extension by its C name, for the few calls that stand in one place only."""
    return getattr(lib, name)
