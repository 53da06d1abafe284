"""The programs that are started, in a directory that every subject can show its inside."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

SOURCE = Path(__file__).with_name("true.c")
COMPILE = ("cc", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-O1")


@attrs.frozen(kw_only=True)
class Scratch:
    """A directory readable for everybody, outside /tmp: subjects put a tmpfs over that."""

    path: Path

    @property
    def static_true(self) -> Path:
        return self.path / "bin" / "true"

    def make_directory(self, name: str) -> Path:
        directory = self.path / name
        directory.mkdir(mode=0o755)
        return directory

    def programs(self) -> dict[str, tuple[str, ...]]:
        """Name to argv. The system's Python where there is one: ids that are not root's can walk
        to it, whoever's home holds the interpreter that runs this."""
        python = shutil.which("python3", path="/usr/bin:/bin") or shutil.which("python3")
        programs: dict[str, tuple[str, ...]] = {}
        if self.static_true.exists():
            programs["static true"] = (str(self.static_true),)
        programs["/bin/true"] = ("/bin/true",)
        if python is not None:
            programs["python3 -c pass"] = (python, "-c", "pass")
        return programs


@contextmanager
def scratch() -> Iterator[Scratch]:
    """The directory, the static program in it if there is a compiler; removed at the end."""
    with tempfile.TemporaryDirectory(prefix="pycontainer-bench-", dir="/var/tmp") as name:
        os.chmod(name, 0o755)
        made = Scratch(path=Path(name))
        made.make_directory("bin")
        if shutil.which("cc"):
            subprocess.run([*COMPILE, "-o", str(made.static_true), str(SOURCE)], check=True)
        yield made
