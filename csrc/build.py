"""Builds the two pieces of C: the extension `pycontainer._native` and the launcher.

Rules:
1. `native.h` is the one declaration of what Python may call. The compiler reads it whole, cffi
   reads it without its preprocessor lines.
2. The launcher is linked without libc, so nothing may ask the compiler for help that lives in
   libc: no stack protector, no `_FORTIFY_SOURCE`, no unwind tables, and no rewriting of the
   `memset` in `sys.h` into a call of itself (`-fno-tree-loop-distribute-patterns`).
3. `CC` is honoured, `CFLAGS` is not for the launcher: the flags distributions set there are the
   ones that rule 2 forbids.

Run by hand, `python csrc/build.py DIRECTORY` puts a launcher there.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
LAUNCHER_SOURCES = ("launcher.c", "ops.c", "init.c")

COMPILE_FLAGS = (
    "-std=gnu11 -O2 -Wall -Wextra -ffreestanding -fno-tree-loop-distribute-patterns"
    " -fno-stack-protector -U_FORTIFY_SOURCE -fcf-protection=none"
    " -fno-asynchronous-unwind-tables -fno-unwind-tables -fno-pie -ffunction-sections"
).split()
# Not position independent: relocating oneself needs the start-up code that libc brings.
# noseparate-code: no padding between segments, so that the file stays a few KiB.
LINK_FLAGS = (
    "-nostdlib -static -no-pie -s -Wl,--build-id=none -Wl,--gc-sections"
    " -Wl,-z,noexecstack -Wl,-z,noseparate-code"
).split()


def is_test_build() -> bool:
    """`PYCONTAINER_TEST_BUILD=1`: warnings are errors and there is a launcher that fails on demand.

    A user's compiler may be newer than any of ours; its new warnings must not stop an install.
    """
    return os.environ.get("PYCONTAINER_TEST_BUILD") == "1"


def declarations(header: str) -> str:
    """What cffi can parse of a header: all but the preprocessor's lines, continuations included."""
    return re.sub(r"^[ \t]*#(?:.*\\\n)*.*$", "", header, flags=re.MULTILINE)


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CC") or "cc")


def compile_objects(directory: Path, *, faults: bool) -> list[Path]:
    """The launcher's objects, made in `directory`. `faults`: steps can be told to fail."""
    flags = [*COMPILE_FLAGS, f"-I{HERE}"]
    flags += ["-Werror"] if is_test_build() else []
    flags += ["-DPYC_FAULTS"] if faults else []
    directory.mkdir(parents=True, exist_ok=True)
    objects = []
    for source in LAUNCHER_SOURCES:
        target = directory / Path(source).with_suffix(".o")
        subprocess.run([*compiler(), *flags, "-c", HERE / source, "-o", target], check=True)
        objects.append(target)
    return objects


def build_launcher(target: Path, objects_directory: Path, *, faults: bool = False) -> None:
    """Put the linked, stripped launcher at `target`, executable by everyone."""
    objects = compile_objects(objects_directory, faults=faults)
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([*compiler(), *LINK_FLAGS, *objects, "-o", target], check=True)
    target.chmod(0o755)


def make_ffibuilder() -> FFI:
    ffi = FFI()
    ffi.cdef(declarations((HERE / "native.h").read_text()))
    ffi.set_source(
        "pycontainer._native",
        '#include "native.h"',
        sources=[str(HERE / "native.c")],
        include_dirs=[str(HERE)],
        depends=[str(header) for header in (*HERE.glob("*.h"), HERE / "ops.def")],
        extra_compile_args=["-std=gnu11", *(["-Werror"] if is_test_build() else [])],
        py_limited_api=True,
    )
    return ffi


if __name__ == "__main__":
    destination = Path(sys.argv[1])
    build_launcher(destination / "_launcher", destination, faults="--faults" in sys.argv)
