"""`probe`: every ability in turn."""

from __future__ import annotations

import os
from collections.abc import Iterator

from pycontainer.ability.cgroups import cgroups, systemd_delegation
from pycontainer.ability.files import idmapped_mounts, overlay
from pycontainer.ability.filters import landlock, seccomp, settings
from pycontainer.ability.namespaces import id_range, limits_of_namespaces, namespaces
from pycontainer.ability.report import Ability, HostReport
from pycontainer.ability.whole import whole_run
from pycontainer.plan.host import Host
from pycontainer.thishost import this_host


def probe() -> HostReport:
    """What works here, why the rest does not, and the command that would change it.

    Each ability is tried in a short-lived process of its own; nothing is left, and any thread may
    call it. Takes some tens of milliseconds. The parent cgroups are found once per process.
    """
    host = this_host()
    return HostReport(
        kernel=os.uname().release,
        machine=host.machine,
        uid=host.uid,
        privileged=host.privileged,
        abilities=tuple(_abilities(host)),
    )


def _abilities(host: Host) -> Iterator[Ability]:
    yield from namespaces(host)
    yield id_range(host)
    yield overlay(host)
    yield idmapped_mounts(host)
    yield from cgroups()
    yield systemd_delegation()
    yield from seccomp(host)
    yield landlock()
    yield from settings(host)
    yield from limits_of_namespaces()
    yield whole_run()
