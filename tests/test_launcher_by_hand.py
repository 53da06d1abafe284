"""The launcher on plan files that nobody would write: it says EINVAL, and never crashes or hangs.

Each plan runs as an ordinary user (nobody, when the tests are root) in user, mount, pid, network
and ipc namespaces of its own that map no id, with nothing to execute: whatever a mutated plan asks
for, it has no right to it on the host.
"""

from __future__ import annotations

import ctypes
import os
import random
import resource
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pycontainer.linux import native
from pycontainer.plan.credentials import Identity
from pycontainer.plan.encode import HEADER, STEP, complete, encode
from pycontainer.plan.recipe import Process, Resources, compile_plan
from pycontainer.plan.rootfs import BaseSpec, compile_base, map_content
from pycontainer.plan.steps import op_table
from pycontainer.spec import Spec
from pycontainer.thishost import this_host
from tests.require import require

EXAMPLES = int(os.environ.get("PYCONTAINER_TEST_PLANS", "300"))
NOBODY = 65534
CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT}
SECONDS = 5
SANDBOX = (
    native.CLONE_NEWUSER | native.CLONE_NEWNS | native.CLONE_NEWPID | native.CLONE_NEWNET
    | native.CLONE_NEWIPC
)  # fmt: skip
FINE, CRASHED, HUNG, NO_SANDBOX = 0, 1, 2, 3
WORDS = (0, 1, 2, 3, 255, 511, 512, 2**31 - 1, 2**31, 2**32 - 8, 2**32 - 1, 2**62, 2**63, 2**64 - 1)


def plans() -> Iterator[bytes]:
    """Sound plans of every mode that an ordinary user may run, with nothing to execute."""
    host = this_host()
    ids = map_content(0, NOBODY, 1)
    holes = {"uid_map": ids, "gid_map": ids}
    base = encode(compile_base(BaseSpec(user_namespace=True), host))
    yield bytes(complete(base, holes=holes))
    process = Process(identity=Identity(uid=0, gid=0, ranged=False), pass_fds=(7, 9))
    resources = Resources(base_user=True)
    yield bytes(complete(encode(compile_plan(Spec(), host, process, resources)), holes=holes))


def become_nobody() -> None:
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: its /proc files are its own
    for limit, most in (("CPU", 5), ("FSIZE", 1 << 20), ("NPROC", 200), ("CORE", 0)):
        resource.setrlimit(getattr(resource, f"RLIMIT_{limit}"), (most, most))


def exec_launcher(launcherfd: int, planfd: int) -> None:
    """Become the launcher: 3 control, 4 plan, 5 proc, 6 manager."""
    null = os.open("/dev/null", os.O_RDWR)
    procfd = os.open("/proc", os.O_PATH)
    high = [os.dup2(fd, 100 + i) for i, fd in enumerate((null, planfd, procfd, null, launcherfd))]
    os.closerange(3, 100)
    for i, fd in enumerate(high[:4]):
        os.dup2(fd, 3 + i)
    os.set_inheritable(high[4], False)
    os.execve(high[4], ["launcher"], {})


