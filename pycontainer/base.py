"""Owns bases: mount namespaces prepared once and shared by many runs (plan/rootfs.py).

A base is nothing but descriptors of its namespaces: when they are closed, or the application dies,
the kernel removes it. It is made anew when a mount of the host came or went, or when the directory
it shows is no longer the same one.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator

import attrs

from pycontainer import newidmap
from pycontainer.linux import application
from pycontainer.plan.encode import complete, encode
from pycontainer.plan.host import Host
from pycontainer.plan.rootfs import BaseSpec, compile_base, map_content
from pycontainer.plan.steps import Plan
from pycontainer.process import CHILD, READY, START_SECONDS, Launch, LaunchFailed

MOST_BASES = 16
_faults = (-1, 0)  # test build: which step fails, and how


@attrs.frozen(kw_only=True)
class IdMaps:
    """What a user namespace maps: (inside, outside, count) for users and for groups."""

    uid: tuple[int, int, int]
    gid: tuple[int, int, int]

    def holes(self) -> dict[str, bytes]:
        return {"uid_map": map_content(*self.uid), "gid_map": map_content(*self.gid)}


class BaseFailed(Exception):
    """A step of preparing a base failed: which plan, which step, which errno."""

    def __init__(self, plan: Plan, step: int, errno: int) -> None:
        super().__init__(step, errno)
        self.plan, self.step, self.errno = plan, step, errno


class Base:
    """Owns the namespaces of one base. `users` counts the launches that are using it."""

    def __init__(self, spec: BaseSpec, host: Host, maps: IdMaps | None) -> None:
        self.mntfd = self.userfd = -1
        self.users = 0
        self.stale = False
        plan = compile_base(spec, host)
        encoded = encode(plan)
        holes = maps.holes() if maps and encoded.holes else {}
        content = complete(encoded, holes=holes, fault=_faults)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            launch = Launch(content, (null, null, null), ())
        finally:
            os.close(null)
        try:
            if spec.subordinate is not None:
                launch.wait_for(CHILD, time.monotonic() + START_SECONDS)
                newidmap.write_maps(launch.child_pid, host, spec.subordinate)
                launch.control.send(b"1")
            launch.wait_for(READY, time.monotonic() + START_SECONDS)
            self._take_namespaces(launch.child_pid, user=maps is not None)
        except LaunchFailed as failure:
            raise BaseFailed(plan, failure.step, failure.errno) from None
        finally:
            launch.abandon()

    def _take_namespaces(self, pid: int, *, user: bool) -> None:
        proc = application.proc_fd()
        flags = os.O_RDONLY | os.O_CLOEXEC
        self.mntfd = os.open(f"{pid}/ns/mnt", flags, dir_fd=proc)
        if user:
            self.userfd = os.open(f"{pid}/ns/user", flags, dir_fd=proc)

    def close(self) -> None:
        for name in ("mntfd", "userfd"):
            fd = getattr(self, name)
            if fd >= 0:
                os.close(fd)
                setattr(self, name, -1)


class Bases:
    """The bases of this process, the least recently used one goes first."""

    def __init__(self) -> None:
        self._bases: dict[object, Base] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def hold(self, key: object, spec: BaseSpec, host: Host, maps: IdMaps | None) -> Iterator[Base]:
        """A base for the time of a launch: it is not closed meanwhile."""
        base = self._take(key, spec, host, maps)
        try:
            yield base
        finally:
            self._give_back(base)

    def _take(self, key: object, spec: BaseSpec, host: Host, maps: IdMaps | None) -> Base:
        with self._lock:
            if application.mount_table().changed():
                self._drop(list(self._bases))
            base = self._bases.pop(key, None)
            if base is None:
                base = Base(spec, host, maps)
            self._bases[key] = base  # last: most recently used
            base.users += 1
            if len(self._bases) > MOST_BASES:
                self._drop([next(iter(self._bases))])
            return base

    def _give_back(self, base: Base) -> None:
        with self._lock:
            base.users -= 1
            if base.stale and not base.users:
                base.close()

    def _drop(self, keys: list[object]) -> None:
        for key in keys:
            base = self._bases.pop(key)
            base.stale = True
            if not base.users:
                base.close()

    def after_fork(self) -> None:
        """In a forked child: it makes its own."""
        for base in self._bases.values():
            base.close()

    def clear(self) -> None:
        """Let go of all; those in use go when their launch is over."""
        with self._lock:
            self._drop(list(self._bases))


@application.once_per_process
def bases() -> Bases:
    """The bases of this process."""
    return Bases()
