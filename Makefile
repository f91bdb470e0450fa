# The front door for every chore. Needs Python >= 3.10 (with venv) and make; everything else is installed into environments here.
# Each environment has a stamp file that is older than pyproject.toml when the dependencies may have changed.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && { echo $$p; break; }; done)
PIP_FLAGS ?= --quiet --disable-pip-version-check
# Two tests at once: most of their time is waiting for processes, servers and slow lines. On a quiet machine -n 3 is quicker.
TEST_FLAGS ?= -n 2
# CI asks for torch and frameworks too, whose wheels are large: with torch, `torch.save` is among the writers that the tests try; with
# frameworks, the integrations are tested.
EXTRAS ?= test,lint
BENCH_FLAGS ?=
FAULTS_FLAGS ?=
MINUTES ?= 5

.DEFAULT_GOAL := help
.PHONY: help demo test azurite lint bench scale faults soak docs docs-check clean

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' Makefile

demo: .venv-demo/stamp ## Asynchronous saves, a crash in the middle, the retry that resumes (local datastore, no server)
	.venv-demo/bin/python examples/counter/demo.py

test: .venv/stamp azurite ## Run every test (those on Azure need npm)
	.venv/bin/python -m pytest $(TEST_FLAGS)

# Before the tests, whose time is limited: npm takes a minute for it, once.
azurite: .venv/stamp
	@if command -v npm >/dev/null; then .venv/bin/python -c "from tests.environments import node_package; node_package('azurite')"; \
	else echo "npm is missing: the tests on Azure will fail." >&2; fi

lint: .venv/stamp ## Style, strict types, and the layers of the design
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: .venv-bench/stamp .venv-peer/stamp ## Compare save() with metaflow-checkpoint's, alternating, on S3 and local (about 15 minutes)
	.venv-bench/bin/python benchmarks/save_against_peer.py --peer-python .venv-peer/bin/python $(BENCH_FLAGS)

bench-all: .venv-bench/stamp .venv-peer/stamp ## Every other benchmark, one after the other, with the plots (about an hour)
	.venv-bench/bin/python benchmarks/upload.py --peer-python .venv-peer/bin/python
	.venv-bench/bin/python benchmarks/restore.py --peer-python .venv-peer/bin/python
	.venv-bench/bin/python benchmarks/training.py --peer-python .venv-peer/bin/python
	.venv-bench/bin/python benchmarks/overhead.py --peer-python .venv-peer/bin/python
	.venv-bench/bin/python benchmarks/scaling.py --plots docs/plots --peer-python .venv-peer/bin/python

scale: .venv-bench/stamp ## Simulate thousands of tasks, and write the tables and plots of docs/scale.md (a minute)
	.venv-bench/bin/python benchmarks/scale_sim.py --write-docs

faults: .venv/stamp ## Let something go wrong at every step of the engine, and print what survived (about an hour)
	.venv/bin/python -m ckpt_async.testing.faults $(FAULTS_FLAGS)

soak: .venv/stamp ## Kill tasks and sidecars at random moments for MINUTES (5), on S3 and local disk
	.venv/bin/python -m ckpt_async.testing.soak --minutes $(MINUTES)

docs-check: .venv/stamp ## Check the links, commands and code blocks of the documentation
	.venv/bin/python tools/check_docs.py

docs: .venv-docs/stamp ## Build the documentation's site in build/site; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

clean: ## Remove the environments, caches and build products
	rm -rf .venv .venv-demo .venv-bench .venv-peer .venv-docs .venv-tests build dist src/*.egg-info *.egg-info .pytest_cache .mypy_cache .ruff_cache \
		.import_linter_cache .hypothesis
	find src metaflow_extensions tests examples benchmarks tools -name __pycache__ -type d -prune -exec rm -rf {} +

define fresh_venv
	@test -n "$(PYTHON)" || { echo "No Python >= 3.10 was found. Name one: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install $(PIP_FLAGS) "pip>=22.3"
endef

.venv/stamp: pyproject.toml
	$(fresh_venv)
	$(@D)/bin/python -m pip install $(PIP_FLAGS) -e '.[$(EXTRAS)]'
	@touch $@

.venv-demo/stamp: pyproject.toml
	$(fresh_venv)
	$(@D)/bin/python -m pip install $(PIP_FLAGS) -e .
	@touch $@

.venv-bench/stamp: pyproject.toml
	$(fresh_venv)
	$(@D)/bin/python -m pip install $(PIP_FLAGS) -e '.[bench]'
	@touch $@

.venv-docs/stamp: pyproject.toml
	$(fresh_venv)
	$(@D)/bin/python -m pip install $(PIP_FLAGS) -e '.[docs]'
	@touch $@

# An environment of its own: both packages define @checkpoint, and the last one loaded wins.
.venv-peer/stamp: pyproject.toml
	$(fresh_venv)
	$(@D)/bin/python -m pip install $(PIP_FLAGS) metaflow metaflow-checkpoint numpy psutil
	@touch $@
