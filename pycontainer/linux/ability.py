"""Reads the settings that stand between this process and a container."""

from __future__ import annotations

import os

# /proc/sys/user has one for each kind of namespace (namespaces(7)).
NAMESPACE_LIMITS = {
    name: f"user.max_{name}_namespaces"
    for name in ("mnt", "pid", "net", "ipc", "uts", "cgroup", "user", "time")
}
# Debian's and older Ubuntu's switch; absent elsewhere.
USERNS_CLONE = "kernel.unprivileged_userns_clone"
# Ubuntu's since 23.10: a user namespace may be made, and its capabilities are then denied.
APPARMOR_USERNS = "kernel.apparmor_restrict_unprivileged_userns"
YAMA = "kernel.yama.ptrace_scope"
MEMFD_NOEXEC = "vm.memfd_noexec"


def sysctl(name: str) -> str | None:
    """The value of a kernel setting, or None where this kernel has no such setting."""
    try:
        with open("/proc/sys/" + name.replace(".", "/"), encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None  # absent, or out of this user's reach: then it cannot be named as the reason


def is_filtered() -> bool:
    """Whether a seccomp filter lies on this process already (proc(5), Seccomp)."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        return any(line.split() == ["Seccomp:", "2"] for line in file)


def booted_by_systemd() -> bool:
    """Whether systemd is this machine's init (sd_booted(3))."""
    return os.path.isdir("/run/systemd/system")
