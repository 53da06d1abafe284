"""Run by the interpreter of a clean environment: the installed package starts a container."""

from __future__ import annotations

import stat
from pathlib import Path

import pycontainer

package = Path(pycontainer.__file__).parent
assert (package / "_launcher").stat().st_mode & stat.S_IXUSR
assert not (package / "_launcher_faults").exists()
result = pycontainer.run(["true"])
assert 0 == result.returncode, result
print("ran true")
