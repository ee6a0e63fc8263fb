# `make` lists what can be asked for. All of it works from a fresh clone: .venv and the
# native module are made when they are needed, once, from the committed lock files.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The interpreter that .venv is made from, 3.11 or newer.
PYTHON ?= python3
BENCH_ARGS ?=
HOSTILE_CASES ?= 100000
FUZZ_SECONDS ?= 60
CRASH_IMAGES ?= 100000
CRASH_SEED ?= 1
HISTORIES ?= 2000
HISTORY_SEED ?= 1
REPAIR_DAMAGES ?= 2000
MOVES_POOLS ?= 500
DROPIN_POOLS ?= 500
DROPIN_SEED ?= 1
MOVES_SEED ?= 1
REPAIR_SEED ?= 1
KERNEL ?= linux.uml
KERNEL_MODULES ?=
KERNEL_ROUNDS ?= 100
KERNEL_SEED ?= 1

BIN := .venv/bin
# What runs inside the environment; maturin finds the interpreter and zig by it.
IN_VENV := env -u CONDA_PREFIX -u PYTHONHOME VIRTUAL_ENV="$(CURDIR)/.venv" PATH="$(CURDIR)/$(BIN):$$PATH"
# CI builds what is committed; at home a changed Cargo.toml may renew Cargo.lock.
LOCKED := $(if $(CI),--locked)
CARGO := $(IN_VENV) cargo
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	--require-hashes --only-binary :all: -r

# ---- stamps: what is there need not be made again ----

# Enough to build: all that `make demo` fetches.
BUILD_ENV := .venv/.stamp-build
# Enough to test: linters, pytest, readers of our results.
DEV_ENV := .venv/.stamp-dev
# A peer of the engine, for `make bench`.
BENCH_ENV := .venv/.stamp-bench
# The native module, in release mode, beside the Python files of the editable install.
NATIVE := python/thinmeta/_core.abi3.so

$(BUILD_ENV): requirements-build.lock
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	    "thinmeta needs Python 3.11 or newer: make PYTHON=python3.x ...")'
	@echo "making .venv" >&2
	@[ -x $(BIN)/python ] || "$(PYTHON)" -m venv .venv
	@$(PIP_INSTALL) requirements-build.lock
	@# Python 3.11 puts setuptools in, whose .pth file costs every start of the interpreter.
	@$(BIN)/python -m pip uninstall --quiet --yes setuptools 2>/dev/null
	@touch $@

$(DEV_ENV): requirements-dev.lock $(BUILD_ENV)
	@echo "fetching the tools for tests" >&2
	@$(PIP_INSTALL) requirements-dev.lock
	@touch $@

$(BENCH_ENV): requirements-bench.lock $(DEV_ENV)
	@$(PIP_INSTALL) requirements-bench.lock
	@touch $@

$(NATIVE): $(BUILD_ENV) Cargo.toml Cargo.lock pyproject.toml $(shell find src -type f)
	@echo "building the native module (two or three minutes, the first time)" >&2
	@# `--group build`: it would fetch the group `dev` otherwise.
	@out=$$(PIP_QUIET=1 $(IN_VENV) maturin develop --release $(LOCKED) --group build --quiet 2>&1) \
	    || { printf '%s\n' "$$out" >&2; exit 1; }
	@touch $@

# ---- what people ask for ----

.PHONY: help demo demo-live test check test-rust test-python build wheel sdist check-wheel stubs \
	bench peers fuzz hostile crash crash-can-fail repair restore moves dropins histories kernel interleave lock clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(NATIVE) ## list, check, compare and extract from a real pool in examples/
	@$(BIN)/python examples/demo.py

demo-live: $(NATIVE) ## back up, restore and replicate a volume in use, on a pool in a real kernel
	@THINMETA_KERNEL="$(KERNEL)" THINMETA_KERNEL_MODULES="$(KERNEL_MODULES)" \
	    $(BIN)/python examples/demo_live.py

test: ## lints and types, then the Rust tests, then the Python tests
	@$(MAKE) --no-print-directory check
	@$(MAKE) --no-print-directory test-rust
	@$(MAKE) --no-print-directory test-python

check: $(DEV_ENV) $(NATIVE) ## lints and types alone
	@$(CARGO) fmt --check -- --files-with-diff
	@$(CARGO) clippy --quiet $(LOCKED) --all-targets -- -D warnings
	@$(CARGO) clippy --quiet $(LOCKED) --all-targets --features python -- -D warnings
	@$(BIN)/ruff check --quiet --output-format concise
	@$(BIN)/ruff format --quiet --check --output-format concise
	@$(BIN)/mypy --no-error-summary
	@scripts/stubtest

test-rust: ## cargo test (needs no Python)
	@cargo test --quiet $(LOCKED)

test-python: $(DEV_ENV) $(NATIVE) ## pytest, on the editable release build; some tests in a real kernel
	@$(BIN)/python -m pytest --quiet

build: $(NATIVE) ## .venv with thinmeta in it, the native module in release mode

wheel: $(DEV_ENV) ## a portable wheel (manylinux_2_28 or older) in dist/
	@$(IN_VENV) scripts/build-wheel . dist

sdist: $(DEV_ENV) ## the source distribution in dist/
	@$(IN_VENV) scripts/build-sdist dist

check-wheel: $(DEV_ENV) ## wheel and sdist, and what a user of them gets
	@$(IN_VENV) scripts/check-wheel

stubs: $(DEV_ENV) $(NATIVE) ## draft the native module's stub; shows what differs from ours
	@scripts/draft-stub

