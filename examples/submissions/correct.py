"""Adds the numbers of its input."""

import sys

print(sum(map(int, sys.stdin.read().split())))
