"""Where the cgroups of containers are made: found once in a process, then only used.

Rules:
1. Nothing is taken that was not given: the own cgroup, one below it, one that was named, or one
   that systemd delegated. Cgroups of others are not touched, nor their subtree_control.
2. What a parent can do is tried, not guessed: a child is made, its files are listed, it is removed.
3. What is missing is kept with its reason, so that an error can say how to get it.
"""

from __future__ import annotations

import errno
import os
import secrets

import attrs

from pycontainer.cgroup import files, systemd, v2
from pycontainer.cgroup import hierarchy as hierarchies
from pycontainer.cgroup.hierarchy import Hierarchy
from pycontainer.cgroup.settings import CONTROLLER_V1, CONTROLLER_V2
from pycontainer.errors import SpecError

# Controllers of version 1 that are used; the last two only where no version 2 tree is mounted.
_USED_V1 = ("memory", "pids", "cpu", "cpuset", "blkio", "freezer", "cpuacct")
_V2_REPLACES = frozenset({"freezer", "cpuacct"})
# The file of a child that proves each ability.
_PROOF_V1 = {
    "memory": "memory.limit_in_bytes",
    "swap": "memory.memsw.limit_in_bytes",
    "pids": "pids.max",
    "cpus": "cpu.cfs_quota_us",
    "cpu_weight": "cpu.shares",
    "cpuset": "cpuset.cpus",
    "io": "blkio.throttle.read_bps_device",
    "kill": "freezer.state",
    "freeze": "freezer.state",
    "cpu_usage": "cpuacct.usage",
    "peak_memory": "memory.max_usage_in_bytes",
    "peak_pids": "pids.peak",
}
_PROOF_V2 = {
    "memory": "memory.max",
    "swap": "memory.swap.max",
    "pids": "pids.max",
    "cpus": "cpu.max",
    "cpu_weight": "cpu.weight",
    "cpuset": "cpuset.cpus",
    "io": "io.max",
    "freeze": "cgroup.freeze",
    "cpu_usage": "cpu.stat",
    "peak_memory": "memory.peak",
    "peak_pids": "pids.peak",
}
_DELEGATE = (
    "start the program with systemd-run --user --scope -p Delegate=yes, or let root make a cgroup, "
    "chown it with its cgroup.procs and cgroup.subtree_control, and name it in PYCONTAINER_CGROUP"
)
_NOT_OFFERED = (
    "this kernel has no such controller in cgroup version 2",
    "boot a kernel that is built with it, without cgroup_disable= and without version 1",
)


@attrs.frozen(kw_only=True, eq=False)
class Branch:
    """One hierarchy's parent directory, opened, and the files that a child of it has."""

    version: int
    controllers: frozenset[str]
    path: str
    fd: int
    files: frozenset[str]


class Parent:
    """The parent cgroups in every usable hierarchy; owns a descriptor of each directory.

    `controllers`: the limits that can be enforced and the abilities there are. `paths`: the
    directory of each controller, the tree of version 2 as `unified`. `always`: the hierarchies
    in which every container is.
    """

    def __init__(
        self, branches: tuple[Branch, ...], reasons: dict[str, tuple[str, str]], made: list[str]
    ) -> None:
        self.unified = next((branch for branch in branches if branch.version == 2), None)
        self._v1 = {
            name: branch
            for branch in branches
            for name in branch.controllers
            if branch.version == 1
        }
        self._branches = branches
        self._reasons = reasons
        self._made = made
        self.controllers = self._abilities()
        self.paths = self._paths()
        # What every container needs: to kill, to freeze, to count processor time.
        self.always: tuple[Branch, ...] = (
            (self.unified,)
            if self.unified is not None
            else tuple({self._v1[name] for name in sorted(_V2_REPLACES) if name in self._v1})
        )

    @classmethod
    def find(cls, wanted: str | None = None) -> Parent:
        """The parent named by `wanted` or $PYCONTAINER_CGROUP, or else the best that was given.

        A name without a leading "/" is relative to the own cgroup in each hierarchy; what is
        missing of it is made. Raises SpecError for a name that cannot be one.
        """
        name = wanted or os.environ.get("PYCONTAINER_CGROUP") or None
        return cls.of(hierarchies.read(), name)

    @classmethod
    def of(cls, seen: tuple[Hierarchy, ...], name: str | None) -> Parent:
        """The parent in these hierarchies only."""
        if name is not None:
            _check_name(name)
        finding = _Finding(name)
        unified = next((each for each in seen if each.version == 2), None)
        if unified is not None:
            finding.add_v2(unified)
        for each in seen:
            if each.version == 1:
                finding.add_v1(each)
        return cls(tuple(finding.branches), finding.reasons, finding.made)

    def why_not(self, ability: str) -> tuple[str, str]:
        """Why a limit or ability is missing here, and what would bring it."""
        unified = self.unified is not None and self.unified.controllers
        table = CONTROLLER_V2 if unified else CONTROLLER_V1
        controller = table.get(ability, "unified")
        for key in (ability, controller, "unified"):
            if key in self._reasons:
                return self._reasons[key]
        if controller in self._v1 or (unified and controller in unified):
            return f"this kernel's {controller} controller does not have it", "use a newer kernel"
        if controller == "unified":
            return "no cgroup hierarchy of version 2 is mounted", "mount -t cgroup2 none DIRECTORY"
        return (
            f"no cgroup hierarchy with the {controller} controller is mounted",
            f"boot a kernel with the {controller} controller and cgroup version 2",
        )

    def branch_of(self, limit: str) -> Branch:
        """The hierarchy that enforces a limit which is in `.controllers`."""
        unified = self.unified
        if unified is not None and CONTROLLER_V2[limit] in unified.controllers:
            return unified
        return self._v1[CONTROLLER_V1[limit]]

    def remove(self) -> None:
        """Remove the directories that finding this parent made, where they are empty; close."""
        for path in reversed(self._made):
            try:
                os.rmdir(path)
            except OSError as error:
                # In use by others (EBUSY), or removed by them (ENOENT).
                if error.errno not in (errno.EBUSY, errno.ENOENT):
                    raise
        self.close()

    def close(self) -> None:
        """Close the directories. Idempotent; only after every `Cgroup` made here was closed."""
        branches, self._branches = self._branches, ()
        for branch in branches:
            os.close(branch.fd)

    def _paths(self) -> dict[str, str]:
        paths = {name: branch.path for name, branch in self._v1.items()}
        if self.unified is not None:
            paths |= dict.fromkeys(self.unified.controllers, self.unified.path)
            paths["unified"] = self.unified.path
        return paths

    def _abilities(self) -> frozenset[str]:
        found = {
            ability
            for ability, file in _PROOF_V1.items()
            if any(file in branch.files for branch in self._v1.values())
        }
        if self.unified is not None:
            found |= {name for name, file in _PROOF_V2.items() if file in self.unified.files}
            if "cgroup.kill" in self.unified.files or "cgroup.freeze" in self.unified.files:
                found.add("kill")
            if _kernel_release() >= (5, 7):  # clone3(2): CLONE_INTO_CGROUP
                found.add("clone_into")
        return frozenset(found)


