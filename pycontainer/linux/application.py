"""What belongs to the running application as a whole and is opened once: made again after a fork.

Every descriptor is close-on-exec. A child made by os.fork() must not use its parent's: locks are
held by the parent, and the pidfd is the parent's.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from functools import cache
from typing import TypeVar

from pycontainer.linux import native

PROC_SUPER_MAGIC = 0x9FA0
_T = TypeVar("_T")
_caches: list[Callable[[], None]] = []


def once_per_process(function: Callable[[], _T]) -> Callable[[], _T]:
    """Remember the result until a fork; the child makes its own."""
    remembered = cache(function)
    _caches.append(remembered.cache_clear)
    return remembered


def _forget() -> None:
    for clear in _caches:
        clear()


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


@once_per_process
def _mount_table() -> tuple[int, select.poll]:
    fd = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
    poll = select.poll()
    poll.register(fd, select.POLLPRI)
    poll.poll(0)
    return fd, poll


def mounts_changed() -> bool:
    """Whether a mount came or went in this namespace since the last call (proc(5), mountinfo)."""
    _, poll = _mount_table()
    return bool(poll.poll(0))
