"""Runs plans: starts the launcher, reads its reports, owns what it made.

A `Launch` is one launcher and the process that it cloned. It can be waited for with a deadline and
killed at every moment, also when nothing in it answers any more: all waiting is on descriptors, and
nothing depends on who reaps the application's children.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Sequence

import attrs

from pycontainer.errors import SetupError
from pycontainer.linux import native
from pycontainer.linux.application import manager_pidfd, proc_fd

REPORT = struct.Struct("<IiiiIi6Q")
COMMAND = struct.Struct("<Ii")
FAILED, CHILD, STARTED, ENDED, READY = 1, 2, 3, 4, 5
COMMAND_SIGNAL, COMMAND_END = 1, 2
END_EXIT, END_WALL_TIME, END_CPU_TIME, END_MANAGER_GONE = range(4)
NANOSECONDS = 1e9
# Steps before the plan's own: what the launcher reports when it cannot begin.
EARLY_STEPS = {-1: "read_plan", -2: "clone", -3: "clone_payload"}


@attrs.frozen(kw_only=True)
class Report:
    """One packet from the launcher or from init (csrc/plan.h). Times in seconds, sizes in bytes."""

    kind: int
    step: int
    errno: int
    pid: int
    reason: int
    status: int
    wall_time: float
    user_time: float
    system_time: float
    peak_rss: int
    read_bytes: int
    written_bytes: int

    @classmethod
    def unpack(cls, packet: bytes) -> Report:
        kind, step, errno, pid, reason, status, wall, user, system, rss, read, written = (
            REPORT.unpack(packet)
        )
        return cls(
            kind=kind, step=step, errno=errno, pid=pid, reason=reason, status=status,
            wall_time=wall / NANOSECONDS, user_time=user / NANOSECONDS,
            system_time=system / NANOSECONDS, peak_rss=rss, read_bytes=read * 512,
            written_bytes=written * 512,
        )  # fmt: skip


class LaunchFailed(Exception):
    """A step failed: its index (EARLY_STEPS below 0) and errno; errno 0 when the launcher died."""

    def __init__(self, step: int, errno: int) -> None:
        super().__init__(step, errno)
        self.step, self.errno = step, errno


def reap(pidfd: int) -> None:
    """Take the exit status of a child that has ended, so that no zombie stays."""
    # ECHILD: the application reaps its children itself, or ignores SIGCHLD.
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)


def has_ended(pidfd: int, timeout: float | None = 0) -> bool:
    """Whether the process has ended, waiting at most `timeout` seconds (None: for ever)."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(None if timeout is None else max(0, timeout * 1000)))


class Launch:
    """Owns a launcher, its clone, and the control socket between them and us."""

    def __init__(
        self, content: bytes | bytearray, stdio: Sequence[int], inputs: Sequence[int]
    ) -> None:
        self.child_pid = 0
        self.launcher_pid = 0
        self.childfd = -1
        self.launcherfd = -1
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control = ours
        planfd = -1
        try:
            planfd = native.sealed_memfd("pycontainer-plan", content)
            self.launcher_pid, self.launcherfd = native.start(
                native.launcher_fd(),
                [*stdio, theirs.fileno(), planfd, proc_fd(), manager_pidfd(), *inputs],
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            if planfd >= 0:
                os.close(planfd)

    def receive(self, timeout: float | None = None) -> Report | None:
        """The next report, or None when the other side is gone. Raises TimeoutError."""
        self.control.settimeout(timeout)
        packet, ancillary, _, _ = self.control.recvmsg(
            REPORT.size, socket.CMSG_LEN(4), socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                (self.childfd,) = struct.unpack("i", data[:4])
        if len(packet) < REPORT.size:
            return None
        report = Report.unpack(packet)
        if report.kind == CHILD:
            self.child_pid = report.pid
        return report

    def wait_for(self, kind: int, deadline: float | None = None) -> Report:
        """The report that says `kind`, once the clone's pidfd has come too: two processes send, and
        either may be first. Raises LaunchFailed, or TimeoutError at the deadline."""
        found: Report | None = None
        while found is None or self.childfd < 0:
            left = None if deadline is None else max(1e-6, deadline - time.monotonic())
            report = self.receive(left)
            if report is None:
                raise LaunchFailed(-1, 0)
            if report.kind == FAILED:
                raise LaunchFailed(report.step, report.errno)
            if report.kind == kind:
                found = report
        return found

    def reap_launcher(self) -> None:
        """Once the program runs the launcher has nothing left to do: it is no zombie for long."""
        if self.launcherfd >= 0 and has_ended(self.launcherfd):
            reap(self.launcherfd)
            os.close(self.launcherfd)
            self.launcherfd = -1

    def command(self, kind: int, value: int = 0) -> bool:
        """Tell init to signal the payload or to end. False where it no longer listens."""
        try:
            self.control.send(COMMAND.pack(kind, value), socket.MSG_DONTWAIT)
        except (BrokenPipeError, ConnectionResetError, BlockingIOError):
            return False
        return True

    def kill(self) -> None:
        """SIGKILL to the clone and the launcher: the namespace, and all in it, ends with init."""
        for pidfd in (self.launcherfd, self.childfd):
            if pidfd >= 0:
                # ESRCH: it has ended already.
                with contextlib.suppress(ProcessLookupError):
                    native.pidfd_send_signal(pidfd, signal.SIGKILL)

    def close(self, timeout: float | None = None) -> bool:
        """Wait until both processes are gone, reap them and let go of all. False at the timeout."""
        for name in ("launcherfd", "childfd"):
            pidfd = getattr(self, name)
            if pidfd < 0:
                continue
            if not has_ended(pidfd, timeout):
                return False
            reap(pidfd)
            os.close(pidfd)
            setattr(self, name, -1)
        self.control.close()
        return True

    def abandon(self) -> None:
        """After a failure: kill, take in what still travels (a pidfd may), wait, let go."""
        self.kill()
        self._drain()
        if self.childfd < 0:
            self._end_group()
        self.kill()
        self.close()

    def _end_group(self) -> None:
        """The launcher died between the clone and telling of it: the clone is in its group, and
        ends when it finds the launcher gone. Both are our children."""
        with contextlib.suppress(OSError):  # ESRCH: all gone; EINVAL: before 6.9, it ends by itself
            native.pidfd_send_signal(self.launcherfd, signal.SIGKILL, group=True)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitid(os.P_PGID, self.launcher_pid, os.WEXITED)

    def _drain(self) -> None:
        """The clone's pidfd may still be on its way to us; without it we could not wait for it."""
        has_ended(self.launcherfd, None)
        with contextlib.suppress(TimeoutError, BlockingIOError, ConnectionResetError):
            while self.childfd < 0 and self.receive(0) is not None:
                pass


def setup_error(op: str, operands: dict[str, object], errno: int, hint: str = "") -> SetupError:
    """The typed failure of one step."""
    return SetupError(errno, op, operands, hint)
