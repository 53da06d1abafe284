"""What this machine can do and looks like, as a value: `compile_plan` asks nothing else.

Made by linux/facts.py; a test may hand in an older or a poorer host.
"""

from __future__ import annotations

import attrs


@attrs.frozen
class Bind:
    """A path of the host that the host view shows at the same place; `is_directory` of its kind."""

    path: str
    is_directory: bool = True


@attrs.frozen
class Symlink:
    """A link that the host view makes anew."""

    path: str
    target: str


@attrs.frozen
class File:
    """A small file that the host view writes itself."""

    path: str
    content: bytes


@attrs.frozen(kw_only=True, cache_hash=True)
class Host:
    """Facts about the kernel, this user and the file system that plans depend on."""

    machine: str = "x86_64"
    kernel: tuple[int, int] = (6, 1)
    uid: int = 0
    gid: int = 0
    privileged: bool = True
    initial_user_namespace: bool = True
    time_namespace: bool = True
    cgroup_namespace: bool = True
    keyrings: bool = True
    processors: int = 1
    hard_limits: tuple[int, ...] = (2**64 - 1,) * 16
    view: tuple[Bind | Symlink | File, ...] = ()


@attrs.frozen(kw_only=True)
class Subordinate:
    """Ids that this ordinary user may map besides its own: /etc/subuid and /etc/subgid."""

    first_uid: int
    uid_count: int
    first_gid: int
    gid_count: int
