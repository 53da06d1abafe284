"""The block device that holds a file, as the controllers want it: the whole disk's number."""

from __future__ import annotations

import os
import stat

from pycontainer.errors import SpecError, UnsupportedError

_REMEDY = "name a block device, or a file on a file system that lies on one"


def number_of(path: str) -> str:
    """ "MAJOR:MINOR" of the disk below `path`: a block device, or a file or directory on one.

    Raises SpecError where nothing is there, UnsupportedError where no block device is below.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise SpecError("io.device", path, f"a path that exists ({error.strerror})") from error
    device = status.st_rdev if stat.S_ISBLK(status.st_mode) else status.st_dev
    return _whole_disk(f"{os.major(device)}:{os.minor(device)}", path)


def _whole_disk(number: str, path: str) -> str:
    # Limits are the request queue's, and a partition has none of its own: EINVAL or ENODEV.
    entry = f"/sys/dev/block/{number}"
    if not os.path.exists(entry):
        # overlay, tmpfs, btrfs, network: a number without a device (major 0), or no /sys here.
        raise UnsupportedError("io", f"{path} is on no block device of its own", _REMEDY)
    if not os.path.exists(f"{entry}/partition"):
        return number
    with open(f"{os.path.realpath(entry)}/../dev", encoding="ascii") as disk:
        return disk.read().strip()
