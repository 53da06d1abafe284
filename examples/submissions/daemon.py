"""Answers, and leaves a process behind that wants to live on in a session of its own."""

import os
import sys

print(sum(map(int, sys.stdin.read().split())), flush=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["judge-example-daemon", "3600"])
    os._exit(0)
os.wait()
