"""Control groups of version 2, of version 1, and of both side by side."""

from pycontainer.cgroup.leftovers import remove_leftovers
from pycontainer.cgroup.owner import Cgroup
from pycontainer.cgroup.parent import Parent
from pycontainer.cgroup.usage import CgroupUsage

__all__ = ["Cgroup", "CgroupUsage", "Parent", "remove_leftovers"]
