"""Fails on an empty input."""

import sys

first, *others = map(int, sys.stdin.read().split())
print(first + sum(others))
