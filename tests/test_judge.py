"""examples/01_judge.py gives each submission its due, and none of them gets what it came for."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import pycontainer
from tests.inside import own_bases
from tests.require import require

EXAMPLE = Path(__file__).parents[1] / "examples" / "01_judge.py"
SUBMISSIONS = EXAMPLE.parent / "submissions"
VERDICTS = {
    "compile_error.c": "COMPILE_ERROR",
    "correct.c": "OK",
    "correct.py": "OK",
    "correct.sh": "OK",
    "crash.c": "SIGNALED",
    "daemon.py": "OK",
    "disk_filler.py": "RUNTIME_ERROR",
    "file_thief.py": "WRONG",
    "fork_bomb.c": "CPU_TIME",
    "memory_bomb.py": "OUT_OF_MEMORY",
    "network_caller.py": "WRONG",
    "output_flood.sh": "OUTPUT_LIMIT",
    "runtime_error.py": "RUNTIME_ERROR",
    "sleeper.sh": "WALL_TIME",
    "spinner.c": "CPU_TIME",
    "wrong.c": "WRONG",
}
SECRET = "canary-of-the-application"
CALLED_PORT = 47321  # where network_caller.py hopes for a service of the host


@pytest.fixture(autouse=True)
def bases_of_this_test() -> Iterator[None]:
    with own_bases():
        yield


@pytest.fixture(scope="module", name="judge")
def judge_fixture() -> ModuleType:
    given_up = pycontainer.run(["true"]).not_enforced
    require("cgroup", "memory" not in given_up, "no memory controller may be used here")
    spec = importlib.util.spec_from_file_location("judge_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # attrs looks there for the classes' annotations
    spec.loader.exec_module(module)
    return module


def run_submission(name: str, **options: Any) -> pycontainer.CompletedProcess:
    source = (SUBMISSIONS / name).read_text()
    return pycontainer.run(
        ["python3", "-c", source], input="", capture_output=True, text=True, **options
    )


def test_every_submission_has_a_verdict_to_be_asserted() -> None:
    assert sorted(VERDICTS) == sorted(path.name for path in SUBMISSIONS.iterdir())


@pytest.mark.parametrize("name", VERDICTS)
def test_the_verdict_is_the_one_it_deserves(judge: ModuleType, name: str) -> None:
    assert VERDICTS[name] == judge.judge(SUBMISSIONS / name).verdict


def test_the_fork_bomb_was_held_by_the_number_of_processes(judge: ModuleType) -> None:
    assert judge.judge(SUBMISSIONS / "fork_bomb.c").note.endswith("forks refused")


def test_a_memory_bomb_uses_all_it_may_and_no_more(judge: ModuleType) -> None:
    peak = judge.judge(SUBMISSIONS / "memory_bomb.py").peak_memory
    assert 0.9 * 2**26 <= peak <= 2**26


def test_the_file_thief_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_SECRET", SECRET)
    assert "" == run_submission("file_thief.py").stdout


def test_the_file_thief_would_find_what_is_put_before_it(tmp_path: Path) -> None:
    (tmp_path / "id_ed25519").write_text(SECRET)
    tmp_path.chmod(0o755)
    loot = run_submission(
        "file_thief.py",
        mounts=[pycontainer.Mount(tmp_path, "/root/.ssh")],
        env={**os.environ, "JUDGE_SECRET": SECRET},
    ).stdout
    assert f"stolen /root/.ssh/id_ed25519 {SECRET.encode()!r}" in loot
    assert f"stolen JUDGE_SECRET {SECRET}" in loot


@pytest.fixture(name="service")
def service_fixture() -> Iterator[socket.socket]:
    """A service of the host that the network caller knows."""
    with closing(socket.socket()) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", CALLED_PORT))
        listener.listen()
        listener.setblocking(False)
        yield listener


def test_the_network_caller_reaches_nobody(service: socket.socket) -> None:
    assert "" == run_submission("network_caller.py").stdout
    with pytest.raises(BlockingIOError):
        service.accept()


def test_the_network_caller_would_reach_the_host_on_its_network(service: socket.socket) -> None:
    reached = run_submission("network_caller.py", network="host").stdout
    assert f"reached 127.0.0.1 {CALLED_PORT}" in reached
    service.accept()[0].close()


def test_the_daemon_does_not_outlive_the_program_that_left_it(judge: ModuleType) -> None:
    judge.judge(SUBMISSIONS / "daemon.py")
    assert [] == [pid for pid in os.listdir("/proc") if b"judge-example" in command_line(pid)]


def command_line(pid: str) -> bytes:
    try:
        return Path("/proc", pid, "cmdline").read_bytes()
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError, PermissionError):
        return b""


def test_the_script_prints_the_table_and_succeeds(judge: ModuleType) -> None:
    env = {**os.environ, "PYTHONPATH": str(EXAMPLE.parents[1])}
    done = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, env=env)
    assert (0, "") == (done.returncode, done.stderr)
    lines = done.stdout.splitlines()[1:]
    assert VERDICTS == {line.split()[0]: line.split()[1] for line in lines}


def test_what_a_submission_says_cannot_control_the_terminal(judge: ModuleType) -> None:
    done = pycontainer.run(["sh", "-c", r"printf '\033[2J\007evil' >&2"], capture_output=True)
    assert "?[2J?evil" == judge.make_note(done)
