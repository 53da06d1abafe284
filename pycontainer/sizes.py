"""Amounts as callers write them: bytes as ints or `"256M"` (powers of 1,024), seconds as floats."""

from __future__ import annotations

import math
import re

from pycontainer.errors import SpecError

_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_SIZE = re.compile(r"(\d{1,18})(?:\.(\d{1,9}))?\s?([KMGT]?)(?:iB|B)?", re.ASCII)
_LARGEST = 1 << 60
_ALLOWED_SIZE = 'a number of bytes, or a text such as "256M" or "1.5G" (powers of 1,024), or "max"'
_ALLOWED_SECONDS = "a positive number of seconds"


def parse_size(field: str, value: object, *, smallest: int = 1) -> int | float:
    """Bytes from an int or a text; `"max"` (the kernel's word) and inf are `math.inf`.

    Raises SpecError naming `field`.
    """
    if value == "max" or value == math.inf:
        return math.inf
    if isinstance(value, str):
        value = _bytes_of_text(field, value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise SpecError(field, value, _ALLOWED_SIZE)
    if not smallest <= value <= _LARGEST:
        raise SpecError(field, value, f"{smallest} to {_LARGEST} bytes")
    return int(value)


def _bytes_of_text(field: str, text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise SpecError(field, text, _ALLOWED_SIZE)
    whole, fraction, unit = match.groups()
    shift = _UNITS[unit]
    if fraction and not shift:
        raise SpecError(field, text, "a whole number of bytes")
    part = (int(fraction) << shift) // 10 ** len(fraction) if fraction else 0
    return (int(whole) << shift) + part


def parse_count(field: str, value: object, *, smallest: int, largest: int) -> int | float:
    """A whole number within bounds; `"max"` is `math.inf`. Raises SpecError naming `field`."""
    if value == "max" or value == math.inf:
        return math.inf
    if isinstance(value, bool) or not isinstance(value, int):
        raise SpecError(field, value, f'a whole number from {smallest} to {largest}, or "max"')
    if not smallest <= value <= largest:
        raise SpecError(field, value, f"{smallest} to {largest}")
    return int(value)


def parse_seconds(field: str, value: object) -> float:
    """Seconds as a float greater than zero. Raises SpecError naming `field`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SpecError(field, value, _ALLOWED_SECONDS)
    if not 0 < value < 1e9:
        raise SpecError(field, value, _ALLOWED_SECONDS + ", below 10^9")
    return float(value)


def show_size(size: int | float) -> str:
    """A size in the largest unit that divides it: `show_size(1 << 28) == "256M"`."""
    if size == math.inf:
        return "max"
    for unit, shift in reversed(_UNITS.items()):
        if size and not int(size) % (1 << shift):
            return f"{int(size) >> shift}{unit}"
    return str(int(size))
