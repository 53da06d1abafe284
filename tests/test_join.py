"""Joining a running container, and this thread in and out of its namespaces."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

import pytest

import pycontainer
from pycontainer import command as commands
from pycontainer import spawn
from pycontainer.namespaces import entered
from pycontainer.running import Ended
from tests.require import Require

SPEC = pycontainer.Spec()
FOR_THREADS = {"net", "uts", "ipc", "mnt", "cgroup", "pid"}


@pytest.fixture(name="box")
def box_fixture(require: Require) -> Iterator[pycontainer.Popen]:
    """A container whose program has written /tmp/mark and waits."""
    require("root", os.geteuid() == 0, "joining init's namespaces takes root")
    script = "echo inside > /tmp/mark; echo ready; exec sleep 600"
    with pycontainer.Popen(["sh", "-c", script], stdout=pycontainer.PIPE) as process:
        assert process.stdout is not None
        assert b"ready\n" == process.stdout.readline()
        yield process
        process.kill()


def join(
    box: pycontainer.Popen, argv: list[str], spec: pycontainer.Spec = SPEC
) -> tuple[Ended, bytes]:
    """Run a program in the box; how it ended and what it wrote."""
    environment = commands.default_environment(host_view=True)
    program = commands.program(tuple(map(os.fsencode, argv)), None, environment)
    reading, writing = os.pipe()
    command = spawn.Command(program=program, stdio=(0, writing, 2), executable=argv[0])
    with open(reading, "rb") as stream:
        try:
            joined = spawn.join(box.running, spec, command)
        finally:
            os.close(writing)
        output = stream.read()
    ended = joined.wait()
    assert ended is not None
    return ended, output


def status_field(output: bytes, name: str) -> bytes:
    return next(line for line in output.splitlines() if line.startswith(name.encode())).split()[1]


def test_a_joined_program_sees_the_same_files_processes_and_namespaces(
    box: pycontainer.Popen,
) -> None:
    script = "cat /tmp/mark; hostname; cat /proc/2/comm; cat /proc/self/cgroup | grep -vc ':/$'"
    ended, output = join(box, ["sh", "-c", script])
    assert b"inside\ncontainer\nsleep\n0\n" == output
    assert ended.report is not None


def test_a_joined_program_has_the_protections_of_the_first(box: pycontainer.Popen) -> None:
    _, output = join(box, ["cat", "/proc/self/status"])
    for name in ("CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"):
        assert b"0000000000000000" == status_field(output, name)
    assert b"1" == status_field(output, "NoNewPrivs:")
    assert b"2" == status_field(output, "Seccomp:")
    assert b"1000" == status_field(output, "Uid:")


def test_nothing_of_the_application_goes_along(box: pycontainer.Popen) -> None:
    os.environ["PYCONTAINER_CANARY"] = "canary"
    reading, writing = os.pipe()
    try:
        os.set_inheritable(writing, True)
        script = "cat /proc/self/environ | tr '\\0' '\\n' | cut -d= -f1; ls /proc/self/fd; pwd"
        _, output = join(box, ["sh", "-c", script])
    finally:
        del os.environ["PYCONTAINER_CANARY"]
        os.close(reading)
        os.close(writing)
    # 3 is the directory that ls reads.
    assert {b"PATH", b"HOME", b"LANG", b"PWD", b"0", b"1", b"2", b"3", b"/tmp"} >= set(
        output.split()
    )


def test_a_joined_program_counts_in_the_containers_cgroup(
    box: pycontainer.Popen, require: Require
) -> None:
    cgroup = box.running.cgroup
    require("cgroup", cgroup is not None, "this user cannot make cgroups here")
    assert cgroup is not None
    before = set(cgroup.processes())
    environment = commands.default_environment(host_view=True)
    program = commands.program((b"sleep", b"600"), None, environment)
    joined = spawn.join(
        box.running, SPEC, spawn.Command(program=program, stdio=(0, 1, 2), executable="sleep")
    )
    assert {joined.pid} == set(cgroup.processes()) - before
    joined.end()
    ended = joined.wait()
    assert ended is not None
    assert ended.report is not None
    assert 9 == os.WTERMSIG(ended.report.status)


def test_a_joined_program_ends_with_its_container(box: pycontainer.Popen) -> None:
    environment = commands.default_environment(host_view=True)
    program = commands.program((b"sleep", b"600"), None, environment)
    joined = spawn.join(
        box.running, SPEC, spawn.Command(program=program, stdio=(0, 1, 2), executable="sleep")
    )
    box.kill()
    box.wait()
    assert joined.wait(10) is not None


def test_the_exit_status_of_a_joined_program_is_its_own(box: pycontainer.Popen) -> None:
    ended, _ = join(box, ["sh", "-c", "exit 7"])
    assert ended.report is not None
    assert 7 == os.WEXITSTATUS(ended.report.status)


def test_a_missing_program_is_said_as_by_subprocess(box: pycontainer.Popen) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        join(box, ["no-such-program"])
    assert "no-such-program" == caught.value.filename


def places() -> dict[str, str]:
    """Where this thread is."""
    names = sorted(os.listdir("/proc/thread-self/ns"))
    found = {name: os.readlink(f"/proc/thread-self/ns/{name}") for name in names}
    return {**found, "root": os.readlink("/proc/thread-self/root"), "cwd": os.getcwd()}


@pytest.mark.parametrize("namespaces", [{"net"}, {"uts"}, {"mnt"}, {"ipc"}, FOR_THREADS])
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, GeneratorExit, SystemExit])
def test_a_thread_comes_back_out_whatever_happens_inside(
    box: pycontainer.Popen,
    require: Require,
    namespaces: set[str],
    error: type[BaseException] | None,
) -> None:
    require("root", os.geteuid() == 0, "joining single namespaces needs rights over them")
    before = places()
    seen = {}
    with (
        contextlib.suppress(*([error] if error else [])),
        entered(box.running.launch.childfd, namespaces),
    ):
        seen = {"uts": os.uname().nodename, "mark": os.path.exists("/tmp/mark")}
        if error is not None:
            raise error
    assert before == places()
    assert ("container" == seen["uts"]) is ("uts" in namespaces)
    assert seen["mark"] is ("mnt" in namespaces)


def test_other_threads_are_not_moved(box: pycontainer.Popen, require: Require) -> None:
    require("root", os.geteuid() == 0, "joining single namespaces needs rights over them")
    inside, looked = threading.Event(), threading.Event()
    seen: list[dict[str, str]] = []

    def look() -> None:
        inside.wait(30)
        seen.append(places())
        looked.set()

    thread = threading.Thread(target=look)
    thread.start()
    before = places()
    with entered(box.running.launch.childfd, FOR_THREADS):
        inside.set()
        looked.wait(30)
    thread.join()
    assert [before] == seen


def test_a_socket_opened_inside_stays_usable_outside(
    box: pycontainer.Popen, require: Require
) -> None:
    require("root", os.geteuid() == 0, "joining single namespaces needs rights over them")
    with entered(box.running.launch.childfd, {"net"}):
        listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    script = f"import socket; socket.create_connection(('127.0.0.1', {port})).sendall(b'hello')"
    with listener:
        ended, _ = join(box, ["python3", "-c", script])
        accepted, _ = listener.accept()
        with accepted:
            assert b"hello" == accepted.recv(5)
    assert ended.report is not None
    assert 0 == ended.report.status


def test_a_user_namespace_cannot_be_entered_and_the_error_says_what_to_do(
    box: pycontainer.Popen,
) -> None:
    with (
        pytest.raises(pycontainer.UnsupportedError, match="run_function"),
        entered(box.running.launch.childfd, {"user"}),
    ):
        pass


def test_a_time_namespace_cannot_be_entered_beside_other_threads(box: pycontainer.Popen) -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait, args=(60,))
    thread.start()
    before = places()
    try:
        with (
            pytest.raises(pycontainer.UnsupportedError, match="threads"),
            entered(box.running.launch.childfd, {"time", "uts"}),
        ):
            pass
    finally:
        done.set()
        thread.join()
    assert before == places()


def test_an_ordinary_user_is_told_why_it_cannot_join(require: Require) -> None:
    require("ordinary user", os.geteuid() != 0, "root can")
    with pycontainer.Popen(["sleep", "600"]) as process:
        with pytest.raises(pycontainer.UnsupportedError, match="as root"):
            join(process, ["true"])
        process.kill()
