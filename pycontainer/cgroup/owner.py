"""The one owner of a container's cgroups: made together, removed together.

Rules:
1. On the path of every run there is no directory listing, no second look and no write to
   cgroup.procs (which waits for a grace period, up to 7 ms measured; `tasks` takes 0.05-0.1 ms).
2. Files are named relative to parent directories that were opened once.
3. What is made is noted before the next step, so that undoing needs no search.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from types import TracebackType

from pycontainer.cgroup import devices, files, settings
from pycontainer.cgroup.parent import Branch, Parent
from pycontainer.cgroup.usage import CgroupUsage, merged, usage_v1, usage_v2
from pycontainer.errors import SetupError, SpecError, UnsupportedError
from pycontainer.spec import IoLimit, Limits

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,200}", re.ASCII)
_LIMITS = ("memory", "pids", "cpus", "cpu_weight", "cpuset", "io")
_FREEZE_SECONDS = 5.0
_ROUNDS_OF_KILLING = 1000
_HINTS = {
    ("cgroup_mkdir", errno.EAGAIN): "cgroup.max.descendants or cgroup.max.depth above is reached",
    ("cgroup_mkdir", errno.ENOSPC): "the kernel holds 65,535 memory cgroups, dying ones included",
    ("cgroup_write", errno.EINVAL): "out of the range that the kernel or the cgroup above allows",
    ("cgroup_write", errno.ERANGE): "out of the range that the kernel allows",
    ("cgroup_write", errno.EBUSY): "more is in use than the new limit allows",
    (
        "cgroup_write",
        errno.EACCES,
    ): "a processor or memory node that the cgroup above does not have",
    ("cgroup_write", errno.ENODEV): "no such block device",
    ("cgroup_rmdir", errno.EBUSY): "a process is left that does not die, stuck in the kernel",
}


class Cgroup:
    """A container's cgroups in the hierarchies that its limits need. Close it.

    `clone_into_fd`: directory for CLONE_INTO_CGROUP, or None. `attach_fds`: the container's first
    process writes "0" into each, with the rights of whoever opened them.
    """

    def __init__(self, parent: Parent, name: str) -> None:
        if not _NAME.fullmatch(name) or name in (".", ".."):
            raise SpecError("name", name, "1 to 200 of A-Z a-z 0-9 '_' '.' '-'")
        self.parent = parent
        self.name = name
        self.clone_into_fd: int | None = None
        self.attach_fds: tuple[int, ...] = ()
        self._cpu_usage_fd: int | None = None
        self._branches: list[Branch] = []

    @classmethod
    def create(cls, parent: Parent, name: str, limits: Limits) -> Cgroup:
        """Make the cgroups that these limits need, with the limits set; on failure none is left.

        Raises UnsupportedError for a limit that the parent cannot enforce, SetupError for what
        the kernel refused.
        """
        cgroup = cls(parent, name)
        needed = _needed(parent, limits)
        numbers = {limit: devices.number_of(limit.device) for limit in limits.io}
        try:
            for branch in needed:
                cgroup._make(branch, limits, numbers)
        except BaseException:
            cgroup.close()
            raise
        return cgroup

    def __enter__(self) -> Cgroup:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_branches", None):  # absent where the name was refused
            self.close()

    @property
    def paths(self) -> dict[str, str]:
        """This container's directory of each controller; the tree of version 2 is `unified`."""
        made = {branch.path for branch in self._branches}
        return {
            controller: f"{path}/{self.name}"
            for controller, path in self.parent.paths.items()
            if path in made
        }

    @property
    def cpu_usage_fd(self) -> int | None:
        """Readable descriptor of the processor time used, in `cpu_usage_format`; opened once."""
        if self._cpu_usage_fd is None:
            branch = self._tree or self._branch("cpuacct")
            if branch is not None:
                path = f"{self.name}/{self.cpu_usage_format}"
                self._cpu_usage_fd = os.open(path, os.O_RDONLY, dir_fd=branch.fd)
        return self._cpu_usage_fd

    @property
    def cpu_usage_format(self) -> str:
        """ "cpu.stat" (`usage_usec N` on a line) or "cpuacct.usage" (nanoseconds)."""
        return "cpu.stat" if self._tree is not None else "cpuacct.usage"

    def read_usage(self) -> CgroupUsage:
        """What all processes that ever were in here used up to now."""
        tree = self._tree
        if tree is None:
            return usage_v1(self._read_v1)
        if len(self._branches) == 1:
            return usage_v2(self._read_v2)
        return merged(usage_v1(self._read_v1), usage_v2(self._read_v2))

    def update(self, limits: Limits) -> None:
        """Change the limits that are given while processes run; None leaves one as it is.

        A lower memory limit than what is in use reclaims first; then version 1 refuses (EBUSY),
        version 2 kills.
        """
        numbers = {limit: devices.number_of(limit.device) for limit in limits.io}
        for branch in _needed(self.parent, limits):
            if branch not in self._branches:
                self._join(branch, limits, numbers)
                continue
            writes = _settings(branch, limits, numbers)
            if writes and writes[0][0] == "memory.limit_in_bytes" and self._raises_memory(limits):
                writes.reverse()
            for file, text in writes:
                self._write(branch, file, text)

    def freeze(self) -> None:
        """Stop every process, and return when all are stopped."""
        branch, file = self._freezer()
        try:
            if file == "cgroup.freeze":
                self._write(branch, file, "1")
                frozen = files.wait_event(branch.fd, self.name, "frozen 1", _FREEZE_SECONDS)
            else:
                frozen = self._freeze_v1(branch)
        except OSError as error:
            raise self._refused("cgroup_freeze", branch, file, error) from error
        if not frozen:
            self.thaw()
            raise SetupError(errno.ETIMEDOUT, "cgroup_freeze", {"path": self._path(branch)})

    def thaw(self) -> None:
        """Let the processes continue that `freeze` stopped."""
        branch, file = self._freezer()
        self._write(branch, file, "0" if file == "cgroup.freeze" else "THAWED")

    def frozen(self) -> bool:
        """Whether `freeze` was called last, and not `thaw`."""
        branch, file = self._freezer()
        return files.read(branch.fd, f"{self.name}/{file}").strip() not in ("0", "THAWED")

    def kill(self) -> None:
        """Send SIGKILL to every process, frozen ones and those just being forked included."""
        tree = self._tree
        if tree is not None and "cgroup.kill" in tree.files:
            self._write(tree, "cgroup.kill", "1")
        elif self.parent.controllers & {"freeze"} and self._branches:
            self.freeze()
            try:
                self._kill_each()
            finally:
                self.thaw()  # version 1 delivers a signal to a frozen process when it thaws
        else:
            for _ in range(_ROUNDS_OF_KILLING):
                if not self._kill_each():
                    return

    def processes(self) -> list[int]:
        """Every process in here, nested cgroups included."""
        branch = self._listing()
        return [] if branch is None else files.processes(branch.fd, self.name)

    def populated(self) -> bool:
        """Whether any process is in here."""
        if self._tree is None:
            return bool(self.processes())
        try:
            text = files.read(self._tree.fd, f"{self.name}/cgroup.events")
        except OSError as error:
            if error.errno in files.GONE:
                return False
            raise
        return "populated 1" in text.split("\n")

    def wait_empty(self, timeout: float | None = None) -> bool:
        """Wait until no process is in here; False when `timeout` seconds passed first."""
        if self._tree is not None:
            return files.wait_event(self._tree.fd, self.name, "populated 0", timeout)
        pauses = files.Pauses(timeout)
        while self.processes():
            if not pauses.wait():
                return False
        return True

    def close(self) -> None:
        """Kill what is left, remove every directory, close every descriptor. Idempotent.

        Raises SetupError naming the directory that stays busy; the others are removed.
        """
        self._close_descriptors()
        refused: SetupError | None = None
        left: list[Branch] = []
        while self._branches:
            branch = self._branches[-1]
            try:
                self._remove(branch)
            except OSError as error:
                refused = refused or self._refused("cgroup_rmdir", branch, "", error)
                left.append(branch)
            self._branches.pop()
        self._branches = left
        if refused is not None:
            raise refused

    @property
    def _tree(self) -> Branch | None:
        tree = self.parent.unified
        return tree if tree in self._branches else None

    def _branch(self, controller: str) -> Branch | None:
        return next((each for each in self._branches if controller in each.controllers), None)

    def _listing(self) -> Branch | None:
        return self._tree or self._branch("freezer") or next(iter(self._branches), None)

    def _freezer(self) -> tuple[Branch, str]:
        if self._tree is not None and "cgroup.freeze" in self._tree.files:
            return self._tree, "cgroup.freeze"
        branch = self._branch("freezer")
        if branch is None:
            raise UnsupportedError("freeze", *self.parent.why_not("freeze"))
        return branch, "freezer.state"

    def _path(self, branch: Branch, file: str = "") -> str:
        return os.path.join(branch.path, self.name, file).rstrip("/")

    def _make(self, branch: Branch, limits: Limits, numbers: Mapping[IoLimit, str]) -> None:
        name, fd = self.name, branch.fd
        self._branches.append(
            branch
        )  # first: an exception from a signal handler may come at any time
        try:
            os.mkdir(name, 0o755, dir_fd=fd)
        except OSError as error:
            self._branches.remove(branch)
            raise self._refused("cgroup_mkdir", branch, "", error) from error
        for file, text in _settings(branch, limits, numbers):
            self._write(branch, file, text)
        if branch.version == 1:
            self.attach_fds += (os.open(f"{name}/tasks", os.O_WRONLY, dir_fd=fd),)
        elif "clone_into" in self.parent.controllers:
            self.clone_into_fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        else:
            self.attach_fds += (os.open(f"{name}/cgroup.procs", os.O_WRONLY, dir_fd=fd),)

    def _join(self, branch: Branch, limits: Limits, numbers: Mapping[IoLimit, str]) -> None:
        """Make a cgroup in one more hierarchy and move the running processes into it.

        Frozen meanwhile: a process that forks could leave a child behind.
        """
        paused = self.frozen()
        if not paused:
            self.freeze()
        try:
            self._make(branch, limits, numbers)
            for process in self.processes():
                self._write(branch, "cgroup.procs", str(process))
        finally:
            if not paused:
                self.thaw()

    def _raises_memory(self, limits: Limits) -> bool:
        now = self._read_v1("memory", "memory.memsw.limit_in_bytes")
        return now is not None and limits.memory is not None and limits.memory > int(now)

    def _write(self, branch: Branch, file: str, text: str) -> None:
        try:
            files.write(branch.fd, f"{self.name}/{file}", text)
        except OSError as error:
            raise self._refused("cgroup_write", branch, file, error, value=text) from error

    def _read_v1(self, controller: str, file: str) -> str | None:
        branch = self._branch(controller)
        if branch is None or branch.version != 1 or file not in branch.files:
            return None
        return files.read(branch.fd, f"{self.name}/{file}")

    def _read_v2(self, controller: str, file: str) -> str | None:
        tree = self._tree
        if tree is None or file not in tree.files:
            return None
        return files.read(tree.fd, f"{self.name}/{file}")

    def _freeze_v1(self, branch: Branch) -> bool:
        pauses = files.Pauses(_FREEZE_SECONDS)
        while True:
            # A process that forks while it is being frozen can escape the first sweep: again.
            self._write(branch, "freezer.state", "FROZEN")
            if files.read(branch.fd, f"{self.name}/freezer.state").strip() == "FROZEN":
                return True
            if not pauses.wait():
                return False

    def _kill_each(self) -> int:
        branch = self._listing()
        return 0 if branch is None else files.kill_each(branch.fd, self.name)

    def _remove(self, branch: Branch) -> None:
        # The usual case first: the container's processes are gone and it made no cgroups.
        try:
            os.rmdir(self.name, dir_fd=branch.fd)
            return
        except OSError as error:
            if error.errno in files.GONE:
                return
            if error.errno != errno.EBUSY:
                raise
        if self.populated():
            self.kill()
            self.wait_empty(files.REMOVAL_SECONDS)
        files.remove(branch.fd, self.name)

    def _close_descriptors(self) -> None:
        closing = [*self.attach_fds]
        closing += [fd for fd in (self.clone_into_fd, self._cpu_usage_fd) if fd is not None]
        self.attach_fds, self.clone_into_fd, self._cpu_usage_fd = (), None, None
        for fd in closing:
            os.close(fd)

    def _refused(
        self, op: str, branch: Branch, file: str, error: OSError, **operands: str
    ) -> SetupError:
        number = error.errno or errno.EIO
        path = self._path(branch, file)
        return SetupError(number, op, {"path": path, **operands}, _HINTS.get((op, number), ""))


def _needed(parent: Parent, limits: Limits) -> list[Branch]:
    """The hierarchies to use: those for every container, and one for each limit."""
    needed = list(parent.always)
    for limit in _LIMITS:
        if getattr(limits, limit) in (None, ()):
            continue
        if limit not in parent.controllers:
            raise UnsupportedError(limit, *parent.why_not(limit))
        branch = parent.branch_of(limit)
        if branch not in needed:
            needed.append(branch)
    return needed


def _settings(branch: Branch, limits: Limits, numbers: Mapping[IoLimit, str]) -> settings.Settings:
    if branch.version == 2:
        return settings.settings_v2(limits, branch.files, branch.controllers, numbers)
    writes: settings.Settings = []
    for controller in branch.controllers:
        if controller == "cpuset":
            # Without a memory node no process may join; the node set is the parent's.
            writes.append(("cpuset.mems", files.read(branch.fd, "cpuset.mems")))
        writes += settings.settings_v1(controller, limits, branch.files, numbers)
    return writes