bench: $(BENCH_ENV) $(NATIVE) ## thinmeta beside its peers (BENCH_ARGS=...)
	@$(BIN)/python benches/run.py $(BENCH_ARGS)

peers: ## fetch the peers that bench and live comparisons use into .peers/
	@benches/build-peers

fuzz: ## fuzz each target for FUZZ_SECONDS (60); long
	@fuzz/run $(FUZZ_SECONDS)

hostile: $(DEV_ENV) $(NATIVE) ## the tests on damaged images with HOSTILE_CASES (100000) cases; long
	@THINMETA_HOSTILE_CASES=$(HOSTILE_CASES) cargo test --release $(LOCKED) --test core hostile -- --nocapture
	@cargo test --release $(LOCKED) --lib delta -- --ignored
	@THINMETA_HOSTILE_CASES=$(HOSTILE_CASES) $(BIN)/python -m pytest -q tests/python/test_damage.py

repair: $(DEV_ENV) $(NATIVE) ## REPAIR_DAMAGES (2000) random damages from REPAIR_SEED (1) on, repaired beside the peers; an hour and a half
	@THINMETA_REPAIR_DAMAGES=$(REPAIR_DAMAGES) THINMETA_REPAIR_SEED=$(REPAIR_SEED) \
	    $(BIN)/python -m pytest -q tests/python/test_repair.py

restore: $(DEV_ENV) $(NATIVE) ## 500 random pools and 20000 damaged listings, restored beside the peers; minutes
	@THINMETA_RESTORE_POOLS=500 THINMETA_RESTORE_DAMAGES=20000 \
	    $(BIN)/python -m pytest -q tests/python/test_restore.py

crash: ## the crash tests with CRASH_IMAGES (100000) images from CRASH_SEED (1) on; a minute or two
	@# Of stores and, as pool::crash::, of pools.
	@THINMETA_CRASH_IMAGES=$(CRASH_IMAGES) THINMETA_CRASH_SEED=$(CRASH_SEED) \
	    cargo test --release $(LOCKED) --test core crash:: -- --nocapture

moves: $(DEV_ENV) $(NATIVE) ## MOVES_POOLS (500) random pools from MOVES_SEED (1) on, shrunk, merged and put right, beside the peers, and runs that are killed; half an hour
	@THINMETA_MOVES_POOLS=$(MOVES_POOLS) THINMETA_MOVES_SEED=$(MOVES_SEED) THINMETA_MOVES_KILLS=100 \
	    $(BIN)/python -m pytest -q tests/python/test_shrink.py tests/python/test_merge.py \
	    tests/python/test_merge_external.py tests/python/test_moves_devices.py \
	    tests/python/test_dropins_shrink.py
	@THINMETA_AUTO_REPAIR_POOLS=$(MOVES_POOLS) THINMETA_AUTO_REPAIR_KILLS=100 \
	    THINMETA_MIGRATE_KILLS=100 $(BIN)/python -m pytest -q tests/python/test_auto_repair.py \
	    tests/python/test_migrate.py tests/python/test_cli_migrate.py

dropins: $(DEV_ENV) $(NATIVE) ## DROPIN_POOLS (500) random pools from DROPIN_SEED (1) on, told of beside both generations of the peers; an hour and a half
	@THINMETA_DROPIN_POOLS=$(DROPIN_POOLS) THINMETA_DROPIN_SEED=$(DROPIN_SEED) THINMETA_ORACLES=require \
	    THINMETA_PACK_POOLS=$(DROPIN_POOLS) $(BIN)/python -m pytest -q \
	    tests/python/test_dropins_peers.py tests/python/test_dropins_packing.py tests/python/test_rmap.py

histories: $(DEV_ENV) $(NATIVE) ## HISTORIES (2000) random histories of pools from HISTORY_SEED (1) on; long
	@THINMETA_HISTORIES=$(HISTORIES) THINMETA_HISTORY_SEED=$(HISTORY_SEED) \
	    $(BIN)/python -m pytest -q tests/python/test_pool_histories.py
	@THINMETA_POOL_HISTORIES=$(HISTORIES) THINMETA_POOL_SEED=$(HISTORY_SEED) \
	    cargo test --release $(LOCKED) --test core pool::random

kernel: $(DEV_ENV) $(NATIVE) ## pools to the real kernel and back, KERNEL_ROUNDS (100) times from KERNEL_SEED (1); minutes
	@THINMETA_KERNEL="$(KERNEL)" THINMETA_KERNEL_MODULES="$(KERNEL_MODULES)" \
	    THINMETA_KERNEL_ROUNDS=$(KERNEL_ROUNDS) THINMETA_KERNEL_SEED=$(KERNEL_SEED) \
	    THINMETA_ORACLES=require $(BIN)/python -m pytest --verbose tests/kernel

interleave: ## the block manager's locks under 24000 interleavings of threads; a minute or two
	@RUSTFLAGS="--cfg shuttle" CARGO_TARGET_DIR=target/shuttle \
	    cargo test $(LOCKED) --lib block::model

crash-can-fail: ## each of several built-in mistakes, and whether the crash tests notice it
	@scripts/crash-can-fail

lock: ## renew requirements-*.lock from pyproject.toml (LOCK_ARGS=--upgrade: newest)
	@PYTHON="$(PYTHON)" scripts/lock $(LOCK_ARGS)

clean: ## remove .venv and everything that was built
	@rm -rf .venv target dist .mypy_cache .ruff_cache .pytest_cache .hypothesis $(NATIVE)
	@find python tests examples benches -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
