"""Text to standard output and error, where they may be closed or gone."""

from __future__ import annotations

import os
import sys

from pycontainer.plan.explain import printable

# As Docker's: what no program returns by itself.
OWN_ERROR = 125


def put(text: str) -> None:
    """Print a text. A reader that has left ends this program quietly, as it ends others."""
    try:
        # What the locale cannot express is escaped, not an error.
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        safe = text.encode(encoding, "backslashreplace").decode(encoding)
        print(safe, flush=True)
    except BrokenPipeError:
        # The interpreter would try to flush once more at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def complain(text: str) -> None:
    """One line on standard error; control characters are escaped."""
    if sys.stderr is not None:
        print(f"pycontainer: {printable(text)}", file=sys.stderr)  # it escapes by itself
