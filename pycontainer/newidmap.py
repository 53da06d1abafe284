"""Id ranges for ordinary users: newuidmap and newgidmap write what /etc/subuid and subgid allow."""

from __future__ import annotations

import shutil
import subprocess

from pycontainer.errors import UnsupportedError
from pycontainer.linux import facts
from pycontainer.plan.host import Host, Subordinate

# Where the range stands inside the base's user namespace: away from the user's own id there.
FIRST_INSIDE = 0x7000_0000
_REMEDY = (
    "as root: apt-get install uidmap; usermod --add-subuids 100000-165535 "
    "--add-subgids 100000-165535 USER; or use one id (id_range=None)"
)


def subordinate_of(host: Host, wanted: int) -> Subordinate:
    """This user's subordinate ids. Raises UnsupportedError where there are too few."""
    for program in ("newuidmap", "newgidmap"):
        if shutil.which(program) is None:
            raise UnsupportedError("id_range", f"{program} is not installed", _REMEDY)
    names = facts.own_names()
    uids = facts.subordinate_ids("/etc/subuid", names)
    gids = facts.subordinate_ids("/etc/subgid", names)
    for file, found in (("/etc/subuid", uids), ("/etc/subgid", gids)):
        if found is None or found[1] < wanted:
            have = found[1] if found else 0
            raise UnsupportedError(
                f"id_range={wanted}", f"{file} gives {names[0]} {have} ids", _REMEDY
            )
    assert uids is not None
    assert gids is not None
    return Subordinate(first_uid=uids[0], uid_count=wanted, first_gid=gids[0], gid_count=wanted)


def write_maps(pid: int, host: Host, ids: Subordinate) -> None:
    """Map the user's own ids and its range into the user namespace of `pid`."""
    for program, own, first, count in (
        ("newuidmap", host.uid, ids.first_uid, ids.uid_count),
        ("newgidmap", host.gid, ids.first_gid, ids.gid_count),
    ):
        numbers = (pid, own, own, 1, FIRST_INSIDE, first, count)
        done = subprocess.run([program, *map(str, numbers)], capture_output=True, text=True)
        if done.returncode:
            raise UnsupportedError(f"id_range={count}", done.stderr.strip() or program, _REMEDY)
