"""A program for tests: installs a filter on itself, then makes calls or becomes another program.

Reads {"filter": hex, "calls": [[number, arguments...], ...], "argv": [...], "code": hex} as JSON;
writes [result, errno] of each call as it is made. `code` is machine code, run in the end.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


class SockFprog(ctypes.Structure):
    """`struct sock_fprog` of <linux/filter.h>."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install(program: bytes) -> None:
    fprog = SockFprog(len(program) // 8, program)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(fprog), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")


def call(number: int, *args: int) -> tuple[int, int]:
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *map(ctypes.c_ulong, args))
    return result, ctypes.get_errno()


def run_code(code: bytes) -> None:
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()


def main() -> None:
    task = json.load(sys.stdin)
    install(bytes.fromhex(task["filter"]))
    for each in task.get("calls", ()):
        print(json.dumps(call(*each)), flush=True)
    if "argv" in task:
        os.execvp(task["argv"][0], task["argv"])
    if "code" in task:
        run_code(bytes.fromhex(task["code"]))


if __name__ == "__main__":
    main()
