"""This thread in and out of a container's namespaces."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator

from pycontainer.errors import SpecError, UnsupportedError
from pycontainer.linux import application, native

# What one thread of several may join (setns(2)): all but user; pid and time are for its children.
CAN_ENTER = frozenset({"net", "uts", "ipc", "mnt", "cgroup", "pid", "time"})
FOR_CHILDREN = {"pid": "pid_for_children", "time": "time_for_children"}


@contextlib.contextmanager
def entered(pidfd: int, namespaces: Iterable[str]) -> Iterator[None]:
    """Run a block inside namespaces of the process behind `pidfd`; only this thread moves.

    Raises UnsupportedError for a user namespace, which no thread of several can join. When the way
    back fails the process is ended: a thread must not go on as if it were outside.
    """
    wanted = frozenset(namespaces)
    if "user" in wanted:
        raise UnsupportedError(
            "entering a user namespace", "the kernel refuses it to a process with threads",
            "run the code inside instead: a function by run_function, a program by Popen",
        )  # fmt: skip
    for name in sorted(wanted - CAN_ENTER):
        raise SpecError("namespaces", name, "one of " + ", ".join(sorted(CAN_ENTER)))
    with contextlib.ExitStack() as back:
        if "mnt" in wanted:
            native.unshare(native.CLONE_FS)  # root and cwd of this thread alone
            _remember_directories(back)
        for name in sorted(wanted):
            _remember(name, back)
        flags = 0
        for name in wanted:
            flags |= native.NAMESPACE_FLAGS[name]
        native.setns(pidfd, flags)
        yield


def _remember(name: str, back: contextlib.ExitStack) -> None:
    path = f"thread-self/ns/{FOR_CHILDREN.get(name, name)}"
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=application.proc_fd())
    back.callback(os.close, fd)
    back.callback(_return, fd, native.NAMESPACE_FLAGS[name])


def _remember_directories(back: contextlib.ExitStack) -> None:
    """Joining a mount namespace moves root and cwd to its root (setns(2))."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    rootfd, cwdfd = os.open("/", flags), os.open(".", flags)
    back.callback(os.close, rootfd)
    back.callback(os.close, cwdfd)
    back.callback(_return_to, rootfd, cwdfd)


def _return_to(rootfd: int, cwdfd: int) -> None:
    try:
        os.fchdir(rootfd)
        os.chroot(".")
        os.fchdir(cwdfd)
    except OSError:
        os.abort()


def _return(fd: int, flag: int) -> None:
    try:
        native.setns(fd, flag)
    except OSError:
        os.abort()
