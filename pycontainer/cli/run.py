"""`run`: a program in a fresh container, with this terminal's own streams.

Exit status as Docker's: the program's own; 128 + n when signal n ended it (137 when a limit did);
127 when it is not there, 126 when it cannot be executed, 125 for what is our own or the caller's.
"""

from __future__ import annotations

import argparse
import os
import selectors
import signal
import subprocess
from collections.abc import Sequence
from types import FrameType
from typing import IO, Any, NoReturn

from pycontainer.cli.options import add_options, environment, spec_of
from pycontainer.cli.output import OWN_ERROR, complain, put
from pycontainer.errors import Error
from pycontainer.popen import Popen
from pycontainer.result import ExitReason
from pycontainer.spec import Mount, Spec

NOT_EXECUTABLE, NOT_FOUND, BY_SIGNAL = 126, 127, 128
_CHUNK = 65536
_LIMITS = {
    ExitReason.WALL_TIME: "wall time",
    ExitReason.CPU_TIME: "CPU time",
    ExitReason.OUT_OF_MEMORY: "memory",
    ExitReason.OUTPUT_LIMIT: "output",
    ExitReason.SECCOMP: "the seccomp filter",
}


def add_parser(commands: Any) -> None:
    """The `run` command and its options."""
    _, _, explanation = (__doc__ or "").partition("\n\n")
    parser: argparse.ArgumentParser = commands.add_parser(
        "run",
        help="run a program in a fresh container",
        usage="pycontainer run [options] -- PROGRAM [ARGUMENT ...]",
        description=explanation,
    )
    add_options(parser)


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before and after the first `--`."""
    arguments = list(arguments)
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def run(options: argparse.Namespace, program: list[str]) -> int:
    """Run the program and be its exit status; a user's mistake is one line on standard error."""
    try:
        spec = spec_of(options)
        if options.explain:
            put(spec.explain())
            return 0
        if not program:
            complain("no program; say it after --: pycontainer run -- PROGRAM")
            return OWN_ERROR
        _see_sources(spec)
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup(1) stays in force
                signal.signal(number, _leave)
        return _run(spec, options, program)
    except KeyboardInterrupt:
        return BY_SIGNAL + signal.SIGINT
    except Error as error:  # SetupError is an OSError too, and it is ours
        complain(str(error))
        return OWN_ERROR
    except OSError as error:
        return _refused(error, program, options.cwd)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """On the way out the container is ended."""
    raise SystemExit(BY_SIGNAL + number)


def _see_sources(spec: Spec) -> None:
    """So that a path that is not here is not taken for a program that is not there."""
    paths = [mount.source for mount in spec.mounts if isinstance(mount, Mount)]
    for path in (*paths, *([spec.rootfs] if spec.rootfs else [])):
        try:
            os.stat(path)
        except OSError as error:
            raise Error(f"{path}: {error.strerror}") from error


def _run(spec: Spec, options: argparse.Namespace, program: list[str]) -> int:
    # Output is counted where it passes through us; otherwise the program has our own streams.
    stream = subprocess.PIPE if options.output is not None else None
    with Popen(
        program, spec=spec, bufsize=0, stdout=stream, stderr=stream, cwd=options.cwd,
        env=environment(options),
    ) as process:  # fmt: skip
        for name in process.not_enforced:
            complain(f"{name} is not limited on this host; see pycontainer doctor")
        if stream is not None:
            _copy({process.stdout: 1, process.stderr: 2})
        process.wait()
    reason = process.exit_reason
    if reason in _LIMITS:
        complain(f"ended by a limit: {_LIMITS[reason]}")
    return _status(process.returncode, reason)


def _status(returncode: int, reason: ExitReason | None) -> int:
    if returncode <= 0 and reason in _LIMITS and reason is not ExitReason.SECCOMP:
        # Which signal came first is chance (SIGPIPE, where output is over); and a program whose
        # child was killed for memory may end with 0: a limit that was hit is no success.
        return BY_SIGNAL + signal.SIGKILL
    return returncode if returncode >= 0 else BY_SIGNAL - returncode


def _copy(streams: dict[IO[bytes] | None, int]) -> None:
    """From the program's pipes to our own streams until all are at their end."""
    with selectors.DefaultSelector() as selector:
        for stream, fd in streams.items():
            selector.register(stream, selectors.EVENT_READ, fd)  # type: ignore[arg-type]
        while selector.get_map():
            for key, _ in selector.select():
                data = key.fileobj.read(_CHUNK)  # type: ignore[union-attr]
                if not data or not _write(key.data, data):
                    selector.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr]


def _write(fd: int, data: bytes) -> bool:
    """False when nobody reads any more: the program then gets its own SIGPIPE."""
    try:
        while data:
            data = data[os.write(fd, data) :]
    except BrokenPipeError:
        return False
    return True


def _refused(error: OSError, program: list[str], cwd: str | None) -> int:
    """What subprocess raises for a program, as a shell's exit status."""
    name = os.fsdecode(error.filename) if error.filename is not None else ""
    complain(f"{name}: {error.strerror}" if name else str(error))
    if program and name == program[0]:
        return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
    return NOT_EXECUTABLE if cwd is not None and name == cwd else OWN_ERROR
