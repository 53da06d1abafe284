"""Removing the cgroups of managers that died."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pycontainer.cgroup import files


def remove_leftovers(paths: Mapping[str, str], prefix: str) -> list[str]:
    """Kill and remove every cgroup named `prefix…` directly below these parents, with all below it.

    Returns the directories that were removed. Raises OSError EBUSY for one that stays.
    """
    if not prefix or "/" in prefix:
        raise ValueError(f"prefix={prefix!r}: the beginning of a name, not empty")
    removed: list[str] = []
    parents = {
        directory: os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        for directory in dict.fromkeys(paths.values())
        if os.path.isdir(directory)
    }
    try:
        found = [
            (directory, fd, name)
            for directory, fd in parents.items()
            for name in sorted(os.listdir(fd))
            if name.startswith(prefix)
        ]
        for _, fd, name in found:
            _kill(fd, name)
        for directory, fd, name in found:
            _kill_until_empty(fd, name)
            files.remove(fd, name)
            removed.append(f"{directory}/{name}")
    finally:
        for fd in parents.values():
            os.close(fd)
    return removed


def _kill(fd: int, name: str) -> None:
    """SIGKILL for all: at once in version 2; in version 1 one by one, thawed to receive it."""
    if _try_write(fd, f"{name}/cgroup.kill", "1"):
        return
    files.kill_each(fd, name)
    for file, text in (("cgroup.freeze", "0"), ("freezer.state", "THAWED")):
        _try_write(fd, f"{name}/{file}", text)


def _kill_until_empty(fd: int, name: str) -> None:
    pauses = files.Pauses(files.REMOVAL_SECONDS)
    while files.processes(fd, name):
        _kill(fd, name)
        if not pauses.wait():
            return  # the removal says EBUSY


def _try_write(fd: int, path: str, text: str) -> bool:
    try:
        files.write(fd, path, text)
    except OSError as error:
        # No such file in this version, hierarchy or kernel; or the cgroup is gone meanwhile.
        if error.errno not in files.GONE:
            raise
        return False
    return True
