"""This machine as a `plan.host.Host`, read once per process."""

from __future__ import annotations

import os
from functools import cache

from pycontainer.errors import UnsupportedError
from pycontainer.linux import application, facts
from pycontainer.plan.host import Bind, File, Host, Symlink


@application.once_per_process
def this_host() -> Host:
    """What plans depend on, here and now."""
    return Host(
        machine=facts.machine(),
        kernel=facts.kernel_version(),
        uid=os.geteuid(),
        gid=os.getegid(),
        privileged=facts.is_privileged(),
        initial_user_namespace=facts.in_initial_user_namespace(),
        time_namespace=facts.has_namespace("time"),
        cgroup_namespace=facts.has_namespace("cgroup"),
        keyrings=facts.has_keyrings(),
        processors=facts.usable_processors(),
        hard_limits=facts.hard_limits(),
        view=tuple(_view_entry(entry) for entry in facts.host_view()),
    )


def _view_entry(entry: facts.ViewEntry) -> Bind | Symlink | File:
    if "target" in entry:
        return Symlink(entry["path"], entry["target"])
    if "content" in entry:
        return File(entry["path"], entry["content"])
    return Bind(entry["path"], entry["is_directory"])


@cache
def kernel_that_can() -> None:
    """Raise UnsupportedError where the kernel is older than what every plan needs."""
    if facts.machine() not in ("x86_64", "aarch64"):
        raise UnsupportedError("this machine", facts.machine(), "x86-64 and aarch64 are supported")
    if facts.kernel_version() < (5, 14):
        have = ".".join(map(str, facts.kernel_version()))
        raise UnsupportedError("this kernel", f"Linux {have}", "Linux 5.14 or newer is needed")
