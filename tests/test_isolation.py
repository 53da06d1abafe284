"""What a container with nothing asked for is cut off from, seen from inside and from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import pycontainer
from pycontainer import Mount, Popen, Tmpfs
from tests import leaks
from tests.inside import own_bases, python, sh
from tests.require import require

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
LINES = "CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp SigBlk Umask Groups Uid Gid".split()
NONE = "0" * 16
CANARY = "canary-6b1f9d-of-the-host"
READ_STATUS = """
import json
print(json.dumps(dict(line.rstrip().split(":", 1) for line in open("/proc/self/status"))))
"""


@pytest.fixture(autouse=True)
def bases_of_this_test() -> Iterator[None]:
    with own_bases():
        yield


@contextmanager
def sleeping(**options: Any) -> Iterator[tuple[Popen, int]]:
    """A container, and the payload's pid as the host sees it."""
    with Popen(["sleep", "1000"], **options) as process:
        try:
            children = leaks.read(f"/proc/{process.pid}/task/{process.pid}/children").split()
            yield process, int(children[0])
        finally:
            process.kill()


def namespaces(pid: int | str) -> dict[str, str]:
    return {name: os.readlink(f"/proc/{pid}/ns/{name}") for name in NAMESPACES}


def test_every_namespace_is_a_new_one() -> None:
    with sleeping() as (_, pid):
        inside, ours = namespaces(pid), namespaces("self")
    shared = {name for name in NAMESPACES if inside[name] == ours[name]}
    assert set() == shared


def test_two_containers_share_no_namespace_and_no_host_id() -> None:
    require("root", os.getuid() == 0, "an ordinary user has one id")
    with sleeping() as (_, first), sleeping() as (_, second):
        assert set() == set(namespaces(first).values()) & set(namespaces(second).values())
        assert os.stat(f"/proc/{first}").st_uid != os.stat(f"/proc/{second}").st_uid


def test_the_hosts_root_is_mapped_in_no_container() -> None:
    require("root", os.getuid() == 0, "an ordinary user cannot map it")
    for options in ({}, {"user": "root"}, {"capabilities": {"SYS_ADMIN"}, "user": 0}):
        with sleeping(**options) as (_, pid):
            for kind in ("uid_map", "gid_map"):
                for line in leaks.read(f"/proc/{pid}/{kind}").splitlines():
                    _, outside, _ = map(int, line.split())
                    assert outside >= 0x7000_0000
            assert os.stat(f"/proc/{pid}").st_uid >= 0x7000_0000


def status(**options: Any) -> dict[str, str]:
    said = python(READ_STATUS, **options)
    return {name: said[name].strip() for name in LINES}


def test_the_payload_has_no_rights_to_lose() -> None:
    said = status()
    assert {NONE} == {said[name] for name in LINES if name.startswith("Cap")}
    assert ("1", "2", NONE) == (said["NoNewPrivs"], said["Seccomp"], said["SigBlk"])
    assert ("0022", "") == (said["Umask"], said["Groups"])
    assert "1000 1000 1000 1000" == " ".join(said["Uid"].split()) == " ".join(said["Gid"].split())


def test_root_inside_has_no_capability_and_cannot_write_proc_sys() -> None:
    said = status(user="root")
    assert "0 0 0 0" == " ".join(said["Uid"].split())
    assert {NONE} == {said[name] for name in LINES if name.startswith("Cap")}
    script = "echo x > /proc/sys/kernel/hostname; echo $?; echo 1 > /proc/sysrq-trigger; echo $?"
    done = pycontainer.run(["sh", "-c", script], capture_output=True, text=True, user="root")
    assert "0" not in done.stdout.split()


def test_securebits_are_set_and_locked() -> None:
    code = "import ctypes, json; print(json.dumps(ctypes.CDLL(None).prctl(27, 0, 0, 0, 0)))"
    assert 0xEF == python(code)
    assert 0xEF & ~0xC0 == python(code, capabilities={"NET_BIND_SERVICE"}, user="root") & ~0xC0


def test_granted_capabilities_are_all_that_there_is() -> None:
    said = status(capabilities={"NET_BIND_SERVICE"})
    assert {f"{1 << 10:016x}"} == {said[name] for name in LINES if name.startswith("Cap")}


def test_ignored_and_blocked_signals_of_the_application_are_not_inherited() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
    try:
        lines = sh("grep -E 'SigBlk|SigIgn' /proc/self/status").split()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGHUP, before)
    assert ["SigBlk:", NONE, "SigIgn:", NONE] == lines


def test_only_the_standard_streams_are_open() -> None:
    readfd, writefd = os.pipe()
    os.set_inheritable(readfd, True)
    try:
        assert "0 1 2 3" == " ".join(sh("ls /proc/self/fd").split())  # 3 is ls's own
    finally:
        os.close(readfd)
        os.close(writefd)


def test_the_environment_is_a_clean_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", CANARY)
    names = {line.partition("=")[0] for line in sh("env").splitlines()}
    assert {"PATH", "HOME", "LANG", "PWD"} == names | {"PWD"}
    assert CANARY not in sh("cat /proc/self/environ")


