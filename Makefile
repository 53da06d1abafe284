# `make demo` shows the project at work, `make test` proves it. Both set up what they need.

SHELL := /bin/bash
C_CORE := $(wildcard csrc/*)
BUILD := $(C_CORE) pyproject.toml setup.cfg setup.py

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check packages lane-root lane-unprivileged format clean

help:
	@echo 'make demo               build, then run examples/01_judge.py'
	@echo 'make test               everything below'
	@echo 'make check              format, lint, types, floors'
	@echo 'make packages           the wheel and the sdist in clean environments'
	@echo 'make lane-root          the tests as root (lane R)'
	@echo 'make lane-unprivileged  the tests as an ordinary user (lane U)'
	@echo 'make format             rewrite the Python files as make check wants them'

demo: .venv/built
	.venv/bin/python examples/01_judge.py

test:
	tests/lanes/all

check: .venv/tested
	tests/lanes/check

packages: .venv/tested
	tests/lanes/packages

lane-root: .venv/tested
	tests/lanes/root

lane-unprivileged: .venv/tested
	tests/lanes/unprivileged

format: .venv/tested
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

# Two stamps: the demo downloads no test tools and does not turn warnings into errors.
.venv/built: $(BUILD)
	tests/lanes/setup
	touch .venv/built

.venv/tested: $(BUILD) tests/lanes/setup
	PYCONTAINER_TEST_BUILD=1 tests/lanes/setup dev
	touch .venv/tested .venv/built

clean:
	rm -rf .venv build dist *.egg-info
	rm -f pycontainer/_launcher pycontainer/_launcher_faults pycontainer/*.so pycontainer/linux/ops.def
