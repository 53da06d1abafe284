"""This thread in and out of a container's namespaces."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
from collections.abc import Callable, Iterable, Iterator

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
        returns = [_remember(name, back) for name in sorted(wanted)]
        if "mnt" in wanted:
            returns.append(_remember_directories(back))  # undone last: paths are the old ones then
            native.unshare(native.CLONE_FS)  # root and cwd of this thread alone
        flags = sum(native.NAMESPACE_FLAGS[name] for name in wanted)
        _join(
            pidfd, flags, wanted
        )  # all or none (setns(2)): from here on there is a way to go back
        try:
            yield
        finally:
            for go_back in returns:
                go_back()


def _join(pidfd: int, flags: int, wanted: frozenset[str]) -> None:
    try:
        native.setns(pidfd, flags)
    except OSError as error:
        if error.errno != errno.EUSERS or "time" not in wanted:
            raise
        raise UnsupportedError(
            "entering a time namespace", "the kernel refuses it to a process with threads",
            "leave it out, or run the code inside: a function by run_function, a program by Popen",
        ) from None  # fmt: skip


def _remember(name: str, back: contextlib.ExitStack) -> Callable[[], None]:
    """The way back into this thread's own namespace."""
    path = f"thread-self/ns/{FOR_CHILDREN.get(name, name)}"
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=application.proc_fd())
    back.callback(os.close, fd)
    return functools.partial(_return, fd, native.NAMESPACE_FLAGS[name])


def _remember_directories(back: contextlib.ExitStack) -> Callable[[], None]:
    """Joining a mount namespace moves root and cwd to its root (setns(2))."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    rootfd, cwdfd = os.open("/", flags), os.open(".", flags)
    back.callback(os.close, rootfd)
    back.callback(os.close, cwdfd)
    return functools.partial(_return_to, rootfd, cwdfd)


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
