# Everything here needs Python 3.11+ and a Rust toolchain (https://rustup.rs), nothing else: each target makes .venv and
# installs into it what it uses. `make PYTHON=python3.12 demo` picks the interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUST_SOURCES := Cargo.toml Cargo.lock $(shell find rust -name fuzz -prune -o '(' -name '*.rs' -o -name Cargo.toml ')' -print)
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

HOST = $(shell rustc -vV | sed -n 's/^host: //p' | tr a-z- A-Z_)
# On Linux zig links against the glibc of manylinux2014, whichever this machine has.
ZIG = $(if $(filter Linux,$(shell uname -s)),--zig --compatibility manylinux2014 $(if $(TARGET),,--target $(shell uname -m)-unknown-linux-gnu))
FUZZ_TARGETS := manifest segment_table sampler_state tensordict_meta

# One target for so many seconds: new inputs go to corpus/, which git ignores; seeds/ are read, too.
define fuzz-one
mkdir -p rust/core/fuzz/corpus/$(1)
cd rust/core && RUSTC_BOOTSTRAP=1 cargo fuzz run $(1) fuzz/corpus/$(1) $(patsubst rust/core/%,%,$(wildcard rust/core/fuzz/seeds/$(1))) \
	-- -max_total_time=$(2) -max_len=4096 -timeout=10 -print_final_stats=1 -verbosity=0

endef

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-rust test-python test-first-half test-second-half test-oldest test-faults kill-loop kill-collecting soak memcheck fuzz fuzz-archive \
	fuzz-quick lint format bench bench-gate build docs wheel clean distclean

help: ## Show the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.native ## Simulate an expert, archive, store, sample, clone and compare: under a minute once installed.
	$(BIN)/iltools demo

# Both take about as long, `make -j2 test` runs them beside each other: faults are in the second.
FIRST_HALF := $(addprefix tests/,data demo jax lerobot recipes sources tracking trajopt)

test: test-python test-rust ## Run every test.

test-rust: ## Run the tests of the Rust core.
	MAKEFLAGS= cargo test --workspace --quiet

test-python: test-first-half test-second-half ## Run the Python tests; those that need an extra or data that is absent say so.

test-first-half: $(VENV)/.dev $(VENV)/.native
	$(BIN)/python -m pytest $(FIRST_HALF)

test-second-half: $(VENV)/.dev $(VENV)/.native
	$(BIN)/python -m pytest -p no:cacheprovider $(addprefix --ignore=,$(FIRST_HALF))

test-oldest: | $(BIN)/maturin ## Run every test with the oldest versions that are allowed (.ci/oldest.txt), in .venv-oldest.
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check -c .ci/oldest.txt 'maturin>=1.9.4,<2'
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check -c .ci/oldest.txt --no-build-isolation \
		--editable '.[torch,cli,view,data,hdf5]' fsspec gymnasium hypothesis joblib omegaconf pytest pytest-timeout scipy
	.venv-oldest/bin/python -m pytest $(TESTS)

test-faults: $(VENV)/.dev $(VENV)/.native ## The fault table, row by row, with the outcome.
	PYTHONPATH=tests/faults $(BIN)/python -m pytest tests -p fault_table -m faults -q

kill-loop: $(VENV)/.dev $(VENV)/.native ## Kill 1,000 builds (KILLS=...) and look at what each left.
	PYTHONPATH=tests/support $(BIN)/python tests/faults/kill_loop.py --kills $(or $(KILLS),1000)

kill-collecting: $(VENV)/.dev $(VENV)/.native ## Kill 1,000 collectors (KILLS=...) and look at what each left.
	PYTHONPATH=tests/support:tests/faults $(BIN)/python tests/faults/kill_collecting.py --kills $(or $(KILLS),1000)

soak: $(VENV)/.dev $(VENV)/.native ## Draw 10^6 batches (BATCHES=...) with bounds on memory, descriptors and threads.
	PYTHONPATH=tests/support $(BIN)/python tests/faults/soak.py --batches $(or $(BATCHES),1000000)

