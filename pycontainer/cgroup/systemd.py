"""A cgroup of our own from systemd, where it is this machine's init.

A scope lives as long as a process is in it. Moving the application there would take it out of its
own service (`systemctl stop` would miss it), so a process that only waits holds the scope: until
the application is gone, and its containers keep it after that. It is no child of the application,
whose `os.wait()` would wait for it.
"""

from __future__ import annotations

import functools
import os
import secrets
import subprocess

from pycontainer.cgroup.hierarchy import Hierarchy

_ANSWER_SECONDS = 5.0
_HOLDER = "pycontainer-holder"
# Says where it is, and leaves the holder behind: it reads until the pipe's other end closes.
_SCRIPT = "cat /proc/self/cgroup; exec 3<&0; cat <&3 >/dev/null 2>&1 &"


def delegated_scope(tree: Hierarchy) -> str | None:
    """The directory of a scope that was delegated to this process, without processes, or None.

    An unprivileged process can only use one of its own manager, and only from within it: nobody
    lets it move processes across (cgroup-v2.rst, Delegation Containment).
    """
    if not os.path.isdir("/run/systemd/system"):  # sd_booted(3)
        return None
    uid = os.geteuid()
    if uid and f"/user@{uid}.service/" not in tree.own:
        return None
    cgroup = _scope_of(uid)
    directory = tree.directory(cgroup) if cgroup is not None else None
    if directory is not None:
        _move_holder(directory)
    return directory


@functools.cache  # asked once in a process, whatever the answer
def _scope_of(uid: int) -> str | None:
    held, holds = os.pipe()  # the second end stays open as long as this process lives
    command = ["systemd-run", "--scope", "--quiet", "--collect", "--property=Delegate=yes"]
    command += [f"--unit=pycontainer-{os.getpid()}-{secrets.token_hex(4)}"]
    command += ["--user"] if uid else []
    try:
        answer = subprocess.run(
            [*command, "sh", "-c", _SCRIPT],
            stdin=held,
            capture_output=True,
            timeout=_ANSWER_SECONDS,
            check=True,
            text=True,
        )
    except (OSError, subprocess.SubprocessError):
        # Not installed, no bus, refused, or too slow: no delegation, which the caller explains.
        os.close(holds)
        return None
    finally:
        os.close(held)
    return next((line[3:] for line in answer.stdout.splitlines() if line.startswith("0::/")), None)


def _move_holder(directory: str) -> None:
    """Into a leaf: a cgroup with processes of its own cannot limit children."""
    with open(f"{directory}/cgroup.procs", encoding="ascii") as listed:
        processes = listed.read().split()
    leaf = os.path.join(directory, _HOLDER)
    os.makedirs(leaf, exist_ok=True)
    for process in processes:
        with open(f"{leaf}/cgroup.procs", "w", encoding="ascii") as procs:
            procs.write(process)
