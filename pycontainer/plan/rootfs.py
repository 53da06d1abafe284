"""The base of a container: a small mount namespace with its root tree, made once, shared by runs.

A base holds the tree, and beside it what a run needs and the tree must not show: a fully visible
procfs (without which the kernel refuses a proc mount in a user namespace, mount_too_revealing), a
null device and an empty directory to mask with. Every mount in it is locked for the containers that
are cloned from it, because their user namespace does not own it (mount_namespaces(7)).
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

import attrs

from pycontainer.plan.host import Bind, File, Host, Subordinate, Symlink
from pycontainer.plan.steps import MODE_BASE, Hole, Plan, Step, step
from pycontainer.spec import Mount, Tmpfs

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
OPEN_TREE_CLONE = 1
AT_RECURSIVE = 0x8000
MS_PRIVATE = 1 << 18
RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8  # MOUNT_ATTR_* (linux/mount.h)
RESOLVE_NO_SYMLINKS = 0x04
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
DEVICE_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)
# Without them nothing can be mounted there; a directory given as rootfs= must bring them itself.
MOUNT_POINTS = ("proc", "dev", "tmp")
MAP_LENGTH = 33


@attrs.frozen(kw_only=True)
class Point:
    """Where a mount of the spec will go: the base makes the place, a run fills it."""

    target: str
    is_directory: bool


@attrs.frozen(kw_only=True)
class BaseSpec:
    """What a base depends on: runs with an equal one can share it."""

    rootfs: str | None = None
    sysfs: bool = False
    points: tuple[Point, ...] = ()
    binds: tuple[Mount, ...] = ()
    bind_points: tuple[Point, ...] = ()
    user_namespace: bool = False
    subordinate: Subordinate | None = None


def compile_base(base: BaseSpec, host: Host) -> Plan:
    """The plan that prepares a base and waits until the application holds its namespaces."""
    clone_flags = CLONE_NEWNS | (CLONE_NEWUSER if base.user_namespace else 0)
    inside = [
        step("await_parent"),  # ids are mapped, and the application knows of this process
        step("set_propagation", path="/", propagation=MS_PRIVATE),
        *_top(),
        *(_directory_tree(base) if base.rootfs else _view_tree(host)),
        *_dev_steps(),
        *([] if base.rootfs else _points(base)),
        *([] if base.rootfs else [_mount_set("tree", RDONLY)]),
        *_beside_tree(base),
        *_kept_binds(base),
        step("pivot_root", root="top"),
        step("ready", control="control"),
    ]
    return Plan(
        mode=MODE_BASE,
        clone_flags=clone_flags,
        inputs=(),
        beside=(step("send_child", control="control"), *_base_maps(base)),
        inside=tuple(inside),
    )


def _base_maps(base: BaseSpec) -> Iterator[Step]:
    if base.subordinate is not None:
        yield step("await_application", control="control")  # it runs newuidmap and newgidmap
    elif base.user_namespace:
        yield from map_steps(deny_setgroups=True)
    yield step("release_child")


def map_steps(*, deny_setgroups: bool) -> Iterator[Step]:
    """Write the clone's id maps. An unprivileged map needs setgroups denied (CVE-2014-8989)."""
    if deny_setgroups:
        yield step("write_child_proc", proc="proc", file="setgroups", content=b"deny")
    for kind in ("gid_map", "uid_map"):
        yield step("write_child_proc", proc="proc", file=kind, content=Hole(kind, MAP_LENGTH))


def map_content(inside: int, outside: int, count: int) -> bytes:
    """One line of a uid_map or gid_map, padded to the length of its hole."""
    return b"%10d %10d %10d\n" % (inside, outside, count)


def _mount_set(mount: str, flags: int, *, recursive: bool = False) -> Step:
    return step("mount_set", mount=mount, set=flags, clear=0, recursive=int(recursive))


def tmpfs(result: str, attributes: int, **options: str | int) -> Step:
    """A new tmpfs, not attached yet."""
    text = "".join(f"{key}={value}\0" for key, value in options.items())
    return step(
        "mount_new", result=result, fstype="tmpfs", attributes=attributes, options=text + "\0"
    )


def attach(mount: str, root: str, target: str, *, follow: bool = False) -> Step:
    """Mount at `target` inside `root`; a symbolic link there is refused unless `follow`."""
    resolve = 0 if follow else RESOLVE_NO_SYMLINKS
    return step("mount_attach", mount=mount, root=root, target=target, resolve=resolve)


def bind(source: str, attributes: int, *, result: str = "bind") -> Step:
    """A detached copy of the mounts at and below `source`, with attributes set on all of them."""
    flags = OPEN_TREE_CLONE | AT_RECURSIVE
    return step("open_tree", result=result, path=source, flags=flags, set=attributes, clear=0)


def _directory(root: str, path: str, mode: int = 0o755) -> Step:
    return step("make_directory", root=root, path=path, mode=mode)


def _empty_file(root: str, path: str) -> Step:
    return step("make_file", root=root, path=path, mode=0o644, content=b"")


