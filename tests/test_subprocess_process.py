"""The life of a Popen in a container is subprocess's: pipes, signals, time, the end, results."""

from __future__ import annotations

import gc
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fcntl import F_GETPIPE_SZ, fcntl
from pathlib import Path
from typing import Any

import pytest

import pycontainer
from tests.inside import own_bases
from tests.require import require

PYTHON = [sys.executable, "-I", "-c"]
BIG = bytes(range(256)) * 20_000  # 5 MB
AT_ONCE = 5.0  # seconds: what must not wait for the hour that its programs sleep
HOUR = "3600.25"  # an argument by which what is left of a test would be found
HANDLES_TERM = (
    "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7));"
    "print('ready', flush=True); signal.pause()"
)
AUDITED = """
import json, os, subprocess, sys
import {module} as api
events = []
sys.addaudithook(lambda event, args: event == "subprocess.Popen" and events.append(args[:3]))
api.run(["true"], cwd="/tmp")
print(json.dumps(events, default=os.fsdecode))
"""


@pytest.fixture(params=[subprocess, pycontainer], ids=["subprocess", "pycontainer"], name="api")
def api_fixture(request: pytest.FixtureRequest) -> Any:
    """The module under test; subprocess says what is right."""
    return request.param


@pytest.fixture(autouse=True)
def bases_of_this_test() -> Iterator[None]:
    with own_bases():
        yield


def sleepers() -> list[str]:
    """What still sleeps for this file's own hour, anywhere on the machine."""
    return [pid for pid in os.listdir("/proc") if HOUR.encode() in command_line(pid)]


def command_line(pid: str) -> bytes:
    try:
        return Path("/proc", pid, "cmdline").read_bytes()
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError, PermissionError):
        return b""


# Pipes


def test_what_is_written_comes_back_while_it_runs(api: Any) -> None:
    with api.Popen(["cat"], stdin=api.PIPE, stdout=api.PIPE) as process:
        for line in (b"one\n", b"two\n"):
            process.stdin.write(line)
            process.stdin.flush()
            assert line == process.stdout.readline()
        process.stdin.close()
        assert b"" == process.stdout.read()
    assert 0 == process.returncode


def test_unbuffered_pipes_are_raw(api: Any) -> None:
    with api.Popen(["cat"], bufsize=0, stdin=api.PIPE, stdout=api.PIPE) as process:
        assert isinstance(process.stdin, io.RawIOBase)
        assert isinstance(process.stdout, io.RawIOBase)
        process.stdin.write(b"abc")
        assert b"ab" == process.stdout.read(2)
        assert b"c" == process.stdout.read(99)


def test_a_line_buffered_text_pipe_sends_each_line(api: Any) -> None:
    with api.Popen(["cat"], bufsize=1, text=True, stdin=api.PIPE, stdout=api.PIPE) as process:
        assert process.stdin.line_buffering
        process.stdin.write("line\n")
        assert "line\n" == process.stdout.readline()


def test_line_buffering_of_bytes_warns(api: Any) -> None:
    with (
        pytest.warns(RuntimeWarning, match="line buffering"),
        api.Popen(["cat"], bufsize=1, stdin=api.PIPE, stdout=api.PIPE) as process,
    ):
        process.communicate()


def test_a_text_pipe_can_be_iterated(api: Any) -> None:
    with api.Popen(["printf", r"a\r\nb\rc"], text=True, stdout=api.PIPE) as process:
        assert ["a\n", "b\n", "c"] == list(process.stdout)


def test_streams_that_were_not_asked_for_are_none(api: Any) -> None:
    with api.Popen(["true"]) as process:
        assert (None, None, None) == (process.stdin, process.stdout, process.stderr)
        assert (None, None) == process.communicate()


def test_pipesize_is_the_pipes(api: Any) -> None:
    with api.Popen(["cat"], stdin=api.PIPE, stdout=api.PIPE, pipesize=8192) as process:
        assert [8192] * 2 == [fcntl(p, F_GETPIPE_SZ) for p in (process.stdin, process.stdout)]
        process.communicate()


# communicate


def test_communicate_can_go_on_after_a_timeout_and_loses_nothing(api: Any) -> None:
    code = "import sys; print('early', flush=True); sys.stdin.readline(); print(sys.stdin.read())"
    with api.Popen([*PYTHON, code], stdin=api.PIPE, stdout=api.PIPE, text=True) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=0)
        assert "early" in process.communicate()[0]


