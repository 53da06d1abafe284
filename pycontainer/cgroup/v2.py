"""Choosing the parent in the tree of version 2, where a cgroup holds processes or limits children.

"No internal processes" (cgroups(7)): a cgroup other than the root of the whole tree that has
processes of its own cannot enable controllers for children. So a parent has to be free of them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import attrs

from pycontainer.cgroup.hierarchy import Hierarchy

USED = ("memory", "pids", "cpu", "cpuset", "io")
# Where this process moves within a cgroup that was delegated to it; also how the next process
# in there recognises that the cgroup above is the parent to use.
LEAF = "pycontainer-self"
BELOW_ROOT = "pycontainer"


@attrs.frozen(kw_only=True)
class Place:
    """A directory for containers' cgroups, the controllers they get, and why not the others."""

    directory: str
    controllers: frozenset[str]
    reasons: dict[str, str]


def place(
    tree: Hierarchy,
    name: str | None,
    made: list[str],
    delegated_scope: Callable[[Hierarchy], str | None],
) -> Place:
    """The parent in this tree. Adds the directories it makes to `made`; raises OSError."""
    own = tree.own_directory
    if own is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), tree.own)
    moved = os.path.basename(own) == LEAF
    base = os.path.dirname(own) if moved else own
    if name is not None:
        return _named(tree, base, name, made)
    if not _available(tree.mount):
        return Place(directory=own, controllers=frozenset(), reasons={})
    if _is_root(base):
        directory = os.path.join(base, BELOW_ROOT)
        _make(directory, made)
        return _enabled(directory, base)
    why = "" if moved else _make_free(base, tree)
    if not why:
        return _enabled(base, base)
    scope = delegated_scope(tree)
    if scope is not None:
        return _enabled(scope, scope)
    return _without_controllers(base, why)


def offered(tree: Hierarchy) -> frozenset[str]:
    """The controllers that version 2 has on this machine, as far as it can be seen from here."""
    return frozenset(_available(tree.mount)) if _is_root(tree.mount) else frozenset(USED)


def why_not_joinable(tree: Hierarchy, directory: str) -> str:
    """Why this process cannot put children into cgroups below `directory`; empty where it can.

    The kernel asks for write access to cgroup.procs of the nearest common ancestor of where a
    process is and where it goes, for CLONE_INTO_CGROUP too (cgroup-v2.rst, Delegation Containment).
    """
    own = _own_directory_now(tree)
    if own is None:
        return ""
    common = os.path.commonpath([own, directory])
    if os.access(os.path.join(common, "cgroup.procs"), os.W_OK, effective_ids=True):
        return ""
    return f"{common}, above both this process and {directory}, does not let it move processes"


def _own_directory_now(tree: Hierarchy) -> str | None:
    """Where this process is after it may have moved into a leaf."""
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as own:
        path = next((line[4:-1] for line in own if line.startswith("0::/")), None)
    return tree.directory("/" + path) if path is not None else None


def _named(tree: Hierarchy, base: str, name: str, made: list[str]) -> Place:
    directory = tree.directory(name) if name.startswith("/") else os.path.join(base, name)
    if directory is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    below_own = os.path.commonpath([base, directory]) == base
    if below_own and _available(base) and not _is_root(base):
        _make_free(base, tree)  # where this is refused, enabling controllers says why
    make_missing(directory, tree.mount, made)
    return _enabled(directory, base if below_own else tree.mount)


def make_missing(directory: str, mount: str, made: list[str]) -> None:
    """Make a cgroup and those above it, up to the mount; adds to `made`, the outermost first."""
    missing = []
    while directory != mount and not os.path.isdir(directory):
        missing.append(directory)
        directory = os.path.dirname(directory)
    for path in reversed(missing):
        _make(path, made)


def _make(directory: str, made: list[str]) -> None:
    try:
        os.mkdir(directory, 0o755)
    except FileExistsError:
        return  # made by another process, or long ago
    made.append(directory)


