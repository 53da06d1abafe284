"""What can go wrong: the type is whose fault it is, the text is `object: what; hint`."""

from __future__ import annotations

import os
import subprocess
from typing import Any


class Error(Exception):
    """The base of everything this library raises on purpose."""


class SpecError(Error, ValueError):
    """The caller asked for something that cannot be meant: `.field`, `.value`, `.allowed`."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(field, value, allowed)
        self.field, self.value, self.allowed = field, value, allowed

    def __str__(self) -> str:
        shown = repr(self.value)
        if len(shown) > 200:
            shown = shown[:200] + "…"
        return f"{self.field}={shown}: {self.allowed}"


class UnsupportedError(Error):
    """This host cannot do what was asked: `.what` is missing, `.why`, and `.remedy` gets it."""

    def __init__(self, what: str, why: str, remedy: str = "") -> None:
        super().__init__(what, why, remedy)
        self.what, self.why, self.remedy = what, why, remedy

    def __str__(self) -> str:
        return f"{self.what}: {self.why}" + (f"; {self.remedy}" if self.remedy else "")


class SetupError(Error, OSError):
    """The kernel refused a step of the set-up: `.op`, `.operands`, `.errno`, `.hint`."""

    def __init__(
        self, errno: int, op: str, operands: dict[str, Any] | None = None, hint: str = ""
    ) -> None:
        OSError.__init__(self, errno, os.strerror(errno))
        self.filename = (operands or {}).get("path")
        self.op, self.operands, self.hint = op, operands or {}, hint

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.errno, self.op, self.operands, self.hint)

    def __str__(self) -> str:
        import errno as names

        operands = "".join(f" {name}={value!r}" for name, value in self.operands.items())
        name = names.errorcode.get(self.errno or 0, str(self.errno))
        return f"{self.op}{operands}: {name}" + (f"; {self.hint}" if self.hint else "")


class UnsupportedStepError(UnsupportedError, SetupError):
    """The kernel refused a step because of what this host is: it would do so every time."""

    def __init__(
        self, errno: int, op: str, operands: dict[str, Any] | None = None, hint: str = ""
    ) -> None:
        SetupError.__init__(self, errno, op, operands, hint)
        self.what, self.why, self.remedy = op, os.strerror(errno), hint

    __str__ = SetupError.__str__
    __reduce__ = SetupError.__reduce__


class StateError(Error):
    """The container is not in a state in which this can be done."""


class ImageError(Error):
    """An image or one of its parts is not what it claims to be."""


class BuildError(ImageError):
    """A step of a build did not succeed."""


class RegistryError(Error):
    """A registry refused, or answered with something that cannot be trusted."""


class NetworkError(Error):
    """A network could not be made, joined or removed."""


class TimeoutExpired(Error, subprocess.TimeoutExpired):
    """`timeout=` ran out; the whole tree is dead. Attributes as subprocess.TimeoutExpired."""

    def __init__(self, cmd: Any, timeout: float, output: Any = None, stderr: Any = None) -> None:
        subprocess.TimeoutExpired.__init__(self, cmd, timeout, output=output, stderr=stderr)

    __str__ = subprocess.TimeoutExpired.__str__


class CalledProcessError(Error, subprocess.CalledProcessError):
    """`check=True` and the program failed or was ended: `.result` is the CompletedProcess."""

    def __init__(
        self, returncode: int, cmd: Any, output: Any = None, stderr: Any = None, result: Any = None
    ) -> None:
        subprocess.CalledProcessError.__init__(self, returncode, cmd, output=output, stderr=stderr)
        self.result = result

    @property
    def exit_reason(self) -> Any:
        """Why the program ended (an ExitReason), or None where no result is known."""
        return getattr(self.result, "exit_reason", None)

    def __str__(self) -> str:
        said = subprocess.CalledProcessError.__str__(self)
        reason = self.exit_reason
        return said if reason is None else f"{said[:-1]} ({reason.name})."
