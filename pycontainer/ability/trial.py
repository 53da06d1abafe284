"""Tries things in a process that is gone a moment later: a launcher with a plan of a few steps.

Nothing forks and nothing of the application changes: namespaces, mounts and filters are the child's
own. An id map always leads to a free range or to the user's own id, never to host root.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator

import attrs

from pycontainer.base import IdMaps
from pycontainer.errors import UnsupportedError
from pycontainer.identity import range_maps
from pycontainer.idrange import LENGTH, id_ranges
from pycontainer.linux import native
from pycontainer.plan.encode import complete, encode
from pycontainer.plan.rootfs import map_steps
from pycontainer.plan.steps import MODE_BASE, Plan, Step, step
from pycontainer.process import EARLY_STEPS, READY, Launch, LaunchFailed
from pycontainer.thishost import this_host

# Generous for a machine under load; one trial takes less than a millisecond.
PATIENCE = 10.0
INSIDE_ID = 1000


class Refused(Exception):
    """What was tried did not work: the step and the kernel's errno."""

    def __init__(self, op: str, number: int) -> None:
        super().__init__(op, number)
        self.op, self.errno = op, number

    def __str__(self) -> str:
        return f"{self.op}: {errno.errorcode.get(self.errno, self.errno)}"


@attrs.frozen(kw_only=True)
class _Ids:
    """Who the child becomes: its map, and the steps that make it the map's first id."""

    maps: IdMaps
    deny_setgroups: bool
    become: tuple[Step, ...]


@contextlib.contextmanager
def child(flags: int, *steps: Step) -> Iterator[int]:
    """The pid of a process that is in new namespaces, has done `steps` and waits.

    A user namespace is among the namespaces always. Raises Refused.
    """
    with _ids() as ids:
        beside = map_steps(deny_setgroups=ids.deny_setgroups)
        plan = _plan(flags, tuple(beside), (*ids.become, *steps))
        with _launch(plan, ids.maps.holes()) as pid:
            yield pid


@contextlib.contextmanager
def unmapped_child() -> Iterator[int]:
    """The pid of a process in a user namespace whose ids are still to be mapped. Raises Refused."""
    with _launch(_plan(0, (), ()), {}) as pid:
        yield pid


def attempt(flags: int, *steps: Step) -> Refused | None:
    """None when new namespaces could be made and the steps be done in them."""
    try:
        with child(flags, *steps):
            return None
    except Refused as refused:
        return refused


@contextlib.contextmanager
def _ids() -> Iterator[_Ids]:
    host = this_host()
    if host.privileged:
        try:
            first = id_ranges().acquire()
        except (OSError, UnsupportedError) as error:
            raise Refused("id_range", getattr(error, "errno", None) or errno.EAGAIN) from error
        become = (
            step("setgroups", gids=b""),
            step("setresgid", gid=0),
            step("setresuid", uid=0),
        )
        try:
            yield _Ids(maps=range_maps(first, LENGTH), deny_setgroups=False, become=become)
        finally:
            id_ranges().release(first)
    elif host.uid == 0:
        # Its only id is host root's: no map of ours leads there.
        raise Refused("uid_map", errno.EPERM)
    else:
        maps = IdMaps(uid=(INSIDE_ID, host.uid, 1), gid=(INSIDE_ID, host.gid, 1))
        yield _Ids(maps=maps, deny_setgroups=True, become=())


def _plan(flags: int, beside: tuple[Step, ...], inside: tuple[Step, ...]) -> Plan:
    return Plan(
        mode=MODE_BASE,
        clone_flags=native.CLONE_NEWUSER | flags,
        inputs=(),
        beside=(step("send_child", control="control"), *beside, step("release_child")),
        inside=(step("await_parent"), *inside, step("ready", control="control")),
    )


@contextlib.contextmanager
def _launch(plan: Plan, holes: dict[str, bytes]) -> Iterator[int]:
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        launch = Launch(complete(encode(plan), holes=holes), (null, null, null), ())
    except OSError as error:
        raise Refused("start_launcher", error.errno or 0) from error
    finally:
        os.close(null)
    try:
        launch.wait_for(READY, time.monotonic() + PATIENCE)
        yield launch.child_pid
    except LaunchFailed as failure:
        op = EARLY_STEPS[failure.step] if failure.step < 0 else plan.steps[failure.step].op
        raise Refused(op, failure.errno) from None
    except TimeoutError:
        raise Refused("launch", errno.ETIMEDOUT) from None
    finally:
        launch.abandon()
