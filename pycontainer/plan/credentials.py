"""Who the payload is: ids, groups, capabilities, securebits. None of it reaches the host's root."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import attrs

from pycontainer.plan.steps import Step, step
from pycontainer.spec import CAPABILITIES, Spec

# capabilities(7): uid 0 gives nothing, changing ids takes nothing, and nobody can change that.
NOROOT, NO_SETUID_FIXUP, NO_AMBIENT_RAISE, KEEP_CAPS_LOCKED = 0x03, 0x0C, 0xC0, 0x20


@attrs.frozen(kw_only=True)
class Identity:
    """Numeric ids inside, names already looked up; `ranged`: more than one id is mapped."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    ranged: bool = True


def become_root_steps(identity: Identity) -> Iterator[Step]:
    """The first process gives up the caller's ids: it is root inside, an unknown id outside."""
    if identity.ranged:
        yield step("setgroups", gids=b"")
        yield step("setresgid", gid=0)
        yield step("setresuid", uid=0)


def add_steps(spec: Spec, identity: Identity) -> Iterator[Step]:
    """Securebits while there is still a capability to set them; then ids; then capabilities."""
    granted = capability_mask(spec)
    if spec.no_new_privileges:
        bits = NOROOT | NO_SETUID_FIXUP | KEEP_CAPS_LOCKED | (0 if granted else NO_AMBIENT_RAISE)
    else:
        bits = 0x04  # NO_SETUID_FIXUP, not locked: dropping comes after setresuid below
    yield step("set_securebits", bits=bits)
    if identity.ranged:
        gids = struct.pack(f"<{len(identity.groups)}I", *identity.groups)
        yield step("setgroups", gids=gids)
        yield step("setresgid", gid=identity.gid)
        yield step("setresuid", uid=identity.uid)
    yield step("limit_capabilities", bounding=granted, permitted=granted, ambient=granted)


def capability_mask(spec: Spec) -> int:
    """The granted capabilities as bits (linux/capability.h)."""
    return sum(1 << CAPABILITIES.index(name) for name in spec.capabilities)
