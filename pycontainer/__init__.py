"""OS-level virtualization as a library: run programs in full containers, in-process, no daemon."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pycontainer.ability import Ability, HostReport, probe
    from pycontainer.errors import (
        BuildError,
        CalledProcessError,
        Error,
        ImageError,
        NetworkError,
        RegistryError,
        SetupError,
        SpecError,
        StateError,
        TimeoutExpired,
        UnsupportedError,
    )
    from pycontainer.popen import DEVNULL, PIPE, STDOUT, Popen, run
    from pycontainer.recovery import recover
    from pycontainer.result import CompletedProcess, ExitReason, Usage
    from pycontainer.spec import IoLimit, Mount, Spec, Tmpfs

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "Ability",
    "BuildError",
    "CalledProcessError",
    "CompletedProcess",
    "Error",
    "ExitReason",
    "HostReport",
    "ImageError",
    "IoLimit",
    "Mount",
    "NetworkError",
    "Popen",
    "RegistryError",
    "SetupError",
    "Spec",
    "SpecError",
    "StateError",
    "TimeoutExpired",
    "Tmpfs",
    "UnsupportedError",
    "Usage",
    "probe",
    "recover",
    "run",
]
__version__ = "0.1.0"

# Loaded when first used (PEP 562): `import pycontainer` costs next to nothing.
_WHERE = {
    "ability": ("Ability", "HostReport", "probe"),
    "errors": (
        "BuildError", "CalledProcessError", "Error", "ImageError", "NetworkError",
        "RegistryError", "SetupError", "SpecError", "StateError", "TimeoutExpired",
        "UnsupportedError",
    ),
    "popen": ("DEVNULL", "PIPE", "STDOUT", "Popen", "run"),
    "recovery": ("recover",),
    "result": ("CompletedProcess", "ExitReason", "Usage"),
    "spec": ("IoLimit", "Mount", "Spec", "Tmpfs"),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _WHERE.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"pycontainer.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
