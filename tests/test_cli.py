"""The command line, started as a user starts it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pycontainer.ability import Ability, HostReport, probe
from pycontainer.cli.doctor import as_text
from tests.inside import own_bases
from tests.ordinary import OrdinaryUser, ordinary_user
from tests.require import require

__all__ = ["ordinary_user"]

COMMAND = [sys.executable, "-m", "pycontainer"]


def cli(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *arguments], input=stdin, capture_output=True, text=True, timeout=60
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(name="report", scope="module", autouse=True)
def report_fixture() -> HostReport:
    """Every program below needs a host on which containers can be made."""
    with own_bases():
        report = probe()
    userns = report["namespace.user"]
    require("userns", userns.available, userns.why)
    return report


@pytest.fixture(name="memory")
def memory_fixture(report: HostReport) -> None:
    found = report["cgroup.memory"]
    require("cgroup", found.available, found.why)


def sh(script: str, *options: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return cli("run", *options, "--", "sh", "-c", script, stdin=stdin)


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -9 $$", 137)],
)
def test_the_exit_status_is_the_programs(script: str, status: int) -> None:
    done = sh(script)
    assert (status, "") == (done.returncode, done.stdout)


@pytest.mark.parametrize(
    ("program", "status", "text"),
    [
        ("no-such-program", 127, "no-such-program: No such file or directory"),
        ("/no/such/program", 127, "/no/such/program: No such file or directory"),
        ("/etc/passwd", 126, "/etc/passwd: Permission denied"),
        ("/usr", 126, "/usr: Permission denied"),
    ],
)
def test_a_program_that_cannot_be_started(program: str, status: int, text: str) -> None:
    done = cli("run", "--", program)
    assert (status, f"pycontainer: {text}\n") == (done.returncode, last_line(done.stderr))


def last_line(text: str) -> str:
    """Where limits by default cannot be held, lines before it say so."""
    return text.splitlines(keepends=True)[-1]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--memory", "1X", "--", "true"], "memory='1X'"),
        (["--pids", "many", "--", "true"], "pids='many'"),
        (["--cpus", "nan", "--", "true"], "cpus=nan"),
        (["--wall-time", "0", "--", "true"], "wall_time=0"),
        (["--hostname", "a b", "--", "true"], "hostname='a b'"),
        (["--network", "bridge", "--", "true"], "network='bridge'"),
        (["--mount", "/usr", "--", "true"], "mount='/usr'"),
        (["--mount", "/usr:/x:rx", "--", "true"], "mount='/usr:/x:rx'"),
        (["--mount", "/no/such/source:/x", "--", "true"], "/no/such/source: No such file"),
        (["--mount", "/no/such/source:/x", "--", "/no/such/source"], "No such file"),
        (["--mount", "/usr:x", "--", "true"], "target='x'"),
        (["--rootfs", "/no/such/root", "--", "true"], "/no/such/root: No such file"),
        (["--capability", "FLY", "--", "true"], "capabilities='FLY'"),
        (["--seccomp", "/no/such/profile", "--", "true"], "seccomp='/no/such/profile'"),
        (["--rlimit", "stack", "--", "true"], "rlimit='stack'"),
        (["--env", "=x", "--", "true"], "env=''"),
        (["--best-effort", "speed", "--", "true"], "--best-effort"),
        (["--user", "nobody-we-know", "--", "true"], "user='nobody-we-know'"),
        (["--memroy", "1M", "--", "true"], "unrecognized arguments: --memroy"),
        (["--mem", "1M", "--", "true"], "unrecognized arguments: --mem"),
        (["true"], "unrecognized arguments: true"),
        ([], "no program"),
        (["--"], "no program"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_125(arguments: list[str], text: str) -> None:
    done = cli("run", *arguments)
    assert 125 == done.returncode
    assert "" == done.stdout
    assert 1 == done.stderr.count("\n")
    assert done.stderr.startswith("pycontainer: ")
    assert text in done.stderr


def test_a_mistake_cannot_write_to_the_terminal() -> None:
    done = cli("run", "--hostname", "\x1b[2J\n", "--", "true")
    assert done.stderr[:-1].isprintable()


def test_a_command_is_needed_and_doctor_runs_no_program() -> None:
    assert 125 == cli().returncode
    assert 125 == cli("doctor", "--", "true").returncode


def test_streams_are_inherited() -> None:
    done = sh("cat; echo error >&2", stdin="input\n")
    assert (0, "input\n") == (done.returncode, done.stdout)
    assert "error\n" == last_line(done.stderr)


def test_options_after_the_two_dashes_are_the_programs() -> None:
    assert "--memory 1X -- --\n" == cli("run", "--", "echo", "--memory", "1X", "--", "--").stdout


def test_wall_time_is_said_and_137() -> None:
    done = sh("echo begun; exec sleep 1000", "--wall-time", "0.3")
    assert (137, "begun\n") == (done.returncode, done.stdout)
    assert "pycontainer: ended by a limit: wall time\n" == last_line(done.stderr)


def test_memory_is_said_and_never_a_success(memory: None) -> None:
    eat = "head -c 200M /dev/zero | tail >/dev/null; true"
    done = sh(eat, "--memory", "16M")
    assert 137 == done.returncode
    assert "pycontainer: ended by a limit: memory\n" == last_line(done.stderr)


def test_output_is_counted_and_passed_on() -> None:
    done = sh("echo out; echo err >&2; exec yes", "--output", "64K")
    assert 137 == done.returncode
    assert done.stdout.startswith("out\ny\n")
    assert "pycontainer: ended by a limit: output\n" == last_line(done.stderr)
    assert len("err\n") + len(done.stdout) == 65536


def test_output_within_its_limit_is_whole() -> None:
    done = sh("echo out; echo err >&2", "--output", "1K")
    assert (0, "out\n", "err\n") == (done.returncode, done.stdout, last_line(done.stderr))


def test_a_reader_that_leaves_ends_the_program() -> None:
    script = f"{' '.join(COMMAND)} run --output 1G -- yes | head -n 1"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60)
    assert "y\n" == done.stdout
    assert "Traceback" not in done.stderr


def test_what_is_set_is_what_is_seen(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content\n")
    tmp_path.chmod(0o755)
    done = sh(
        "hostname; pwd; id -u; echo $NAME; cat /data/file; stat -f -c %T /scratch; "
        "ls /sys/class/net 2>/dev/null; echo >/data/file && echo written",
        "--hostname=box", "--cwd=/usr", "--user=5:7" if os.geteuid() == 0 else "--user=5",
        "--env=NAME=value", f"--mount={tmp_path}:/data", "--tmpfs=/scratch:1M",
    )  # fmt: skip
    assert "box /usr 5 value content tmpfs".split() == done.stdout.split()


def test_a_mount_is_writable_only_when_asked(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    done = sh("echo content >/data/file", f"--mount={tmp_path}:/data:rw")
    assert 0 == done.returncode, done.stderr
    assert "content\n" == (tmp_path / "file").read_text()
    (tmp_path / "file").unlink()


def test_the_environment_is_clean_but_for_what_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "1")
    monkeypatch.setenv("SHOWN", "2")
    names = {line.partition("=")[0] for line in sh("env", "--env=SHOWN").stdout.splitlines()}
    assert {"PATH", "HOME", "LANG", "SHOWN", "PWD"} == names


def test_a_profile_in_dockers_format_is_taken(tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    done = sh("mkdir /tmp/x", f"--seccomp={profile}")
    assert 1 == done.returncode
    assert "No space left on device" in done.stderr


def test_explain_says_it_and_does_nothing() -> None:
    done = cli("run", "--network=host", "--explain", "--", "echo", "ran")
    assert (0, "") == (done.returncode, done.stderr)
    assert "gives away the network's isolation" in done.stdout
    assert "ran\n" not in done.stdout


@pytest.fixture(name="lasting")
def lasting_fixture() -> Iterator[subprocess.Popen[str]]:
    """A command line whose container has begun: two processes that would sleep on."""
    script = "sleep 1000 & echo begun; exec sleep 1000"
    with subprocess.Popen(
        [*COMMAND, "run", "--", "sh", "-c", script], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "begun\n" == process.stdout.readline()
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_whole_tree(
    lasting: subprocess.Popen[str], number: signal.Signals
) -> None:
    lasting.send_signal(number)
    assert lasting.stdout is not None
    assert "" == lasting.stdout.read()  # its end: nothing inside holds the stream any more
    assert 128 + number == lasting.wait(60)


def test_doctor_tells_people_and_programs_the_same() -> None:
    text, values = cli("doctor"), cli("doctor", "--format", "json")
    report = json.loads(values.stdout)
    assert text.returncode == values.returncode == (0 if report["full_strength"] else 1)
    for ability in report["abilities"]:
        (line,) = (each for each in text.stdout.splitlines() if f" {ability['name']} " in each)
        assert ability["available"] == line.startswith("yes")
        assert ability["remedy"] in text.stdout


def test_doctor_quotes_what_the_host_says() -> None:
    ability = Ability(name="run", available=False, why="\x1b[2J\nyes", remedy="\x07", needed=True)
    report = HostReport(
        kernel="6\x1b", machine="x86_64", uid=1, privileged=False, abilities=(ability,)
    )
    lines = tuple(as_text(report))
    assert all(line.isprintable() for line in lines)
    assert r"NO   run  \x1b[2J\nyes" in lines


def test_an_ordinary_user_runs_programs(ordinary_user: OrdinaryUser) -> None:
    done = ordinary_user("run", "--", "sh", "-c", "id -u; exit 3")
    assert (3, "1000\n") == (done.returncode, done.stdout)


def test_an_ordinary_user_without_cgroups_is_told_what_is_not_held(
    ordinary_user: OrdinaryUser,
) -> None:
    done = ordinary_user("run", "--", "true")
    assert (
        "pycontainer: memory is not limited on this host; see pycontainer doctor\n" == done.stderr
    )
    refused = ordinary_user("run", "--memory=64M", "--", "true")
    assert 125 == refused.returncode
    assert "best_effort" in refused.stderr
    given_up = ordinary_user("run", "--memory=64M", "--best-effort=memory", "--", "true")
    assert 0 == given_up.returncode


def test_doctor_tells_an_ordinary_user_how_to_get_cgroups(ordinary_user: OrdinaryUser) -> None:
    done = ordinary_user("doctor", "--format", "json")
    report = json.loads(done.stdout)
    memory = next(each for each in report["abilities"] if each["name"] == "cgroup.memory")
    assert (1, False) == (done.returncode, report["full_strength"])
    assert not memory["available"]
    assert "PYCONTAINER_CGROUP" in memory["remedy"] or "Delegate=yes" in memory["remedy"]
