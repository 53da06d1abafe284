"""Reads what `plan.host.Host` holds: the kernel, this user, and the parts of the host view."""

from __future__ import annotations

import os
import platform
import pwd
import resource
import stat
import sys
from functools import cache
from typing import TypedDict

from pycontainer.linux import native

# What programs need of /etc: the dynamic linker, name lookup, certificates, time, locale, MIME.
ETC = (
    "alternatives", "ca-certificates", "ca-certificates.conf", "crypto-policies", "fonts",
    "gai.conf", "host.conf", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "locale.alias",
    "locale.conf", "localtime", "login.defs", "magic", "mime.types", "nsswitch.conf",
    "os-release", "pki", "protocols", "python3", "python3.11", "services", "ssl", "terminfo",
    "timezone", "xdg",
)  # fmt: skip
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/alternatives")
PASSWD = b"""\
root:x:0:0:root:/tmp:/bin/sh
user:x:1000:1000:user:/tmp:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
GROUP = b"root:x:0:\ntty:x:5:\nuser:x:1000:\nnogroup:x:65534:\n"
HOSTS = b"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
# Never shown whole, whatever sys.path says: they hold what belongs to others.
PRIVATE = frozenset({"/", "/root", "/home", "/var", "/run", "/srv", "/tmp", "/etc", "/var/tmp"})


class ViewEntry(TypedDict, total=False):
    """One entry of the host view: a bind, a symlink (`target`) or a file (`content`)."""

    path: str
    is_directory: bool
    target: str
    content: bytes


def host_view() -> list[ViewEntry]:
    """What the host view shows, parents before children: system, /etc, this interpreter."""
    entries: list[ViewEntry] = []
    for path in (*SYSTEM, *(f"/etc/{name}" for name in ETC)):
        entries += _entry(path)
    for path, content in (("passwd", PASSWD), ("group", GROUP), ("hosts", HOSTS)):
        entries.append({"path": f"/etc/{path}", "content": content})
    shown = {entry["path"] for entry in entries}
    for path in interpreter_paths():
        if not any(path == other or path.startswith(other + "/") for other in shown):
            entries += _entry(path)
            shown.add(path)
    return _unique(entries)


def _unique(entries: list[ViewEntry]) -> list[ViewEntry]:
    return list({entry["path"]: entry for entry in entries}.values())


def _entry(path: str) -> list[ViewEntry]:
    try:
        kind = os.lstat(path).st_mode
    except OSError:
        return []  # absent or out of reach: programs will find it absent
    if stat.S_ISLNK(kind):
        return [{"path": path, "target": os.readlink(path)}]
    if stat.S_ISDIR(kind) or stat.S_ISREG(kind):
        return [{"path": path, "is_directory": stat.S_ISDIR(kind)}]
    return []


def interpreter_paths() -> list[str]:
    """The running interpreter's prefixes and sys.path, without what would show private places."""
    wanted = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, *sys.path]
    found: list[str] = []
    for path in wanted:
        if not path or not os.path.isabs(path):
            continue
        for form in (os.path.normpath(path), os.path.realpath(path)):
            if form not in found and not _is_private(form) and os.path.exists(form):
                found.append(form)
    return sorted(found, key=len)


def _is_private(path: str) -> bool:
    if path in PRIVATE or path in _homes() or path.startswith(("/proc/", "/sys/", "/dev/")):
        return True
    if path.count("/") == 1 or (path.startswith("/home/") and path.count("/") == 2):
        return True
    return path.startswith("/tmp/")  # every container has a /tmp of its own


@cache
def _homes() -> frozenset[str]:
    return frozenset(os.path.normpath(entry.pw_dir) for entry in pwd.getpwall())


def kernel_version() -> tuple[int, int]:
    """Major and minor number of the running kernel."""
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(filter(str.isdigit, minor)) or 0)


def machine() -> str:
    return platform.machine()


def is_privileged() -> bool:
    """Whether this process may make mounts and write id maps for others as it likes."""
    wanted = 1 << native.CAP_SYS_ADMIN | 1 << native.CAP_SETUID | 1 << 6 | 1 << 1
    return native.effective_capabilities() & wanted == wanted


def in_initial_user_namespace() -> bool:
    """Whether uid 0 here is the host's root: only the first user namespace maps every id."""
    with open("/proc/self/uid_map", encoding="ascii") as lines:
        return [line.split() for line in lines] == [["0", "0", "4294967295"]]


def has_namespace(name: str) -> bool:
    return os.path.exists(f"/proc/self/ns/{name}")


def hard_limits() -> tuple[int, ...]:
    """The hard resource limits of this process, by the kernel's numbers."""
    limits = []
    for number in range(16):
        hard = resource.getrlimit(number)[1]
        limits.append(2**64 - 1 if hard == resource.RLIM_INFINITY else hard)
    return tuple(limits)


def has_keyrings() -> bool:
    return os.path.exists("/proc/key-users")


def subordinate_ids(file: str, names: tuple[str, ...]) -> tuple[int, int] | None:
    """The first (start, count) that /etc/subuid or /etc/subgid gives one of `names`."""
    try:
        with open(file, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                name, _, rest = line.strip().partition(":")
                start, _, count = rest.partition(":")
                if name in names and start.isdigit() and count.isdigit():
                    return int(start), int(count)
    except OSError:
        return None  # no such file: no subordinate ids
    return None


def own_names() -> tuple[str, ...]:
    """How this user is called in /etc/subuid: by name or by number."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name, str(os.getuid())
    except KeyError:
        return (str(os.getuid()),)


def usable_processors() -> int:
    return len(os.sched_getaffinity(0))
