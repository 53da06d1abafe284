"""Ranges of host ids for user namespaces: every container of root has one that nobody else uses.

Range i is ids FIRST + i * 65,536 onwards. Holding it is holding a lock on byte i of a file, so the
kernel gives it back when the application dies, and two applications never share one.
"""

from __future__ import annotations

import os
import threading

from pycontainer.errors import UnsupportedError
from pycontainer.linux import native, state
from pycontainer.linux.application import once_per_process

# Above what subuid (100,000 up) and systemd's containers (524,288 to 1,879,048,191) use.
FIRST = 0x7000_0000
LENGTH = 65536
COUNT = (0xF000_0000 - FIRST) // LENGTH


class IdRanges:
    """The ranges that this process holds, and the file in which it says so."""

    def __init__(self) -> None:
        directory_fd = state.open_directory()
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open("id-ranges", flags, 0o600, dir_fd=directory_fd)
        os.close(directory_fd)
        self._held: set[int] = set()
        self._free: list[int] = []
        self._next = 0
        self._lock = threading.Lock()

    def after_fork(self) -> None:
        """In a forked child: the ranges stay the parent's."""
        os.close(self._fd)

    def acquire(self) -> int:
        """The first host id of a free range. Raises UnsupportedError when all are taken."""
        with self._lock:
            if self._free:
                index = self._free.pop()
                self._held.add(index)
                return FIRST + index * LENGTH
            while self._next < COUNT:
                index = self._next
                self._next += 1
                if native.ofd_lock(self._fd, index):
                    self._held.add(index)
                    return FIRST + index * LENGTH
        raise UnsupportedError(
            "id ranges", f"all {COUNT} are in use", "end containers that are no longer needed"
        )

    def release(self, first: int) -> None:
        """The container is gone: its range is used again by this process first."""
        index = (first - FIRST) // LENGTH
        with self._lock:
            self._held.discard(index)
            self._free.append(index)


@once_per_process
def id_ranges() -> IdRanges:
    """The ranges of this process; a forked child takes its own."""
    return IdRanges()
