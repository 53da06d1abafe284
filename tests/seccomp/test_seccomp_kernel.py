"""The filter in the kernel: a child process installs it and is held to it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pycontainer.errors import SpecError
from pycontainer.linux.syscalls import AUDIT_ARCH, X32_SYSCALL_BIT, numbers
from pycontainer.plan.seccomp import ALLOW, ERRNO, Arg, Op, Profile, Rule, compile_filter
from pycontainer.plan.seccomp_default import default_profile

MACHINE = os.uname().machine
pytestmark = pytest.mark.skipif(MACHINE not in AUDIT_ARCH, reason=f"no table for {MACHINE}")


def under(
    profile: Profile, cwd: Path | None = None, **task: Any
) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).with_name("under_filter.py")
    task["filter"] = compile_filter(profile, MACHINE).hex()
    return subprocess.run(
        [sys.executable, "-I", str(script)],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=60,
    )


def errno_of(profile: Profile, name: str | int, *args: int) -> int:
    number = name if isinstance(name, int) else numbers(MACHINE)[name]
    done = under(profile, calls=[[number, *args]])
    assert done.returncode == 0, done.stderr
    _, found = json.loads(done.stdout)
    return int(found)


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("getpid", (), 0),
        ("unshare", (0x10000000,), errno.EPERM),
        ("clone3", (0, 0), errno.ENOSYS),
        ("clone", (0x10000011, 0, 0, 0, 0), errno.EPERM),
        ("io_uring_setup", (1, 0), errno.EPERM),
        ("keyctl", (0, 0), errno.EPERM),
        ("socket", (1, 1, 0), 0),
        ("socket", (40, 1, 0), errno.EAFNOSUPPORT),
        ("socket", (38 | 1 << 32, 1, 0), errno.EAFNOSUPPORT),
        ("socket", (2, 10, 0x0300), errno.EAFNOSUPPORT),
        ("socket", (2, 1, 132), errno.EPROTONOSUPPORT),
        ("socket", (16, 3, 0), 0),
        ("socket", (16, 3, 9), errno.EPROTONOSUPPORT),
        ("ioctl", (99, 0x5412, 0), errno.EPERM),
        ("ioctl", (99, 0x1_0000_5412, 0), errno.EPERM),
        ("ioctl", (99, 0x5413, 0), errno.EBADF),
        ("personality", (0xFFFFFFFF,), 0),
        ("personality", (0x40000,), errno.EPERM),
        ("ptrace", (0, 0, 0, 0), errno.EPERM),
    ],
)
def test_the_kernel_holds_a_process_to_the_default_profile(
    name: str, args: tuple[int, ...], expected: int
) -> None:
    assert expected == errno_of(default_profile(), name, *args)


@pytest.mark.parametrize("high", [0, 1 << 32])
def test_without_a_mask_the_high_half_hides_a_command_from_the_filter(high: int) -> None:
    """Why commands are compared under a mask: the kernel does not look at the high half, so a
    filter that compares all 64 bits is walked around."""
    tcgets = 0x5401
    refused = Arg(index=1, op=Op.EQ, value=tcgets)
    rules = (Rule(names=("ioctl",), action=ERRNO(errno.EPERM), args=(refused,)),)
    profile = Profile(default_action=ALLOW, rules=rules)
    wanted = errno.ENOTTY if high else errno.EPERM  # standard error is a pipe here
    assert wanted == errno_of(profile, "ioctl", 2, high | tcgets, 0)


def test_a_number_from_the_future_is_enosys() -> None:
    assert errno_of(Profile(default_action=ALLOW), 600) == errno.ENOSYS


@pytest.mark.skipif(MACHINE != "x86_64", reason="x32 and i386 entries exist on x86_64 only")
def test_an_x32_call_is_enosys() -> None:
    getpid = X32_SYSCALL_BIT | numbers("x86_64")["getpid"]
    assert errno_of(Profile(default_action=ALLOW), getpid) == errno.ENOSYS


@pytest.mark.skipif(MACHINE != "x86_64", reason="x32 and i386 entries exist on x86_64 only")
def test_a_32_bit_call_kills_the_process() -> None:
    getpid_int80 = bytes.fromhex("b814000000cd80c3")  # mov eax, 20; int 0x80; ret
    done = under(Profile(default_action=ALLOW), code=getpid_int80.hex())
    if done.returncode == -signal.SIGSEGV:
        pytest.skip("not live on this kernel: IA32 emulation is off")
    assert done.returncode == -signal.SIGSYS


def _long(count: int) -> Profile:
    """acct is refused for `count` values of its argument."""
    rules = (
        Rule(names=("acct",), action=ERRNO(1), args=(Arg(index=0, op=Op.EQ, value=2**63 + each),))
        for each in range(count)
    )
    return Profile(default_action=ALLOW, rules=tuple(rules))


def test_the_kernel_takes_the_longest_filter_that_the_compiler_makes() -> None:
    with pytest.raises(SpecError, match="filter length"):
        compile_filter(_long(1020), MACHINE)
    assert len(compile_filter(_long(1010), MACHINE)) // 8 > 4040
    assert errno_of(_long(1010), "acct", 2**63 + 1009) == errno.EPERM


PYTHON_PROGRAM = """
import asyncio, multiprocessing, socket, sqlite3, ssl, subprocess, tempfile, threading

