"""What belongs to the running application as a whole and is opened once: made again after a fork.

Every descriptor is close-on-exec. A child made by os.fork() must not use its parent's: locks are
held by the parent, and the pidfd is the parent's.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from pycontainer.linux import native

_T = TypeVar("_T")


class Once(Generic[_T]):
    """A value made at first use. A forked child lets go of its parent's and makes its own."""

    def __init__(self, make: Callable[[], _T]) -> None:
        self._make = make
        self._made: list[_T] = []
        self._lock = threading.RLock()
        self.__doc__ = make.__doc__

    def __call__(self) -> _T:
        if not self._made:
            with self._lock:
                if not self._made:
                    self._made.append(self._make())
        return self._made[0]

    def peek(self) -> _T | None:
        """The value if there is one yet."""
        return self._made[0] if self._made else None

    def forget(self) -> None:
        """In a forked child: descriptors are closed, which leaves the parent's locks alone."""
        made: list[Any] = list(self._made)
        self._made.clear()
        self._lock = threading.RLock()
        for value in made:
            if isinstance(value, int):
                os.close(value)
            elif hasattr(value, "after_fork"):
                value.after_fork()


_all: list[Once[Any]] = []


def once_per_process(make: Callable[[], _T]) -> Once[_T]:
    """A function that remembers its result until a fork."""
    once = Once(make)
    _all.append(once)
    return once


def _forget() -> None:
    for once in _all:
        once.forget()


os.register_at_fork(after_in_child=_forget)


@once_per_process
def manager_pidfd() -> int:
    """A pidfd of this process: init ends its container when it says that we are gone."""
    return native.pidfd_open(os.getpid())


@once_per_process
def proc_fd() -> int:
    """The procfs at /proc, checked to be one. Raises OSError(ENOENT) where it is not."""
    import errno

    fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if os.stat("self", dir_fd=fd).st_ino == 0 or os.fstat(fd).st_ino != 1:
            raise OSError(errno.ENOENT, "not a procfs", "/proc")
    except OSError:
        os.close(fd)
        raise
    return fd


class MountTable:
    """Tells when the mounts of this namespace change (proc(5), mountinfo)."""

    def __init__(self) -> None:
        self._fd = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLPRI)
        self._poll.poll(0)

    def changed(self) -> bool:
        """Whether a mount came or went since the last call."""
        return bool(self._poll.poll(0))

    def after_fork(self) -> None:
        os.close(self._fd)


@once_per_process
def mount_table() -> MountTable:
    """The mount table of this process."""
    return MountTable()
