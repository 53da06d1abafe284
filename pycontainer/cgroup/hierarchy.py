"""Which cgroup hierarchies this process can see, and where in them it is.

Two files say it: `/proc/self/mountinfo` (where each hierarchy is mounted, and which part of it)
and `/proc/self/cgroup` (the path of this process in each). Source: cgroups(7), proc(5).
"""

from __future__ import annotations

import os
import posixpath
import re

import attrs


@attrs.frozen(kw_only=True)
class Hierarchy:
    """One mounted hierarchy: version 1 with its controllers, or the one of version 2 (no names).

    `mount` is where it is mounted, `root` the cgroup that is seen there, `own` the cgroup of this
    process; both as `/proc/self/cgroup` writes them.
    """

    version: int
    controllers: frozenset[str]
    mount: str
    root: str
    own: str

    def directory(self, cgroup: str) -> str | None:
        """The directory of a cgroup, or None where this mount does not show it."""
        if cgroup.startswith(self.mount + "/"):  # written as a path of the file system
            return posixpath.normpath(cgroup)
        relative = posixpath.relpath(posixpath.normpath(cgroup), self.root)
        if relative == ".." or relative.startswith("../"):
            return None
        return posixpath.normpath(posixpath.join(self.mount, relative))

    @property
    def own_directory(self) -> str | None:
        """The directory of the cgroup that this process is in, where the mount shows it."""
        return self.directory(self.own)


def read() -> tuple[Hierarchy, ...]:
    """The hierarchies of this process, now."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mountinfo:
        mounts = mountinfo.read()
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as own:
        return parse(mounts, own.read())


def parse(mountinfo: str, own_cgroups: str) -> tuple[Hierarchy, ...]:
    """The hierarchies that both files name; of several mounts of one, the first that shows us."""
    own: dict[frozenset[str], str] = {}
    for line in own_cgroups.splitlines():
        _, names, path = line.split(":", 2)
        own[frozenset(names.split(",")) if names else frozenset()] = path
    found: dict[frozenset[str], Hierarchy] = {}
    for line in mountinfo.splitlines():
        hierarchy = _hierarchy_of_mount(line, own)
        if hierarchy is None or hierarchy.own_directory is None:
            continue
        found.setdefault(hierarchy.controllers, hierarchy)
    return tuple(found.values())


def _hierarchy_of_mount(line: str, own: dict[frozenset[str], str]) -> Hierarchy | None:
    # 31 23 0:28 ROOT MOUNT options optional-fields… - TYPE source superblock-options
    before, _, after = line.partition(" - ")
    fields, (kind, _, *options) = before.split(" "), after.split(" ")
    if kind == "cgroup2":
        key: frozenset[str] = frozenset()
    elif kind == "cgroup":
        superblock = set(options[-1].split(",")) if options else set()
        key = next((names for names in own if names and names <= superblock), frozenset())
        if not key:
            return None
    else:
        return None
    if key not in own:
        return None
    return Hierarchy(
        version=1 if key else 2,
        controllers=key,
        mount=_unescape(fields[4]),
        root=_unescape(fields[3]),
        own=own[key],
    )


def _unescape(text: str) -> str:
    """A field of mountinfo: blank, tab, newline and backslash come as three octal digits."""
    return re.sub(
        r"(?:\\[0-7]{3})+",
        lambda match: os.fsdecode(bytes(int(code, 8) for code in match[0][1:].split("\\"))),
        text,
    )
