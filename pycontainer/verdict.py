"""Why a container ended, from what the kernel and init said. Pure."""

from __future__ import annotations

import os
import signal

from pycontainer.process import END_CPU_TIME, END_WALL_TIME
from pycontainer.result import ExitReason
from pycontainer.running import Ended

_BY_CLOCK = {END_WALL_TIME: ExitReason.WALL_TIME, END_CPU_TIME: ExitReason.CPU_TIME}


def returncode_of(ended: Ended) -> int:
    """As subprocess: the exit status, or minus the signal's number."""
    if ended.report is None:
        return -signal.SIGKILL  # init itself was killed, and with it everything
    return os.waitstatus_to_exitcode(ended.report.status)


def verdict(ended: Ended, *, output_exceeded: bool = False) -> ExitReason:
    """The limit that ended it, in the order in which one hides the other.

    A clock is only named while the program still ran, so it beats an earlier kill of some other
    process; an out-of-memory kill anywhere in the tree beats the program's own end.
    """
    if output_exceeded:
        return ExitReason.OUTPUT_LIMIT
    if ended.report is not None and ended.report.reason in _BY_CLOCK:
        return _BY_CLOCK[ended.report.reason]
    if ended.counted.oom_kills:
        return ExitReason.OUT_OF_MEMORY
    code = returncode_of(ended)
    if code == -signal.SIGSYS:
        return ExitReason.SECCOMP
    return ExitReason.SIGNALED if code < 0 else ExitReason.EXITED
