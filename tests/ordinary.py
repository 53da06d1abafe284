"""This library as an ordinary user sees it, for tests that root runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attr
import cffi
import pytest

import pycontainer
from tests.require import require

UID = 12345
# Debian's own; the one that runs the tests may lie in a home directory that is closed to others.
PYTHON = "/usr/bin/python3"


class OrdinaryUser:
    """Runs `python -m pycontainer` as a user without any rights."""

    def __init__(self, place: Path) -> None:
        self.environment = {
            "PATH": os.defpath,
            "PYTHONPATH": str(place / "lib"),
            "PYCONTAINER_STATE": str(place / "state"),
            "PYCONTAINER_CGROUP": os.environ["PYCONTAINER_CGROUP"],
        }

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        change = [
            "setpriv",
            f"--reuid={UID}",
            f"--regid={UID}",
            "--clear-groups",
            "--inh-caps=-all",
        ]
        command = [*change, PYTHON, "-m", "pycontainer", *arguments]
        return subprocess.run(
            command, env=self.environment, cwd="/", capture_output=True, text=True, timeout=60
        )


@pytest.fixture(scope="session")
def ordinary_user() -> Iterator[OrdinaryUser]:
    """As root: the same code, in a place that everybody can read."""
    require("root", os.geteuid() == 0, "only root can become somebody else")
    place = Path(tempfile.mkdtemp(prefix="pycontainer-test-", dir="/var/tmp"))
    try:
        _copy_libraries(place / "lib")
        (place / "state").mkdir(0o700)
        os.chown(place / "state", UID, UID)
        place.chmod(0o755)
        user = OrdinaryUser(place)
        version = user("--version")
        works = not version.returncode
        require("system-python", works, f"{PYTHON} cannot use it: {version.stderr[-300:]}")
        yield user
    finally:
        shutil.rmtree(place)


def _copy_libraries(target: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__")
    for package in (pycontainer, attr, cffi):
        source = Path(str(package.__file__)).parent
        shutil.copytree(source, target / source.name, ignore=ignore)
    shutil.copytree(Path(attr.__file__).parents[1] / "attrs", target / "attrs", ignore=ignore)
    backend = Path(str(sys.modules["_cffi_backend"].__file__))
    shutil.copy(backend, target / backend.name)
