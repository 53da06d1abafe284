"""`probe()` tries for real, says why not, and leaves nothing."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import pycontainer
from pycontainer.ability import HostReport, probe
from pycontainer.ability.namespaces import CONFIG, blame
from pycontainer.ability.trial import Refused, attempt
from pycontainer.linux import native
from pycontainer.plan.host import Host
from pycontainer.plan.steps import step
from pycontainer.spec import NAMESPACES
from tests.inside import own_bases
from tests.require import Require

ALWAYS = frozenset(
    {f"namespace.{name}" for name in NAMESPACES}
    | {f"cgroup.{name}" for name in "memory pids cpus cpu_weight cpuset io swap kill".split()}
    | {"ids.range", "overlay", "idmapped_mounts", "systemd.delegation", "landlock", "run"}
    | {"seccomp.filter", "seccomp.user_notification", "setting.kernel.yama.ptrace_scope"}
    | {"setting.kernel.apparmor_restrict_unprivileged_userns", "setting.vm.memfd_noexec"}
    | {"setting.kernel.unprivileged_userns_clone", "setting.user.max_user_namespaces"}
)
CHECKOUT = str(Path(pycontainer.__file__).parents[1])


@pytest.fixture(autouse=True)
def bases_of_this_test() -> Iterator[None]:
    with own_bases():
        yield


@pytest.fixture(scope="module")
def report() -> HostReport:
    with own_bases():
        return probe()


def inside(**fields: Any) -> Mapping[str, Mapping[str, Any]]:
    """What `doctor` finds inside a container of ours: name to ability."""
    result = pycontainer.run(
        [sys.executable, "-m", "pycontainer", "doctor", "--format", "json"],
        env={"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        mounts=[pycontainer.Mount(CHECKOUT, CHECKOUT)], capture_output=True, **fields,
    )  # fmt: skip
    assert b"" == result.stderr
    return {each["name"]: each for each in json.loads(result.stdout)["abilities"]}


def test_every_ability_is_tried(report: HostReport) -> None:
    names = [ability.name for ability in report.abilities]
    assert not ALWAYS - set(names)
    assert len(set(names)) == len(names)


def test_what_is_missing_says_why_and_how_to_get_it(report: HostReport) -> None:
    for ability in report.missing:
        assert ability.why, ability
        assert ability.remedy, ability


def test_what_is_there_needs_no_remedy(report: HostReport) -> None:
    assert not [each for each in report.abilities if each.available and each.remedy]


def test_full_strength_is_that_nothing_needed_is_missing(report: HostReport) -> None:
    assert report.full_strength == (not [each for each in report.missing if each.needed])


def test_full_strength_agrees_with_a_run(report: HostReport, require: Require) -> None:
    require("userns", report["namespace.user"].available, report["namespace.user"].why)
    result = pycontainer.run(["true"])
    assert report.full_strength == (result.returncode == 0 and not result.not_enforced)


def test_root_with_cgroups_has_full_strength(report: HostReport, require: Require) -> None:
    require("root", os.geteuid() == 0, "an ordinary user")
    require("cgroup", report["cgroup.memory"].available, report["cgroup.memory"].why)
    assert () == tuple(each for each in report.missing if each.needed)


def test_an_unknown_name_is_a_key_error(report: HostReport) -> None:
    with pytest.raises(KeyError):
        report["namespace.none"]


def test_threads_can_probe_at_once() -> None:
    with ThreadPoolExecutor(4) as pool:
        reports = [future.result() for future in [pool.submit(probe) for _ in range(4)]]
    found = {tuple(each.available for each in report.abilities) for report in reports}
    assert 1 == len(found)


def test_the_application_is_as_it_was(report: HostReport) -> None:
    def now() -> list[str]:
        spaces = [os.readlink(f"/proc/self/ns/{name}") for name in sorted(NAMESPACES)]
        return [*spaces, Path("/proc/self/mountinfo").read_text(), os.getcwd()]

    before = now()
    probe()
    assert before == now()


def test_a_flag_that_is_no_namespace_is_refused_before_any_clone() -> None:
    clone_fs = 0x00000200
    refused = attempt(clone_fs)
    assert refused is not None
    assert ("read_plan", errno.EINVAL) == (refused.op, refused.errno)


def test_a_step_that_fails_in_a_namespace_is_named() -> None:
    refused = attempt(native.CLONE_NEWUTS, step("set_hostname", hostname=b"x" * 65))
    assert "set_hostname: EINVAL" == str(refused)


def test_inside_a_container_the_filter_is_blamed(report: HostReport, require: Require) -> None:
    require("userns", report["namespace.user"].available, report["namespace.user"].why)
    found = inside()
    assert "a seccomp filter lies on this process" in found["namespace.user"]["why"]
    assert "nesting=True" in found["namespace.user"]["remedy"]
    assert not found["run"]["available"]


def test_a_used_up_limit_is_named_with_the_command_that_raises_it(
    report: HostReport, require: Require
) -> None:
    require("userns", report["namespace.user"].available, report["namespace.user"].why)
    # Without the filter only the second belt is left: max_user_namespaces is 0 inside.
    found = inside(seccomp="unconfined")
    assert "user.max_user_namespaces=0 is used up" in found["namespace.user"]["why"]
    assert "sudo sysctl -w user.max_user_namespaces=" in found["namespace.user"]["remedy"]
    assert not found["setting.user.max_user_namespaces"]["available"]


@pytest.mark.parametrize("name", sorted(NAMESPACES))
def test_a_kernel_without_a_namespace_is_told_from_a_refusal(name: str) -> None:
    why, remedy = blame(name, Refused("clone", errno.EINVAL), Host())
    assert "clone: EINVAL; this kernel has none" == why
    assert CONFIG[name] in remedy


def test_root_without_rights_over_mounts_is_told_so() -> None:
    why, _ = blame("user", Refused("uid_map", errno.EPERM), Host(privileged=False))
    assert "host root is never mapped" in why