memcheck: ## Run the tests of the kernels, maps and output memory under valgrind; needs valgrind.
	CARGO_TARGET_$(HOST)_RUNNER='valgrind -q --error-exitcode=9 --fair-sched=yes' PROPTEST_CASES=16 \
		cargo test --package iltools-core --quiet -- --test-threads=1

fuzz: ## Fuzz manifest, segment table, sampler state and TensorDict metadata, SECONDS_EACH=1200; needs cargo-fuzz, no nightly toolchain.
	$(foreach target,$(FUZZ_TARGETS),$(call fuzz-one,$(target),$(or $(SECONDS_EACH),1200)))

fuzz-archive: $(VENV)/.dev $(VENV)/.native ## Damaged and hostile archives and codecs, EXAMPLES=20000 of each kind.
	ILTOOLS_FUZZ_EXAMPLES=$(or $(EXAMPLES),20000) $(BIN)/python -m pytest tests/archive/test_codec_fuzz.py -q --timeout 0

fuzz-quick: ## The native targets for 20 seconds each, and 1,000 archives and codecs of each kind.
	$(foreach target,$(FUZZ_TARGETS),$(call fuzz-one,$(target),20))
	$(MAKE) fuzz-archive EXAMPLES=1000

lint: $(VENV)/.dev $(VENV)/.native ## Check format, lints, who imports whom, types, and the stubs of the native module against the module.
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest iltools_datasets._core
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings

format: $(VENV)/.dev ## Format the code and fix what can be fixed by itself.
	$(BIN)/ruff format
	$(BIN)/ruff check --fix
	cargo fmt --all

bench: $(VENV)/.dev $(VENV)/.native ## Compare every operation with its usual alternative; BENCH='--quick' is shorter.
	$(BIN)/python -m pytest -c benches/pytest.ini --rootdir . benches $(BENCH)

bench-gate: $(VENV)/.dev $(VENV)/.native ## The quick benchmarks; fails where even the best round is under 70 % of its target.
	$(BIN)/python -m pytest -c benches/pytest.ini --rootdir . benches --quick --gate --benchmark-disable

build: $(VENV)/.native ## Install the package into .venv, editable, with an optimised native module.

docs: $(VENV)/.docs ## Build the site with the reference into site/; a dead link or an unknown name fails it.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

wheel: $(VENV)/.wheel ## Build the wheel into dist/ and audit it; TARGET=aarch64-unknown-linux-gnu builds that of another machine.
	rm -rf dist
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/maturin build --release --locked --out dist $(ZIG) $(if $(TARGET),--target $(TARGET))
	$(BIN)/python .ci/check_wheel.py dist/*.whl

clean: ## Remove what was built; .venv stays.
	rm -rf dist build site target .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -f $(VENV)/.native python/iltools_datasets/_core*.so
	find python tests benches examples -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## Remove .venv, too.
	rm -rf $(VENV) .venv-oldest

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)

$(BIN)/maturin: | $(BIN)/python
	@command -v cargo > /dev/null || { echo "no Rust toolchain: see https://rustup.rs"; exit 1; }
	$(INSTALL) 'maturin>=1.9.4,<2'

$(VENV)/.wheel: .ci/wheel.txt | $(BIN)/maturin
	$(INSTALL) -r $<
	@touch $@

# The torch and command line extras: what the demo uses.
$(VENV)/.runtime: pyproject.toml | $(BIN)/maturin
	@echo "installing the package with torch and the command line; the first time this downloads a lot"
	$(INSTALL) --no-build-isolation --editable '.[torch,cli]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/maturin
	@echo "installing the package with everything its tests use; the first time this downloads a lot"
	$(INSTALL) --no-build-isolation --editable '.[dev]'
	@touch $@ $(VENV)/.runtime

$(VENV)/.docs: pyproject.toml | $(BIN)/maturin
	$(INSTALL) --no-build-isolation --editable '.[docs]'
	@touch $@

# The package is installed editable, so a rebuilt native module only has to lie beside its Python files.
$(VENV)/.native: $(RUST_SOURCES) $(if $(wildcard $(VENV)/.dev),$(VENV)/.dev,$(VENV)/.runtime)
	$(BIN)/maturin develop --release --skip-install --quiet
	@touch $@
