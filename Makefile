# `make` lists the targets. Every target makes what it needs, from nothing but Python 3.10 or
# newer, a C compiler and the package registries.
#   PYTHON=python3.12   the interpreter for the virtual environment (.venv)
#   ARGS="-k ring -x"   more arguments for pytest
#   WORKERS=3           pytest's processes: more than cores, for many tests wait
#   REQUESTS=200        how many test-vllm sends in each of its runs; RUN="counts exact" are some
#                       of them, VLLM_FLAGS="--no-enable-prefix-caching" more for the servers
#   MODE=counts         or windows or exact: what bench-vllm measures, for MINUTES=15 at most
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:

PYTHON ?= python3
WORKERS ?= 3
ARGS ?=

VENV := .venv
WHEEL_VENV := build/wheel-venv
VLLM_VENV := build/vllm-venv
VLLM_VERSION := 0.32.0
REQUESTS ?= 200
RUN ?=
VLLM_FLAGS ?=
MODE ?= counts
MINUTES ?= 15
PARTS := core client collectors cost profiles agent simulator doors
CHECKED := $(wildcard $(PARTS) alerts dashboards tests benchmarks examples)
# Folders too: their time changes when a file is removed.
SOURCES := $(shell find $(PARTS) -not -path '*/__pycache__*' 2>/dev/null)
SCRIPTS := $(wildcard packaging/*.sh) .ci/run
VERSION := $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml)
WHEEL := dist/apportion-$(VERSION)-py3-none-any.whl
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --no-input -qq

# Programs unpacked from Debian's packages (packaging/install-debian.sh).
export PATH := $(CURDIR)/build/debian/usr/bin:$(PATH)

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: packages $(VENV)/.stamp-dev $(VENV)/.stamp-torch ## A real trainer and server, and what they cost (DEMO_SECONDS=60, KEEP=1 stays up)
	$(VENV)/bin/python examples/demo.py

.PHONY: test
test: packages $(WHEEL_VENV)/.stamp $(VENV)/.stamp-torch build/trainers/.stamp ## Build the wheel and test it (ARGS="-k ring")
	APPORTION_TEST_WHEEL=1 APPORTION_WHEEL=$(CURDIR)/$(WHEEL) \
	    $(WHEEL_VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

.PHONY: test-vllm
test-vllm: vllm ## A real vLLM, gigabytes of it, in each of its ways beside what it answers (RUN="counts exact")
	$(VENV)/bin/python -m tests.real_vllm $(VLLM_VENV)/bin/python --requests $(REQUESTS) \
	    $(if $(RUN),--only $(RUN)) -- $(VLLM_FLAGS)

.PHONY: bench-vllm
bench-vllm: vllm ## What it costs a real vLLM in throughput (MODE=counts MINUTES=15)
	$(VENV)/bin/python -m tests.real_vllm.overhead $(VLLM_VENV)/bin/python --mode $(MODE) \
	    --minutes $(MINUTES)

.PHONY: vllm
vllm: $(WHEEL) $(VENV)/.stamp-dev $(VLLM_VENV)/.stamp
	$(VLLM_VENV)/bin/python -m pip install --quiet --no-deps --no-index --force-reinstall $(WHEEL)

.PHONY: check
check: lint type layers docs-check ## Everything that can be said without running it: lint, type, layers, docs in step

.PHONY: bench
bench: $(VENV)/.stamp-dev $(VENV)/.stamp-torch ## Measure, beside the peers; writes benchmarks/results
	@packaging/install-debian.sh packaging/debian-packages-bench.txt
	$(VENV)/bin/python -m benchmarks

.PHONY: eval
eval: $(VENV)/.stamp-dev ## Every method's error and conservation, against benchmarks/baseline.json
	$(VENV)/bin/python -m benchmarks.evaluation

.PHONY: eval-update
eval-update: $(VENV)/.stamp-dev ## Accept today's figures as the baseline; look at the difference
	$(VENV)/bin/python -m benchmarks.evaluation --update

.PHONY: fmt
fmt: $(VENV)/.stamp-locked ## Format, and fix what can be fixed
	$(VENV)/bin/ruff check --fix-only --quiet .
	$(VENV)/bin/ruff format .

.PHONY: lint
lint: $(VENV)/.stamp-locked ## ruff, shellcheck, hadolint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/shellcheck $(SCRIPTS)
	$(VENV)/bin/hadolint Dockerfile

.PHONY: type
type: $(VENV)/.stamp-dev $(VENV)/.stamp-torch ## mypy --strict and pyright
	$(VENV)/bin/mypy $(CHECKED)
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python $(CHECKED)

.PHONY: layers
layers: $(VENV)/.stamp-dev ## The parts' imports, by import-linter
	$(VENV)/bin/lint-imports --no-cache

.PHONY: docs
docs: $(VENV)/.stamp-dev ## Write the generated pages (docs/metrics.md)
	$(VENV)/bin/python -m apportion.agent.metrics.docs docs/metrics.md

.PHONY: docs-check
docs-check: $(VENV)/.stamp-dev
	$(VENV)/bin/python -m apportion.agent.metrics.docs --check docs/metrics.md
	$(VENV)/bin/python -m alerts --check
	@if $(VENV)/bin/python -c 'import grafana_foundation_sdk' 2>/dev/null; \
	then $(VENV)/bin/python -m dashboards --check; \
	else echo "make: dashboards are not checked: Grafana's SDK wants Python 3.11" >&2; fi

.PHONY: alerts
alerts: $(VENV)/.stamp-dev ## Write the rules, their tests and the runbook from alerts/source
	$(VENV)/bin/python -m alerts

.PHONY: dashboards
dashboards: $(VENV)/.stamp-dev ## Write Grafana's dashboards and their page from dashboards/*.py (Python 3.11)
	$(VENV)/bin/python -m dashboards

.PHONY: wheel
wheel: $(WHEEL) ## Build the sdist, and the wheel from it

.PHONY: image
image: ## Build the agent's image with docker, podman or buildah (BASE=, IMAGE_FLAGS=)
	packaging/build-image.sh

.PHONY: dev
dev: $(VENV)/.stamp-dev ## The editable install in .venv, for developers

.PHONY: lock
lock: ## Pin the requirements again (UPGRADE=1 takes the newest)
	PYTHON=$(PYTHON) packaging/lock.sh $(if $(UPGRADE),--upgrade)

.PHONY: clean
clean: ## Remove what was built (not .venv)
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find $(wildcard $(PARTS) tests benchmarks examples) -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: packages
packages:
	@packaging/install-debian.sh

$(VENV)/.stamp-venv:
	@command -v $(PYTHON) >/dev/null || { echo "make: no '$(PYTHON)' here; say PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	    || { echo "make: $$($(PYTHON) --version) is too old, 3.10 is the least; say PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.stamp-locked: requirements/dev.txt $(VENV)/.stamp-venv
	$(PIP) install --no-deps --only-binary :all: --require-hashes --requirement requirements/dev.txt
	@touch $@

$(VENV)/.stamp-torch: requirements/torch.txt requirements/torch-constraints.txt $(VENV)/.stamp-locked
	$(PIP) install --requirement requirements/torch.txt
	@touch $@

build/trainers/.stamp: requirements/trainers.txt $(VENV)/.stamp-locked
	rm -rf build/trainers
	$(PIP) install --no-deps --no-compile --only-binary :all: --require-hashes \
	    --target build/trainers --requirement requirements/trainers.txt
	@touch $@

$(VENV)/.stamp-dev: pyproject.toml README.md LICENSE $(VENV)/.stamp-locked
	$(PIP) install --no-deps --no-index --no-build-isolation --editable .
	@touch $@

$(WHEEL): pyproject.toml README.md LICENSE $(SOURCES) $(VENV)/.stamp-locked
	rm -rf dist && mkdir -p build
	$(VENV)/bin/python -m build --no-isolation >build/wheel.log 2>&1 || { cat build/wheel.log >&2; exit 1; }

$(VLLM_VENV)/.stamp: packaging/vllm-venv.sh
	PYTHON=$(PYTHON) packaging/vllm-venv.sh $(VLLM_VENV) $(VLLM_VERSION)
	@touch $@

$(WHEEL_VENV)/.stamp: $(WHEEL) $(VENV)/.stamp-locked packaging/wheel-venv.sh
	packaging/wheel-venv.sh $(VENV) $(WHEEL) $(WHEEL_VENV)
	@touch $@
