"""subprocess's way of naming a program turned into the kernel's: bytes, candidates, environment."""

from __future__ import annotations

import errno
import os
import posixpath
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from pycontainer.checks import path_text
from pycontainer.errors import SpecError
from pycontainer.plan.encode import Program

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_CWD = "/tmp"
MOST_ENTRIES = 1_000_000


@lru_cache(maxsize=2)
def default_environment(*, host_view: bool) -> Mapping[str, str]:
    """What a program gets when no env= is given: nothing of the application's own.

    In the host view the running interpreter comes first in PATH, so that "python3" is this one.
    """
    path = f"{sys.prefix}/bin:{DEFAULT_PATH}" if host_view else DEFAULT_PATH
    return {"PATH": path, "HOME": DEFAULT_CWD, "LANG": "C.UTF-8"}


def arguments(args: Any, *, shell: bool, executable: Any = None) -> tuple[bytes, ...]:
    """argv as bytes, from a string, a path or a sequence of them. Raises SpecError, TypeError."""
    if isinstance(args, str | bytes | os.PathLike):
        args = [args]
    if not isinstance(args, Sequence):
        args = list(args)
    if not args:
        raise SpecError("args", args, "at least the program's name")
    if shell:
        args = [executable or "/bin/sh", "-c", *args]
    if len(args) > MOST_ENTRIES:
        raise SpecError("args", f"{len(args)} arguments", f"at most {MOST_ENTRIES}")
    return tuple(_bytes("args", each) for each in args)


def environment(env: Mapping[Any, Any]) -> tuple[bytes, ...]:
    """envp as bytes. Raises SpecError for names with '=' and for NUL."""
    if len(env) > MOST_ENTRIES:
        raise SpecError("env", f"{len(env)} variables", f"at most {MOST_ENTRIES}")
    encoded = []
    for name, value in env.items():
        key = _bytes("env", name)
        if b"=" in key or not key:
            raise SpecError("env", name, "a name that is not empty and has no '='")
        encoded.append(key + b"=" + _bytes("env", value))
    return tuple(encoded)


def _bytes(field: str, value: Any) -> bytes:
    try:
        encoded = os.fsencode(value)
    except TypeError:
        raise TypeError(f"{field}: {value!r} is not str, bytes or os.PathLike") from None
    except UnicodeEncodeError:
        raise SpecError(field, value, "text that the file system encoding can express") from None
    if b"\0" in encoded:
        raise SpecError(field, value, "text without a NUL byte")
    return encoded


def program(argv: tuple[bytes, ...], executable: Any, env: Mapping[Any, Any]) -> Program:
    """The program to execute, looked up inside in env's PATH."""
    name = argv[0] if executable is None else _bytes("executable", executable)
    if b"/" in name:
        candidates: tuple[bytes, ...] = (name,)
    else:
        path = _bytes("env", env.get("PATH", env.get(b"PATH", DEFAULT_PATH)))
        candidates = tuple(os.path.join(directory or b".", name) for directory in path.split(b":"))
    return Program(candidates=candidates, argv=argv, environment=environment(env))


def working_directory(cwd: Any) -> str:
    """An absolute path inside; a relative one counts from where programs start by default."""
    if cwd is None:
        return DEFAULT_CWD
    if not os.fspath(cwd):  # as chdir(2) says it
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), cwd)
    return posixpath.join(DEFAULT_CWD, path_text("cwd", cwd))
