"""How a test looks at a container from inside, and gives back what the library keeps for later."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pycontainer
from pycontainer.base import bases


@contextmanager
def own_bases() -> Iterator[None]:
    """Bases are kept for the next run with the same mounts; a test lets go of those it added."""
    kept = bases()
    before = set(kept._bases)
    try:
        yield
    finally:
        with kept._lock:
            kept._drop([key for key in kept._bases if key not in before])


def python(code: str, *args: str, **options: Any) -> Any:
    """What `code`, run by a Python inside, prints as JSON."""
    done = pycontainer.run(
        ["python3", "-I", "-c", code, *args], capture_output=True, text=True, **options
    )
    assert (0, "") == (done.returncode, done.stderr), done
    return json.loads(done.stdout)


def sh(script: str, **options: Any) -> str:
    """What a shell script inside prints."""
    done = pycontainer.run(["sh", "-c", script], capture_output=True, text=True, **options)
    assert (0, "") == (done.returncode, done.stderr), done
    output: str = done.stdout
    return output
