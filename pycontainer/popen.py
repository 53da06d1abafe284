"""`run` and `Popen`: subprocess's own interface, each program in a container of its own.

`Popen` is a subprocess.Popen whose child is started, signalled and waited for by this library; the
pipes, the text modes and the names are the standard library's.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import selectors
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, Unpack

import attrs

from pycontainer import command as commands
from pycontainer import recovery
from pycontainer.errors import SpecError, TimeoutExpired, UnsupportedError
from pycontainer.linux import state
from pycontainer.linux.application import once_per_process
from pycontainer.result import CompletedProcess, ExitReason, Usage
from pycontainer.running import Ended, Running, alive
from pycontainer.spawn import Command, spawn
from pycontainer.spec import Spec, SpecFields
from pycontainer.verdict import returncode_of, verdict

PIPE, STDOUT, DEVNULL = subprocess.PIPE, subprocess.STDOUT, subprocess.DEVNULL
_CHUNK = 65536


def make_spec(spec: Spec | None, overrides: dict[str, Any]) -> Spec:
    """The spec with fields replaced; unknown names are the caller's mistake (TypeError)."""
    unknown = overrides.keys() - _FIELDS
    if unknown:
        names = ", ".join(sorted(unknown))
        raise TypeError(f"unexpected keyword arguments: {names} (see pycontainer.Spec)")
    if spec is None:
        return Spec(**overrides) if overrides else _DEFAULT
    if not isinstance(spec, Spec):
        raise SpecError("spec", spec, "a pycontainer.Spec")
    return attrs.evolve(spec, **overrides) if overrides else spec


_FIELDS = frozenset(field.name for field in attrs.fields(Spec))
_DEFAULT = Spec()


class OutputMeter:
    """Counts what a program writes into our pipes and ends it when that is too much."""

    def __init__(self, limit: float) -> None:
        self.left = limit
        self.exceeded = False
        self.end: Callable[[], None] | None = None

    def admit(self, data: bytes) -> bytes:
        """What of `data` is still within the limit."""
        if len(data) <= self.left:
            self.left -= len(data)
            return data
        data = data[: int(self.left)]
        self.left = 0
        if not self.exceeded:
            self.exceeded = True
            if self.end is not None:
                self.end()
        return data


class _MeteredPipe(io.RawIOBase):
    """The reading end of a pipe, metered: for those who read `p.stdout` themselves."""

    def __init__(self, raw: io.FileIO, meter: OutputMeter) -> None:
        self._raw, self._meter = raw, meter

    def readinto(self, buffer: Any) -> int | None:
        data = self._raw.read(len(buffer))
        if data is None:
            return None
        admitted = self._meter.admit(data)
        buffer[: len(admitted)] = admitted
        return len(admitted)

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def close(self) -> None:
        self._raw.close()
        super().close()


