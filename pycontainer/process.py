"""Runs plans: starts the launcher, reads its reports, owns what it made.

A `Launch` is one launcher and the process that it cloned. It can be waited for with a deadline and
killed at every moment, also when nothing in it answers any more: all waiting is on descriptors, and
nothing depends on who reaps the application's children.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Sequence

import attrs

from pycontainer.linux import native
from pycontainer.linux.application import manager_pidfd, proc_fd

REPORT = struct.Struct("<IiiiIi6Q")
COMMAND = struct.Struct("<Ii")
FAILED, CHILD, STARTED, ENDED, READY = 1, 2, 3, 4, 5
COMMAND_SIGNAL, COMMAND_END = 1, 2
END_EXIT, END_WALL_TIME, END_CPU_TIME, END_MANAGER_GONE = range(4)
NANOSECONDS = 1e9
SLICE_MS = 500
START_SECONDS = 60.0  # a launch takes 2 ms; runc and crun wait for ever
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
    """Owns a launcher, its clone, and the control socket between them and us.

    What is made is kept in cells that C writes, so an exception at any moment loses nothing; a
    launch that nobody closed is ended when it becomes garbage.
    """

    def __init__(
        self, content: bytes | bytearray, stdio: Sequence[int], inputs: Sequence[int]
    ) -> None:
        self.child_pid = 0
        self.child, self.launcher, self._launcher_pid = native.Cell(), native.Cell(), native.Cell()
        self.closed = False
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        planfd = -1
        try:
            planfd = native.sealed_memfd("pycontainer-plan", content)
            native.start(
                native.launcher_fd(),
                [*stdio, theirs.fileno(), planfd, proc_fd(), manager_pidfd(), *inputs],
                self._launcher_pid,
                self.launcher,
            )
        except BaseException:
            if self.launcher.value < 0:
                self.control.close()
                self.closed = True
            raise
        finally:
            theirs.close()
            if planfd >= 0:
                os.close(planfd)

    def __del__(self) -> None:
        if not getattr(self, "closed", True):
            self.abandon()

    @property
    def childfd(self) -> int:
        """A pidfd of the clone, or -1 before it is known."""
        return self.child.value

    def receive(self, timeout: float | None = None) -> Report | None:
        """The next report, or None when the other side is gone. Raises TimeoutError."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = -1 if deadline is None else max(0, deadline - time.monotonic())
            # Rounded up: a wait must not end before its time. In slices: a signal that comes just
            # before the poll interrupts nothing, and its Python handler waits for our return.
            wait_ms = SLICE_MS if left < 0 else min(SLICE_MS, math.ceil(left * 1000))
            packet = native.receive(self.control.fileno(), REPORT.size, wait_ms, self.child)
            if packet is not None:
                break
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError
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
        if self.launcher.value >= 0 and has_ended(self.launcher.value):
            _let_go(self.launcher)

    def command(self, kind: int, value: int = 0) -> bool:
        """Tell init to signal the payload or to end. False where it no longer listens."""
        if self.closed:
            return False
        try:
            self.control.send(COMMAND.pack(kind, value), socket.MSG_DONTWAIT)
        except (BrokenPipeError, ConnectionResetError, BlockingIOError):
            return False
        return True

    def kill(self) -> None:
        """SIGKILL to the clone and the launcher: the namespace, and all in it, ends with init."""
        for cell in (self.launcher, self.child):
            if cell.value >= 0:
                # ESRCH: it has ended already.
                with contextlib.suppress(ProcessLookupError):
                    native.pidfd_send_signal(cell.value, signal.SIGKILL)

    def close(self, timeout: float | None = None) -> bool:
        """Wait until both processes are gone, reap them and let go of all. False at the timeout."""
        for cell in (self.launcher, self.child):
            if cell.value >= 0:
                if not has_ended(cell.value, timeout):
                    return False
                _let_go(cell)
        self.control.close()
        self.closed = True
        return True

    def abandon(self) -> None:
        """After a failure: kill, take in what still travels (a pidfd may), wait, let go."""
        if self.closed:
            return
        self.kill()
        if self.launcher.value >= 0:
            has_ended(self.launcher.value, None)
            self._drain()
        if self.child.value < 0 and self.launcher.value >= 0:
            self._end_group()
        self.kill()
        self.close()

    def _end_group(self) -> None:
        """The launcher died between the clone and telling of it: the clone is in its group, and
        ends when it finds the launcher gone. Both are our children."""
        with contextlib.suppress(OSError):  # ESRCH: all gone; EINVAL: before 6.9, it ends by itself
            native.pidfd_send_signal(self.launcher.value, signal.SIGKILL, group=True)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitid(os.P_PGID, self._launcher_pid.value, os.WEXITED)

    def _drain(self) -> None:
        """The clone's pidfd may still be on its way to us; without it we could not wait for it."""
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while self.child.value < 0 and self.receive(0) is not None:
                pass


def _let_go(cell: native.Cell) -> None:
    """Reap the process behind a pidfd, which has ended, and close it."""
    reap(cell.value)
    os.close(cell.take())
