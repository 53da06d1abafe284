"""Id ranges, networks made ahead, bases, and what recover() finds."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import pycontainer
from pycontainer import idrange
from pycontainer.network.ready import ReadyNetworks
from tests.require import Require


def uid_map_of(process: pycontainer.Popen) -> list[int]:
    return list(map(int, Path(f"/proc/{process.pid}/uid_map").read_text().split()))


def test_containers_of_root_have_a_range_each_and_never_host_ids(require: Require) -> None:
    require("root", os.geteuid() == 0, "an ordinary user maps its own id")
    with (
        pycontainer.Popen(["sleep", "600"]) as one,
        pycontainer.Popen(["sleep", "600"]) as other,
    ):
        firsts = [uid_map_of(one)[1], uid_map_of(other)[1]]
        one.kill()
        other.kill()
    assert 2 == len(set(firsts))
    assert all(idrange.FIRST <= first for first in firsts)


def test_a_range_is_used_again_after_its_container(require: Require) -> None:
    require("root", os.geteuid() == 0, "an ordinary user maps its own id")
    seen = set()
    for _ in range(3):
        with pycontainer.Popen(["sleep", "600"]) as process:
            seen.add(uid_map_of(process)[1])
            process.kill()
    assert 1 == len(seen)


def test_two_applications_never_share_a_range(require: Require) -> None:
    require("root", os.geteuid() == 0, "an ordinary user maps its own id")
    code = (
        "import pycontainer, pathlib\n"
        "with pycontainer.Popen(['sleep', '600']) as p:\n"
        "    print(pathlib.Path(f'/proc/{p.pid}/uid_map').read_text(), flush=True)\n"
        "    input()\n"
        "    p.kill()\n"
    )
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    try:
        maps = [int(program.stdout.readline().split()[1]) for program in programs]  # type: ignore[union-attr]
    finally:
        for program in programs:
            program.communicate("\n")
    assert 3 == len(set(maps))


def test_an_ordinary_user_gets_a_range_through_newuidmap(require: Require) -> None:
    ordinary = os.geteuid() != 0
    require("ordinary user", ordinary, "root takes ranges without it")
    require("newuidmap", shutil.which("newuidmap") is not None, "uidmap is not installed")
    code = "import os; os.setgroups([7]); print(os.getgroups(), os.getuid())"
    result = pycontainer.run(
        ["python3", "-c", code], id_range=65536, user="root", capabilities={"SETGID"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert "[7] 0\n" == result.stdout, result.stderr


def test_one_mapped_id_has_no_supplementary_groups_to_give(require: Require) -> None:
    require("ordinary user", os.geteuid() != 0, "root maps a range")
    with pytest.raises(pycontainer.UnsupportedError, match="id_range"):
        pycontainer.run(["true"], extra_groups=[7])


def test_a_network_made_ahead_has_loopback_and_nothing_else() -> None:
    script = (
        "import socket; print([name for _, name in socket.if_nameindex()]);"
        "s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())"
    )
    for _ in range(3):
        result = pycontainer.run(
            ["python3", "-c", script], prepared_networks=2, capture_output=True, text=True
        )
        assert ("['lo']\n", "") == (result.stdout, result.stderr)


def test_two_containers_are_never_in_one_network_made_ahead(require: Require) -> None:
    require("root", os.geteuid() == 0, "another's namespaces can be seen by root alone")
    with (
        pycontainer.Popen(["sleep", "600"], prepared_networks=2) as one,
        pycontainer.Popen(["sleep", "600"], prepared_networks=2) as other,
    ):
        networks = {os.readlink(f"/proc/{p.pid}/ns/net") for p in (one, other)}
        one.kill()
        other.kill()
    assert 2 == len(networks)
    assert os.readlink("/proc/self/ns/net") not in networks


def test_a_network_is_kept_for_the_next_container_up_to_the_number_asked_for(
    require: Require,
) -> None:
    require("root", os.geteuid() == 0, "an ordinary user makes them in its base's namespace")
    stock = ReadyNetworks()
    one, other = stock.take(-1), stock.take(-1)
    assert os.fstat(one).st_ino != os.fstat(other).st_ino
    stock.give_back(0, one, 1)
    stock.give_back(0, other, 1)  # one too many: let go
    assert one == stock.take(-1)
    stock.give_back(0, one, 1)
    stock.forget(0)


def test_a_replaced_directory_is_seen_as_the_new_one(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for content in ("old", "new"):
        source.mkdir()
        source.chmod(0o755)
        (source / "file").write_text(content)
        mount = pycontainer.Mount(source, "/data")
        result = pycontainer.run(["cat", "/data/file"], mounts=[mount], capture_output=True)
        assert content.encode() == result.stdout
        shutil.rmtree(source)


CRASH = """
import os, signal, pycontainer
p = pycontainer.Popen(["sh", "-c", "sleep 600 & sleep 600"])
print(p.pid, *(p.running.cgroup.paths.values() if p.running.cgroup else ()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_application_leaves_no_process_and_recover_removes_the_rest() -> None:
    crashed = subprocess.run([sys.executable, "-c", CRASH], capture_output=True, text=True)
    assert -signal.SIGKILL == crashed.returncode, crashed.stderr
    pid, *directories = crashed.stdout.split()
    fd = None
    try:
        fd = os.pidfd_open(int(pid))
    except ProcessLookupError:
        pass  # gone already
    if fd is not None:
        signal.set_wakeup_fd(-1)
        import select

        assert select.select([fd], [], [], 10)[0], "init outlives its application"
        os.close(fd)
    removed = pycontainer.recover()
    assert set(directories) <= set(removed)
    assert not any(os.path.exists(directory) for directory in directories)
    assert [] == pycontainer.recover()


def test_recover_leaves_the_living_alone() -> None:
    with pycontainer.Popen(["sleep", "600"]) as process:
        assert [] == pycontainer.recover()
        assert process.poll() is None
        process.kill()


def test_a_state_directory_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E20: a record that others can write would make recover() destroy what they name."""
    tmp_path.chmod(0o777)
    monkeypatch.setenv("PYCONTAINER_STATE", str(tmp_path))
    with pytest.raises(PermissionError, match="not ours alone"):
        pycontainer.recover()
