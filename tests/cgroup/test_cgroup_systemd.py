"""Under systemd the parent is a scope that it delegated; the application stays where it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.require import Require

# A process of its own: what systemd said is kept for as long as a process lives.
FIND = """
import json, os
from pycontainer.cgroup import Cgroup, Parent
from pycontainer.spec import Limits

own = open("/proc/self/cgroup").read()
parent = Parent.find()
with Cgroup.create(parent, "pycontainer-1", Limits(memory=1 << 24, pids=3, cpus=0.5)) as cgroup:
    made = cgroup.paths["memory"]
    limit = open(f"{made}/memory.max").read().strip()
try:
    os.wait()
except ChildProcessError:
    children = False
print(json.dumps({
    "parent": parent.paths["unified"],
    "limit": limit,
    "own": [own, open("/proc/self/cgroup").read()],
    "children": children,
}))
"""


@pytest.fixture(autouse=True)
def under_systemd(require: Require) -> None:
    """Only where systemd is init, and this is root, whose manager needs no session."""
    booted = os.path.isdir("/run/systemd/system") and os.geteuid() == 0
    require("systemd", booted, "systemd is not this machine's init, or this is not root")


def found(*prefix: str) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    environment.pop("PYCONTAINER_CGROUP", None)
    run = subprocess.run(
        [*prefix, sys.executable, "-c", FIND],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


def test_a_scope_of_our_own_holds_the_containers_and_goes_with_us() -> None:
    answer = found()
    parent = Path(answer["parent"])
    assert parent.name.startswith("pycontainer-")
    assert parent.suffix == ".scope"
    assert answer["limit"] == str(1 << 24)
    assert answer["own"][0] == answer["own"][1]
    assert not answer["children"]
    deadline = time.monotonic() + 10
    while parent.exists():  # systemd removes it when it hears that the holder ended
        assert time.monotonic() < deadline


def test_other_processes_of_a_delegated_unit_are_left_where_they_are() -> None:
    scope = ("systemd-run", "--scope", "--quiet", "--collect", "--property=Delegate=yes")
    answer = found(*scope, "sh", "-c", 'sleep 600 & "$@"; kill $!', "sh")
    assert answer["own"][0] == answer["own"][1]
    assert Path(answer["parent"]).name.startswith("pycontainer-")


def test_a_delegated_unit_is_used_itself() -> None:
    answer = found("systemd-run", "--scope", "--quiet", "--collect", "--property=Delegate=yes")
    own, moved = (path.partition("::")[2].strip() for path in answer["own"])
    assert answer["parent"] == f"/sys/fs/cgroup{own}"
    assert moved == f"{own}/pycontainer-self"
    assert answer["limit"] == str(1 << 24)
