"""What a container is given when it asks: mounts, file systems, limits, and no more than that."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import pycontainer
from pycontainer import Mount, Tmpfs
from tests import leaks
from tests.inside import own_bases, python, sh
from tests.require import Require


@pytest.fixture(autouse=True)
def bases_of_this_test() -> Iterator[None]:
    with own_bases():
        yield


def test_resource_limits_are_finite_and_can_be_set() -> None:
    code = """
import json, resource
names = ("CORE", "NOFILE", "FSIZE", "STACK")
print(json.dumps([resource.getrlimit(getattr(resource, f"RLIMIT_{n}")) for n in names]))
"""
    core, files, size, stack = python(code, rlimits={"stack": "4M"}, open_files=100, file_size="3M")
    assert ([0, 0], [100, 100]) == (core, files)
    assert ([3 << 20] * 2, [4 << 20] * 2) == (size, stack)


def test_a_mount_is_read_only_with_all_that_is_below_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    tmp_path.chmod(0o777)
    script = "cat /data/file; (: > /data/new) 2>/dev/null || echo refused"
    assert "textrefused" == sh(script, mounts=[Mount(tmp_path, "/data")], user="root").strip()
    assert ["file"] == os.listdir(tmp_path)


def test_a_mount_can_refuse_to_execute(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho ran\n")
    program.chmod(0o755)
    tmp_path.chmod(0o755)
    assert "ran\n" == sh("/data/program", mounts=[Mount(tmp_path, "/data")])
    with pytest.raises(PermissionError):
        pycontainer.run(["/data/program"], mounts=[Mount(tmp_path, "/data", executable=False)])


def test_what_is_written_to_a_mount_never_belongs_to_the_hosts_root(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    options = {"mounts": [Mount(tmp_path, "/data", read_only=False)], "user": "root"}
    sh("echo text > /data/new; chmod 4777 /data/new", **options)
    found = (tmp_path / "new").stat()
    assert 0 != found.st_uid or os.getuid() != 0
    assert 0 != found.st_gid or os.getuid() != 0


def test_a_tmpfs_holds_no_more_bytes_and_files_than_it_was_given() -> None:
    script = """cd /scratch; head -c 3M /dev/zero > big 2>/dev/null; stat -c %s big; rm big
    i=0; while (: > $i) 2>/dev/null; do i=$((i+1)); done; echo $i"""
    said = sh(script, mounts=[Tmpfs("/scratch", size="1M", inodes=20)]).split()
    assert [str(1 << 20), "19"] == said


def test_tmp_and_shm_are_capped() -> None:
    script = """for d in /tmp /dev/shm; do head -c 9M /dev/zero > $d/big 2>/dev/null
    stat -c %s $d/big; done"""
    assert [str(2 << 20), str(1 << 20)] == sh(script, tmp_size="2M", shm_size="1M").split()


def test_the_boottime_can_be_another_one() -> None:
    up = float(leaks.read("/proc/uptime").split()[0])
    inside = float(sh("cat /proc/uptime", boottime_offset=1_000_000.0).split()[0])
    assert 0 <= inside - up - 1_000_000 < 60


def test_sysfs_is_there_only_when_asked_for_and_read_only() -> None:
    assert "" == sh("ls -A /sys")
    script = (
        "[ -d /sys/kernel ] && (echo 1 > /sys/kernel/profiling) 2>/dev/null && echo wrote; true"
    )
    assert "" == sh(script, sysfs="read-only", user="root")
    assert "lo" in sh("ls /sys/class/net", sysfs="read-only").split()


def test_a_cpuset_is_what_the_program_sees(require: Require) -> None:
    require("root", os.getuid() == 0, "an ordinary user has no cpuset cgroup here")
    code = "import json, os; print(json.dumps(sorted(os.sched_getaffinity(0))))"
    allowed = sorted(os.sched_getaffinity(0))
    assert [allowed[-1]] == python(code, cpuset=[allowed[-1]])
