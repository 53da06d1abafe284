"""Tries what lays file systems over each other: overlay, and mounts with ids of their own."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator

from pycontainer.ability.namespaces import blame
from pycontainer.ability.report import Ability
from pycontainer.ability.trial import Refused, attempt, child
from pycontainer.linux import application, native
from pycontainer.plan.host import Host
from pycontainer.plan.rootfs import NODEV, NOSUID, OPEN_TREE_CLONE, tmpfs
from pycontainer.plan.steps import Step, step

MOUNT_ATTR_IDMAP = 0x00100000  # <linux/mount.h>, since 5.12
AT_EMPTY_PATH = 0x1000
# Since 5.11 a user namespace may mount one, with its marks in user.overlay.* (overlayfs.rst).
OVERLAY = "lowerdir=/lower\0upperdir=/upper\0workdir=/work\0userxattr\0\0"


def overlay(host: Host) -> Ability:
    """An overlay mounted inside a user namespace, as a container's writable layer needs it."""
    refused = attempt(native.CLONE_NEWNS, *_overlay_steps())
    why, remedy = "mounted one with userxattr", ""
    if refused:
        why = str(refused)
        remedy = (
            "sudo modprobe overlay" if refused.errno == errno.ENODEV else "use Linux 5.11 or newer"
        )
    return Ability(name="overlay", available=not refused, why=why, remedy=remedy)


def _overlay_steps() -> Iterator[Step]:
    yield tmpfs("top", NOSUID | NODEV, mode="0755", size="64K")
    yield step("mount_stack", mount="top", target="/")
    for name in ("lower", "upper", "work"):
        yield step("make_directory", root="top", path=name, mode=0o755)
    yield step("pivot_root", root="top")  # an overlay's options are paths
    yield step("mount_new", result="overlay", fstype="overlay", attributes=0, options=OVERLAY)


def idmapped_mounts(host: Host) -> Ability:
    """A mount of the directory for temporary files that shows its files with other ids."""
    path = tempfile.gettempdir()
    try:
        _map_ids_of_mount(path)
    except Refused as refused:
        why, remedy = blame("user", refused, host)
        return Ability(name="idmapped_mounts", available=False, why=why, remedy=remedy)
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, str(error.errno))
        if not host.privileged:
            why = f"{name}; only root of the file system may"
            remedy = "sudo -E python -m pycontainer doctor"
        else:
            why = f"{name}; the file system at {path} cannot"
            remedy = "TMPDIR=DIRECTORY python -m pycontainer doctor, on ext4, xfs, btrfs or tmpfs"
        return Ability(name="idmapped_mounts", available=False, why=why, remedy=remedy)
    return Ability(name="idmapped_mounts", available=True, why=f"mapped a mount of {path}")


def _map_ids_of_mount(path: str) -> None:
    """On a detached mount, which nobody sees and which goes with its descriptor."""
    with contextlib.ExitStack() as undo:
        pid = undo.enter_context(child(0))
        userfd = os.open(f"{pid}/ns/user", os.O_RDONLY, dir_fd=application.proc_fd())
        undo.callback(os.close, userfd)
        flags = OPEN_TREE_CLONE | os.O_CLOEXEC
        mountfd = _checked(native.raw("pyc_open_tree")(-1, os.fsencode(path), flags))
        undo.callback(os.close, mountfd)
        set_attributes = native.raw("pyc_mount_setattr")
        _checked(set_attributes(mountfd, b"", AT_EMPTY_PATH, MOUNT_ATTR_IDMAP, 0, 0, userfd))


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result
