"""`import pycontainer` stays light, and says nothing and starts nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("asyncio", "http", "tarfile", "ssl", "multiprocessing", "urllib3", "rich", "pyroute2")


def modules_after(statement: str) -> set[str]:
    """What an interpreter that ran nothing but `statement` has loaded."""
    script = f"{statement}\nimport sys\nprint(*sys.modules)"
    command = [sys.executable, "-I", "-X", "dev", "-c", script]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "" == run.stderr
    return set(run.stdout.split())


@pytest.mark.parametrize("name", HEAVY)
def test_import_pycontainer_does_not_load(name: str) -> None:
    assert name not in modules_after("import pycontainer") - modules_after("pass")


def test_import_pycontainer_starts_no_thread_and_opens_no_descriptor() -> None:
    script = (
        "import os\n"
        "def now(): return len(os.listdir('/proc/self/fd')), len(os.listdir('/proc/self/task'))\n"
        "before = now()\n"
        "import pycontainer\n"
        "assert before == now(), (before, now())"
    )
    run = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True)
    assert (0, "") == (run.returncode, run.stderr)
