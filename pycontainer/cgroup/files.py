"""Reading, writing, waiting for and removing cgroups below an open parent directory.

Raises OSError; what it means is the caller's to say.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import time

# A cgroup disappears between a look and the next call: its file is gone (ENOENT), or was opened
# before and is dead (ENODEV).
GONE = frozenset({errno.ENOENT, errno.ENODEV})
# Only a process that is still on its way out keeps a killed cgroup busy; a machine that is out of
# memory or stopped in a debugger needs seconds for that.
REMOVAL_SECONDS = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0002, 0.02


def read(dir_fd: int, path: str) -> str:
    """The whole text of a file."""
    fd = os.open(path, os.O_RDONLY, dir_fd=dir_fd)
    try:
        data = os.read(fd, 8192)
        while more := os.read(fd, 65536):
            data += more
    finally:
        os.close(fd)
    return data.decode("ascii", "replace")


def write(dir_fd: int, path: str, text: str) -> None:
    """Write a setting; the kernel takes each in one write."""
    fd = os.open(path, os.O_WRONLY, dir_fd=dir_fd)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def walk(dir_fd: int, name: str) -> list[str]:
    """The cgroup and all below it, the deepest first. Raises OSError when the cgroup is gone."""
    found = [name]
    for child in _children(dir_fd, name):
        try:
            found = walk(dir_fd, f"{name}/{child}") + found
        except OSError as error:
            if error.errno not in GONE:
                raise
    return found


def _children(dir_fd: int, name: str) -> list[str]:
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=dir_fd)
    try:
        with os.scandir(fd) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    finally:
        os.close(fd)


def processes(dir_fd: int, name: str) -> list[int]:
    """Every process of the cgroup and of those below it; none when it is gone."""
    found: list[int] = []
    try:
        for cgroup in walk(dir_fd, name):
            found += map(int, read(dir_fd, f"{cgroup}/cgroup.procs").split())
    except OSError as error:
        # EOPNOTSUPP: a threaded cgroup lists its processes at its domain, which is walked too.
        if error.errno not in GONE and error.errno != errno.EOPNOTSUPP:
            raise
    return found


def kill_each(dir_fd: int, name: str) -> int:
    """Send SIGKILL to every process that is listed, and to no other; returns how many were."""
    pidfds: dict[int, int] = {}
    try:
        for process in processes(dir_fd, name):
            try:
                pidfds[process] = os.pidfd_open(process)
            except ProcessLookupError:
                continue  # it ended by itself
        # A number can be another process by the time it is opened. Listed still or again, and
        # alive through the descriptor: then it is one of ours.
        for process in set(processes(dir_fd, name)).intersection(pidfds):
            try:
                signal.pidfd_send_signal(pidfds[process], signal.SIGKILL)
            except ProcessLookupError:
                continue
        return len(pidfds)
    finally:
        for pidfd in pidfds.values():
            os.close(pidfd)


def wait_event(dir_fd: int, name: str, line: str, timeout: float | None) -> bool:
    """Wait until the cgroup.events of a cgroup has this line; False when time ran out first."""
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        fd = os.open(f"{name}/cgroup.events", os.O_RDONLY, dir_fd=dir_fd)
    except FileNotFoundError:
        return True
    try:
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        while line not in os.pread(fd, 4096, 0).decode("ascii").split("\n"):
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            poll.poll(None if left is None else left * 1000 + 1)
    except OSError as error:
        if error.errno not in GONE:
            raise
    finally:
        os.close(fd)
    return True


class Pauses:
    """Growing pauses until a deadline, for what the kernel does not notify of."""

    def __init__(self, timeout: float | None) -> None:
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._pause = _FIRST_PAUSE

    def wait(self) -> bool:
        """Pause; False when the deadline has passed."""
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return False
        time.sleep(self._pause)
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        return True


def remove(dir_fd: int, name: str) -> None:
    """Remove an empty cgroup with all below it, waiting for what is on its way out.

    Raises OSError EBUSY when processes remain after REMOVAL_SECONDS.
    """
    pauses = Pauses(REMOVAL_SECONDS)
    while True:
        try:
            for cgroup in walk(dir_fd, name):
                os.rmdir(cgroup, dir_fd=dir_fd)
            return
        except OSError as error:
            if error.errno in GONE:
                if not _exists(dir_fd, name):
                    return
            elif error.errno != errno.EBUSY or not pauses.wait():
                raise


def _exists(dir_fd: int, name: str) -> bool:
    return os.access(name, os.F_OK, dir_fd=dir_fd)
