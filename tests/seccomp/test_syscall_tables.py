"""The tables of system call numbers."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import pytest

from pycontainer.linux.syscalls import AUDIT_ARCH, all_names, numbers


@pytest.mark.parametrize("machine", sorted(AUDIT_ARCH))
def test_a_table_has_every_number_once_and_ends_at_470(machine: str) -> None:
    table = numbers(machine)
    assert len(table) == len(set(table.values()))
    assert max(table.values()) == 470
    # From 424 on all machines are numbered alike, without gaps.
    assert set(range(424, 471)) <= set(table.values())


def test_the_machines_agree_from_424_on() -> None:
    def late(machine: str) -> dict[str, int]:
        return {name: number for name, number in numbers(machine).items() if number >= 424}

    assert late("x86_64") == late("aarch64")


def test_known_corners() -> None:
    assert numbers("x86_64")["read"] == 0
    assert numbers("aarch64")["io_setup"] == 0
    assert numbers("x86_64")["rseq"] == 334
    assert numbers("aarch64")["kexec_file_load"] == 294
    assert "open" not in numbers("aarch64")
    assert numbers("x86_64")["file_setattr"] == 469
    assert {"open", "renameat", "prlimit64"} <= all_names()


def test_the_numbers_are_those_of_the_kernel_headers() -> None:
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if platform.machine() != "x86_64" or not header.exists():
        pytest.skip(f"{header} is missing (Debian: linux-libc-dev)")
    theirs = {
        name: int(number)
        for name, number in re.findall(r"#define __NR_(\w+) (\d+)", header.read_text())
    }
    # A newer header may end later than the table.
    assert {n: v for n, v in theirs.items() if v <= 470}.items() <= numbers("x86_64").items()
