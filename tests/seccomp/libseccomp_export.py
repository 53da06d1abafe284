"""Run by the system's Python, which has libseccomp's binding: profiles in, filters out.

One JSON object a line: {"arch", "default": [kind, data], "rules": [{"names", "action", "args"}]};
the answer is the filter in hexadecimal.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from typing import Any

seccomp: Any = importlib.import_module("seccomp")


def action(kind: str, data: int) -> Any:
    if kind in ("ERRNO", "TRACE"):
        return getattr(seccomp, kind)(data)
    return getattr(seccomp, {"KILL_THREAD": "KILL"}.get(kind, kind))


def argument(index: int, op: str, value: int, mask: int) -> Any:
    if op == "MASKED_EQ":
        return seccomp.Arg(index, seccomp.MASKED_EQ, mask, value)
    return seccomp.Arg(index, getattr(seccomp, op), value)


def compiled(profile: dict[str, Any]) -> bytes:
    default = action(*profile["default"])
    found = seccomp.SyscallFilter(default)
    if profile["arch"] != "x86_64":
        found.remove_arch(seccomp.Arch())
        found.add_arch(getattr(seccomp.Arch, profile["arch"].upper()))
    for rule in profile["rules"]:
        if rule["action"] == profile["default"]:
            continue  # refused as needless
        for name in rule["names"]:
            args = [argument(*arg) for arg in rule["args"]]
            found.add_rule(action(*rule["action"]), name, *args)
    with tempfile.TemporaryFile() as file:
        found.export_bpf(file)
        file.seek(0)
        return file.read()


if __name__ == "__main__":
    for line in sys.stdin:
        print(compiled(json.loads(line)).hex(), flush=True)
