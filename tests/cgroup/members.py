"""Children of the test that live in a container's cgroups, started as a container's init is."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from types import TracebackType

from pycontainer.cgroup import Cgroup

Work = Callable[[], int | None]


class Member:
    """One child: `pid`, and a pipe on which it said that it is inside and at work."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.status: int | None = None

    def wait(self, timeout: float = 20) -> int:
        """The exit code as in subprocess: negative for a signal."""
        if self.status is None:
            ready, _, _ = select.select([self.pidfd], [], [], timeout)
            assert ready, f"pid {self.pid} still runs after {timeout} s"
            _, status = os.waitpid(self.pid, 0)
            self.status = os.waitstatus_to_exitcode(status)
            os.close(self.pidfd)
        return self.status

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.status is None and not select.select([self.pidfd], [], [], 0)[0]

    def kill(self) -> None:
        """SIGKILL, where it still runs."""
        if self.status is None:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)


class Members:
    """Starts children; ends and reaps them all when it is left."""

    def __init__(self) -> None:
        self.all: list[Member] = []

    def __enter__(self) -> Members:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for member in self.all:
            with contextlib.suppress(ProcessLookupError):
                member.kill()
            member.wait()

    def start(self, cgroup: Cgroup, work: Work) -> Member:
        """Fork a child that joins the cgroup and does `work`; its result is the exit code.

        Returns when the child is inside.
        """
        inside_read, inside_write = os.pipe()
        pid = os.fork()
        if pid == 0:
            _be_member(cgroup, work, inside_write)
        os.close(inside_write)
        member = Member(pid)
        self.all.append(member)
        said = os.read(inside_read, 1)
        os.close(inside_read)
        assert said == b"i", f"the child did not get inside: {member.wait()}"
        return member

    def idle(self, cgroup: Cgroup) -> Member:
        """A child inside that waits to be killed."""
        return self.start(cgroup, wait_for_ever)


def wait_for_ever() -> None:
    """Wait for a signal that ends the process."""
    while True:
        signal.pause()


def spin() -> None:
    """Use all processor time there is."""
    while True:
        pass


def _be_member(cgroup: Cgroup, work: Work, inside: int) -> None:
    code = 97
    try:
        join(cgroup)
        os.write(inside, b"i")
        code = work() or 0
    except BaseException:
        traceback.print_exc(file=sys.stderr)
    finally:
        os._exit(code)


def join(cgroup: Cgroup) -> None:
    """Move the calling process in: what a container's first process does before anything else."""
    for fd in cgroup.attach_fds:
        os.write(fd, b"0")
    if cgroup.clone_into_fd is not None:
        # In place of CLONE_INTO_CGROUP, which Python cannot ask for.
        fd = os.open("cgroup.procs", os.O_WRONLY, dir_fd=cgroup.clone_into_fd)
        os.write(fd, b"0")
        os.close(fd)
