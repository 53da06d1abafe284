"""Resource limits of the payload (setrlimit(2)): finite where a program could harm its host."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pycontainer.errors import UnsupportedError
from pycontainer.plan.host import Host
from pycontainer.plan.steps import Step, step
from pycontainer.spec import RLIMITS, Spec

INFINITY = 2**64 - 1
# No core dumps: they would be written by the host's core_pattern, or fill the disk (R14).
# 64 KiB of locked memory and 800 KiB of message queues are the kernel's own defaults.
ALWAYS = {"core": 0, "memlock": 65536, "msgqueue": 819200, "rtprio": 0, "nice": 0}


def add_steps(spec: Spec, host: Host, *, pids_by_rlimit: bool) -> Iterator[Step]:
    """One step for each limit; never above what this process may have itself."""
    wanted: dict[str, int] = dict(ALWAYS)
    for name, field in (("fsize", "file_size"), ("nofile", "open_files")):
        limit = spec.limit(field)
        if limit is not None and limit != math.inf:
            wanted[name] = int(limit)
    pids = spec.limit("pids")
    if pids_by_rlimit and pids not in (None, math.inf):
        # Counted for each user namespace since 5.14, so it is the container's own number; init
        # counts as well. A payload without capabilities is held by it.
        wanted["nproc"] = int(pids or 0) + 1
    asked = dict(spec.rlimits)
    for name, limit in {**wanted, **asked}.items():
        number = RLIMITS[name]
        most = host.hard_limits[number]
        if limit > most and name in asked:
            raise UnsupportedError(
                f"rlimits[{name!r}]={limit}",
                f"the hard limit of this process is {most}",
                "raise it outside (ulimit -H, LimitNOFILE= and its kin), or ask for less",
            )
        limit = min(limit, most)
        yield step("set_rlimit", resource=number, soft=limit, hard=limit)
