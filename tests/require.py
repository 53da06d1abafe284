"""What a test needs of the machine: a skip by default, a failure in a lane that promises it."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

Require = Callable[[str, bool, str], None]

asked: set[str] = set()


def required() -> frozenset[str]:
    """The names in `PYCONTAINER_REQUIRE`, separated by commas."""
    names = os.environ.get("PYCONTAINER_REQUIRE", "").split(",")
    return frozenset(name.strip() for name in names if name.strip())


def require(name: str, available: bool, why: str) -> None:
    """Go on where `name` is available; otherwise skip, or fail if this lane must have it."""
    asked.add(name)
    if available:
        return
    if name in required():
        pytest.fail(f"{name}: required in this lane, but {why}", pytrace=False)
    pytest.skip(f"{name}: {why}")
