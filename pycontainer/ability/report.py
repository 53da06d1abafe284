"""What `probe` found, as plain data."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Ability:
    """One thing that this host can or cannot do for this user.

    `why`: what was seen when it works; the kernel's errno or the setting in the way when not.
    `remedy`: the command that would change it, empty where it works.
    `needed`: whether `run` with its default settings is weaker, or fails, without it.
    """

    name: str
    available: bool
    why: str = ""
    remedy: str = ""
    needed: bool = False


@attrs.frozen(kw_only=True)
class HostReport:
    """Every ability that was tried, here and now, as this user."""

    kernel: str
    machine: str
    uid: int
    privileged: bool
    abilities: tuple[Ability, ...]

    @property
    def full_strength(self) -> bool:
        """Whether `run` works here with every protection and limit that it has by default."""
        return all(ability.available for ability in self.abilities if ability.needed)

    @property
    def missing(self) -> tuple[Ability, ...]:
        """What is not available, needed or not."""
        return tuple(ability for ability in self.abilities if not ability.available)

    def __getitem__(self, name: str) -> Ability:
        """The ability of that name, such as "namespace.net". Raises KeyError."""
        for ability in self.abilities:
            if ability.name == name:
                return ability
        raise KeyError(name)
