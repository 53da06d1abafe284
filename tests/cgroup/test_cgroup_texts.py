"""The texts of the kernel: what is read out of them, and what is written. Nothing is touched."""

from __future__ import annotations

import math

import pytest

from pycontainer.cgroup import hierarchy, settings, usage
from pycontainer.cgroup.hierarchy import Hierarchy
from pycontainer.spec import IoLimit, Limits

HYBRID = """\
23 1 254:0 / / rw,relatime - ext4 /dev/root rw
30 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/1 /sys/fs/cgroup/memory rw master:11 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/a\\040b rw,relatime - cgroup2 cgroup2 rw
42 31 0:39 /elsewhere /mnt rw - cgroup cgroup rw,pids
"""
OWN = """\
9:name=systemd:/
8:pids:/here
4:memory:/docker/1/x
3:cpu,cpuacct:/
0::/user.slice/a:b
"""


def by_controller() -> dict[frozenset[str], Hierarchy]:
    return {each.controllers: each for each in hierarchy.parse(HYBRID, OWN)}


def test_each_hierarchy_is_found_where_it_is_mounted() -> None:
    found = by_controller()
    assert found[frozenset({"cpu", "cpuacct"})].own_directory == "/sys/fs/cgroup/cpu,cpuacct"
    assert found[frozenset({"memory"})].own_directory == "/sys/fs/cgroup/memory/x"
    assert found[frozenset()].own_directory == "/sys/fs/cgroup/a b/user.slice/a:b"
    assert found[frozenset()].version == 2


def test_a_mount_that_does_not_show_us_is_not_used() -> None:
    assert frozenset({"pids"}) not in by_controller()


def test_a_cgroup_can_be_written_as_a_path_of_the_file_system() -> None:
    memory = by_controller()[frozenset({"memory"})]
    assert memory.directory("/docker/1/y") == "/sys/fs/cgroup/memory/y"
    assert memory.directory("/sys/fs/cgroup/memory/y") == "/sys/fs/cgroup/memory/y"
    assert memory.directory("/docker/2") is None


@pytest.mark.parametrize(("weight", "shares"), [(1, 10), (100, 1024), (10000, 102400)])
def test_a_weight_becomes_shares_in_proportion(weight: int, shares: int) -> None:
    assert settings.shares(weight) == shares


@pytest.mark.parametrize(("cpus", "quota"), [(0.01, 1000), (0.5, 50000), (2.0, 200000)])
def test_processors_become_microseconds_of_each_period(cpus: float, quota: int) -> None:
    assert settings.quota_us(cpus) == quota


def test_no_limit_is_written_in_the_words_of_each_version() -> None:
    limits = Limits(memory=math.inf, pids=math.inf)  # type: ignore[arg-type]
    everything = frozenset({"memory", "pids"})
    assert settings.settings_v2(limits, frozenset(), everything, {}) == [
        ("memory.max", "max"),
        ("pids.max", "max"),
    ]
    files = frozenset({"memory.memsw.limit_in_bytes"})
    assert settings.settings_v1("memory", limits, files, {}) == [
        ("memory.limit_in_bytes", "-1"),
        ("memory.memsw.limit_in_bytes", "-1"),
    ]
    assert settings.settings_v1("pids", limits, frozenset(), {}) == [("pids.max", "max")]


def test_rates_of_a_device_are_written_in_the_format_of_each_version() -> None:
    limit = IoLimit(device="/dev/sda", read_bps="1M", write_iops=5)
    limits, devices = Limits(io=(limit,)), {limit: "8:0"}
    assert settings.settings_v2(limits, frozenset(), frozenset({"io"}), devices) == [
        ("io.max", "8:0 rbps=1048576 wiops=5")
    ]
    assert settings.settings_v1("blkio", limits, frozenset(), devices) == [
        ("blkio.throttle.read_bps_device", "8:0 1048576"),
        ("blkio.throttle.write_iops_device", "8:0 5"),
    ]


def test_figures_of_version_2_are_read() -> None:
    texts = {
        "cpu.stat": "usage_usec 30\nuser_usec 20\nsystem_usec 10\nthrottled_usec 500000\n",
        "memory.peak": "4096\n",
        "memory.events": "low 0\noom 1\noom_kill 2\noom_group_kill 1\n",
        "pids.events": "max 3\n",
        "io.stat": "254:0 rbytes=4096 wbytes=512 rios=1 wios=1\n8:0 rbytes=4 wbytes=0\n",
    }
    found = usage.usage_v2(lambda controller, file: texts.get(file))
    assert found == usage.CgroupUsage(
        user_time=2e-05,
        system_time=1e-05,
        peak_memory=4096,
        read_bytes=4100,
        written_bytes=512,
        throttled=0.5,
        oom_kills=2,
        pids_refused=3,
    )


def test_a_figure_that_is_not_counted_is_none_not_zero() -> None:
    assert usage.usage_v1(lambda controller, file: None) == usage.CgroupUsage()
    assert usage.usage_v2(lambda controller, file: None) == usage.CgroupUsage()
