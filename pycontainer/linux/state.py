"""Where this library keeps what outlives a process, and the session record of each application.

Rules:
1. The directory is its owner's alone (0700, not a link, owner checked): a record that another user
   could write would make recover() destroy what that user names (E20).
2. The record is written before the first kernel object that it would be needed for.
3. A session is alive as long as its record is locked. The kernel lets the lock go with the process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pycontainer.linux.application import once_per_process


def state_path() -> str:
    """$PYCONTAINER_STATE, or /run/pycontainer for root, or below $XDG_RUNTIME_DIR or /tmp."""
    named = os.environ.get("PYCONTAINER_STATE")
    if named:
        return named
    if os.geteuid() == 0 and os.access("/run", os.W_OK):  # not so inside another container
        return "/run/pycontainer"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isdir(runtime):
        return os.path.join(runtime, "pycontainer")
    return f"/tmp/pycontainer-{os.geteuid()}"


def open_directory(*, create: bool = True) -> int:
    """A descriptor of the state directory, proven to be ours alone. Raises OSError."""
    path = state_path()
    if create:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass  # made before, by us: checked below
        except FileNotFoundError:
            os.makedirs(path, 0o700, exist_ok=True)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    found = os.fstat(fd)
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        os.close(fd)
        owner = f"owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}"
        raise PermissionError(errno.EPERM, f"state directory is not ours alone ({owner})", path)
    return fd


class Session:
    """This application's record: its name, the lock that says it lives, what it may leave."""

    def __init__(self) -> None:
        self.directory_fd = open_directory()
        self.name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.owner = os.getpid()
        self.directories: frozenset[str] = frozenset()
        self.fd = -1

    def record(self, directories: Iterable[str]) -> None:
        """Write down the cgroup parents below which this session's objects will be."""
        known = self.directories.union(directories)
        if known == self.directories and self.fd >= 0:
            return
        if self.fd < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self.fd = os.open(f"{self.name}.new", flags, 0o600, dir_fd=self.directory_fd)
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Named only when locked: nobody takes it for one whose owner is gone.
            os.rename(
                f"{self.name}.new", f"{self.name}.session",
                src_dir_fd=self.directory_fd, dst_dir_fd=self.directory_fd,
            )  # fmt: skip
        content = json.dumps({"version": 1, "directories": sorted(known)}).encode()
        os.pwrite(self.fd, content, 0)  # never shorter than before: they only grow
        self.directories = known

    def after_fork(self) -> None:
        """In a forked child: the record and its lock stay the parent's."""
        os.close(self.directory_fd)
        if self.fd >= 0:
            os.close(self.fd)

    def close(self) -> None:
        """The session ends with nothing left: its record goes."""
        if self.fd >= 0 and self.owner == os.getpid():
            with contextlib.suppress(FileNotFoundError):  # somebody removed the whole directory
                os.unlink(f"{self.name}.session", dir_fd=self.directory_fd)
            os.close(self.fd)
            self.fd = -1


@once_per_process
def session() -> Session:
    """The session of this process."""
    return Session()


def dead_sessions(directory_fd: int) -> Iterator[tuple[str, int, Mapping[str, Any]]]:
    """(name, locked descriptor, content) of every record whose application is gone."""
    for name in sorted(os.listdir(directory_fd)):
        if not name.endswith(".session"):
            continue
        try:
            fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory_fd)
        except FileNotFoundError:
            continue  # its owner has just ended it
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)  # alive
            continue
        yield name.removesuffix(".session"), fd, _content(fd)


def _content(fd: int) -> Mapping[str, Any]:
    try:
        content = json.loads(os.pread(fd, 1 << 20, 0) or b"{}")
    except ValueError:
        return {}  # killed while writing it: before the first object, by rule 2
    return content if isinstance(content, dict) else {}
