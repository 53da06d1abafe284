"""The default seccomp profile: which system calls a container may make.

An allow list. What is not on it fails with EPERM, or with ENOSYS or a protocol's own errno where
programs have an older way that they take on just that answer. A payload has no capabilities and a
user namespace of its own, so the kernel refuses it most of what is left out here anyway; the filter
is there for the kernel's mistakes: what it never reaches, it cannot exploit.

Left out, and why (compared with Docker's profile, moby/profiles seccomp 0.2.3, which allows those
marked *):
- namespaces and mounts: `unshare setns clone(CLONE_NEW*) mount umount2 pivot_root chroot` and the
  mount API by descriptor. A new user namespace gives capabilities, and with them netfilter,
  overlayfs and file systems to attack (CVE-2022-0185, CVE-2023-0386, CVE-2024-1086).
- io_uring: its operations do not pass any seccomp filter.
- what reaches into other processes: `ptrace process_vm_*`* `kcmp pidfd_getfd process_madvise
  process_mrelease*`.
- interpreters in the kernel and big surfaces: `bpf perf_event_open userfaultfd`, keyrings (they are
  not namespaced), fanotify*, NUMA placement, `vmsplice`* (lends pages to pipes, CVE-2020-29374),
  `remap_file_pages`*, `modify_ldt`* (CVE-2017-17053), `memfd_secret`* (nobody else can look at it).
- file handles: `name_to_handle_at`* `open_by_handle_at` go around every mount (CVE-2014-3519).
- the machine: modules, kexec, reboot, swap, quota, accounting, `syslog`, ports, clocks and
  `adjtimex`*.
- calls that Linux has given up or never had (`uselib sysfs ustat nfsservctl _sysctl …`).
- `statmount listmount`* `file_getattr file_setattr`: ENOSYS until programs need them;
  `/proc/self/mountinfo` and the older ioctls say the same.
- sockets other than AF_UNIX, AF_INET, AF_INET6 and AF_NETLINK/NETLINK_ROUTE*, and protocols other
  than TCP, UDP and ICMP*: making such a socket makes the kernel load a module (SCTP, DCCP, TIPC …),
  and AF_VSOCK reaches the hypervisor from any network namespace.
- the ioctls TIOCSTI* and TIOCLINUX*: they type into the terminal that a container was started from
  (CVE-2017-5226, CVE-2023-28100).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from functools import lru_cache

from pycontainer.plan.seccomp import ALLOW, ERRNO, LOW32, Arg, Op, Profile, Rule

_EPERM = ERRNO(errno.EPERM)
_ENOSYS = ERRNO(errno.ENOSYS)
_NO_FAMILY = ERRNO(errno.EAFNOSUPPORT)
_NO_PROTOCOL = ERRNO(errno.EPROTONOSUPPORT)

_FILES = """
access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat
faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync
fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd
getdents getdents64 getxattr getxattrat lchown lgetxattr link linkat listxattr listxattrat
llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat mknod mknodat newfstatat open openat
openat2 pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink
readlinkat readv removexattr removexattrat rename renameat renameat2 rmdir sendfile setxattr
setxattrat splice stat statfs statx symlink symlinkat sync sync_file_range syncfs tee truncate
umask unlink unlinkat utime utimensat utimes write writev
"""

_EVENTS = """
epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2
inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents
io_pgetevents io_setup io_submit poll ppoll pselect6 select signalfd signalfd4
"""

_MEMORY = """
brk cachestat madvise map_shadow_stack membarrier memfd_create mincore mlock mlock2 mlockall mmap
mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect
"""

# `uretprobe` and `uprobe` come from the kernel's own trampoline, when the host traces a program
# with probes: refusing them kills the program (x86_64; since 6.14 the kernel excepts `uretprobe`).
_PROCESSES = """
arch_prctl capget capset execve execveat exit exit_group fork futex futex_requeue futex_wait
futex_waitv futex_wake get_robust_list getcpu getegid geteuid getgid getgroups getpgid getpgrp
getpid getppid getpriority getresgid getresuid getrlimit getrusage getsid gettid getuid ioprio_get
ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self pause pidfd_open
pidfd_send_signal prctl prlimit64 restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask
rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo
sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam
sched_setscheduler sched_yield seccomp set_robust_list set_tid_address setfsgid setfsuid setgid
setgroups setpgid setpriority setregid setresgid setresuid setreuid setrlimit setsid setuid
sigaltstack tgkill tkill uprobe uretprobe vfork wait4 waitid
"""

_SOCKETS_AND_IPC = """
accept accept4 bind connect getpeername getsockname getsockopt listen mq_getsetattr mq_notify
mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd recvfrom recvmmsg
recvmsg semctl semget semop semtimedop sendmmsg sendmsg sendto setsockopt shmat shmctl shmdt
shmget shutdown
"""

_TIME_AND_SYSTEM = """
alarm clock_getres clock_gettime clock_nanosleep getitimer getrandom gettimeofday nanosleep
setitimer sysinfo time timer_create timer_delete timer_getoverrun timer_gettime timer_settime
timerfd_create timerfd_gettime timerfd_settime times uname
"""

_ABSENT = "statmount listmount file_getattr file_setattr"

_MOUNTS = """
mount umount2 pivot_root open_tree open_tree_attr move_mount fsopen fsconfig fsmount fspick
mount_setattr
"""

# A capability counts in the container's own user namespace. Those that only the host's can use
# (modules, clocks, BPF, ports, file handles) open nothing.
_BY_CAPABILITY = {
    "CAP_SYS_ADMIN": f"{_MOUNTS} sethostname setdomainname",
    "CAP_SYS_BOOT": "reboot",  # in a pid namespace it ends that namespace's init (reboot(2))
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_PTRACE": "ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd process_madvise",
}
_PTRACE = "ptrace process_vm_readv process_vm_writev"
_NESTING = f"{_MOUNTS} unshare setns clone clone3 chroot sethostname setdomainname"

# CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}. CLONE_NEWTIME (0x80) is part of the exit signal here:
# only unshare and clone3 know it.
_CLONE_NAMESPACES = 0x7E020000
_KEYCTL_JOIN_SESSION_KEYRING = 1
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
# PER_LINUX, PER_LINUX32, each also with UNAME26, and the question what it is now (personality(2)).
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_NETLINK_ROUTE = 0
_SOCK_PACKET, _SOCK_TYPE_MASK = 10, 0xF
# IPPROTO_IP (the type's own), ICMP, TCP, UDP, ICMPV6, RAW. Go falls back from MPTCP to TCP.
_INET_PROTOCOLS = (0, 1, 6, 17, 58, 255)


@lru_cache(maxsize=64)
def default_profile(
    *,
    capabilities: frozenset[str] = frozenset(),
    nesting: bool = False,
    ptrace: bool = False,
) -> Profile:
    """The default allow list, for every machine with a table.

    `capabilities` are those the payload keeps (`CAP_SYS_CHROOT`), each opens the calls that need
    it; `nesting` lets the payload make containers of its own: namespaces, mounts and clone3, whose
    flags a filter cannot see; `ptrace` lets it debug its own processes.
    """
    allowed = set(" ".join(_UNCONDITIONAL).split())
    for capability in sorted(capabilities & _BY_CAPABILITY.keys()):
        allowed.update(_BY_CAPABILITY[capability].split())
    if nesting:
        allowed.update(_NESTING.split())
    if ptrace:
        allowed.update(_PTRACE.split())
    rules = [Rule(names=tuple(sorted(allowed)), action=ALLOW)]
    rules += [Rule(names=tuple(_ABSENT.split()), action=_ENOSYS)]
    rules += _nesting() if nesting else _no_namespaces()
    rules += [*_ioctl(), *_personality(), *_socket()]
    return Profile(default_action=_EPERM, rules=tuple(rules))


_UNCONDITIONAL = (_FILES, _EVENTS, _MEMORY, _PROCESSES, _SOCKETS_AND_IPC, _TIME_AND_SYSTEM)


def _int(index: int, op: Op, value: int, mask: int = LOW32) -> Arg:
    """A condition on an `int`: of its register the kernel looks at the low half only."""
    return Arg(index=index, op=op, value=value, mask=mask)


def _no_namespaces() -> Iterator[Rule]:
    """clone without namespaces. The flags of clone3 lie in memory, out of a filter's sight; on
    ENOSYS every libc takes clone."""
    without_namespaces = _int(0, Op.MASKED_EQ, 0, mask=_CLONE_NAMESPACES)
    yield Rule(names=("clone",), action=ALLOW, args=(without_namespaces,))
    yield Rule(names=("clone3",), action=_ENOSYS)


def _nesting() -> Iterator[Rule]:
    """A container begins with a session keyring of its own; nothing else of keyctl."""
    join = _int(0, Op.EQ, _KEYCTL_JOIN_SESSION_KEYRING)
    yield Rule(names=("keyctl",), action=ALLOW, args=(join,))


def _ioctl() -> Iterator[Rule]:
    others = (_int(1, Op.NE, _TIOCSTI), _int(1, Op.NE, _TIOCLINUX))
    yield Rule(names=("ioctl",), action=ALLOW, args=others)


def _personality() -> Iterator[Rule]:
    for value in _PERSONALITIES:
        yield Rule(names=("personality",), action=ALLOW, args=(_int(0, Op.EQ, value),))


def _socket() -> Iterator[Rule]:
    """Families and protocols are refused as by a kernel that is built without them: programs know
    that answer (libaudit, and with it su and useradd, goes on without audit)."""
    unix = _int(0, Op.EQ, _AF_UNIX)
    yield Rule(names=("socket", "socketpair"), action=ALLOW, args=(unix,))
    yield Rule(names=("socketpair",), action=_NO_FAMILY, args=(_int(0, Op.NE, _AF_UNIX),))
    families = (_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK)
    others = tuple(_int(0, Op.NE, family) for family in families)
    yield Rule(names=("socket",), action=_NO_FAMILY, args=others)
    # AF_INET with this type is AF_PACKET by its old name (__sock_create, net/socket.c).
    packet = (_int(0, Op.EQ, _AF_INET), _int(1, Op.EQ, _SOCK_PACKET, mask=_SOCK_TYPE_MASK))
    yield Rule(names=("socket",), action=_NO_FAMILY, args=packet)
    inet = (_int(0, Op.EQ, _AF_INET), _int(1, Op.NE, _SOCK_PACKET, mask=_SOCK_TYPE_MASK))
    yield from _protocols(inet, _INET_PROTOCOLS)
    yield from _protocols((_int(0, Op.EQ, _AF_INET6),), _INET_PROTOCOLS)
    yield from _protocols((_int(0, Op.EQ, _AF_NETLINK),), (_NETLINK_ROUTE,))


def _protocols(of_family: tuple[Arg, ...], protocols: tuple[int, ...]) -> Iterator[Rule]:
    for protocol in protocols:
        args = (*of_family, _int(2, Op.EQ, protocol))
        yield Rule(names=("socket",), action=ALLOW, args=args)
    others = tuple(_int(2, Op.NE, protocol) for protocol in protocols)
    yield Rule(names=("socket",), action=_NO_PROTOCOL, args=(*of_family, *others))
