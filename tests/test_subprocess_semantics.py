"""What subprocess promises of a program's streams, words and failures holds in a container, too.

Each test that takes `api` runs twice: with subprocess, which says what is right, and with
pycontainer. The life of a Popen is in test_subprocess_process.py.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pycontainer
from tests.inside import own_bases

PYTHON = [sys.executable, "-I", "-c"]
BIG = bytes(range(256)) * 20_000  # 5 MB
LARGEST_ARGUMENT = 32 * 4096 - 1  # MAX_ARG_STRLEN counts the NUL as well (execve(2))
# Where anybody may search: a PATH with a closed directory in it makes subprocess say EACCES.
SEARCHED = {"PATH": "/usr/bin:/bin"}
Failure = tuple[type[BaseException], Any, Any]


@pytest.fixture(params=[subprocess, pycontainer], ids=["subprocess", "pycontainer"], name="api")
def api_fixture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module under test; started in /tmp, where a container's programs start as well."""
    monkeypatch.chdir("/tmp")
    return request.param


@pytest.fixture(autouse=True)
def bases_of_this_test() -> Iterator[None]:
    with own_bases():
        yield


@pytest.fixture(name="shared")
def shared_fixture(api: Any, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A directory that is inside at the same path, and the options that put it there."""
    tmp_path.chmod(0o755)
    if api is subprocess:
        return tmp_path, {}
    return tmp_path, {"mounts": [pycontainer.Mount(tmp_path, str(tmp_path))]}


def output(api: Any, *command: Any, **options: Any) -> Any:
    done = api.run(command, stdout=api.PIPE, **options)
    assert 0 == done.returncode
    return done.stdout


def inside(api: Any, expression: str, **options: Any) -> Any:
    """What a Python expression is worth in the program."""
    code = f"import json, os, sys, signal; print(json.dumps({expression}))"
    return json.loads(output(api, *PYTHON, code, **options))


def failure(api: Any, *args: Any, **options: Any) -> Failure:
    with pytest.raises(OSError) as caught:
        api.run(*args, **options)
    return type(caught.value), caught.value.errno, caught.value.filename


# Text


def test_output_is_bytes_unless_text_is_asked_for(api: Any) -> None:
    assert b"\xff\r\n" == output(api, "printf", r"\377\r\n")


@pytest.mark.parametrize(
    "mode",
    [{"text": True}, {"universal_newlines": True}, {"encoding": "utf-8"}, {"errors": "strict"}],
)
def test_each_way_to_ask_for_text_translates_newlines(api: Any, mode: dict[str, Any]) -> None:
    assert "a\nb\nc\n" == output(api, "printf", r"a\r\nb\rc\n", **mode)


def test_text_and_universal_newlines_must_agree(api: Any) -> None:
    with pytest.raises(subprocess.SubprocessError):
        api.run(["true"], text=True, universal_newlines=False)


def test_an_encoding_counts_for_input_and_output(api: Any) -> None:
    assert "grün" == output(api, "cat", input="grün", encoding="utf-16")
    assert "é" == output(api, "printf", r"\351", encoding="latin-1")


def test_undecodable_output_is_an_error_or_what_errors_says(api: Any) -> None:
    assert "\ufffd" == output(api, "printf", r"\377", encoding="utf-8", errors="replace")
    with pytest.raises(UnicodeDecodeError):
        output(api, "printf", r"\377", encoding="utf-8")


# Input


@pytest.mark.parametrize(
    "given", [b"", b"x", bytearray(b"xy"), memoryview(b"xyz"), array("i", [1])]
)
def test_input_may_be_anything_that_holds_bytes(api: Any, given: Any) -> None:
    assert bytes(memoryview(given).cast("B")) == output(api, "cat", input=given)


def test_text_input_may_be_empty(api: Any) -> None:
    assert "" == output(api, "cat", input="", text=True)


def test_text_input_for_a_program_in_binary_mode_is_a_type_error(api: Any) -> None:
    with pytest.raises(TypeError):
        api.run(["cat"], input="text", stdout=api.PIPE)


def test_input_that_nobody_reads_is_no_error(api: Any) -> None:
    assert b"" == output(api, "true", input=BIG)


def test_five_megabytes_go_in_and_come_out_on_both_streams(api: Any) -> None:
    code = (
        "import os, sys; [os.write(2, b) and sys.stdout.buffer.write(b) for b in sys.stdin.buffer]"
    )
    done = api.run([*PYTHON, code], input=BIG, capture_output=True)
    assert BIG == done.stdout
    assert BIG == done.stderr


def test_input_and_stdin_exclude_each_other(api: Any) -> None:
    with pytest.raises(ValueError):
        api.run(["cat"], input=b"", stdin=api.PIPE)


def test_capture_output_and_stdout_exclude_each_other(api: Any) -> None:
    with pytest.raises(ValueError):
        api.run(["cat"], capture_output=True, stdout=api.PIPE)


# Where the streams lead


def test_streams_are_inherited(api: Any, capfd: pytest.CaptureFixture[str]) -> None:
    api.run(["sh", "-c", "echo out; echo err >&2"])
    assert ("out\n", "err\n") == tuple(capfd.readouterr())


def test_stderr_may_follow_an_inherited_stdout(api: Any, capfd: pytest.CaptureFixture[str]) -> None:
    api.run(["sh", "-c", "echo err >&2"], stderr=api.STDOUT)
    assert ("err\n", "") == tuple(capfd.readouterr())


def test_stderr_may_share_the_pipe_of_stdout(api: Any) -> None:
    done = api.run(["sh", "-c", "echo 1; echo 2 >&2; echo 3"], stdout=api.PIPE, stderr=api.STDOUT)
    assert (b"1\n2\n3\n", None) == (done.stdout, done.stderr)


def test_devnull_is_empty_and_takes_all(api: Any) -> None:
    assert b"" == output(api, "cat", stdin=api.DEVNULL)
    done = api.run(["sh", "-c", "echo x; echo y >&2"], stdout=api.DEVNULL, stderr=api.DEVNULL)
    assert (0, None, None) == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("as_descriptor", [False, True])
def test_streams_may_be_files(api: Any, tmp_path: Path, as_descriptor: bool) -> None:
    (tmp_path / "in").write_text("given\n")
    with open(tmp_path / "in") as given, open(tmp_path / "out", "w") as taken:
        streams = (given.fileno(), taken.fileno()) if as_descriptor else (given, taken)
        api.run(["cat"], stdin=streams[0], stdout=streams[1], check=True)
    assert "given\n" == (tmp_path / "out").read_text()


def test_stdout_and_stderr_may_be_one_file(api: Any, tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb") as taken:
        api.run(["sh", "-c", "echo 1; echo 2 >&2; echo 3"], stdout=taken, stderr=taken)
    assert b"1\n2\n3\n" == (tmp_path / "out").read_bytes()


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_script_can_open_its_own_streams_by_name(api: Any, name: str) -> None:
    done = api.run(["sh", "-c", f"echo x > /dev/{name}"], capture_output=True)
    assert (0, b"x\n") == (done.returncode, getattr(done, name))


# Descriptors


def test_pass_fds_keep_their_numbers(api: Any) -> None:
    reader, writer = os.pipe()
    high = os.dup2(writer, 200, inheritable=False)
    try:
        code = f"import os; os.write({writer}, b'low '); os.write({high}, b'high')"
        api.run([*PYTHON, code], pass_fds=(high, writer), check=True)
        assert b"low high" == os.read(reader, 99)
    finally:
        for fd in (reader, writer, high):
            os.close(fd)


def test_other_descriptors_are_not_inside(api: Any) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        assert [0, 1, 2] == inside(
            api, "[fd for fd in range(256) if os.path.exists(f'/dev/fd/{fd}')]"
        )
    finally:
        os.close(reader)
        os.close(writer)


def test_close_fds_false_passes_what_is_inheritable(api: Any) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        code = f"import os; os.write({writer}, str(os.path.exists('/dev/fd/{reader}')).encode())"
        api.run([*PYTHON, code], close_fds=False, check=True)
        assert b"False" == os.read(reader, 99)
    finally:
        os.close(reader)
        os.close(writer)


def test_a_descriptor_that_is_not_open_cannot_be_passed(api: Any) -> None:
    for fds in ((-1,), ("x",)):
        with pytest.raises((ValueError, TypeError)):
            api.run(["true"], pass_fds=fds)


# Surroundings


@pytest.mark.parametrize("cwd", ["/usr", b"/usr/bin", Path("/"), "../usr", "."])
def test_cwd_is_where_the_program_starts(api: Any, cwd: Any) -> None:
    expected = os.path.normpath(os.path.join("/tmp", os.fsdecode(cwd)))
    assert expected == inside(api, "os.getcwd()", cwd=cwd)


def test_a_program_named_by_a_relative_path_is_looked_up_in_cwd(api: Any) -> None:
    assert b"here\n" == output(api, "bin/echo", "here", cwd="/usr")


def test_env_is_the_whole_environment(api: Any) -> None:
    env = {"PATH": "/usr/bin:/bin", "A": "=", b"B": b"\xff", "C": ""}
    assert [b"A==", b"B=\xff", b"C=", b"PATH=/usr/bin:/bin"] == sorted(
        output(api, "env", env=env).split(b"\n")[:-1]
    )
    assert b"" == output(api, "/usr/bin/env", env={})


def test_a_million_bytes_of_environment_arrive(api: Any) -> None:
    env = {f"V{i}": "x" * 1000 for i in range(1000)}
    assert 1_000_000 == inside(
        api, "sum(len(v) for k, v in os.environ.items() if k[0] == 'V')", env=env
    )


def test_umask_is_the_programs(api: Any) -> None:
    assert 0o27 == inside(api, "os.umask(0)", umask=0o027)


def test_a_process_group_of_its_own(api: Any) -> None:
    assert inside(api, "os.getpgrp() == os.getpid()", process_group=0)


def test_a_session_of_its_own(api: Any) -> None:
    assert inside(api, "os.getsid(0) == os.getpid()", start_new_session=True)


@pytest.mark.parametrize("restore", [True, False])
def test_signals_that_python_ignores_are_restored_when_asked(api: Any, restore: bool) -> None:
    line = output(api, "grep", "SigIgn", "/proc/self/status", restore_signals=restore)
    ignored = int(line.split()[1], 16)
    assert (not restore) == bool(ignored >> 12 & 1)  # SIGPIPE is 13


# Words


def test_arguments_round_trip_as_bytes(api: Any) -> None:
    given = [b"\xff\xfe", "ü".encode(), b"", b" a  b ", b"'\"$x`\n", b"-n", b"\x01\x7f"]
    printed = output(api, "printf", r"%s\0", *given)
    assert given == printed.split(b"\0")[:-1]


def test_paths_are_arguments(api: Any) -> None:
    assert b"/a/b" == output(api, Path("/usr/bin/printf"), "%s", Path("/a/b"))


def test_a_string_is_a_program_without_arguments(api: Any) -> None:
    assert b"/tmp\n" == api.run("pwd", stdout=api.PIPE).stdout


def test_executable_is_what_runs_whatever_it_is_called(api: Any) -> None:
    assert b"a name\n" == output(api, "a name", "-c", "echo $0", executable="/bin/sh")
    assert b"a name\n" == output(api, "a name", "-c", "echo $0", executable=b"sh")


def test_shell_runs_a_string_and_gives_it_the_other_arguments(api: Any) -> None:
    assert b"/bin/sh 3\n" == api.run("echo $0 $((1+2))", shell=True, stdout=api.PIPE).stdout
    assert b"a b\n" == output(api, "echo $0 $1", "a", "b", shell=True)


def test_executable_replaces_the_shell(api: Any) -> None:
    command = 'echo "$0 ${BASH_VERSION:+bash}"'
    done = api.run(command, shell=True, executable="/bin/bash", stdout=api.PIPE)
    assert b"/bin/bash bash\n" == done.stdout


def test_the_largest_argument_arrives(api: Any) -> None:
    code = "import sys; print(len(sys.argv[1]))"
    assert LARGEST_ARGUMENT == int(output(api, *PYTHON, code, "x" * LARGEST_ARGUMENT))


# Failures


def test_an_argument_that_is_too_long_is_e2big(api: Any) -> None:
    arguments = ["true", "x" * (LARGEST_ARGUMENT + 1)]
    assert errno.E2BIG == failure(api, arguments, env=SEARCHED)[1]


@pytest.mark.parametrize(
    "name", ["no-such-program", "/no/such/program", "./none", b"none", "none/"]
)
def test_a_missing_program_is_file_not_found(api: Any, name: Any) -> None:
    assert (FileNotFoundError, errno.ENOENT, name) == failure(api, [name], env=SEARCHED)


def test_a_program_is_looked_up_in_the_path_of_its_environment(api: Any) -> None:
    env = {"PATH": "/usr/share:/none"}
    assert (FileNotFoundError, errno.ENOENT, "true") == failure(api, ["true"], env=env)


def test_what_may_not_be_executed_is_a_permission_error(api: Any) -> None:
    for name in ("/etc/passwd", "/usr"):
        assert (PermissionError, errno.EACCES, name) == failure(api, [name])


def test_an_executable_that_is_missing_is_named(api: Any) -> None:
    expected = (FileNotFoundError, errno.ENOENT, "/none")
    assert expected == failure(api, ["true"], executable="/none")


def test_a_program_below_a_file_is_not_a_directory(api: Any) -> None:
    expected = (NotADirectoryError, errno.ENOTDIR, "/etc/passwd/x")
    assert expected == failure(api, ["/etc/passwd/x"])


def test_a_missing_interpreter_is_reported_as_its_script(
    api: Any, shared: tuple[Path, dict[str, Any]]
) -> None:
    directory, options = shared
    script = directory / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    expected = (FileNotFoundError, errno.ENOENT, str(script))
    assert expected == failure(api, [str(script)], **options)


def test_a_file_that_is_no_program_is_an_exec_format_error(
    api: Any, shared: tuple[Path, dict[str, Any]]
) -> None:
    directory, options = shared
    (directory / "data").write_bytes(b"\x00\x01")
    (directory / "data").chmod(0o755)
    expected = (OSError, errno.ENOEXEC, str(directory / "data"))
    assert expected == failure(api, [str(directory / "data")], **options)


@pytest.mark.parametrize("cwd", ["/no/such/place", "no-such-place"])
def test_a_missing_cwd_is_file_not_found(api: Any, cwd: str) -> None:
    assert (FileNotFoundError, errno.ENOENT, cwd) == failure(api, ["true"], cwd=cwd)


def test_a_cwd_that_is_a_file_is_not_a_directory(api: Any) -> None:
    expected = (NotADirectoryError, errno.ENOTDIR, "/etc/passwd")
    assert expected == failure(api, ["true"], cwd="/etc/passwd")


@pytest.mark.parametrize(
    "options",
    [
        {"args": ["true", "a\0b"]},
        {"args": ["tr\0ue"]},
        {"args": ["true"], "env": {"A": "a\0b"}},
        {"args": ["true"], "env": {"A\0": ""}},
        {"args": ["true"], "env": {"A=B": ""}},
        {"args": ["true"], "cwd": "/tmp\0"},
    ],
    ids=["argument", "program", "value", "name", "equals sign", "cwd"],
)
def test_what_no_kernel_can_be_told_is_a_value_error(api: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        api.run(**options)


@pytest.mark.parametrize(
    "options",
    [{"args": ["true", 1]}, {"args": [None]}, {"args": ["true"], "env": {"A": None}},
     {"args": ["true"], "bufsize": "1"}, {"args": ["true"], "no_such_option": 1}],
)  # fmt: skip
def test_what_is_no_text_is_a_type_error(api: Any, options: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        api.run(**options)