def test_session_and_process_group_are_the_payloads_own() -> None:
    pid, group, session = python(
        "import json, os; print(json.dumps([os.getpid(), os.getpgrp(), os.getsid(0)]))"
    )
    assert pid == group == session


APPLICATION_WITH_KEY = """
import ctypes, os, sys
import pycontainer
libc = ctypes.CDLL(None, use_errno=True)
add_key = 248 if os.uname().machine == "x86_64" else 217
if libc.syscall(add_key, b"user", sys.argv[1].encode(), b"secret", 6, -3) < 0:
    sys.exit(9)
assert sys.argv[1] in open("/proc/keys").read()
for options in ({"seccomp": "unconfined", "nesting": True}, {}):
    done = pycontainer.run(["cat", "/proc/keys"], capture_output=True, text=True, **options)
    print(done.stdout)
"""


def test_keys_of_the_application_are_not_inherited() -> None:
    """Not even where keyctl is allowed and the list of keys is not masked. (An ordinary user's
    container is the same user to the kernel, which shows a user the names of its keys.)"""
    require("root", os.getuid() == 0, "the container of an ordinary user has the same id")
    done = subprocess.run(
        [sys.executable, "-c", APPLICATION_WITH_KEY, CANARY], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}, check=False,
    )  # fmt: skip
    require("keyrings", done.returncode != 9, "no key can be added")
    assert (0, "") == (done.returncode, done.stderr)
    assert CANARY not in done.stdout


def test_the_place_and_the_name_are_the_containers() -> None:
    assert ["/tmp", "container"] == sh("pwd; hostname 2>/dev/null || uname -n").split()


def test_loopback_is_up_and_the_only_link() -> None:
    assert ["lo"] == [line.split(":")[0].strip() for line in sh(
        "tail -n +3 /proc/net/dev").splitlines()]  # fmt: skip
    code = """
import json, socket
with socket.create_server(("127.0.0.1", 0)) as server:
    with socket.create_connection(server.getsockname(), 5): print(json.dumps(True))
"""
    assert python(code)


def test_the_network_of_the_host_cannot_be_reached() -> None:
    code = """
import json, socket
errors = []
for address in (("192.0.2.1", 80), ("10.0.0.1", 80), ("169.254.169.254", 80)):
    try: socket.create_connection(address, 2)
    except OSError as error: errors.append(error.errno)
print(json.dumps(errors))
"""
    assert [101, 101, 101] == python(code)  # ENETUNREACH


def test_nothing_but_tmp_and_shm_can_be_written() -> None:
    script = """for d in / /usr /etc /dev /proc /sys /run /home /var /root /tmp /dev/shm; do
    (: > $d/new) 2>/dev/null && echo $d; done; true"""
    for user in (1000, "root"):
        assert ["/tmp", "/dev/shm"] == sh(script, user=user).split()


def test_dev_holds_the_harmless_devices_and_nothing_else() -> None:
    expected = "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero"
    assert expected == " ".join(sorted(sh("ls /dev").split()))
    assert ["ptmx"] == sh("ls /dev/pts").split()


def test_what_proc_tells_about_the_host_is_masked() -> None:
    masked = "interrupts keys key-users"
    script = f"cd /proc; for f in {masked}; do [ -e $f ] && head -c 1 $f; done; true"
    assert "" == sh(script)
    script = "cd /proc; for d in acpi scsi pressure asound; do [ -e $d ] && ls -A $d; done; true"
    assert "" == sh(script)


def test_kernel_memory_and_messages_cannot_be_read() -> None:
    # Addresses in kallsyms are zeros to who has no CAP_SYSLOG.
    script = """for f in kcore kmsg slabinfo kpagecount timer_list sysrq-trigger; do
    [ -e /proc/$f ] && head -c 1 /proc/$f 2>/dev/null; done
    grep -v '^0000000000000000' /proc/kallsyms | head -n 1; true"""
    for user in (1000, "root"):
        assert "" == sh(script, user=user)
    done = pycontainer.run(["dmesg"], capture_output=True, text=True)
    assert (0, "") != (done.returncode, done.stdout)
    assert "" == done.stdout


def test_proc_sys_is_read_only_to_root_with_capabilities_too() -> None:
    script = """for f in kernel/hostname kernel/core_pattern vm/overcommit_memory \
net/ipv4/ip_forward user/max_user_namespaces; do
    (echo 1 > /proc/sys/$f) 2>/dev/null && echo $f; done; true"""
    options = {"user": "root", "capabilities": {"SYS_ADMIN", "NET_ADMIN", "DAC_OVERRIDE"}}
    assert "" == sh(script, **options)
    assert "0" == sh("cat /proc/sys/user/max_user_namespaces", **options).strip()


def test_canaries_of_the_host_are_nowhere_to_be_found(tmp_path: Path) -> None:
    require("root", os.getuid() == 0, "the places belong to root")
    planted = []
    try:
        for place in ("/root", "/home", "/var", "/run", "/srv", "/tmp", "/opt", "/dev/shm"):
            path = Path(place, f"{CANARY}-{os.getpid()}")
            path.write_text(CANARY)
            path.chmod(0o644)
            planted.append(path)
        script = f"find / -xdev -name '*{CANARY}*' 2>/dev/null; "
        script += f"find /tmp /dev /run /home /var /root -name '*{CANARY}*' 2>/dev/null; true"
        for user in (1000, "root"):
            assert "" == sh(script, user=user)
    finally:
        for path in planted:
            path.unlink()


