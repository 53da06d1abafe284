"""What this machine can do for containers: each ability is tried, not guessed."""

from pycontainer.ability.probing import probe
from pycontainer.ability.report import Ability, HostReport

__all__ = ["Ability", "HostReport", "probe"]
