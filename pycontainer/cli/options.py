"""The options of `run`, and the Spec that they mean."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from typing import Any

from pycontainer.command import default_environment
from pycontainer.errors import SpecError
from pycontainer.spec import BEST_EFFORT, Mount, Spec, Tmpfs

# Options whose text is the field's value: sizes, names, paths of cgroups.
TEXTS = {
    "memory": ("SIZE", "memory, swap included, such as 256M"),
    "output": ("SIZE", "bytes of standard output and error together; they then pass through pipes"),
    "file_size": ("SIZE", "the largest file"),
    "tmp_size": ("SIZE", "size of /tmp"),
    "shm_size": ("SIZE", "size of /dev/shm"),
    "hostname": ("NAME", "the host name inside"),
    "network": ("KIND", "none (loopback only) or host"),
    "cpuset": ("CPUS", "processors, such as 0-3,6"),
    "sysfs": ("KIND", "none or read-only"),
    "group": ("GROUP", "the group inside"),
    "cgroup_parent": ("CGROUP", "the cgroup below which its own are made"),
}
NUMBERS = {
    "cpus": ("NUMBER", "processors' worth of time, such as 0.5"),
    "cpu_weight": ("NUMBER", "share of busy processors; others have 100"),
    "pids": ("NUMBER", "processes and threads"),
    "wall_time": ("SECONDS", "end it after this time"),
    "cpu_time": ("SECONDS", "end it after this processor time"),
    "open_files": ("NUMBER", "open files of one process"),
    "id_range": ("NUMBER", "how many ids are mapped"),
}
SWITCHES = {
    "ptrace": "programs inside may trace one another",
    "nesting": "containers can be made inside",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Everything that `run` understands before `--`."""
    isolation = parser.add_argument_group("isolation (paths: the host's before the container's)")
    add = isolation.add_argument
    add("--rootfs", metavar="DIRECTORY", help="a root directory, instead of the host view")
    add("--mount", action="append", default=[], metavar="SRC:DST[:rw,noexec]", help="a bind, ro")
    add("--tmpfs", action="append", default=[], metavar="DST[:SIZE]", help="an empty directory")
    add("--user", metavar="USER[:GROUP]", help="user inside, by number or name (default 1000)")
    add("--capability", action="append", default=[], metavar="NAME", help="grant a capability")
    add("--seccomp", metavar="PROFILE.json", help="a profile in Docker's format, or unconfined")
    add("--new-privileges", action="store_true", help="let setuid programs gain privileges")
    for name, (metavar, text) in (TEXTS | NUMBERS).items():
        add(f"--{_dashed(name)}", metavar=metavar, help=text)
    for name, text in SWITCHES.items():
        add(f"--{_dashed(name)}", action="store_true", help=text)
    add("--rlimit", action="append", default=[], metavar="NAME=VALUE", help="such as stack=64M")
    add(
        "--best-effort", action="append", default=[], metavar="NAME", choices=sorted(BEST_EFFORT),
        help="a limit that may be given up where the host cannot hold it",
    )  # fmt: skip
    program = parser.add_argument_group("program")
    add = program.add_argument
    add("--env", action="append", default=[], metavar="NAME[=VALUE]", help="no value: as here")
    add("--cwd", metavar="DIRECTORY", help="where it starts, inside (default /tmp)")
    add("--explain", action="store_true", help="say in words what would be done, and do nothing")


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def spec_of(options: argparse.Namespace) -> Spec:
    """The Spec of the options. Raises SpecError."""
    fields: dict[str, Any] = {}
    for name in TEXTS:
        fields[name] = getattr(options, name)
    for name in NUMBERS:
        fields[name] = _number(getattr(options, name))
    if options.user is not None:
        fields["user"], colon, group = options.user.partition(":")
        fields["group"] = group if colon else fields["group"]
    if options.rootfs is not None:
        fields["rootfs"] = os.path.abspath(options.rootfs)
    if options.seccomp is not None:
        fields["seccomp"] = _profile(options.seccomp)
    given = {name: value for name, value in fields.items() if value is not None}
    return Spec(
        mounts=(*map(_mount, options.mount), *map(_tmpfs, options.tmpfs)),
        capabilities=options.capability,
        no_new_privileges=not options.new_privileges,
        rlimits=dict(_pair("rlimit", text) for text in options.rlimit),
        best_effort=options.best_effort,
        **{name: getattr(options, name) for name in SWITCHES},
        **given,
    )


def environment(options: argparse.Namespace) -> Mapping[str, str] | None:
    """The clean environment with --env added; a name alone is copied from ours. None: untouched."""
    if not options.env:
        return None
    variables = dict(default_environment(host_view=options.rootfs is None))
    for text in options.env:
        name, equals, value = text.partition("=")
        if equals:
            variables[name] = value
        elif name in os.environ:
            variables[name] = os.environ[name]
    return variables


def _number(text: str | None) -> Any:
    """A number where it is one; the Spec says what is wrong with the rest."""
    for kind in (int, float):
        try:
            return None if text is None else kind(text)
        except ValueError:
            continue
    return text


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise SpecError(option, text, "NAME=VALUE")
    return name, _number(value)


def _mount(text: str) -> Mount:
    source, _, rest = text.partition(":")
    target, _, words = rest.partition(":")
    chosen = frozenset(words.split(",")) - {""}
    if not source or not target or not chosen <= {"rw", "ro", "noexec"} or chosen >= {"rw", "ro"}:
        raise SpecError("mount", text, "SRC:DST, or SRC:DST:rw, ro, noexec with commas between")
    return Mount(
        os.path.abspath(source), target, read_only="rw" not in chosen,
        executable="noexec" not in chosen,
    )  # fmt: skip


def _tmpfs(text: str) -> Tmpfs:
    target, colon, size = text.partition(":")
    return Tmpfs(target, size=size) if colon else Tmpfs(target)


def _profile(text: str) -> Any:
    if text in ("default", "unconfined"):
        return text
    try:
        with open(text, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise SpecError("seccomp", text, f"a readable file ({error.strerror})") from error
    except ValueError as error:
        raise SpecError("seccomp", text, f"a file of JSON ({error})") from error
