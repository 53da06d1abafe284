"""Who a container is to its host, and who its payload is inside: id maps and looked-up names."""

from __future__ import annotations

import os
import stat

from pycontainer.base import IdMaps
from pycontainer.errors import SpecError, UnsupportedError
from pycontainer.idrange import LENGTH
from pycontainer.linux import facts, native
from pycontainer.plan.credentials import Identity
from pycontainer.spec import Spec

# An /etc/passwd larger than this is an attack (CVE-2024-9676).
MOST_BYTES = 1 << 20


def resolve(spec: Spec, *, ranged: bool) -> Identity:
    """Numeric ids of the payload, names looked up in the container's own files.

    Raises SpecError for a name that is not there and for an id that is not mapped.
    """
    uid, primary = _user(spec)
    gid = primary if spec.group is None else _group(spec, "group", spec.group)
    groups = tuple(_group(spec, "extra_groups", group) for group in spec.extra_groups)
    if not ranged:
        if groups:
            raise UnsupportedError(
                "extra_groups", "one id is mapped, and the kernel then denies setgroups",
                "ask for id_range=65536 (needs /etc/subuid, /etc/subgid and newuidmap)",
            )  # fmt: skip
    else:
        length = spec.id_range or LENGTH
        for field, number in (
            ("user", uid),
            ("group", gid),
            *(("extra_groups", g) for g in groups),
        ):
            if number >= length:
                raise SpecError(field, number, f"an id below {length}, the mapped range")
    return Identity(uid=uid, gid=gid, groups=groups, ranged=ranged)


def _user(spec: Spec) -> tuple[int, int]:
    """(uid, primary gid); a number without an entry in passwd is its own group."""
    wanted = spec.user
    for fields in _entries(spec, "etc/passwd", 4):
        if wanted == fields[0] or (isinstance(wanted, int) and str(wanted) == fields[2]):
            return _number("user", fields[2]), _number("group", fields[3])
    if isinstance(wanted, str):
        raise SpecError("user", wanted, "a user in the container's /etc/passwd, or a number")
    return wanted, wanted


def _group(spec: Spec, field: str, wanted: int | str) -> int:
    if isinstance(wanted, int):
        return wanted
    for fields in _entries(spec, "etc/group", 3):
        if wanted == fields[0]:
            return _number(field, fields[2])
    raise SpecError(field, wanted, "a group in the container's /etc/group, or a number")


def _number(field: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < 2**32 - 1):
        raise SpecError(field, text, "the container's file has no valid id there")
    return int(text)


def _entries(spec: Spec, path: str, fields: int) -> list[list[str]]:
    if spec.rootfs is None:
        content = facts.PASSWD if path.endswith("passwd") else facts.GROUP
    else:
        content = read_inside(spec.rootfs, path)
    lines = content.decode("utf-8", "replace").splitlines()
    return [parts for line in lines if len(parts := line.split(":")) >= fields]


def read_inside(root: str, path: str) -> bytes:
    """A small regular file below `root`, links resolved inside it; b"" where there is none."""
    rootfd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        resolve = native.RESOLVE_IN_ROOT | native.RESOLVE_NO_MAGICLINKS
        fd = native.openat2(rootfd, path, os.O_RDONLY | os.O_NONBLOCK, resolve=resolve)
    except OSError:
        return b""  # absent, a loop of links, or out of reach: there are no names then
    finally:
        os.close(rootfd)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return b""
        return os.read(fd, MOST_BYTES)
    finally:
        os.close(fd)


def range_maps(first: int, length: int) -> IdMaps:
    """Ids 0 to length - 1 inside are `first` onwards outside."""
    return IdMaps(uid=(0, first, length), gid=(0, first, length))
