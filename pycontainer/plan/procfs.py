"""The container's own /proc: what it tells of the host is masked, what changes things is sealed."""

from __future__ import annotations

from collections.abc import Iterator

from pycontainer.plan.rootfs import NODEV, NOEXEC, NOSUID, attach
from pycontainer.plan.steps import Step, step
from pycontainer.spec import Spec

# Docker masks and seals more: where container root could be host root. Here the host's uid 0 is
# mapped in no container, so kcore, kmsg, kpage*, slabinfo, timer_list and sysrq-trigger, which are
# root's alone, are closed by their own permissions, as are bus, fs and irq. What is left is what
# the kernel shows to everybody. Each mask is a mount, and costs 8 us.
MASKED_FILES = ("interrupts", "keys", "key-users", "latency_stats", "sched_debug")
MASKED_DIRECTORIES = ("acpi", "asound", "pressure", "scsi")
SEALED = ("sys",)  # root inside may write what belongs to its namespaces


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
    yield step("write_proc", proc="own_proc", path="sys/user/max_user_namespaces", content=b"0")
    for name in MASKED_FILES:
        yield step("mask_proc", proc="own_proc", path=name, source="/null")
    for name in MASKED_DIRECTORIES:
        yield step("mask_proc", proc="own_proc", path=name, source="/empty")
    for name in SEALED:
        yield step("seal_proc", proc="own_proc", path=name)
