"""Nonsense is refused by name before anything exists; what the kernel refuses is a typed error."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pycontainer
from pycontainer import Mount, Popen, SetupError, Spec, SpecError, Tmpfs
from pycontainer import spawn as spawn_module
from tests.inside import own_bases, python
from tests.require import require

FIELDS = sorted(field.name for field in attrs.fields(Spec))
NONSENSE = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.binary(max_size=8) | st.lists(st.integers() | st.text(max_size=5), max_size=3)
    | st.dictionaries(st.text(max_size=5), st.integers(), max_size=2) | st.just(object())
)  # fmt: skip
WRONG: dict[str, tuple[Any, ...]] = {
    "rootfs": (1, "", "a\0b", "x" * 5000),
    "mounts": ("/tmp", ["/tmp"], 3, [None]),
    "hostname": ("", "-x", "a" * 65, "a b", "a\n", 3, b"x"),
    "network": ("bridge", None, True, "NONE"),
    "user": (-1, 2**32 - 1, True, "a b", "", 1.5, None, "1\n", "٣"),
    "group": (-1, 2**32 - 1, True, "a b", ""),
    "extra_groups": ("wheel", 3, [-1], [None]),
    "id_range": (0, -1, 65537, True, "1"),
    "capabilities": ("SYS_ADMIN", ["NOPE"], 3, [3]),
    "seccomp": ("none", 3, None, "{"),
    "ptrace": (1, None, "yes"),
    "no_new_privileges": (0, "False"),
    "nesting": (1,),
    "host_root_id": (1,),
    "sysfs": (True, "rw"),
    "boottime_offset": (float("nan"), 1e10, "1", True),
    "memory": (0, -1, "1", "256Q", "M", True, float("nan"), "1 M M"),
    "pids": (0, -1, 1.5, "many", True),
    "cpus": (0, -1, float("nan"), "1", True, 1e9),
    "cpu_weight": (0, 10001, True),
    "cpuset": ("", "a", "0-", "0,,1", [-1]),
    "io": (3, ["x"]),
    "wall_time": (0, -1, float("nan"), float("inf"), "1", True),
    "cpu_time": (0, -1, float("nan"), True),
    "output": (-1, "x", True),
    "file_size": (-1, "x"),
    "tmp_size": (0, -1, "x"),
    "shm_size": (0, -1, "x"),
    "open_files": (0, 2, 2**40, True),
    "rlimits": ({"nope": 1}, {"stack": -1}, 3, "stack"),
    "best_effort": ("memory", ["nope"], 3),
    "cgroup_parent": (3, "", "a\0"),
    "prepared_networks": (-1, True, "1", 1000),
}


@pytest.fixture(autouse=True)
def bases_of_this_test() -> Iterator[None]:
    with own_bases():
        yield


def test_every_field_has_nonsense_here() -> None:
    assert set(FIELDS) == set(WRONG)


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in WRONG.items() for value in values],
    ids=lambda value: repr(value)[:30],
)
def test_nonsense_is_refused_with_the_fields_name_the_value_and_what_is_allowed(
    field: str, value: Any
) -> None:
    with pytest.raises(SpecError) as caught:
        Spec(**{field: value})
    assert caught.value.field.split("[")[0] == field
    assert caught.value.allowed
    assert str(caught.value).startswith(f"{caught.value.field}=")
    assert len(str(caught.value)) < 800


@given(field=st.sampled_from(FIELDS), value=NONSENSE)
@settings(max_examples=1500, suppress_health_check=[HealthCheck.too_slow])
def test_any_value_makes_a_spec_or_a_spec_error(field: str, value: Any) -> None:
    try:
        spec = Spec(**{field: value})
    except SpecError as error:
        refused = error
    else:
        assert spec == attrs.evolve(spec)
        assert isinstance(hash(spec), int)
        return
    assert refused.allowed
    assert str(refused)


@given(target=NONSENSE, source=NONSENSE, flag=NONSENSE)
@settings(max_examples=500)
def test_any_mount_is_one_or_a_spec_error(target: Any, source: Any, flag: Any) -> None:
    for make in (
        lambda: Mount(source, target),
        lambda: Mount("/usr", "/x", read_only=flag),
        lambda: Tmpfs(target),
        lambda: Tmpfs("/x", size=source, inodes=flag, mode=target),
    ):
        try:
            made = make()
        except SpecError:
            continue
        assert made.target.startswith("/")
        assert ".." not in made.target.split("/")


def test_nothing_is_started_before_the_spec_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawn_module, "_start", lambda *_: pytest.fail("a launcher was started"))
    for options in ({"memory": -1}, {"cpuset": "x"}, {"mounts": 3}):
        with pytest.raises(SpecError):
            pycontainer.run(["true"], **options)
    for args in ([], ["a\0b"], [b"\0"]):
        with pytest.raises((SpecError, ValueError)):
            pycontainer.run(args)
    for env in ({"a\0": "b"}, {"a": "b\0"}, {"a=b": "c"}, {"": "c"}):
        with pytest.raises((SpecError, ValueError)):
            pycontainer.run(["true"], env=env)
    with pytest.raises(TypeError):
        pycontainer.run(["true", 3])
    with pytest.raises(TypeError, match="memmory"):
        pycontainer.run(["true"], memmory="1M")


def test_names_that_are_not_utf8_pass_through_unchanged() -> None:
    code = """