def _top() -> Iterator[Step]:
    yield tmpfs("top", NOSUID | NODEV, mode="0755", size="1M", nr_inodes=8192)
    yield step("mount_stack", mount="top", target="/")
    for name in ("tree", "proc", "sys", "empty"):
        yield _directory("top", name)
    yield _empty_file("top", "null")


def _directory_tree(base: BaseSpec) -> Iterator[Step]:
    assert base.rootfs is not None
    yield bind(base.rootfs, RDONLY | NOSUID | NODEV, result="tree")
    yield attach("tree", "top", "tree")


def _view_tree(host: Host) -> Iterator[Step]:
    """The host view: read-only binds of what programs need, in a tmpfs of our own."""
    yield tmpfs("tree", NOSUID | NODEV, mode="0755", size="4M", nr_inodes=8192)
    yield attach("tree", "top", "tree")
    made: set[str] = set()
    for name in (*MOUNT_POINTS, "sys", "run", "etc", "home", "var"):
        made.add(f"/{name}")
        yield _directory("tree", name)
    for entry in host.view:
        yield from _parents("tree", entry.path, made)
        match entry:
            case Bind(path, is_directory):
                yield _directory("tree", path) if is_directory else _empty_file("tree", path)
                yield bind(path, RDONLY | NOSUID | NODEV)
                yield attach("bind", "tree", path)
                yield step("close_slot", descriptor="bind")
            case Symlink(path, target):
                yield step("make_symlink", root="tree", path=path, content=target)
            case File(path, content):
                yield step("make_file", root="tree", path=path, mode=0o644, content=content)


def _parents(root: str, path: str, made: set[str]) -> Iterator[Step]:
    """Every directory above `path` that nothing has made yet, from the top."""
    above = posixpath.dirname(path)
    missing = []
    while above != "/" and above not in made:
        missing.append(above)
        above = posixpath.dirname(above)
    for directory in reversed(missing):
        made.add(directory)
        yield _directory(root, directory)


def _dev_steps() -> Iterator[Step]:
    yield tmpfs("dev", NOSUID | NOEXEC, mode="0755", size="64K", nr_inodes=32)
    yield attach("dev", "tree", "dev")
    for name in DEVICES:
        yield _empty_file("dev", name)
        yield bind(f"/dev/{name}", NOSUID | NOEXEC)
        yield attach("bind", "dev", name)
        yield step("close_slot", descriptor="bind")
    for name, target in DEVICE_LINKS:
        yield step("make_symlink", root="dev", path=name, content=target)
    yield _directory("dev", "pts")
    yield _directory("dev", "shm")
    yield _mount_set("dev", RDONLY)


def _points(base: BaseSpec) -> Iterator[Step]:
    made = {"/tmp", "/dev", "/dev/shm", "/proc"}
    for point in base.points:
        if point.target.startswith(("/tmp/", "/dev/shm/")) or point.target in made:
            continue  # a run makes those itself, in its own tmpfs
        yield from _parents("tree", point.target, made)
        make = _directory if point.is_directory else _empty_file
        made.add(point.target)
        yield make("tree", point.target)


def _kept_binds(base: BaseSpec) -> Iterator[Step]:
    """An ordinary user's binds wait beside the tree, at /b0, /b1, …: a run puts them in place."""
    for i, (mount, point) in enumerate(zip(base.binds, base.bind_points, strict=True)):
        make = _directory if point.is_directory else _empty_file
        yield make("top", f"b{i}")
        yield bind(mount.source, bind_attributes(mount))
        yield attach("bind", "top", f"b{i}")
        yield step("close_slot", descriptor="bind")


def bind_attributes(mount: Mount) -> int:
    """nosuid and nodev always; the rest as the spec says."""
    attributes = NOSUID | NODEV
    attributes |= RDONLY if mount.read_only else 0
    return attributes | (0 if mount.executable else NOEXEC)


def tmpfs_of(mount: Tmpfs, result: str) -> Step:
    """The spec's tmpfs, capped in bytes and inodes."""
    attributes = NOSUID | NODEV | (0 if mount.executable else NOEXEC)
    size = 0 if mount.size == float("inf") else int(mount.size)  # the kernel's 0 is no limit
    return tmpfs(result, attributes, size=size, nr_inodes=mount.inodes, mode=f"{mount.mode:04o}")


def _beside_tree(base: BaseSpec) -> Iterator[Step]:
    yield bind("/dev/null", NOSUID | NOEXEC)
    yield attach("bind", "top", "null")
    yield step("close_slot", descriptor="bind")
    yield tmpfs("bind", RDONLY | NOSUID | NODEV | NOEXEC, mode="0555", size="4K", nr_inodes=2)
    yield attach("bind", "top", "empty")
    yield step("close_slot", descriptor="bind")
    for name in ("proc", "sys") if base.sysfs else ("proc",):
        yield bind(f"/{name}", NOSUID | NODEV | NOEXEC)
        yield attach("bind", "top", name)
        yield step("close_slot", descriptor="bind")