thread = threading.Thread(target=print)
thread.start()
thread.join()
subprocess.run(["true"], check=True)
socket.getaddrinfo("localhost", 80)
sqlite3.connect(":memory:").execute("select 1")
tempfile.TemporaryFile().write(b"x")


async def answer(reader, writer):
    writer.write(await reader.read(1))
    writer.close()


async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"x")
    assert await reader.read() == b"x"
    writer.close()
    server.close()
    process = await asyncio.create_subprocess_exec("true")
    assert await process.wait() == 0


asyncio.run(main())
process = multiprocessing.get_context("spawn").Process(target=print)
process.start()
process.join()
assert process.exitcode == 0
"""
GIT_SCRIPT = """
export HOME=$PWD
git init -q r && cd r && echo 1 >f && git add f
git -c user.name=n -c user.email=e commit -qm m
git gc -q
git log --oneline
"""
NODE_PROGRAM = """
const net = require('net');
require('child_process').execSync('true');
require('fs').promises.readFile('/etc/passwd').then(() => {
  const server = net.createServer(peer => peer.end('x')).listen(0, '127.0.0.1', () =>
    net.connect(server.address().port).on('data', () => 0).on('end', () => server.close()));
});
"""
JAVA_PROGRAM = """
public class Main {
  public static void main(String[] args) throws Exception {
    Thread thread = new Thread(() -> System.out.println(Thread.currentThread()));
    thread.start();
    thread.join();
    if (new ProcessBuilder("true").start().waitFor() != 0) throw new Exception();
  }
}
"""
TAR_SCRIPT = "mkdir d; touch d/f; mkfifo d/p; tar cJf a.tar.xz d; tar xf a.tar.xz"
PROGRAMS = {
    "python": [sys.executable, "-c", PYTHON_PROGRAM],
    "bash": ["bash", "-ec", "test $(seq 9 | sort -r | head -1) = 9; cat <(echo y) & wait"],
    "gcc": ["bash", "-ec", "echo 'int main(void){return 0;}' | gcc -x c -o a.out -; ./a.out"],
    "git": ["bash", "-ec", GIT_SCRIPT],
    "node": ["node", "-e", NODE_PROGRAM],
    "java": ["bash", "-ec", f"echo '{JAVA_PROGRAM}' >Main.java; java Main.java"],
    "perl": ["perl", "-e", "system('true') == 0 or die; fork // die; 1 while wait() > 0"],
    "tar": ["bash", "-ec", TAR_SCRIPT],
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_ordinary_programs_run_under_the_default_profile(program: str, tmp_path: Path) -> None:
    if program != "python" and shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    done = under(default_profile(), cwd=tmp_path, argv=PROGRAMS[program])
    assert done.returncode == 0, done.stderr
