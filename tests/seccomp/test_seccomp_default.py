"""The default profile: what it lets through, and that the rest does not get through sideways."""

from __future__ import annotations

import errno

import pytest

from pycontainer.linux.syscalls import AUDIT_ARCH, all_names, numbers
from pycontainer.plan.seccomp import ALLOW, ERRNO, Action, Profile, compile_filter
from pycontainer.plan.seccomp_default import default_profile
from tests.seccomp.allowed import allowed, reviewed
from tests.seccomp.bpf import Call, decode, run

MACHINES = sorted(AUDIT_ARCH)
EPERM, ENOSYS = ERRNO(errno.EPERM), ERRNO(errno.ENOSYS)
NO_FAMILY, NO_PROTOCOL = ERRNO(errno.EAFNOSUPPORT), ERRNO(errno.EPROTONOSUPPORT)
HIGH = 0xDEADBEEF << 32  # what a caller may leave in the half that the kernel does not look at
EDGES = (0, 1, 2, 8, 16, 0x5412, 0x20000, 0x7E020000, 2**32 - 1, 2**63, 2**64 - 1)

CLONE_NEW = {
    "NS": 0x00020000,
    "CGROUP": 0x02000000,
    "UTS": 0x04000000,
    "IPC": 0x08000000,
    "USER": 0x10000000,
    "PID": 0x20000000,
    "NET": 0x40000000,
}
# What glibc's pthread_create and fork hand to clone.
THREAD, FORK = 0x003D0F00, 0x01200011

MOUNTS = (
    *("mount", "umount2", "pivot_root", "open_tree", "open_tree_attr", "move_mount", "fsopen"),
    *("fsconfig", "fsmount", "fspick", "mount_setattr"),
)
REFUSED = (
    *MOUNTS,
    *("unshare", "setns", "chroot", "sethostname", "setdomainname"),
    *("io_uring_setup", "io_uring_enter", "io_uring_register"),
    *("add_key", "request_key", "keyctl", "bpf", "perf_event_open", "userfaultfd", "vmsplice"),
    *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "pidfd_getfd"),
    *("name_to_handle_at", "open_by_handle_at", "memfd_secret", "syslog", "fanotify_init"),
    *("modify_ldt", "iopl", "ioperm", "uselib", "sysfs", "ustat", "_sysctl", "nfsservctl"),
    *("reboot", "swapon", "swapoff", "kexec_load", "kexec_file_load", "acct", "vhangup"),
    *("init_module", "finit_module", "delete_module", "create_module", "quotactl", "quotactl_fd"),
    *("settimeofday", "clock_settime", "adjtimex", "clock_adjtime", "lookup_dcookie"),
    *("mbind", "set_mempolicy", "migrate_pages", "move_pages", "listns", "lsm_set_self_attr"),
)


def decision(profile: Profile, name: str, *args: int, machine: str = "x86_64") -> int:
    program = decode(compile_filter(profile, machine))
    padded = (*args, *(0,) * (6 - len(args)))
    return run(program, Call(AUDIT_ARCH[machine], numbers(machine)[name], padded))


def assert_decides(action: Action, profile: Profile, name: str, *args: int) -> None:
    for machine in MACHINES:
        if name in numbers(machine):
            assert action.value == decision(profile, name, *args, machine=machine), (name, args)


@pytest.mark.parametrize("machine", MACHINES)
def test_the_allowed_set_is_the_reviewed_one(machine: str) -> None:
    assert reviewed(machine) == allowed(default_profile(), machine)


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_lets_nothing_through_that_the_reviewed_file_does_not_name(
    machine: str,
) -> None:
    program = decode(compile_filter(default_profile(), machine))
    let_through = {
        name
        for name, number in numbers(machine).items()
        for edge in EDGES
        if run(program, Call(AUDIT_ARCH[machine], number, (edge,) * 6)) == ALLOW.value
    }
    assert {line.split()[0] for line in reviewed(machine)} == let_through


def test_every_name_in_the_lists_is_a_system_call_of_some_machine() -> None:
    everything = default_profile(nesting=True, ptrace=True)
    assert {name for rule in everything.rules for name in rule.names} <= all_names()


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_business_in_a_container_is_refused(name: str) -> None:
    for edge in EDGES:
        assert_decides(EPERM, default_profile(), name, *(edge,) * 6)


@pytest.mark.parametrize("flag", CLONE_NEW.values(), ids=CLONE_NEW)
def test_clone_makes_no_namespace(flag: int) -> None:
    for flags in (flag, flag | FORK, flag | THREAD, flag | HIGH):
        assert_decides(EPERM, default_profile(), "clone", flags)