import json, os, sys
print(json.dumps([os.fsencode(sys.argv[1]).hex(), os.environb[b"N"].hex()]))
"""
    env = {b"N": b"\xff\xfe", b"PATH": os.fsencode(os.path.dirname(sys.executable))}
    done = pycontainer.run(
        [sys.executable, "-c", code, b"\xff\x80"],
        env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert '["ff80", "fffe"]\n' == done.stdout, done


def test_the_longest_argument_fits_and_a_longer_one_is_e2big() -> None:
    longest = "x" * (128 * 1024 - 1)  # MAX_ARG_STRLEN counts the NUL
    done = pycontainer.run(
        ["sh", "-c", "echo ${#1}", "sh", longest], capture_output=True, text=True
    )
    assert f"{len(longest)}\n" == done.stdout
    with pytest.raises(OSError) as caught:
        pycontainer.run(["true", longest + "x"])
    assert errno.E2BIG == caught.value.errno


def test_an_environment_of_a_million_bytes_arrives() -> None:
    env = {"PATH": "/usr/bin:/bin", **{f"N{i}": "x" * 10_000 for i in range(100)}}
    done = pycontainer.run(["sh", "-c", "env | wc -c"], env=env, capture_output=True, text=True)
    assert int(done.stdout) > 1_000_000


def test_an_environment_that_is_too_large_is_e2big() -> None:
    env = {f"N{i}": "x" * 100_000 for i in range(100)}
    with pytest.raises(OSError) as caught:
        pycontainer.run(["/bin/true"], env=env)
    assert errno.E2BIG == caught.value.errno


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("no-such-program", FileNotFoundError), ("/no/such/program", FileNotFoundError),
        ("/usr", PermissionError), ("/etc/passwd", PermissionError),
        ("/etc/passwd/x", NotADirectoryError), ("", PermissionError),
    ],
)  # fmt: skip
def test_a_program_that_cannot_run_is_subprocesss_error(program: str, error: type[OSError]) -> None:
    with pytest.raises(error) as caught:
        pycontainer.run([program])
    assert program == caught.value.filename


def test_a_missing_interpreter_is_file_not_found(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    with pytest.raises(FileNotFoundError) as caught:
        pycontainer.run(["/data/script"], mounts=[Mount(tmp_path, "/data")])
    assert "/data/script" == caught.value.filename


def test_a_file_that_is_no_program_is_enoexec(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "data").write_bytes(b"\0\1\2\3")
    (tmp_path / "data").chmod(0o755)
    with pytest.raises(OSError) as caught:
        pycontainer.run(["/data/data"], mounts=[Mount(tmp_path, "/data")])
    assert errno.ENOEXEC == caught.value.errno


@pytest.mark.parametrize(
    ("cwd", "error"),
    [
        ("/no/such", FileNotFoundError),
        ("/etc/passwd", NotADirectoryError),
        ("x", FileNotFoundError),
    ],
)
def test_a_working_directory_that_is_none_is_subprocesss_error(
    cwd: str, error: type[OSError]
) -> None:
    with pytest.raises(error) as caught:
        pycontainer.run(["true"], cwd=cwd)
    assert cwd == caught.value.filename


def root_with(path: Path, *names: str) -> Path:
    for name in names:
        (path / name).mkdir(parents=True)
    path.chmod(0o755)
    return path


def test_a_missing_rootfs_and_one_that_is_a_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, number in (("missing", errno.ENOENT), ("file", errno.ENOTDIR)):
        with pytest.raises(OSError) as caught:
            pycontainer.run(["true"], rootfs=tmp_path / name)
        assert number == caught.value.errno
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("missing", ["proc", "dev", "tmp"])
def test_a_rootfs_without_a_mount_point_says_which_and_what_to_do(
    missing: str, tmp_path: Path
) -> None:
    root = root_with(tmp_path, *{"proc", "dev", "tmp"} - {missing})
    with pytest.raises(SetupError) as caught:
        pycontainer.run(["true"], rootfs=root)
    assert (errno.ENOENT, "mount_attach") == (caught.value.errno, caught.value.op)
    assert caught.value.operands["target"] == missing
    assert caught.value.hint


def test_a_rootfs_that_is_a_trap_of_links_is_refused(tmp_path: Path) -> None:
    root = root_with(tmp_path / "root", "dev", "tmp")
    (root / "proc").symlink_to("/proc")
    with pytest.raises(SetupError) as caught:
        pycontainer.run(["true"], rootfs=root)
    assert errno.ELOOP == caught.value.errno
    assert caught.value.hint


def test_an_unreadable_rootfs_is_a_typed_error(tmp_path: Path) -> None:
    root = root_with(tmp_path / "root", "proc", "dev", "tmp", "bin")
    root.chmod(0o700)
    with pytest.raises(OSError) as caught:
        pycontainer.run(["/bin/true"], rootfs=root)
    assert caught.value.errno in (errno.EACCES, errno.ENOENT)


def test_a_missing_mount_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        pycontainer.run(["true"], mounts=[Mount(tmp_path / "missing", "/data")])
    assert errno.ENOENT == caught.value.errno
    assert str(tmp_path / "missing") in str(caught.value)


def test_a_mount_target_that_the_rootfs_does_not_have_is_named(tmp_path: Path) -> None:
    root = root_with(tmp_path / "root", "proc", "dev", "tmp")
    with pytest.raises(SetupError) as caught:
        pycontainer.run(["true"], rootfs=root, mounts=[Tmpfs("/data")])
    assert (errno.ENOENT, "/data") == (caught.value.errno, caught.value.operands["target"])
    assert caught.value.hint


def test_a_file_over_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    """The kernel says EINVAL (do_move_mount); the hint says what is meant."""
    with pytest.raises(SetupError) as caught:
        pycontainer.run(["true"], mounts=[Mount(tmp_path / "file", "/usr")])
    assert (errno.EINVAL, "/usr") == (caught.value.errno, caught.value.operands["target"])
    assert caught.value.hint


def test_an_id_outside_the_map_is_refused_by_name() -> None:
    require("root", os.getuid() == 0, "an ordinary user's one id is mapped from any")
    wrong: tuple[tuple[str, Any], ...] = (("user", 65536), ("group", 70000))
    for field, value in (*wrong, ("extra_groups", [2**31])):
        with pytest.raises(SpecError) as caught:
            pycontainer.run(["true"], spec=Spec(**{field: value}))
        assert field == caught.value.field
    with pytest.raises(SpecError):
        pycontainer.run(["true"], user="no-such-user")


def test_a_state_directory_on_a_full_disk_is_a_typed_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RLIMIT_FSIZE stands in for the disk: the record cannot be written, so nothing is made."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.environ["PYCONTAINER_STATE"] = str(tmp_path / "state")
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
            pycontainer.run(["true"])
            status = 2
        except OSError as error:
            status = 0 if error.errno == errno.EFBIG and error.filename else 3
        finally:
            os._exit(status)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    pycontainer.recover()


@pytest.mark.parametrize("process_group", [None, 0])
def test_process_group_zero_means_a_group_of_its_own(process_group: int | None) -> None:
    code = "import json, os; print(json.dumps(os.getpid() == os.getpgrp()))"
    assert python(code, process_group=process_group)


def test_a_pids_limit_without_room_for_the_program_says_so() -> None:
    """Init takes the one there is, so that nothing is left for the program."""
    require("root", os.getuid() == 0, "RLIMIT_NPROC, which stands in, does not count init")
    with pytest.raises(SetupError) as caught:
        pycontainer.run(["true"], pids=1)
    assert errno.EAGAIN == caught.value.errno
    assert caught.value.hint


def test_closed_standard_streams_of_the_application_are_no_obstacle() -> None:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.closerange(0, 3)
            done = pycontainer.run(["sh", "-c", "echo out; exit 3"], stdout=pycontainer.PIPE)
            status = 0 if (done.returncode, done.stdout) == (3, b"out\n") else 3
        finally:
            os._exit(status)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    pycontainer.recover()


def test_preexec_fn_is_refused_with_what_to_use_instead() -> None:
    with pytest.raises(pycontainer.UnsupportedError, match="preexec_fn"):
        Popen(["true"], preexec_fn=os.getpid)  # type: ignore[arg-type]
