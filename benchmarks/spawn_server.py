"""Starts argvs with posix_spawn, one JSON list a line, and answers each with its exit status.

For peers.py: for what has to be started from somewhere else than the benchmark's own namespaces.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    for line in sys.stdin:
        argv = json.loads(line)
        pid = os.posix_spawn(argv[0], argv, dict(os.environ))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


main()
