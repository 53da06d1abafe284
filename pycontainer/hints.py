"""What to do about a step that failed: by op and errno, for errnos that mislead."""

from __future__ import annotations

import errno

_SPACE = "the limit in /proc/sys/user/max_*_namespaces or the host's memory is used up"
_USERNS = (
    "this host does not let this user make user namespaces: "
    "run `python -m pycontainer doctor` for the reason and the remedy"
)
HINTS: dict[tuple[str, int], str] = {
    ("clone", errno.EPERM): _USERNS,
    ("clone", errno.ENOSYS): (
        "clone3 is refused to this process by a seccomp filter, or the kernel is older than 5.3: "
        "inside another container, make that with nesting=True (Docker: --security-opt "
        "seccomp=unconfined)"
    ),
    ("clone", errno.EACCES): "this user may not put processes into the container's cgroup",
    ("clone", errno.ENOSPC): _SPACE,
    ("clone", errno.EUSERS): "user namespaces are nested 32 deep already",
    (
        "clone",
        errno.EAGAIN,
    ): "no more processes are allowed here: pids limit, RLIMIT_NPROC or memory",
    (
        "clone",
        errno.EINVAL,
    ): "the kernel lacks one of the namespaces: run `python -m pycontainer doctor`",
    ("clone", errno.ENOMEM): "the kernel has no memory left, or the pid namespace is ending",
    ("mount_new proc", errno.EPERM): (
        "the kernel mounts a procfs only where a whole one is visible: inside another container, "
        "make that with nesting=True (Docker: --security-opt systempaths=unconfined)"
    ),
    ("clone_payload", errno.EAGAIN): "no process is left for the program: pids= counts init too",
    ("write_record", errno.ENOSPC): "the disk of the state directory is full (PYCONTAINER_STATE)",
    ("write_record", errno.EROFS): "name a writable directory in PYCONTAINER_STATE",
    ("write_record", errno.EACCES): "name a directory of this user in PYCONTAINER_STATE",
    ("mount_attach", errno.EINVAL): "a file is mounted over a directory, or the reverse",
    ("mount_attach", errno.ENOENT): "the root has no such directory: make it there",
    (
        "mount_attach",
        errno.ENOTDIR,
    ): "the root has a file where a directory is mounted, or the reverse",
    ("mount_attach", errno.ELOOP): "the root has a symbolic link where a directory is needed",
    ("open_tree", errno.EINVAL): "a single directory of a mount that hides others cannot be shown",
    (
        "write_child_proc",
        errno.EPERM,
    ): "the ids are not this user's to map: see /etc/subuid and newuidmap(1)",
    ("set_seccomp", errno.EINVAL): "this kernel does not know one of the filter's actions",
    ("execute", errno.E2BIG): "arguments and environment together are too large (execve(2))",
}


# Failures that say what this host is, not what went wrong this time.
UNSUPPORTED = {
    ("clone", errno.EPERM), ("clone", errno.ENOSYS), ("clone", errno.EINVAL),
    ("clone", errno.EUSERS), ("mount_new proc", errno.EPERM),
}  # fmt: skip


def is_unsupported(op: str, error: int, fstype: object = None) -> bool:
    """Whether this failure is UnsupportedError: it would be the same every time."""
    return (op, error) in UNSUPPORTED or (f"{op} {fstype}", error) in UNSUPPORTED


def hint(op: str, error: int, fstype: object = None) -> str:
    """A sentence that helps, or nothing."""
    if error in (errno.EMFILE, errno.ENFILE):
        return "too many open files: raise RLIMIT_NOFILE"
    return HINTS.get((op, error), "") or HINTS.get((f"{op} {fstype}", error), "")
