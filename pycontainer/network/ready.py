"""Owns empty network namespaces that are made ahead: making one is a third of a container's cost.

They belong to the application's user namespace, never to a container's: nothing inside can change
them: what a namespace carries from one container to the next is loopback's counters and connections
in TIME_WAIT. One is used by one container at a time.
"""

from __future__ import annotations

import os
import threading
import time

from pycontainer.linux import application
from pycontainer.plan.encode import complete, encode
from pycontainer.plan.network import compile_network
from pycontainer.process import READY, START_SECONDS, Launch


class ReadyNetworks:
    """A stock of empty network namespaces with loopback up, by the user namespace they are of."""

    def __init__(self) -> None:
        self._free: dict[int, list[int]] = {}
        self._lock = threading.Lock()

    def take(self, userfd: int) -> int:
        """A descriptor of a namespace that nobody is in; a new one when none is left.

        `userfd` is the user namespace to make it in, or -1 for the application's own.
        """
        with self._lock:
            free = self._free.get(owner_of(userfd), [])
            if free:
                return free.pop()
        return make(userfd)

    def fill(self, userfd: int, count: int) -> None:
        """Have at least `count` ready."""
        owner = owner_of(userfd)
        with self._lock:
            missing = count - len(self._free.get(owner, []))
        for _ in range(missing):
            self.give_back(owner, make(userfd), count)

    def give_back(self, owner: int, fd: int, most: int) -> None:
        """The container is gone: keep its namespace for the next, unless there are enough."""
        with self._lock:
            free = self._free.setdefault(owner, [])
            if len(free) < most:
                free.append(fd)
                return
        os.close(fd)

    def forget(self, owner: int) -> None:
        """The user namespace is let go: what was made in it cannot be used any more."""
        with self._lock:
            for fd in self._free.pop(owner, []):
                os.close(fd)

    def clear(self) -> None:
        """Let go of all."""
        for owner in list(self._free):
            self.forget(owner)

    def after_fork(self) -> None:
        """In a forked child: it makes its own."""
        self._lock = threading.Lock()  # another thread of the parent may have held it
        self.clear()


def owner_of(userfd: int) -> int:
    """The number of the user namespace behind a descriptor; 0 is the application's own."""
    return os.fstat(userfd).st_ino if userfd >= 0 else 0


def make(userfd: int) -> int:
    """A descriptor of a new network namespace with loopback up. Raises LaunchFailed."""
    plan = compile_network(in_user_namespace=userfd >= 0)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        inputs = [userfd] if userfd >= 0 else []
        launch = Launch(complete(encode(plan)), (null, null, null), inputs)
    finally:
        os.close(null)
    try:
        launch.wait_for(READY, time.monotonic() + START_SECONDS)
        name = f"{launch.child_pid}/ns/net"
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=application.proc_fd())
    finally:
        launch.abandon()


@application.once_per_process
def ready_networks() -> ReadyNetworks:
    """The stock of this process."""
    return ReadyNetworks()