class Popen(subprocess.Popen[Any]):
    """A program in a fresh container. Parameters as subprocess.Popen's, plus Spec's fields.

    `cwd`, `user`, `group` and paths are the container's; `env=None` is a clean environment. Only
    `preexec_fn` is refused: no Python of the application runs inside. Signals go to the program;
    `kill()` ends the whole tree. Raises as subprocess.Popen, and UnsupportedError, SetupError,
    SpecError.
    """

    _running: Running | None = None

    def __init__(
        self,
        args: Any,
        bufsize: int = -1,
        executable: Any = None,
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        preexec_fn: None = None,
        close_fds: bool = True,
        shell: bool = False,
        cwd: Any = None,
        env: Any = None,
        universal_newlines: bool | None = None,
        startupinfo: None = None,
        creationflags: int = 0,
        restore_signals: bool = True,
        start_new_session: bool = False,
        pass_fds: Any = (),
        *,
        user: int | str | None = None,
        group: int | str | None = None,
        extra_groups: Any = None,
        encoding: str | None = None,
        errors: str | None = None,
        text: bool | None = None,
        umask: int = -1,
        pipesize: int = -1,
        process_group: int | None = None,
        spec: Spec | None = None,
        **overrides: Unpack[SpecFields],
    ) -> None:
        if preexec_fn is not None:
            raise UnsupportedError(
                "preexec_fn", "no Python of the application runs inside a container",
                "say it with a parameter: user, umask, cwd, rlimits, process_group",
            )  # fmt: skip
        if process_group not in (None, 0, -1):
            raise SpecError("process_group", process_group, "None or 0: no other group is inside")
        who = {"user": user, "group": group, "extra_groups": extra_groups}
        given = {name: value for name, value in who.items() if value is not None}
        self.spec = make_spec(spec, {**overrides, **given})
        self._meter = OutputMeter(_or_endless(self.spec.limit("output")))
        self._captured: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        self._pending_input = memoryview(b"")
        super().__init__(
            args, bufsize, executable, stdin, stdout, stderr, None, close_fds, shell, cwd, env,
            universal_newlines, startupinfo, creationflags, restore_signals, start_new_session,
            pass_fds, encoding=encoding, errors=errors, text=text,
            umask=umask, pipesize=pipesize, process_group=process_group,
        )  # fmt: skip
        self._meter_pipes(bufsize)

    # What subprocess.Popen.__init__ calls once the pipes exist; its parameters by position.
    def _execute_child(
        self, args: Any, executable: Any, preexec_fn: Any, close_fds: bool, pass_fds: Any,
        cwd: Any, env: Any, startupinfo: Any, creationflags: Any, shell: bool,
        p2cread: int, p2cwrite: int, c2pread: int, c2pwrite: int, errread: int, errwrite: int,
        restore_signals: bool, gid: Any, gids: Any, uid: Any, umask: int, *rest: Any,
    ) -> None:  # fmt: skip
        argv = commands.arguments(args, shell=shell, executable=executable)
        if env is None:
            env = commands.default_environment(host_view=self.spec.rootfs is None)
        program = commands.program(argv, executable, env)
        if executable is None:
            executable = (
                args[0] if isinstance(args, list | tuple) and not shell else os.fsdecode(argv[0])
            )
        sys.audit("subprocess.Popen", executable, args, cwd, env)
        command = Command(
            program=program,
            stdio=tuple(_stream(fd, i) for i, fd in enumerate((p2cread, c2pwrite, errwrite))),  # type: ignore[arg-type]
            pass_fds=_descriptors(pass_fds, close_fds=close_fds),
            cwd=commands.working_directory(cwd),
            umask=0o022 if umask < 0 else umask & 0o777,
            ignored_signals=() if restore_signals else _ignored_by_python(),
            executable=executable,
            shown_cwd=cwd,
            pipes=tuple(
                end
                for end, ours in ((p2cread, p2cwrite), (c2pwrite, c2pread), (errwrite, errread))
                if end >= 0 and ours >= 0
            ),
        )
        _arrange_the_end()  # before the first record is written
        try:
            self._running = spawn(self.spec, command)
        finally:
            # subprocess closes the child's ends; what is left after a failure its __init__ closes.
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]
        self._meter.end = self._running.end
        self.pid = self._running.pid
        self._child_created = True
        _arrange_the_end()

    def _meter_pipes(self, bufsize: int) -> None:
        for name in ("stdout", "stderr"):
            stream = getattr(self, name)
            if stream is not None:
                setattr(self, name, _metered(stream, self._meter, bufsize))

    @property
    def running(self) -> Running:
        assert self._running is not None
        return self._running

    def _internal_poll(self, *args: Any, **kwargs: Any) -> int | None:
        if self.returncode is None and self._running is not None:
            self._take(self._running.poll())
        return self.returncode

    def _take(self, ended: Ended | None) -> None:
        if ended is not None:
            self.returncode = returncode_of(ended)

    def _wait(self, timeout: float | None) -> int:
        if self.returncode is None:
            self._take(self.running.wait(timeout))
        if self.returncode is None:
            raise TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def send_signal(self, sig: int) -> None:
        """A signal to the program; SIGKILL ends the whole tree."""
        if self.poll() is not None:
            return
        if sig == signal.SIGKILL:
            self.running.end()
        else:
            self.running.signal_payload(int(sig))

    def destroy(self) -> None:
        """End the tree by force, give everything back, and know how it ended."""
        if self._running is not None and self.returncode is None:
            self._take(self._running.destroy())

    @property
    def exit_reason(self) -> ExitReason | None:
        """Why it ended; None while it runs."""
        if self.poll() is None:
            return None
        ended = self.running.poll()
        assert ended is not None
        return verdict(ended, output_exceeded=self._meter.exceeded)

    @property
    def usage(self) -> Usage | None:
        """What the whole tree used; None while it runs."""
        if self.poll() is None:
            return None
        ended = self.running.poll()
        assert ended is not None
        return ended.usage()

    @property
    def truncated(self) -> bool:
        """Whether output past `output=` was cut off."""
        return self._meter.exceeded

    @property
    def not_enforced(self) -> tuple[str, ...]:
        """Names of the limits that this host could not hold and that were not asked for."""
        return self.running.not_enforced

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        """As subprocess's: send input, read to the end, wait; a timeout can be called again."""
        if self._communication_started and input:  # type: ignore[has-type]
            raise ValueError("Cannot send input after starting communication")
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            if not self._communication_started:  # type: ignore[has-type]
                self._begin_input(input)
            self._exchange(deadline, timeout)
            self.wait(None if deadline is None else max(0, deadline - time.monotonic()))
        except TimeoutExpired:
            partial = {name: b"".join(parts) or None for name, parts in self._captured.items()}
            raise TimeoutExpired(
                self.args, timeout or 0, partial["stdout"], partial["stderr"]
            ) from None
        finally:
            self._communication_started = True
        return self._decoded("stdout"), self._decoded("stderr")

    def _begin_input(self, given: Any) -> None:
        if self.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError):  # it ended, or reads no input
            self.stdin.flush()
        if not given:
            with contextlib.suppress(BrokenPipeError):
                self.stdin.close()
            return
        text: Any = self.stdin
        if self.text_mode:  # type: ignore[attr-defined]
            given = given.encode(text.encoding, text.errors)
        self._pending_input = memoryview(given).cast("B")

    def _exchange(self, deadline: float | None, timeout: float | None) -> None:
        """Move bytes until every pipe is closed. Raises TimeoutExpired."""
        with selectors.PollSelector() as selector:
            if self.stdin and not self.stdin.closed:
                selector.register(self.stdin, selectors.EVENT_WRITE)
            for name in ("stdout", "stderr"):
                stream = getattr(self, name)
                if stream and not stream.closed:
                    selector.register(stream, selectors.EVENT_READ, name)
            while selector.get_map():
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left < 0:
                    raise TimeoutExpired(self.args, timeout or 0)
                for key, _ in selector.select(left):
                    self._move(selector, key)

    def _move(self, selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
        stream: Any = key.fileobj
        if key.data is not None:
            data = os.read(key.fd, _CHUNK)
            if data:
                self._captured[key.data].append(self._meter.admit(data))
                return
        else:
            try:
                sent = os.write(key.fd, self._pending_input[: subprocess._PIPE_BUF])  # type: ignore[attr-defined]
                self._pending_input = self._pending_input[sent:]
            except BrokenPipeError:  # it reads no further: as subprocess, no error
                self._pending_input = memoryview(b"")
            if self._pending_input:
                return
        selector.unregister(stream)
        with contextlib.suppress(BrokenPipeError):
            stream.close()

    def _decoded(self, name: str) -> Any:
        stream: Any = getattr(self, name)
        if stream is None:
            return None
        data = b"".join(self._captured[name])
        if self.text_mode:  # type: ignore[attr-defined]
            return self._translate_newlines(data, stream.encoding, stream.errors)  # type: ignore[attr-defined]
        return data

    def completed(self, stdout: Any = None, stderr: Any = None) -> CompletedProcess:
        """The result of a program that has ended."""
        ended = self.running.poll()
        assert ended is not None
        assert self.returncode is not None
        return CompletedProcess(
            self.args,
            self.returncode,
            stdout,
            stderr,
            exit_reason=verdict(ended, output_exceeded=self._meter.exceeded),
            usage=ended.usage(),
            truncated=self._meter.exceeded,
            not_enforced=self.not_enforced,
        )

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            self.destroy()  # an exception leaves no process behind
        super().__exit__(kind, error, trace)

    def __del__(self, _warn: Any = warnings.warn) -> None:
        running = self._running
        if running is None or self.returncode is not None or running.owner != os.getpid():
            return
        _warn(f"container {self.pid} is still running", ResourceWarning, source=self)
        self.destroy()


def _or_endless(limit: float | None) -> float:
    return float("inf") if limit is None else limit


def _ignored_by_python() -> tuple[int, ...]:
    """What restore_signals=False leaves ignored: the signals that Python ignores at its start."""
    candidates = (signal.SIGPIPE, signal.SIGXFSZ)
    return tuple(int(n) for n in candidates if signal.getsignal(n) is signal.SIG_IGN)


def _stream(fd: int, number: int) -> int:
    """The given end, or our own stream when nothing was asked for, or -1 when that is closed."""
    if fd >= 0:
        return fd
    try:
        os.fstat(number)
    except OSError:
        return -1
    return number


def _descriptors(pass_fds: Any, *, close_fds: bool) -> tuple[int, ...]:
    wanted = set(pass_fds)
    for fd in wanted:
        if isinstance(fd, bool) or not isinstance(fd, int) or fd < 0:
            raise ValueError(f"bad value(s) in fds_to_keep: {fd!r}")
    if not close_fds:
        wanted.update(_inheritable())
    return tuple(sorted(fd for fd in wanted if fd > 2))


def _inheritable() -> set[int]:
    """What close_fds=False passes on, by subprocess's own rule: every inheritable descriptor."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the listing's own descriptor
            if os.get_inheritable(int(name)):
                found.add(int(name))
    return found


def _metered(stream: Any, meter: OutputMeter, bufsize: int) -> Any:
    """The same stream over a metered pipe."""
    settings = None
    if isinstance(stream, io.TextIOWrapper):
        settings = (stream.encoding, stream.errors)
        stream = stream.detach()
    raw: Any = stream.detach() if isinstance(stream, io.BufferedReader) else stream
    piped: Any = _MeteredPipe(raw, meter)
    if bufsize != 0 or settings is not None:
        size = bufsize if bufsize > 1 else io.DEFAULT_BUFFER_SIZE
        piped = io.BufferedReader(piped, size)
    return piped if settings is None else io.TextIOWrapper(piped, *settings)


def run(
    args: Any,
    *,
    input: Any = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    spec: Spec | None = None,
    **kwargs: Any,
) -> CompletedProcess:
    """subprocess.run in a fresh container that is gone afterwards.

    Takes what Popen takes. Raises TimeoutExpired, CalledProcessError (`check`), and what Popen
    raises.
    """
    if input is not None:
        if kwargs.get("stdin") is not None:
            raise ValueError("stdin and input arguments may not both be used.")
        kwargs["stdin"] = PIPE
    if capture_output:
        if kwargs.get("stdout") is not None or kwargs.get("stderr") is not None:
            raise ValueError("stdout and stderr arguments may not be used with capture_output.")
        kwargs["stdout"] = kwargs["stderr"] = PIPE
    with Popen(args, spec=spec, **kwargs) as process:
        stdout, stderr = process.communicate(input, timeout)
        result = process.completed(stdout, stderr)
    if check:
        result.check_returncode()
    return result


@once_per_process
def _arrange_the_end() -> bool:
    """Once, and for the process that started a container: a forked child has its own end."""
    atexit.register(end_all, os.getpid())
    return True


def end_all(owner: int) -> None:
    """At the interpreter's end: what still runs is ended, and no record of it stays."""
    if os.getpid() != owner:
        return
    for running in list(alive):
        running.destroy()
    session = state.session.peek()
    if session is not None:
        recovery.remove_session(session.name, session.directories)
        session.close()
