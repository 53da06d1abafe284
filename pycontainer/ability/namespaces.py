"""Tries every namespace, with an act in it that needs a capability, and ranges of ids."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator

from pycontainer.ability.report import Ability
from pycontainer.ability.trial import Refused, attempt, unmapped_child
from pycontainer.errors import UnsupportedError
from pycontainer.idrange import LENGTH
from pycontainer.linux import facts, native
from pycontainer.linux.ability import (
    APPARMOR_USERNS,
    NAMESPACE_LIMITS,
    USERNS_CLONE,
    is_filtered,
    sysctl,
)
from pycontainer.newidmap import subordinate_of, write_maps
from pycontainer.plan.host import Host
from pycontainer.plan.rootfs import tmpfs
from pycontainer.plan.steps import Step, step
from pycontainer.spec import NAMESPACES

# A namespace without power in it is of no use: AppArmor lets one be made and denies the rest.
ACTS: dict[str, tuple[Step, ...]] = {
    "user": (step("set_securebits", bits=0),),
    "mnt": (tmpfs("mount", 0, size="4K"),),
    "net": (step("raise_loopback"),),
    "uts": (step("set_hostname", hostname=b"container"),),
}
# What the kernel is built with for each (init/Kconfig).
CONFIG = {
    "mnt": "CONFIG_NAMESPACES", "cgroup": "CONFIG_CGROUPS", "user": "CONFIG_USER_NS",
    "pid": "CONFIG_PID_NS", "net": "CONFIG_NET_NS", "ipc": "CONFIG_IPC_NS",
    "uts": "CONFIG_UTS_NS", "time": "CONFIG_TIME_NS",
}  # fmt: skip
# The kernel's default on a machine of 8 GiB; far above what containers need.
PLENTY = 31231
OUTER_CONTAINER = (
    "docker run --security-opt seccomp=unconfined --security-opt systempaths=unconfined …, "
    "or pycontainer.run(…, nesting=True) outside"
)


def namespaces(host: Host) -> Iterator[Ability]:
    """One ability for each kind; `user` first, the others need it."""
    for name in sorted(NAMESPACES, key=lambda name: (name != "user", name)):
        refused = attempt(native.NAMESPACE_FLAGS[name], *ACTS.get(name, ()))
        why, remedy = blame(name, refused, host) if refused else ("made one", "")
        yield Ability(
            name=f"namespace.{name}", available=not refused, why=why, remedy=remedy, needed=True
        )


def blame(name: str, refused: Refused, host: Host) -> tuple[str, str]:
    """Why a namespace cannot be used, and the command that changes it."""
    setting = NAMESPACE_LIMITS[name]
    if refused.errno in (errno.ENOSPC, errno.EUSERS):
        return f"{refused}; {setting}={sysctl(setting)} is used up", enlarge(setting)
    if refused.op == "clone" and refused.errno == errno.EINVAL:
        return f"{refused}; this kernel has none", f"boot a kernel built with {CONFIG[name]}=y"
    # ENOSYS is a filter's word: every kernel that is new enough has clone3 (5.3).
    if refused.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS):
        return _blame_for_denial(refused, host)
    return str(refused), "python -m pycontainer doctor --format json"


def _blame_for_denial(refused: Refused, host: Host) -> tuple[str, str]:
    if refused.op == "uid_map":
        return (
            "this is root without CAP_SYS_ADMIN or CAP_SETUID, and host root is never mapped",
            "docker run --cap-add SYS_ADMIN --user 1000 …, or start it as an ordinary user",
        )
    if not host.privileged:
        for setting, hindering, free in ((USERNS_CLONE, "0", "1"), (APPARMOR_USERNS, "1", "0")):
            if sysctl(setting) == hindering:
                return f"{refused}; {setting}={hindering}", f"sudo sysctl -w {setting}={free}"
    if is_filtered():
        return (
            f"{refused}; a seccomp filter lies on this process",
            OUTER_CONTAINER,
        )
    return (
        f"{refused}; a security module (SELinux, AppArmor) or a chroot forbids it",
        "journalctl -k --grep 'denied|apparmor|avc'",
    )


def enlarge(setting: str) -> str:
    """The command that gives a namespace limit its usual room."""
    return f"sudo sysctl -w {setting}={PLENTY}"


def id_range(host: Host) -> Ability:
    """A map of 65,536 ids: from a free range as root, through newuidmap as an ordinary user."""
    if host.privileged:
        refused = attempt(0, step("setresgid", gid=LENGTH - 1), step("setresuid", uid=LENGTH - 1))
        why = f"{refused}" if refused else f"mapped {LENGTH} ids that are nobody's"
        remedy = "python -m pycontainer doctor" if refused else ""
        return Ability(name="ids.range", available=not refused, why=why, remedy=remedy, needed=True)
    why_not = _try_newidmap(host)
    if why_not is None:
        why = "newuidmap and newgidmap mapped this user's subordinate ids"
        return Ability(name="ids.range", available=True, why=why)
    installed = all(map(shutil.which, ("newuidmap", "newgidmap")))
    remedy = _give_ranges() if installed else "sudo apt-get install uidmap"
    return Ability(name="ids.range", available=False, why=why_not, remedy=remedy)


def _try_newidmap(host: Host) -> str | None:
    """Why this user's subordinate ids could not be mapped; None when they were."""
    try:
        ids = subordinate_of(host, LENGTH)
        with unmapped_child() as pid:
            write_maps(pid, host, ids)
    except UnsupportedError as error:
        return error.why
    except (OSError, Refused) as error:
        return str(error)
    return None


def _give_ranges() -> str:
    name = facts.own_names()[0]
    if name.isdigit():  # usermod knows only names
        return f"sudo sh -c 'echo {name}:100000:65536 | tee -a /etc/subuid >>/etc/subgid'"
    return f"sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}"


def limits_of_namespaces() -> Iterator[Ability]:
    """user.max_*_namespaces, above zero."""
    for setting in NAMESPACE_LIMITS.values():
        value = sysctl(setting)
        if value is not None:
            available = value != "0"
            inside = is_filtered()  # another container's: what is outside decides
            remedy = "" if available else OUTER_CONTAINER if inside else enlarge(setting)
            why = f"{setting}={value}"
            yield Ability(name=f"setting.{setting}", available=available, why=why, remedy=remedy)
