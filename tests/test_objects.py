"""The launcher keeps its promise: no libc, no loader, no executable stack, a few KiB."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from csrc import build
from tests.require import require

PACKAGE = Path(__file__).parents[1] / "pycontainer"
FEW_KIB = 32 * 1024
NOT_OURS = ("__libc", "__stack_chk", "__errno", "_chk", "_dl_", "__tls", "pthread")


def output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="session", name="objects", params=[False, True], ids=["plain", "faults"])
def objects_fixture(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    tools = all(shutil.which(name) for name in (build.compiler()[0], "nm", "readelf"))
    require("compiler", tools, "there is no C compiler or no binutils")
    return build.compile_objects(tmp_path_factory.mktemp("objects"), faults=request.param)


@pytest.fixture(name="launcher")
def launcher_fixture() -> Path:
    launcher = PACKAGE / "_launcher"
    require("compiler", bool(shutil.which("readelf")), "there is no binutils")
    return launcher


def symbols(objects: list[Path], *options: str) -> set[str]:
    """Names only; `nm -j` is newer than some binutils that are still in use."""
    lines = output("nm", "-P", *options, *objects).splitlines()
    return {line.split()[0] for line in lines if " " in line}


def test_every_symbol_that_the_launcher_uses_is_its_own(objects: list[Path]) -> None:
    undefined = symbols(objects, "--undefined-only")
    defined = symbols(objects, "--defined-only", "--extern-only")
    assert set() == undefined - defined


def test_no_symbol_of_the_launcher_is_libcs_under_another_name(objects: list[Path]) -> None:
    names = symbols(objects)
    assert set() == {name for name in names if any(part in name for part in NOT_OURS)}


def test_the_objects_have_no_thread_local_and_no_start_up_sections(objects: list[Path]) -> None:
    sections = output("readelf", "-SW", *objects)
    for name in (".tdata", ".tbss", ".init_array", ".ctors", ".eh_frame"):
        assert name not in sections


def test_the_launcher_is_static_and_has_no_interpreter(launcher: Path) -> None:
    headers = output("readelf", "-hlW", launcher)
    assert "EXEC (Executable file)" in headers
    assert "INTERP" not in headers
    assert "DYNAMIC" not in headers


def test_the_launchers_stack_is_not_executable_and_no_segment_is_both(launcher: Path) -> None:
    lines = output("readelf", "-lW", launcher).splitlines()
    segments = [line.split() for line in lines if line.split()[:1] in (["LOAD"], ["GNU_STACK"])]
    flags = {fields[0]: "" for fields in segments}
    for fields in segments:
        text = "".join(fields[6:-1])
        assert not ("W" in text and "E" in text)
        flags[fields[0]] += text
    assert "RW" == flags["GNU_STACK"]


def test_the_launcher_is_a_few_kib_that_anyone_may_execute(launcher: Path) -> None:
    status = launcher.stat()
    assert status.st_size < FEW_KIB
    assert 0o755 == status.st_mode & 0o777
    assert os.access(launcher, os.X_OK)
