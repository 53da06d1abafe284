"""`Spec.explain()` leaves nothing out, and says the truth about the plan."""

from __future__ import annotations

import json
import math
from typing import Any

import attrs
import pytest

from pycontainer.plan.explain import DIFFERENCES, explain, printable
from pycontainer.plan.host import Bind, Host
from pycontainer.spec import DEFAULTS, IoLimit, Mount, Spec, Tmpfs

# One setting of each field that is not the default.
OTHER: dict[str, Any] = {
    "rootfs": "/srv/root",
    "mounts": [Mount("/data", "/data"), Tmpfs("/scratch")],
    "hostname": "box",
    "network": "host",
    "prepared_networks": 2,
    "user": 0,
    "group": 7,
    "extra_groups": [8],
    "id_range": 10,
    "capabilities": {"NET_RAW"},
    "seccomp": "unconfined",
    "ptrace": True,
    "no_new_privileges": False,
    "nesting": True,
    "host_root_id": True,
    "sysfs": "read-only",
    "boottime_offset": 3,
    "memory": "2G",
    "pids": 1000,
    "cpus": 0.5,
    "cpu_weight": 50,
    "cpuset": "0",
    "io": IoLimit(device="/dev/null", read_bps=1),
    "wall_time": 2,
    "cpu_time": 2,
    "output": "128M",
    "file_size": "2G",
    "tmp_size": "1G",
    "shm_size": "1G",
    "open_files": 2048,
    "rlimits": {"stack": "64M"},
    "best_effort": {"memory"},
    "cgroup_parent": "batch",
}
FIELDS = [field.name for field in attrs.fields(Spec)]


def section(text: str, heading: str) -> list[str]:
    """The lines below a heading."""
    lines = text.splitlines()
    start = lines.index(f"{heading}:") + 1
    end = start
    while end < len(lines) and lines[end].startswith("  - "):
        end += 1
    return [line.removeprefix("  - ") for line in lines[start:end]]


def differences(**fields: Any) -> list[str]:
    return section(explain(Spec(**fields)), "Other than the default")


def test_every_field_has_a_sentence() -> None:
    assert sorted(FIELDS) == sorted(DIFFERENCES)


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_differs_is_explained_and_no_other(name: str) -> None:
    (line,) = differences(**{name: OTHER[name]})
    assert line.startswith(f"{name}=")
    assert len(line.partition(": ")[2]) > 20


def test_the_default_differs_in_nothing() -> None:
    assert ["nothing"] == differences()


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_no_limit_gives_a_limit_away_and_a_smaller_one_tightens(name: str) -> None:
    (without,) = differences(**{name: "max"})
    (smaller,) = differences(**{name: int(DEFAULTS[name]) // 2})
    assert "gives away the limit" in without
    assert "tightens" in smaller


@pytest.mark.parametrize(
    "relaxation",
    [
        {"network": "host"},
        {"capabilities": {"SYS_ADMIN"}},
        {"seccomp": "unconfined"},
        {"ptrace": True},
        {"no_new_privileges": False},
        {"nesting": True},
        {"host_root_id": True},
        {"sysfs": "read-only"},
        {"best_effort": {"memory"}},
        {"mounts": [Mount("/data", "/data", read_only=False)]},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_relaxation_says_what_it_gives_away(relaxation: dict[str, Any]) -> None:
    (line,) = differences(**relaxation)
    assert "gives away" in line


def test_the_host_network_is_not_called_new() -> None:
    new = section(explain(Spec(network="host")), "New, and the container's own")
    assert "namespaces: mnt pid ipc uts cgroup user time" in new
    assert "shared with the host, not new: net" in new


def test_what_an_older_host_lacks_is_said() -> None:
    text = explain(Spec(), Host(time_namespace=False, keyrings=False))
    new = section(text, "New, and the container's own")
    assert "shared with the host, not new: time" in new
    assert "session, without a controlling terminal" in new


def test_the_host_view_is_listed_and_a_rootfs_replaces_it() -> None:
    host = Host(view=(Bind("/usr"), Bind("/etc/ssl"), Bind("/opt/python")))
    visible = section(explain(Spec(), host), "Visible inside")
    assert "the host view, read-only: /usr /opt/python" in visible
    replaced = section(explain(Spec(rootfs="/srv/root"), host), "Visible inside")
    assert "the root: '/srv/root', read-only" in replaced
    assert not [line for line in replaced if "/opt/python" in line]


def test_mounts_say_how_they_can_be_used() -> None:
    mounts = [Mount("/a", "/x"), Mount("/b", "/y", read_only=False, executable=False)]
    visible = section(explain(Spec(mounts=mounts)), "Visible inside")
    assert "'/x': '/a' of the host, read-only" in visible
    assert "'/y': '/b' of the host, writable, not executable" in visible


def test_nesting_leaves_proc_open_and_says_so() -> None:
    assert "nothing in it is masked" in explain(Spec(nesting=True))
    assert "nothing in it is masked" not in explain(Spec())


def test_what_is_not_taken_away_is_not_claimed() -> None:
    spec = Spec(seccomp="unconfined", no_new_privileges=False, rlimits={"core": "1M"})
    taken = "\n".join(section(explain(spec), "Taken away"))
    for words in ("system calls", "no_new_privs", "core dumps"):
        assert words not in taken
        assert words in explain(Spec())


def test_a_profile_of_ones_own_is_not_called_the_default() -> None:
    profile = json.dumps({"defaultAction": "SCMP_ACT_ALLOW"})
    taken = section(explain(Spec(seccomp=profile)), "Taken away")
    assert "system calls that a profile of your own does not allow" in taken


def test_names_from_elsewhere_cannot_write_to_the_terminal() -> None:
    text = explain(Spec(mounts=[Mount("/a\x1b[2J\n- all is well", "/x")]))
    assert all(line.isprintable() for line in text.splitlines())
    assert not [line for line in text.splitlines() if line.startswith("- all is well")]


def test_printable_escapes_what_a_terminal_acts_upon() -> None:
    assert r"a\x1b\n\u202e\udc80é" == printable("a\x1b\n\u202e\udc80é")


def test_explain_on_this_host_needs_no_kernel_object() -> None:
    assert Spec().explain().startswith("New, and the container's own:")


def test_every_limit_without_a_number_is_listed_as_not_limited() -> None:
    limits = section(explain(Spec(memory=math.inf)), "Limits")
    assert "not limited: memory cpus cpu_weight cpuset io wall_time cpu_time" in limits
