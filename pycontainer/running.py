"""Owns a running container: hears how it ends, signals it, and gives everything back."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import attrs

from pycontainer.cgroup import Cgroup, CgroupUsage
from pycontainer.errors import StateError
from pycontainer.process import (
    COMMAND_END,
    COMMAND_SIGNAL,
    ENDED,
    Launch,
    Report,
    has_ended,
)
from pycontainer.result import Usage

GRACE = 5.0  # seconds in which a killed tree has to be gone; a disk that hangs takes longer


@attrs.frozen(kw_only=True)
class Ended:
    """What is known of a container that has ended. `report` is None when init was killed."""

    report: Report | None
    counted: CgroupUsage
    wall_time: float

    def usage(self) -> Usage:
        """The cgroup's figures, else what init reaped."""
        report, counted = self.report, self.counted
        user = report.user_time if report else 0.0
        system = report.system_time if report else 0.0
        if counted.user_time is not None and counted.system_time is not None:
            user, system = counted.user_time, counted.system_time
        read, written = counted.read_bytes, counted.written_bytes
        return Usage(
            wall_time=report.wall_time if report else self.wall_time,
            user_time=user,
            system_time=system,
            peak_memory=counted.peak_memory
            if counted.peak_memory is not None
            else (report.peak_rss if report else None),
            peak_pids=counted.peak_pids,
            read_bytes=read if read is not None else (report.read_bytes if report else None),
            written_bytes=written
            if written is not None
            else (report.written_bytes if report else None),
            throttled=counted.throttled,
            oom_kills=counted.oom_kills,
            pids_refused=counted.pids_refused,
        )


# Held here until they have ended: an owner that is garbage must not lose its descriptors first.
alive: set[Running] = set()
os.register_at_fork(after_in_child=alive.clear)


class Running:
    """Owns a running container: its init, its cgroup, and what `give_back` returns at its end.

    A forked child of the application has the object and not the container: it is refused.
    """

    def __init__(
        self,
        launch: Launch,
        cgroup: Cgroup | None = None,
        *,
        give_back: Callable[[], None] | None = None,
        not_enforced: tuple[str, ...] = (),
    ) -> None:
        self.launch = launch
        self.cgroup = cgroup
        self.not_enforced = not_enforced
        self.owner = os.getpid()
        self._give_back = give_back
        self._started = time.monotonic()
        self._report: Report | None = None
        self._ended: Ended | None = None
        self._heard_end = False
        self._lock = threading.Lock()
        alive.add(self)

    @property
    def pid(self) -> int:
        """The container's init, as this process sees it."""
        return self.launch.child_pid

    def poll(self) -> Ended | None:
        """How it ended, or None while it runs."""
        return self.wait(0)

    def wait(self, timeout: float | None = None) -> Ended | None:
        """Wait for the end at most `timeout` seconds. None when it has not come."""
        if self._ended is not None:
            return self._ended
        self._check_owner()
        if not self._lock.acquire(timeout=-1 if timeout is None else timeout):
            return None
        try:
            if not self._is_over():
                # Once the end has been heard, an interrupted finish is taken up again.
                self._heard_end = self._heard_end or self._receive_end(timeout)
                if self._heard_end:
                    self._finish()
            return self._ended
        finally:
            self._lock.release()

    def _is_over(self) -> bool:
        return self._ended is not None  # another thread may have waited meanwhile

    def _receive_end(self, timeout: float | None) -> bool:
        try:
            report = self.launch.receive(timeout)
        except (TimeoutError, BlockingIOError):
            return False
        except ConnectionResetError:
            return True  # init was killed with a command unread
        if report is not None and report.kind == ENDED:
            self._report = report
        return True

    def _finish(self) -> None:
        """Init has said the last: all is dead. Count, wait until it is gone too, give back."""
        counted = CgroupUsage()
        if self._report is None:
            self._wait_until_gone()  # init was killed: others may still be dying
        if self.cgroup is not None:
            counted = self.cgroup.read_usage()  # while the kernel takes init apart
        self._wait_until_gone()
        ended = Ended(
            report=self._report, counted=counted, wall_time=time.monotonic() - self._started
        )
        try:
            if self.cgroup is not None:
                self.cgroup.close()
        finally:
            self._ended = ended
            alive.discard(self)
            if self._give_back is not None:
                self._give_back()

    def _wait_until_gone(self) -> None:
        if not self.launch.close(GRACE):
            self.launch.kill()
            self.launch.close(None)

    def _check_owner(self) -> None:
        if os.getpid() != self.owner:
            raise StateError(f"container {self.pid} belongs to process {self.owner}, which forked")

    def signal_payload(self, number: int) -> None:
        """A signal to the payload, not to init. Nothing happens when it has ended."""
        self._check_owner()
        if self._ended is None:
            self.launch.command(COMMAND_SIGNAL, number)

    def end(self) -> None:
        """End the whole tree now; `wait` tells how it went."""
        self._check_owner()
        if not self._heard_end and not self.launch.command(COMMAND_END):
            self.launch.kill()

    def destroy(self) -> Ended:
        """End the tree by force and give everything back."""
        if self._ended is None:
            self.end()
            if self.wait(GRACE) is None:
                self.launch.kill()
                if self.cgroup is not None:
                    self.cgroup.kill()
        ended = self.wait(None)
        assert ended is not None
        return ended

    def has_ended(self) -> bool:
        return self._ended is not None or has_ended(self.launch.childfd)
