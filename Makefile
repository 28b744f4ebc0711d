# One command a purpose; `make help` lists them. Everything works as root, and as a user who may call sudo.
SHELL := /bin/bash
PYTHON_BIN := .venv/bin/python
SUDO := $(if $(filter 0,$(shell id -u)),,sudo --)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-kernel lint lock clean

help:  ## list these commands
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup:  ## install what is missing: Debian packages and .venv
	@scripts/setup.sh

demo: setup  ## set up, then serve a DNN on an emulated cluster that loses a host (about a minute)
	$(SUDO) $(PYTHON_BIN) -m testbed run topologies/quickstart.yaml

test: lint  ## set up, lint, and pass all tests, those on real Mininet hosts too
	scripts/test.sh $(PYTEST_ARGS)

test-kernel: setup  ## pass the tests on another kernel: netem and Open vSwitch in User-Mode Linux (part of test)
	scripts/test.sh --kernel $(PYTEST_ARGS)

lint:  ## check style, types, import layers, shell scripts and the Vagrantfile
	@scripts/setup.sh --lint
	.venv/bin/ruff check --quiet
	.venv/bin/ruff format --check --quiet
	.venv/bin/mypy
	.venv/bin/lint-imports --cache-dir .venv/cache/importlinter
	ruby -c Vagrantfile
	$(if $(shell command -v shellcheck),shellcheck scripts/*.sh .ci/run,@echo 'shellcheck is not installed: shell scripts not checked')

lock:  ## renew requirements.lock from pyproject.toml
	scripts/lock.sh

clean: setup  ## remove what killed runs left on this machine
	$(SUDO) $(PYTHON_BIN) -m testbed clean