class _Finding:
    """The search for a parent: what was found so far, and why the rest was not."""

    def __init__(self, name: str | None) -> None:
        self.name = name
        self.branches: list[Branch] = []
        self.reasons: dict[str, tuple[str, str]] = {}
        self.made: list[str] = []

    def add_v2(self, tree: Hierarchy) -> None:
        """The tree of version 2: for limits where it has controllers, else to kill and freeze."""
        try:
            place = v2.place(tree, self.name, self.made, systemd.delegated_scope)
        except OSError as error:
            self._refused("unified", error)
            return
        for controller, why in place.reasons.items():
            self.reasons[controller] = (why, _DELEGATE)
        for controller in place.reasons.keys() - v2.offered(tree):
            self.reasons[controller] = _NOT_OFFERED
        outside = v2.why_not_joinable(tree, place.directory)
        if outside:
            self.reasons["unified"] = (outside, _DELEGATE)
            return
        self._add(2, place.controllers, place.directory, "unified")

    def add_v1(self, tree: Hierarchy) -> None:
        """A hierarchy of version 1, unless version 2 does its work."""
        used = tree.controllers.intersection(_USED_V1)
        if any(branch.version == 2 for branch in self.branches):
            used -= _V2_REPLACES
        own = tree.own_directory
        if not used or own is None:
            return
        try:
            directory = own
            if self.name is not None:
                directory = _named_directory(tree, self.name)
                made: list[str] = []
                v2.make_missing(directory, tree.mount, made)
                self.made += made
                if "cpuset" in used:
                    for path in made:
                        _inherit_cpuset(path)
        except OSError as error:
            for controller in used:
                self._refused(controller, error)
            return
        self._add(1, used, directory, *used)

    def _add(self, version: int, controllers: frozenset[str], directory: str, *keys: str) -> None:
        try:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                files = _files_of_child(fd)
            except BaseException:
                os.close(fd)
                raise
        except OSError as error:
            for key in keys:
                self._refused(key, error, directory)
            return
        self.branches.append(
            Branch(version=version, controllers=controllers, path=directory, fd=fd, files=files)
        )

    def _refused(self, key: str, error: OSError, directory: str | None = None) -> None:
        where = error.filename if isinstance(error.filename, str) else ""
        name = errno.errorcode.get(error.errno or 0, str(error.errno))
        where = directory or where
        self.reasons[key] = (
            f"no cgroup can be made in {where or 'the own cgroup'}: {name}",
            _DELEGATE,
        )


def _inherit_cpuset(path: str) -> None:
    """A new cpuset of version 1 holds no processor and no memory node, and so no process."""
    for file in ("cpuset.cpus", "cpuset.mems"):
        with open(f"{os.path.dirname(path)}/{file}", encoding="ascii") as above:
            value = above.read()
        with open(f"{path}/{file}", "w", encoding="ascii") as own:
            own.write(value)


def _named_directory(tree: Hierarchy, name: str) -> str:
    directory = tree.directory(name if name.startswith("/") else f"{tree.own}/{name}")
    if directory is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    return directory


def _files_of_child(fd: int) -> frozenset[str]:
    """The files that a cgroup below this one has: one is made and removed again."""
    name = f"pycontainer-probe-{os.getpid()}-{secrets.token_hex(4)}"
    os.mkdir(name, 0o755, dir_fd=fd)
    try:
        child = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        try:
            found = frozenset(os.listdir(child))
            if "cgroup.type" in found and files.read(child, "cgroup.type") != "domain\n":
                # Below a cgroup for threads only: no process can join.
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            return found
        finally:
            os.close(child)
    finally:
        os.rmdir(name, dir_fd=fd)


def _check_name(name: str) -> None:
    parts = name.removeprefix("/").split("/")
    if "\0" in name or "\n" in name or not all(0 < len(part) < 256 for part in parts):
        raise SpecError("cgroup_parent", name, "a cgroup's path, as in /proc/self/cgroup")
    if not {".", ".."}.isdisjoint(parts):
        raise SpecError("cgroup_parent", name, "a cgroup's path without '.' and '..'")


def _kernel_release() -> tuple[int, int]:
    major, minor, *_ = os.uname().release.split(".")
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)