def _enabled(directory: str, topmost: str) -> Place:
    """Enable for the children of `directory` all that can be, no further up than `topmost`."""
    reasons: dict[str, str] = {}
    if not set(USED) <= _available(directory) and directory != topmost:
        reasons |= _enabled(os.path.dirname(directory), topmost).reasons
    available = _available(directory)
    enabled = _words(directory, "cgroup.subtree_control")
    # The kernel would enable pids and cpu even so, and make this a cgroup for threads, below
    # which nothing but threads of its processes can live: EOPNOTSUPP for every container.
    holds = not _is_root(directory) and bool(_words(directory, "cgroup.procs"))
    for controller in USED:
        if controller in enabled:
            continue
        if holds:
            reasons[controller] = f"{directory} holds processes, so its children cannot have limits"
        elif controller not in available:
            reasons.setdefault(controller, f"{directory} was not given the {controller} controller")
        else:
            refused = _enable(directory, controller)
            if refused:
                reasons[controller] = refused
    enabled = _words(directory, "cgroup.subtree_control")
    return Place(
        directory=directory,
        controllers=frozenset(enabled.intersection(USED)),
        reasons={name: why for name, why in reasons.items() if name not in enabled},
    )


def _enable(directory: str, controller: str) -> str:
    """Why the controller cannot be enabled for the children of `directory`; empty: it now is."""
    # One at a time: the kernel takes all of a write or nothing.
    try:
        fd = os.open(os.path.join(directory, "cgroup.subtree_control"), os.O_WRONLY)
        try:
            os.write(fd, f"+{controller}".encode())
        finally:
            os.close(fd)
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, str(error.errno))
        return f"{directory} did not enable the {controller} controller: {name}"
    return ""


def _without_controllers(directory: str, why: str) -> Place:
    """Children that limit nothing can still be killed, frozen and cloned into."""
    enabled = _words(directory, "cgroup.subtree_control").intersection(USED)
    reasons = {controller: why for controller in USED if controller not in enabled}
    return Place(directory=directory, controllers=frozenset(enabled), reasons=reasons)


def _is_root(directory: str) -> bool:
    # Only the root of the whole tree has no type; the root of a cgroup namespace has one.
    return not os.path.exists(os.path.join(directory, "cgroup.type"))


def _is_delegated(directory: str, tree: Hierarchy) -> bool:
    """Whether somebody gave us this cgroup to manage: systemd's mark, a namespace, or its owner.

    Source: systemd's CGROUP_DELEGATION.md (the marks user.delegate and trusted.delegate).
    """
    for mark in ("user.delegate", "trusted.delegate"):
        try:
            if os.getxattr(directory, mark) == b"1":
                return True
        except OSError:
            continue  # no mark, no extended attributes, or not ours to read: the same answer
    if tree.own == "/":  # the root of a cgroup namespace: made for us, if it may be written
        return os.access(os.path.join(directory, "cgroup.subtree_control"), os.W_OK)
    owner = os.stat(os.path.join(directory, "cgroup.subtree_control")).st_uid
    return owner == os.geteuid() != 0  # root owns them all: that says nothing


def _make_free(own: str, tree: Hierarchy) -> str:
    """Move this process, if alone in a cgroup that it was given, into a leaf of that cgroup.

    Returns why not, or nothing. Other processes are never moved: they may count on their place.
    """
    processes = _words(own, "cgroup.procs")
    if not processes:
        return ""
    if not _is_delegated(own, tree):
        return f"{own} holds processes and was not delegated to them"
    others = sorted(processes - {str(os.getpid())})
    if others:
        return f"{own} holds other processes ({', '.join(others[:3])})"
    leaf = os.path.join(own, LEAF)
    try:
        _make(leaf, [])
        with open(os.path.join(leaf, "cgroup.procs"), "w", encoding="ascii") as procs:
            procs.write("0")
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, str(error.errno))
        return f"this process could not move into {leaf}: {name}"
    return ""


def _available(directory: str) -> set[str]:
    return _words(directory, "cgroup.controllers").intersection(USED)


def _words(directory: str, file: str) -> set[str]:
    with open(os.path.join(directory, file), encoding="ascii") as words:
        return set(words.read().split())
