"""Seccomp profiles as JSON, in Docker's form and in the OCI runtime specification's.

As runc and libseccomp read them, with these differences, all to the stricter side:
- keys, actions, operators and architectures that are not known are refused;
- rules that contradict each other are refused (see `seccomp.py`), where libseccomp keeps the
  unconditional one and runc drops those that say the same as the default;
- a number unknown to the tables gives ENOSYS whatever the default is, and 32-bit and x32 entries
  stay closed when the profile lists their architectures.

Podman's spelling of an errno by name (`errno`, `defaultErrno`) is read too.
Source: moby/profiles `seccomp/seccomp_linux.go`, opencontainers/runtime-spec `config-linux.md`,
runc `libcontainer/seccomp/seccomp_linux.go`.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import attrs

from pycontainer.errors import SpecError
from pycontainer.linux.syscalls import AUDIT_ARCH, all_names
from pycontainer.plan.seccomp import Action, ActionKind, Arg, Op, Profile, Rule

_T = TypeVar("_T")

_ACTIONS = {f"SCMP_ACT_{kind.name}": kind for kind in ActionKind}
_ACTIONS["SCMP_ACT_KILL"] = ActionKind.KILL_THREAD
_OPS = {f"SCMP_CMP_{op.name}": op for op in Op}
_WITH_ERRNO = (ActionKind.ERRNO, ActionKind.TRACE)

# Go's names, in which profiles include and exclude machines.
_GOARCH = {"x86_64": "amd64", "aarch64": "arm64"}
_ARCHITECTURES = frozenset(
    f"SCMP_ARCH_{name}"
    for name in (
        *("NATIVE", "X86", "X86_64", "X32", "ARM", "AARCH64", "LOONGARCH64", "M68K", "SH", "SHEB"),
        *("MIPS", "MIPS64", "MIPS64N32", "MIPSEL", "MIPSEL64", "MIPSEL64N32"),
        *("PPC", "PPC64", "PPC64LE", "S390", "S390X", "PARISC", "PARISC64", "RISCV64"),
    )
)

_PROFILE_KEYS = frozenset(
    ("defaultAction", "defaultErrnoRet", "defaultErrno", "archMap", "architectures", "syscalls")
)
# What these ask for is not part of a filter; a profile that leaves them empty asks for nothing.
_UNSUPPORTED_KEYS = ("flags", "listenerPath", "listenerMetadata")
_SYSCALL_KEYS = frozenset(
    ("names", "name", "action", "errnoRet", "errno", "args", "comment", "includes", "excludes")
)
_ARG_KEYS = frozenset(("index", "value", "valueTwo", "op"))
_FILTER_KEYS = frozenset(("caps", "arches", "minKernel"))


@attrs.frozen(kw_only=True)
class _Circumstances:
    """What `includes` and `excludes` are decided by."""

    capabilities: frozenset[str]
    kernel: tuple[int, int]
    goarch: str


def profile_from_json(
    data: bytes | str | Mapping[str, Any],
    *,
    capabilities: frozenset[str],
    kernel: tuple[int, int],
    machine: str,
) -> Profile:
    """The profile for a payload with these capabilities, on this kernel (major, minor) and machine.

    Names that this library does not know are skipped, as Docker does: profiles name the calls of
    every architecture. Raises SpecError that says where in the profile something is wrong.
    """
    if machine not in AUDIT_ARCH:
        raise SpecError("seccomp machine", machine, f"one of {', '.join(AUDIT_ARCH)}")
    at = "seccomp profile"
    profile = _object(_decoded(data), at, _PROFILE_KEYS.union(_UNSUPPORTED_KEYS))
    for key in _UNSUPPORTED_KEYS:
        if profile.get(key):
            raise SpecError(f"{at} {key}", profile[key], "not supported")
    _check_architectures(profile, at)
    circumstances = _Circumstances(
        capabilities=capabilities, kernel=kernel, goarch=_GOARCH[machine]
    )
    default = _action(profile, at, "defaultAction", "defaultErrnoRet", "defaultErrno")
    rules: list[Rule] = []
    for index, entry in enumerate(_list(profile, "syscalls", at)):
        rules += _rules(entry, f"{at} syscalls[{index}]", circumstances)
    return Profile(default_action=default, rules=tuple(rules), arches=(machine,))


def _decoded(data: bytes | str | Mapping[str, Any]) -> object:
    if isinstance(data, Mapping):
        return data
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SpecError("seccomp profile", data[:80], f"not JSON: {error}") from error


def _rules(value: object, at: str, circumstances: _Circumstances) -> Iterator[Rule]:
    """The rules of one entry; none if it does not apply here."""
    entry = _object(value, at, _SYSCALL_KEYS)
    action = _action(entry, at, "action", "errnoRet", "errno")
    names = tuple(name for name in _names(entry, at) if name in all_names())
    args = [_arg(arg, f"{at}.args[{index}]") for index, arg in enumerate(_list(entry, "args", at))]
    includes = _holding(entry, "includes", at, circumstances)
    excludes = _holding(entry, "excludes", at, circumstances)
    if not names or not all(includes) or any(excludes):
        return
    if len({arg.index for arg in args}) == len(args):
        yield Rule(names=names, action=action, args=tuple(args))
    else:
        # libseccomp cannot compare one argument twice in one rule; runc makes each comparison a
        # rule of its own then, and profiles are written for that.
        yield from (Rule(names=names, action=action, args=(arg,)) for arg in args)


def _names(entry: Mapping[str, Any], at: str) -> Sequence[str]:
    names = [*_list(entry, "names", at), *([entry["name"]] if entry.get("name") else [])]
    if not names or (entry.get("name") and entry.get("names")):
        raise SpecError(f"{at} names", names, "either names or a name")
    return [_string(name, f"{at}.names") for name in names]


def _arg(value: object, at: str) -> Arg:
    arg = _object(value, at, _ARG_KEYS)
    op = _choice(arg.get("op"), f"{at}.op", _OPS)
    index = _integer(arg.get("index"), f"{at}.index", most=5)
    first = _integer(arg.get("value"), f"{at}.value")
    if op is not Op.MASKED_EQ:
        return Arg(index=index, op=op, value=first)
    # `value` is the mask, `valueTwo` what is compared; libseccomp masks both sides.
    second = _integer(arg.get("valueTwo", 0), f"{at}.valueTwo")
    return Arg(index=index, op=op, value=second & first, mask=first)


def _action(entry: Mapping[str, Any], at: str, key: str, number_key: str, name_key: str) -> Action:
    kind = _choice(entry.get(key), f"{at} {key}", _ACTIONS)
    number, name = entry.get(number_key), entry.get(name_key)
    if kind not in _WITH_ERRNO:
        if number is not None or name:
            raise SpecError(f"{at} {number_key}", number or name, f"{kind.name} takes no errno")
        return Action(kind)
    if number is None and name:
        number = _choice(name, f"{at} {name_key}", {v: k for k, v in errno.errorcode.items()})
    if number is None:
        number = errno.EPERM
    return Action(kind, _integer(number, f"{at} {number_key}", most=4095))


def _check_architectures(profile: Mapping[str, Any], at: str) -> None:
    listed, mapped = _list(profile, "architectures", at), _list(profile, "archMap", at)
    if listed and mapped:
        raise SpecError(f"{at} architectures", listed, "either architectures or archMap")
    for index, value in enumerate(mapped):
        where = f"{at} archMap[{index}]"
        entry = _object(value, where, frozenset(("architecture", "subArchitectures")))
        listed = [*listed, entry.get("architecture"), *_list(entry, "subArchitectures", where)]
    for name in listed:
        _choice(name, f"{at} architectures", dict.fromkeys(_ARCHITECTURES, True))


def _holding(
    entry: Mapping[str, Any], key: str, at: str, circumstances: _Circumstances
) -> list[bool]:
    """What holds here of each thing that `includes` or `excludes` names.

    An entry applies when all of its includes and none of its excludes hold. Of several machines one
    has to be this one.
    """
    where = f"{at}.{key}"
    conditions = _object(entry.get(key) or {}, where, _FILTER_KEYS)
    caps = [_string(cap, f"{where}.caps") for cap in _list(conditions, "caps", where)]
    arches = [_string(arch, f"{where}.arches") for arch in _list(conditions, "arches", where)]
    least = conditions.get("minKernel")
    holding = [cap in circumstances.capabilities for cap in caps]
    if arches:
        holding.append(circumstances.goarch in arches)
    if least:
        holding.append(circumstances.kernel >= _version(least, f"{where}.minKernel"))
    return holding


def _version(value: object, at: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})\.(\d{1,5})", _string(value, at), re.ASCII)
    if not match:
        raise SpecError(at, value, "a kernel version like '4.8'")
    return int(match[1]), int(match[2])


def _object(value: object, at: str, keys: frozenset[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise SpecError(at, value, "an object")
    for key in value:
        if key not in keys:
            raise SpecError(at, key, f"no such key; there are {', '.join(sorted(keys))}")
    return value


def _list(entry: Mapping[str, Any], key: str, at: str) -> Sequence[Any]:
    """The list below `key`; Go writes an empty one as null or leaves it out."""
    value = entry.get(key)
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise SpecError(f"{at} {key}", value, "a list")
    return value


def _string(value: object, at: str) -> str:
    if not isinstance(value, str):
        raise SpecError(at, value, "a string")
    return value


def _integer(value: object, at: str, most: int = 2**64 - 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise SpecError(at, value, f"a number from 0 to {most}")
    return value


def _choice(value: object, at: str, choices: Mapping[str, _T]) -> _T:
    name = _string(value, at)
    if name not in choices:
        raise SpecError(at, name, f"one of {', '.join(sorted(choices))}")
    return choices[name]