def test_no_mount_of_the_old_root_is_left_and_every_mount_is_nosuid() -> None:
    with sleeping(mounts=[Tmpfs("/scratch"), Mount("/usr", "/tmp/usr")]) as (_, pid):
        lines = leaks.read(f"/proc/{pid}/mountinfo").splitlines()
    targets = [line.split()[4] for line in lines]
    assert "/" in targets
    assert [] == [line for line in lines if "nosuid" not in line.split()[5].split(",")]
    others = [t for t in targets if t.startswith(("/proc", "/null", "/empty", "/tree", "/oldroot"))]
    assert [] == [target for target in others if not target.startswith("/proc")]
    devices = [line for line in lines if "nodev" not in line.split()[5].split(",")]
    # A masked file of /proc is the null device.
    assert {"/dev", "/proc"} == {"/" + line.split()[4].split("/")[1] for line in devices}
    assert [] == [line for line in devices if "/proc/" in line and "/null /proc/" not in line]


def test_dot_dot_does_not_lead_out() -> None:
    code = """
import json, os
fd = os.open("/", os.O_RDONLY)
for _ in range(64): os.chdir("..")
here = os.stat("."), os.stat("../../../..", dir_fd=fd), os.stat("/proc/self/root/..")
print(json.dumps([[s.st_dev, s.st_ino] for s in (*here, os.stat("/"))]))
"""
    found = python(code)
    assert found[:-1] == [found[-1]] * 3


REFUSED = """
import ctypes, errno, json, os, fcntl, struct
libc = ctypes.CDLL(None, use_errno=True)
def call(*args):
    ctypes.set_errno(0)
    return errno.errorcode.get(ctypes.get_errno(), "ok") if libc.syscall(*args) < 0 else "ok"
said = {
    "unshare user": call(272, 0x10000000), "unshare mnt": call(272, 0x00020000),
    "mount": call(165, b"none", b"/tmp", b"tmpfs", 0, None), "umount": call(166, b"/proc", 2),
    "pivot_root": call(155, b"/tmp", b"/tmp"), "setns": call(308, 0, 0),
    "clone user": call(56, 0x10000000 | 17, 0, 0, 0, 0), "clone3": call(435, None, 0),
    "keyctl": call(250, 0, -3, 0), "bpf": call(321, 0, None, 0), "ptrace": call(101, 16, 1, 0, 0),
    "io_uring": call(425, 1, None), "userfaultfd": call(323, 0),
    "perf": call(298, None, 0, -1, -1, 0), "fsopen": call(430, b"tmpfs", 0),
    "init_module": call(175, None, 0, b""), "x32": call(0x40000027),
}
leader, follower = os.openpty()
try: fcntl.ioctl(follower, 0x5412, b"x"); said["TIOCSTI"] = "ok"
except OSError as error: said["TIOCSTI"] = errno.errorcode[error.errno]
print(json.dumps(said))
"""


@pytest.mark.parametrize("options", [{}, {"user": "root"}], ids=["user", "root"])
def test_the_calls_that_widen_the_attack_surface_are_refused(options: Any) -> None:
    require("x86-64", os.uname().machine == "x86_64", "the numbers are those of x86-64")
    said = python(REFUSED, **options)
    assert "ENOSYS" == said["clone3"]  # so that libc falls back to clone
    assert {} == {name: what for name, what in said.items() if what == "ok"}


def test_the_kernel_itself_allows_no_user_namespace_inside() -> None:
    """The second belt: without the filter it is the limit that refuses (ENOSPC)."""
    code = """
import ctypes, json
libc = ctypes.CDLL(None, use_errno=True)
print(json.dumps([libc.unshare(0x10000000), ctypes.get_errno()]))
"""
    assert [-1, 28] == python(code, seccomp="unconfined")


def test_the_launcher_and_init_cannot_be_reached_from_inside() -> None:
    script = (
        "ls /proc/1/fd /proc/1/exe /proc/1/root /proc/1/cwd /proc/1/map_files 2>/dev/null; true"
    )
    for options in ({}, {"user": "root"}):
        said = sh(
            f"({script}); readlink /proc/1/exe; cat /proc/1/environ 2>/dev/null; true", **options
        )
        assert "" == said.replace("/proc/1/exe", "").replace("/proc/1/root", "").replace(
            "/proc/1/cwd", "").strip()  # fmt: skip
    done = pycontainer.run(["sh", "-c", "kill -9 1; kill -STOP 1; echo here"], capture_output=True)
    assert (0, b"here\n") == (done.returncode, done.stdout)


def test_the_interpreter_inside_is_the_one_outside() -> None:
    assert list(sys.version_info[:3]) == python(
        "import json, sys; print(json.dumps(list(sys.version_info[:3])))"
    )
