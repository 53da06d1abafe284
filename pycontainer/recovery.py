"""Removes what applications that crashed have left: `recover()`."""

from __future__ import annotations

import os
from collections.abc import Iterable

from pycontainer.cgroup import remove_leftovers
from pycontainer.linux import state


def recover() -> list[str]:
    """Find and remove what dead applications of this user left; the paths that were removed.

    Only their cgroups can be left: processes end with their manager, mounts and namespaces with
    their last process, id ranges with the lock on them. Safe at any time, from any process, also
    from several at once. Raises OSError where the state directory is not this user's alone.
    """
    try:
        directory_fd = state.open_directory(create=False)
    except FileNotFoundError:
        return []
    removed: list[str] = []
    try:
        for name, fd, content in state.dead_sessions(directory_fd):
            try:
                removed += remove_session(name, content.get("directories", []))
                os.unlink(f"{name}.session", dir_fd=directory_fd)
            finally:
                os.close(fd)
    finally:
        os.close(directory_fd)
    return removed


def remove_session(session: str, directories: Iterable[str]) -> list[str]:
    """Every cgroup that this session made: they carry its name."""
    paths = {path: path for path in directories if os.path.isdir(path)}
    return remove_leftovers(paths, f"pycontainer-{session}-")
