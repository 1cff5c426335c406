# Every verb is thin: what it runs can be run by hand. `make` alone lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK_FLAGS ?=

# Commands of the host, not packages: setup/host-packages knows which package has them.
AGENT_COMMANDS := venv qemu-system-x86_64 qemu-img ssh ssh-keygen mmdebstrap mke2fs newuidmap fakeroot
VAGRANT_COMMANDS := vagrant vagrant-libvirt ruby libvirtd virsh dnsmasq rsync
TEST_COMMANDS := $(AGENT_COMMANDS) $(VAGRANT_COMMANDS) packer debugfs git shellcheck sshd wine64

# What is installed is stamped, so that a second call has nothing to do.
INSTALLED := $(VENV)/installed
INSTALLED_DEV := $(VENV)/installed-dev
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
LOCKED := --require-hashes --only-binary :all:
COMPILE := $(BIN)/uv pip compile pyproject.toml --no-config --quiet --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock'
# Side by side; what shares machines stays in one process (group_of in tests/conftest.py).
# Each process imports all tests, so Python keeps what it compiled, whatever the environment says.
FAST_TESTS := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses 2 --ignore tests/real \
	-m 'not real and not soak'
REAL := BUILD_ORCHESTRATOR_REQUIRE_REAL=1 $(BIN)/python -m pytest
REAL_TESTS := $(REAL) --numprocesses 2 --dist loadscope --no-loadscope-reorder -m 'real and not soak and not alone'
LONE_TESTS := $(REAL) -m 'alone and not soak'

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup agent test test-fast test-real soak lint format types schema lock bench doctor clean
.PHONY: agent-commands test-commands lint-commands

help: ## List the verbs
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

setup: test-commands $(INSTALLED_DEV) ## Install everything that agent and test need: system packages, .venv

agent: agent-commands $(INSTALLED) ## Build the agent for debian_bookworm in a clean virtual machine
	$(BIN)/build up debian_bookworm_qemu

test: test-commands lint types ## Run all that this host can run, and say what it could not
	BUILD_ORCHESTRATOR_REQUIRE_REAL=1 $(FAST_TESTS)
	$(REAL_TESTS)
	$(LONE_TESTS)

test-fast: $(INSTALLED_DEV) ## Run what needs no machine: seconds
	$(FAST_TESTS)

test-real: test-commands $(INSTALLED_DEV) ## Run only what boots machines or starts servers
	$(REAL_TESTS)
	$(LONE_TESTS)

soak: test-commands $(INSTALLED_DEV) ## Run what takes too long for `make test`: kills, races, builds again
	$(REAL) -m soak

lint: lint-commands $(INSTALLED_DEV) ## Check style: ruff, and shellcheck for every shell script
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/vermin --quiet --no-tips --no-parse-comments --violations --target=3.8- build_orchestrator/agent
	git grep -lE '^#!/bin/(ba)?sh|^#!/usr/bin/env (ba)?sh' -- ':!*.py' ':!*.md' | xargs shellcheck -x

format: $(INSTALLED_DEV) ## Put the code into the one format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(INSTALLED_DEV) ## Check types: mypy, strict
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.10 build_orchestrator/agent

schema: $(INSTALLED) ## Write what is generated: schema and reference pages, vagrant/Vagrantfile, packer/
	$(BIN)/python -m build_orchestrator.configuration.schema >docs/reference/targets.schema.json
	$(BIN)/python -m build_orchestrator.configuration.reference >docs/reference/targets-yaml.md
	$(BIN)/python -m build_orchestrator.cli.reference >docs/reference/commands.md
	$(BIN)/build render --write

lock: $(INSTALLED_DEV) ## Write the lock files again (all newest: LOCK_FLAGS=--upgrade)
	$(COMPILE) $(LOCK_FLAGS) --group install --output-file requirements.lock
	$(COMPILE) $(LOCK_FLAGS) --group install --group dev --constraint requirements.lock \
		--output-file requirements-dev.lock

bench: test-commands $(INSTALLED_DEV) ## Measure our own cost against the bare commands
	$(BIN)/python -m benchmarks.overhead

doctor: $(INSTALLED) ## Say what this host lacks, and how to get it
	$(BIN)/build doctor

clean: ## Remove what setup and the checks made; runs/, dist/ and the image cache stay
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find build_orchestrator tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

agent-commands:
	@PYTHON='$(PYTHON)' setup/host-packages $(AGENT_COMMANDS)

test-commands:
	@PYTHON='$(PYTHON)' setup/host-packages $(TEST_COMMANDS)

lint-commands:
	@PYTHON='$(PYTHON)' setup/host-packages venv git shellcheck

$(INSTALLED): requirements.lock pyproject.toml
	@PYTHON='$(PYTHON)' setup/host-packages venv
	@echo 'Installing what requirements.lock names into $(VENV)'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(PIP_INSTALL) $(LOCKED) -r requirements.lock
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(INSTALLED_DEV): requirements-dev.lock $(INSTALLED)
	@echo 'Installing what requirements-dev.lock names into $(VENV)'
	@$(PIP_INSTALL) $(LOCKED) -r requirements-dev.lock
	@touch $@