@pytest.mark.parametrize("flags", [THREAD, FORK, 0, 0x4111, FORK | HIGH])
def test_clone_makes_threads_and_processes(flags: int) -> None:
    assert_decides(ALLOW, default_profile(), "clone", flags)


def test_clone3_is_absent_so_that_libc_takes_clone() -> None:
    assert_decides(ENOSYS, default_profile(), "clone3", 0x7F0000000000, 88)


@pytest.mark.parametrize("high", [0, 1 << 32, HIGH])
def test_terminal_injection_is_refused_whatever_the_high_half_says(high: int) -> None:
    assert_decides(EPERM, default_profile(), "ioctl", 0, high | 0x5412)
    assert_decides(EPERM, default_profile(), "ioctl", 0, high | 0x541C)
    assert_decides(ALLOW, default_profile(), "ioctl", 0, high | 0x5401)


def test_personality_only_asks_or_takes_a_harmless_one() -> None:
    for persona in range(2**12):
        wanted = ALLOW if persona in (0, 8) else EPERM
        assert_decides(wanted, default_profile(), "personality", persona)
    for persona in (0x20000, 0x20008, 0xFFFFFFFF, HIGH | 0xFFFFFFFF, 2**64 - 1):
        assert_decides(ALLOW, default_profile(), "personality", persona)
    for persona in (0x40000, 0x0400000, 0x0100000, HIGH | 0x40000):
        assert_decides(EPERM, default_profile(), "personality", persona)


@pytest.mark.parametrize("high", [0, HIGH])
def test_only_four_socket_families_exist(high: int) -> None:
    for family in range(256):
        wanted = ALLOW if family in (1, 2, 10, 16) else NO_FAMILY
        assert_decides(wanted, default_profile(), "socket", high | family, 0x80001, 0)
        pair = ALLOW if family == 1 else NO_FAMILY
        assert_decides(pair, default_profile(), "socketpair", high | family, 1, 0)


def test_only_tcp_udp_icmp_and_route_netlink_are_protocols() -> None:
    for protocol in range(512):
        inet = ALLOW if protocol in (0, 1, 6, 17, 58, 255) else NO_PROTOCOL
        netlink = ALLOW if protocol == 0 else NO_PROTOCOL
        for kind in (1, 2, 3, 0x80802):
            assert_decides(inet, default_profile(), "socket", 2, kind, protocol)
            assert_decides(inet, default_profile(), "socket", 10, kind, HIGH | protocol)
            assert_decides(netlink, default_profile(), "socket", 16, kind, protocol)


def test_packet_sockets_do_not_come_in_by_their_old_name() -> None:
    """`socket(AF_INET, SOCK_PACKET)` makes an AF_PACKET socket (`__sock_create`, net/socket.c)."""
    for kind in (10, 10 | 0x80000, 10 | 0x800, HIGH | 10):
        for protocol in (0, 6, 0x0300):
            assert_decides(NO_FAMILY, default_profile(), "socket", 2, kind, protocol)


def test_nesting_opens_namespaces_and_mounts_and_nothing_else() -> None:
    usual, nested = default_profile(), default_profile(nesting=True)
    opened = {
        name
        for name in numbers("x86_64")
        if decision(nested, name) == ALLOW.value != decision(usual, name)
    }
    others = ("unshare", "setns", "clone3", "chroot", "sethostname", "setdomainname")
    assert {*MOUNTS, *others} == opened
    assert_decides(ALLOW, nested, "clone", CLONE_NEW["USER"] | FORK)
    assert_decides(ALLOW, nested, "keyctl", 1)
    assert_decides(EPERM, nested, "keyctl", 0)


def test_ptrace_opens_debugging_and_nothing_else() -> None:
    usual, debugging = default_profile(), default_profile(ptrace=True)
    opened = {
        name for name in numbers("x86_64") if decision(debugging, name) != decision(usual, name)
    }
    assert {"ptrace", "process_vm_readv", "process_vm_writev"} == opened


@pytest.mark.parametrize(
    ("capability", "opened"),
    [
        ("CAP_SYS_ADMIN", {*MOUNTS, "sethostname", "setdomainname"}),
        ("CAP_SYS_CHROOT", {"chroot"}),
        ("CAP_SYS_BOOT", {"reboot"}),
        ("CAP_SYS_MODULE", set()),
        ("CAP_NET_RAW", set()),
    ],
)
def test_a_capability_opens_the_calls_that_need_it(capability: str, opened: set[str]) -> None:
    profile = default_profile(capabilities=frozenset({capability}))
    changed = {
        name
        for name in numbers("x86_64")
        if decision(profile, name) != decision(default_profile(), name)
    }
    assert opened == changed