def test_five_megabytes_go_both_ways_across_timeouts() -> None:
    """Not compared: subprocess of 3.11 forgets the rest of the input at the second call."""
    code = "import sys; d = sys.stdin.buffer.read(); sys.stdout.buffer.write(d)"
    pipe = pycontainer.PIPE
    with pycontainer.Popen([*PYTHON, code], stdin=pipe, stdout=pipe) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(BIG, timeout=0.001)
        assert BIG == process.communicate()[0]


def test_input_cannot_be_sent_twice(api: Any) -> None:
    with api.Popen(["sleep", HOUR], stdin=api.PIPE, stdout=api.PIPE) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(b"x", timeout=0.001)
        with pytest.raises(ValueError):
            process.communicate(b"y")
        process.kill()


def test_communicate_after_the_end_gives_what_is_in_the_pipe(api: Any) -> None:
    with api.Popen(["echo", "x"], stdout=api.PIPE) as process:
        process.wait()
        assert (b"x\n", None) == process.communicate()


# Time


def test_run_gives_up_in_time_and_keeps_partial_output(api: Any) -> None:
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        api.run(["sh", "-c", f"echo partial; exec sleep {HOUR}"], capture_output=True, timeout=0.2)
    assert (0.2, b"partial\n", b"partial\n") == (
        caught.value.timeout, caught.value.output, caught.value.stdout,
    )  # fmt: skip
    assert ["sh", "-c", f"echo partial; exec sleep {HOUR}"] == caught.value.cmd


def test_a_timeout_without_output_has_none(api: Any) -> None:
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        api.run(["sleep", HOUR], capture_output=True, timeout=0.05)
    assert (None, None) == (caught.value.output, caught.value.stderr)


def test_partial_output_is_bytes_in_text_mode_too(api: Any) -> None:
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        api.run(["sh", "-c", f"echo x; exec sleep {HOUR}"], stdout=api.PIPE, text=True, timeout=0.2)
    assert b"x\n" == caught.value.output


def test_a_timeout_ends_the_tree_at_once_though_grandchildren_hold_the_pipes() -> None:
    script = f"echo partial; (setsid sleep {HOUR} &) ; sleep {HOUR}"
    began = time.monotonic()
    with pytest.raises(pycontainer.TimeoutExpired) as caught:
        pycontainer.run(["sh", "-c", script], capture_output=True, timeout=0.3)
    assert time.monotonic() - began < AT_ONCE
    assert b"partial\n" == caught.value.output
    assert [] == sleepers()


def test_what_a_program_leaves_behind_ends_with_it_and_holds_no_pipe() -> None:
    began = time.monotonic()
    script = f"(setsid sleep {HOUR} &) ; echo done"
    done = pycontainer.run(["sh", "-c", script], capture_output=True)
    assert time.monotonic() - began < AT_ONCE
    assert (0, b"done\n") == (done.returncode, done.stdout)
    assert [] == sleepers()


def test_wait_gives_up_in_time_and_the_program_goes_on(api: Any) -> None:
    with api.Popen(["cat"], stdin=api.PIPE) as process:
        with pytest.raises(subprocess.TimeoutExpired) as caught:
            process.wait(timeout=0.01)
        assert (["cat"], 0.01) == (caught.value.cmd, caught.value.timeout)
        assert process.poll() is None
        process.stdin.close()
        assert 0 == process.wait()


# Signals and the end


def test_a_signal_reaches_the_program_which_may_handle_it(api: Any) -> None:
    with api.Popen([*PYTHON, HANDLES_TERM], stdout=api.PIPE) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert 7 == process.wait()


@pytest.mark.parametrize(
    ("end", "number"),
    [("terminate", signal.SIGTERM), ("kill", signal.SIGKILL)],
)
def test_a_program_that_was_ended_says_by_which_signal(
    api: Any, end: str, number: signal.Signals
) -> None:
    with api.Popen(["sleep", HOUR]) as process:
        getattr(process, end)()
        assert -number == process.wait()


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGRTMIN]
)
def test_a_program_that_ends_itself_by_a_signal_has_a_negative_returncode(
    api: Any, number: int
) -> None:
    assert -number == api.run(["sh", "-c", f"kill -{int(number)} $$"]).returncode


@pytest.mark.parametrize("status", [0, 1, 127, 255])
def test_the_exit_status_is_the_programs(api: Any, status: int) -> None:
    assert status == api.run(["sh", "-c", f"exit {status}"]).returncode


def test_signals_after_the_end_are_no_error(api: Any) -> None:
    with api.Popen(["true"]) as process:
        process.wait()
        process.send_signal(signal.SIGTERM)
        process.terminate()
        process.kill()
    assert 0 == process.returncode