def first_process(launcherfd: int, planfd: int) -> int:
    """PID 1 of the sandbox: starts the launcher, reaps all that it leaves, and judges."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mount(b"proc", b"/proc", b"proc", 14, None)  # its own, where the kernel lets it
    if os.fork() == 0:
        try:
            exec_launcher(launcherfd, planfd)
        finally:
            os._exit(99)
    outcome = FINE
    while True:
        try:
            _, status = os.wait()
        except ChildProcessError:
            return outcome
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) in CRASHES:
            outcome = CRASHED


def in_sandbox(launcherfd: int, planfd: int) -> int:
    """What the intermediate process does: give up all rights, make the sandbox, wait for it."""
    become_nobody()
    try:
        native.unshare(SANDBOX)
    except OSError:
        return NO_SANDBOX
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(first_process(launcherfd, planfd))
        finally:
            os._exit(NO_SANDBOX)
    pidfd = native.pidfd_open(pid)
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if not poll.poll(SECONDS * 1000):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return HUNG
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture(scope="module", name="launcherfd")
def launcherfd_fixture() -> Iterator[int]:
    fd = native.sealed_memfd("launcher", native.launcher_path().read_bytes(), executable=True)
    yield fd
    os.close(fd)


def outcome(launcherfd: int, plan: bytes) -> int:
    planfd = native.sealed_memfd("plan", plan)
    try:
        pid = os.fork()
        if pid == 0:
            try:
                os._exit(in_sandbox(launcherfd, planfd))
            finally:
                os._exit(NO_SANDBOX)
        said = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.close(planfd)
    require("userns", said != NO_SANDBOX, "an ordinary user cannot make a sandbox here")
    return said


def findings(launcherfd: int, named: Iterator[tuple[str, bytes]]) -> list[str]:
    names = {CRASHED: "crashed", HUNG: "hung"}
    found = []
    for name, plan in named:
        said = outcome(launcherfd, plan)
        if said != FINE:
            found.append(f"{name}: {names.get(said, said)}")
    return found


def test_sound_plans_end_well(launcherfd: int) -> None:
    assert [] == findings(launcherfd, ((str(i), plan) for i, plan in enumerate(plans())))


def test_random_bytes_are_no_plan(launcherfd: int) -> None:
    chance = random.Random(1)
    lengths = (0, 1, 7, HEADER.size - 1, HEADER.size, HEADER.size + 1, 4095, 4096, 4097)
    assert [] == findings(launcherfd, ((f"{n} bytes", chance.randbytes(n)) for n in lengths))


def test_a_plan_that_is_cut_short_is_none(launcherfd: int) -> None:
    def cut() -> Iterator[tuple[str, bytes]]:
        for i, plan in enumerate(plans()):
            for length in range(0, len(plan), len(plan) // 12):
                yield f"plan {i} cut to {length}", plan[:length]
                fitting = bytearray(plan[:length])
                if length > 8:
                    struct.pack_into("<I", fitting, 4, length)  # and says so itself
                    fitting[-1] = 0
                    yield f"plan {i} fitted to {length}", bytes(fitting)

    assert [] == findings(launcherfd, cut())


def mutated(plan: bytes, chance: random.Random) -> bytes:
    """One to four changes: a byte, a word of the header, an op or an operand."""
    content = bytearray(plan)
    (count,) = struct.unpack_from("<I", content, 8)
    for _ in range(chance.randint(1, 4)):
        kind = chance.randrange(4)
        at = HEADER.size + STEP.size * chance.randrange(count)
        if kind == 0:
            content[chance.randrange(8, len(content) - 1)] = chance.randrange(256)
        elif kind == 1:  # not the size: it would only be refused
            struct.pack_into("<I", content, 4 * chance.randrange(2, HEADER.size // 4),
                             chance.choice(WORDS) & 0xFFFFFFFF)  # fmt: skip
        elif kind == 2:
            struct.pack_into("<I", content, at, chance.randrange(len(op_table()) + 2))
        else:
            struct.pack_into("<Q", content, at + 8 + 8 * chance.randrange(6), chance.choice(WORDS))
    return bytes(content)


def test_a_mutated_plan_is_refused_or_fails_in_a_step(launcherfd: int) -> None:
    def mutations() -> Iterator[tuple[str, bytes]]:
        sound = list(plans())
        for seed in range(EXAMPLES):
            chance = random.Random(seed)
            yield f"seed {seed}", mutated(chance.choice(sound), chance)

    assert [] == findings(launcherfd, mutations())


def by_hand(op: str, *operands: int, tail: bytes = b"\0" * 64, size: int = 0) -> bytes:
    """A plan of one step, outside, and what its operands point at; `size` fills it up."""
    number, _ = op_table()[op]
    step = STEP.pack(number, 0, *operands, *[0] * (6 - len(operands)))
    program = HEADER.size + STEP.size
    content = bytearray(bytes(HEADER.size) + step + bytes(64) + tail)
    content += b"\0" * (size - len(content))
    if tail[-1:] != b"\0":
        content = content[: size or len(content)]
    header = (0x31435950, len(content), 1, 1, 1, 1, 1, 0, 0x10000000, 4)
    HEADER.pack_into(content, 0, *header, 2**32 - 1, 2**32 - 1, 0, 0, 0, 1, program, -1, 0)
    return bytes(content)


END = HEADER.size + STEP.size + 64


@pytest.mark.parametrize(
    ("op", "operands"),
    [
        ("place_descriptors", (2**40, 0, END, 8)),
        ("place_descriptors", (2**64 - 1, 1, END, 8)),
        ("place_descriptors", (1, 511, END, 0)),
        ("setgroups", (END, 2**63)),
        ("write_proc", (2, END, END, 2**64 - 8)),
        ("set_hostname", (END, 2**64 - 1)),
        ("make_file", (3, END, 0, END + 64, 2**64 - 1)),
        ("write_child_proc", (2, END, END, 8)),
        ("limit_capabilities", (2**64 - 1, 2**64 - 1, 2**64 - 1)),
    ],
)
def test_operands_at_the_edge_are_an_error_and_no_crash(
    op: str, operands: tuple[int, ...], launcherfd: int
) -> None:
    assert FINE == outcome(launcherfd, by_hand(op, *operands))


def test_options_that_end_with_the_plan_are_not_read_past_it(launcherfd: int) -> None:
    """The plan fills its pages exactly: one byte further nothing is mapped."""
    fstype = b"tmpfs\0"
    size = 4096
    options = b"size=4k\0"
    room = size - END - len(options)
    tail = fstype + b"\0" * (room - len(fstype)) + options
    plan = by_hand("mount_new", 3, END, 0, size - len(options), tail=tail)
    assert size == len(plan)
    assert FINE == outcome(launcherfd, plan)


def test_a_program_beyond_the_plan_is_refused(launcherfd: int) -> None:
    for program in (2**32 - 8, 2**32 - 16, 2**32 - 24, 2**31):
        plan = bytearray(by_hand("execute"))
        struct.pack_into("<I", plan, HEADER.size - 12, program)
        assert FINE == outcome(launcherfd, bytes(plan))


def test_the_launcher_is_read_only_to_those_who_use_it() -> None:
    assert 0 == Path(native.launcher_path()).stat().st_mode & 0o022
