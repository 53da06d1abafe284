"""The container's own /proc: what it tells about the host is masked, what changes things is sealed."""

from __future__ import annotations

from collections.abc import Iterator

from pycontainer.plan.rootfs import NODEV, NOEXEC, NOSUID, attach
from pycontainer.plan.steps import Step, step
from pycontainer.spec import Spec

# Precedent: Docker masks and seals these; pressure, kpage* and kmsg are added (K08).
MASKED_FILES = (
    "interrupts", "kcore", "keys", "key-users", "kmsg", "kpagecgroup", "kpagecount", "kpageflags",
    "latency_stats", "sched_debug", "slabinfo", "sysrq-trigger", "timer_list", "timer_stats",
    "vmallocinfo",
)  # fmt: skip
MASKED_DIRECTORIES = ("acpi", "asound", "pressure", "scsi")
SEALED = ("bus", "fs", "irq", "sys")


def add_steps(spec: Spec) -> Iterator[Step]:
    """Mount it, write what is to be written, then mask and seal."""
    yield step(
        "mount_new", result="own_proc", fstype="proc", attributes=NOSUID | NODEV | NOEXEC,
        options="\0",
    )  # fmt: skip
    yield attach("own_proc", "root", "proc")
    if spec.nesting:
        return  # a nested container can mount a procfs only where it sees a whole one
    # The second belt behind the seccomp filter: most kernel exploits of the last years begin in a
    # user namespace of their own (K13).
    yield step(
        "write_proc", proc="own_proc", path="sys/user/max_user_namespaces", content=b"0"
    )
    for name in MASKED_FILES:
        yield step("mask_proc", proc="own_proc", path=name, source="/null")
    for name in MASKED_DIRECTORIES:
        yield step("mask_proc", proc="own_proc", path=name, source="/empty")
    for name in SEALED:
        yield step("seal_proc", proc="own_proc", path=name)