def test_poll_tells_the_end_and_goes_on_telling_it(api: Any) -> None:
    with api.Popen(["cat"], stdin=api.PIPE) as process:
        assert process.poll() is None
        process.stdin.close()
        process.wait()
        assert (0, 0) == (process.poll(), process.poll())


def test_two_threads_can_wait_for_one_program(api: Any) -> None:
    codes: list[int] = []
    with api.Popen(["sh", "-c", "read line; exit 3"], stdin=api.PIPE) as process:
        threads = [threading.Thread(target=lambda: codes.append(process.wait())) for _ in range(2)]
        for thread in threads:
            thread.start()
        process.stdin.close()
        for thread in threads:
            thread.join()
    assert [3, 3] == codes


def test_with_closes_the_pipes_and_waits(api: Any) -> None:
    with api.Popen(["cat"], stdin=api.PIPE, stdout=api.PIPE) as process:
        pass
    assert (0, True, True) == (
        process.returncode, process.stdin.closed, process.stdout.closed,
    )  # fmt: skip


def test_an_exception_in_with_leaves_no_process() -> None:
    with pytest.raises(ZeroDivisionError), pycontainer.Popen(["sleep", HOUR]) as process:
        raise ZeroDivisionError
    assert -signal.SIGKILL == process.returncode
    assert [] == sleepers()


def test_a_popen_that_nobody_waited_for_warns_and_is_ended() -> None:
    process = pycontainer.Popen(["sleep", HOUR])
    with pytest.warns(ResourceWarning, match="still running"):  # noqa: PT031
        del process
        gc.collect()
    assert [] == sleepers()


# What it is


def test_a_popen_is_subprocess_popen_and_looks_like_one(api: Any) -> None:
    with api.Popen(["true"]) as process:
        assert isinstance(process, subprocess.Popen)
        assert isinstance(process.pid, int)
        assert "<Popen: returncode: None args: ['true']>" == repr(process)
        assert ["true"] == process.args


def test_a_result_is_subprocess_completed_process(api: Any) -> None:
    done = api.run(["sh", "-c", "echo x"], capture_output=True)
    assert isinstance(done, subprocess.CompletedProcess)
    assert (["sh", "-c", "echo x"], 0, b"x\n", b"") == (
        done.args, done.returncode, done.stdout, done.stderr,
    )  # fmt: skip
    done.check_returncode()


def test_check_raises_with_all_that_is_known(api: Any) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        api.run(["sh", "-c", "echo x; echo y >&2; exit 3"], capture_output=True, check=True)
    error = caught.value
    assert (3, b"x\n", b"y\n") == (error.returncode, error.output, error.stderr)
    assert ["sh", "-c", "echo x; echo y >&2; exit 3"] == error.cmd


def test_check_tells_a_limit_from_an_exit() -> None:
    with pytest.raises(pycontainer.CalledProcessError) as caught:
        pycontainer.run(["sleep", HOUR], wall_time=0.05, check=True)
    assert pycontainer.ExitReason.WALL_TIME is caught.value.exit_reason


@pytest.mark.parametrize("module", ["subprocess", "pycontainer"])
def test_starting_a_program_is_an_audit_event(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AUDITED.format(module=module)],
        stdout=subprocess.PIPE, check=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert [["true", ["true"], "/tmp"]] == json.loads(done.stdout)


def test_no_python_of_the_application_runs_inside() -> None:
    with pytest.raises(pycontainer.UnsupportedError, match="preexec_fn"):
        pycontainer.Popen(["true"], preexec_fn=print)  # type: ignore[arg-type]


# Who runs it: ids inside, where subprocess means those of the host


def test_ids_are_the_containers_and_not_the_hosts() -> None:
    require("root", os.getuid() == 0, "an ordinary user's container has one id unless asked")
    done = pycontainer.run(
        ["sh", "-c", "id -u; id -g; id -G"],
        user=1234, group=55, extra_groups=[66, 77], stdout=pycontainer.PIPE, text=True,
    )  # fmt: skip
    assert "1234\n55\n55 66 77\n" == done.stdout


def test_ids_may_be_names_of_the_container() -> None:
    require("root", os.getuid() == 0, "an ordinary user's container has one id unless asked")
    done = pycontainer.run(
        ["id", "-un"], user="nobody", group="nogroup", stdout=pycontainer.PIPE, text=True
    )
    assert "nobody\n" == done.stdout


def test_a_user_that_is_not_inside_is_an_error() -> None:
    with pytest.raises(pycontainer.SpecError, match="user"):
        pycontainer.run(["id"], user="no-such-user")
