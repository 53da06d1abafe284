"""Tries what narrows a process: seccomp and Landlock; reads the settings around it."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pycontainer.ability.namespaces import blame
from pycontainer.ability.report import Ability
from pycontainer.ability.trial import attempt
from pycontainer.linux import native
from pycontainer.linux.ability import APPARMOR_USERNS, MEMFD_NOEXEC, USERNS_CLONE, YAMA, sysctl
from pycontainer.plan.host import Host
from pycontainer.plan.steps import step

SECCOMP_RET_ALLOW = 0x7FFF0000
SECCOMP_RET_USER_NOTIF = 0x7FC00000
BPF_RET = 0x06
ALLOW_ALL = struct.pack("<HBBI", BPF_RET, 0, 0, SECCOMP_RET_ALLOW)
CAP_SYS_PTRACE = 19


def seccomp(host: Host) -> Iterator[Ability]:
    """A filter that is really installed, and whether a filter may ask a supervisor."""
    refused = attempt(0, step("set_no_new_privs"), step("set_seccomp", filter=ALLOW_ALL))
    why, remedy = "installed one", ""
    if refused and refused.op != "set_seccomp":  # not even so far: a namespace is missing
        why, remedy = blame("user", refused, host)
    elif refused:
        why, remedy = str(refused), "boot a kernel built with CONFIG_SECCOMP_FILTER=y"
    yield Ability(name="seccomp.filter", available=not refused, why=why, remedy=remedy, needed=True)
    notification = native.seccomp_action_available(SECCOMP_RET_USER_NOTIF)
    yield Ability(
        name="seccomp.user_notification",
        available=notification,
        why="the kernel knows it" if notification else "this kernel has no SECCOMP_RET_USER_NOTIF",
        remedy="" if notification else "use Linux 5.0 or newer",
    )


def landlock() -> Ability:
    """The version of Landlock's interface."""
    abi = native.landlock_abi()
    return Ability(
        name="landlock",
        available=abi > 0,
        why=f"ABI {abi}" if abi else "not built in, or not among the kernel's lsm= at boot",
        remedy="" if abi else "add landlock to lsm= on the kernel's command line",
    )


def settings(host: Host) -> Iterator[Ability]:
    """Switches that hinder ordinary users, and two that change how things are done."""
    for name, hindering, free in ((USERNS_CLONE, "0", "1"), (APPARMOR_USERNS, "1", "0")):
        value = sysctl(name)
        hindered = value == hindering and not host.privileged
        yield Ability(
            name=f"setting.{name}",
            available=not hindered,
            why="this kernel has no such switch" if value is None else f"{name}={value}",
            remedy=f"sudo sysctl -w {name}={free}" if hindered else "",
        )
    yield _yama()
    yield _memfd_noexec()


def _yama() -> Ability:
    value = sysctl(YAMA)
    may = bool(native.effective_capabilities() >> CAP_SYS_PTRACE & 1)
    hindered = not may and value not in (None, "0")
    why = "this kernel has no Yama" if value is None else f"{YAMA}={value}"
    if hindered:
        why += ": a debugger outside cannot attach to what runs inside"
    remedy = f"sudo sysctl -w {YAMA}=0" if hindered else ""
    return Ability(name=f"setting.{YAMA}", available=not hindered, why=why, remedy=remedy)


def _memfd_noexec() -> Ability:
    value = sysctl(MEMFD_NOEXEC)
    hindered = value == "2"
    why = "this kernel has no such switch" if value is None else f"{MEMFD_NOEXEC}={value}"
    if hindered:
        why += ": the launcher is executed from its file, which must not be writable to others"
    remedy = f"sudo sysctl -w {MEMFD_NOEXEC}=1" if hindered else ""
    return Ability(name=f"setting.{MEMFD_NOEXEC}", available=not hindered, why=why, remedy=remedy)
