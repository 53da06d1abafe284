"""What a finished container says of itself: plain data, no handles."""

from __future__ import annotations

import enum
import subprocess
from typing import Any

import attrs

from pycontainer.errors import CalledProcessError


class ExitReason(enum.Enum):
    """Why the container ended."""

    EXITED = "exited"
    SIGNALED = "signaled"
    WALL_TIME = "wall_time"
    CPU_TIME = "cpu_time"
    OUT_OF_MEMORY = "out_of_memory"
    OUTPUT_LIMIT = "output_limit"
    SECCOMP = "seccomp"


@attrs.frozen(kw_only=True)
class Usage:
    """What the whole tree used, daemons and double forks included.

    Times are seconds, sizes bytes. A figure that this host does not count is None. Source: the
    container's cgroup; where there is none, the rusage of what its init reaped.
    """

    wall_time: float
    user_time: float
    system_time: float
    peak_memory: int | None = None
    peak_pids: int | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None
    throttled: float | None = None
    oom_kills: int | None = None
    pids_refused: int | None = None

    @property
    def cpu_time(self) -> float:
        """User and system time together, in seconds."""
        return self.user_time + self.system_time


class CompletedProcess(subprocess.CompletedProcess[Any]):
    """A subprocess.CompletedProcess that also says why it ended and what it used."""

    def __init__(
        self,
        args: Any,
        returncode: int,
        stdout: Any = None,
        stderr: Any = None,
        *,
        exit_reason: ExitReason,
        usage: Usage,
        truncated: bool = False,
        not_enforced: tuple[str, ...] = (),
    ) -> None:
        super().__init__(args, returncode, stdout, stderr)
        self.exit_reason = exit_reason
        self.usage = usage
        self.truncated = truncated
        self.not_enforced = not_enforced

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, exit_reason={self.exit_reason.name})"

    def check_returncode(self) -> None:
        """Raise CalledProcessError unless the program exited with 0 by itself."""
        if self.returncode or self.exit_reason is not ExitReason.EXITED:
            raise CalledProcessError(
                self.returncode, self.args, self.stdout, self.stderr, result=self
            )
