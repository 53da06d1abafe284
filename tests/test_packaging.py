"""The wheel and the sdist hold what users need and no more, and work on every CPython found."""

from __future__ import annotations

import glob
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

from tests.require import require

pytestmark = [pytest.mark.packaging, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[1]
SMOKE = Path(__file__).with_name("smoke.py")
DESCRIBE = (
    "import sys, sysconfig, venv, ensurepip\n"
    "assert sys.implementation.name == 'cpython' and sys.version_info >= (3, 11)\n"
    "assert not sysconfig.get_config_var('Py_GIL_DISABLED')\n"
    "print(*sys.version_info[:2])"
)


def interpreters() -> dict[str, str]:
    """One interpreter for each minor version of CPython that is installed here."""
    names = [shutil.which(f"python3.{minor}") for minor in range(11, 20)]
    pyenv = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    candidates = [sys.executable, "/usr/bin/python3", *filter(None, names)]
    candidates += sorted(glob.glob(f"{glob.escape(pyenv)}/versions/3.*/bin/python3"))
    found: dict[str, str] = {}
    for candidate in candidates:
        if Path(candidate).exists():
            run = subprocess.run([candidate, "-c", DESCRIBE], capture_output=True, text=True)
            if run.returncode == 0:
                found.setdefault(".".join(run.stdout.split()), candidate)
    return found


INTERPRETERS = interpreters()


@pytest.fixture(scope="session", name="distributions")
def distributions_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist of the checkout and the wheel built from that sdist."""
    out = tmp_path_factory.mktemp("distributions")
    subprocess.run([sys.executable, "-m", "build", "-o", out, ROOT], check=True)
    return out


@pytest.fixture(name="wheel")
def wheel_fixture(distributions: Path) -> Path:
    (wheel,) = distributions.glob("*.whl")
    return wheel


@pytest.fixture(name="sdist")
def sdist_fixture(distributions: Path) -> Path:
    (sdist,) = distributions.glob("*.tar.gz")
    return sdist


def install_and_smoke(interpreter: str, package: Path, place: Path) -> str:
    """Install into a new environment and start a container from there, outside the checkout."""
    subprocess.run([interpreter, "-m", "venv", place], check=True)
    python = place / "bin/python"
    # -I: with PYTHONPATH pip would find the checkout's metadata and install nothing.
    pip = [str(python), "-I", "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", str(package)], check=True, cwd="/")
    command = [str(python), "-I", "-X", "dev", str(SMOKE)]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd="/")
    return run.stdout


@pytest.mark.parametrize("version", sorted(INTERPRETERS))
def test_the_wheel_runs_a_container_on_cpython(version: str, wheel: Path, tmp_path: Path) -> None:
    assert "ran true\n" == install_and_smoke(INTERPRETERS[version], wheel, tmp_path / "venv")


def test_the_sdist_compiles_and_runs_a_container(sdist: Path, tmp_path: Path) -> None:
    assert "ran true\n" == install_and_smoke(sys.executable, sdist, tmp_path / "venv")


def test_one_wheel_is_for_every_cpython_from_3_11_on(wheel: Path) -> None:
    machine = os.uname().machine
    assert f"pycontainer_linux-0.1.0-cp311-abi3-linux_{machine}.whl" == wheel.name


def test_the_wheel_holds_an_executable_launcher_and_the_table_of_ops(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        mode = archive.getinfo("pycontainer/_launcher").external_attr >> 16
        ops = archive.read("pycontainer/linux/ops.def")
    assert 0o755 == stat.S_IMODE(mode)
    assert (ROOT / "csrc/ops.def").read_bytes() == ops


def test_the_wheel_holds_no_tests_no_sources_and_no_launcher_that_fails(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {name.split("/")[0] for name in names}
    assert {"pycontainer", "pycontainer_linux-0.1.0.dist-info"} == top
    assert [] == [name for name in names if name.endswith(("_faults", ".c", ".h", ".o"))]
    assert "pycontainer/py.typed" in names


def test_every_module_of_the_checkout_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.endswith((".py", ".pyi"))}
    modules = [*ROOT.glob("pycontainer/**/*.py"), *ROOT.glob("pycontainer/**/*.pyi")]
    assert {str(path.relative_to(ROOT)) for path in modules} == packed


def test_the_sdist_holds_the_sources_and_nothing_that_was_built(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"csrc/build.py", "csrc/launcher.c", "csrc/ops.def", "setup.py", "LICENSE"} <= names
    assert {"pycontainer/_launcher", "pycontainer/linux/ops.def"}.isdisjoint(names)
    assert [] == [name for name in names if name.endswith((".so", ".o", ".pyc"))]


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return message_from_bytes(archive.read("pycontainer_linux-0.1.0.dist-info/METADATA"))


def test_the_core_needs_cffi_and_attrs_and_the_extras_are_named(wheel: Path) -> None:
    fields = metadata(wheel)
    needs = [need for need in fields.get_all("Requires-Dist", []) if "extra ==" not in need]
    assert ["attrs", "cffi"] == sorted(need.partition(">")[0] for need in needs)
    extras = {"images", "cli", "server", "functions", "network", "all", "test", "dev"}
    assert extras == set(fields.get_all("Provides-Extra", []))


def test_more_than_one_cpython_was_tried() -> None:
    require("cpythons", len(INTERPRETERS) > 1, f"only {sorted(INTERPRETERS)} is installed")
