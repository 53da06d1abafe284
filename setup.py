"""What pyproject.toml cannot say: the cffi extension, and the files that are made beside it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

# A build backend runs this file without its directory on the path.
sys.path.insert(0, str(Path(__file__).parent))

from csrc.build import HERE, build_launcher, is_test_build


class BuildExt(build_ext):  # type: ignore[misc]  # setuptools ships no types
    """The extension, the launcher, and the table of ops that Python reads at run time."""

    def made_files(self) -> list[str]:
        """Paths below the place of installation."""
        faults = ["pycontainer/_launcher_faults"] if is_test_build() else []
        return ["pycontainer/_launcher", "pycontainer/linux/ops.def", *faults]

    def run(self) -> None:
        super().run()
        places = [Path(self.build_lib)]
        if self.inplace:
            places.append(Path())
        for place in places:
            self.make_files(place)

    def make_files(self, place: Path) -> None:
        for made in self.made_files():
            target = place / made
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.name == "ops.def":
                shutil.copyfile(HERE / "ops.def", target)
            else:
                objects = Path(self.build_temp) / target.name
                build_launcher(target, objects, faults=target.name.endswith("_faults"))

    def get_outputs(self) -> list[str]:
        return [*super().get_outputs(), *(str(Path(self.build_lib, f)) for f in self.made_files())]


setup(cffi_modules=["csrc/build.py:make_ffibuilder"], cmdclass={"build_ext": BuildExt})
