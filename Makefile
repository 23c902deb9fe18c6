# Everything a newcomer needs: `make run` and `make test`. Needs Python >= 3.11 with venv; the rest is
# installed into .venv, in the versions and with the hashes of requirements/.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$p; break; }; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
DATA ?= .data
UV_PIP := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate
UV_LOCK := $(UV_PIP) pyproject.toml --extra build

.DEFAULT_GOAL := help
.PHONY: help run demo test test-unit test-mesh test-charts test-apiserver e2e check lint types layers format bench chaos chaos-kind \
	tools images node-image cluster cluster-delete manifests lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/.runtime ## Set up, start a mesh of two cells, show a message going both ways, keep it up
	@$(BIN)/cellmesh demo --stay --data-dir $(DATA) $(ARGS)

demo: .venv/.runtime ## The same, then exit
	@$(BIN)/cellmesh demo --exit --data-dir $(DATA) $(ARGS)

test: .venv/.dev ## Set up and run every level of checks and tests that this machine can, and say why not the others
	@$(BIN)/python -m tools.levels $(LEVELS)

test-unit: .venv/.dev ## Tests in one process (about a minute)
	@$(BIN)/python -m pytest tests/unit $(ARGS)

test-mesh: .venv/.dev ## Tests with real processes on real sockets (minutes)
	@$(BIN)/python -m pytest tests/mesh $(ARGS)

test-charts: .venv/.dev ## Tests of the charts, with Helm 3 and 4 (built the first time: minutes)
	@tests/kind/tools.sh helm
	@$(BIN)/python -m pytest tests/charts $(ARGS)

test-apiserver: .venv/.dev ## Tests against a real API server (built the first time: minutes)
	@tests/kind/tools.sh apiserver
	@if tests/kind/tools.sh --check helm 2>/dev/null; then tests/kind/tools.sh helm; fi
	@$(BIN)/python -m pytest tests/apiserver $(ARGS)

e2e: .venv/.dev ## Tests on a kind cluster of their own, or on that of CELLMESH_E2E_KUBECONFIG
	@if tests/kind/tools.sh --check apiserver kind helm 2>/dev/null; then tests/kind/tools.sh; fi
	@$(BIN)/python -m pytest tests/e2e $(ARGS)

check: lint types layers ## Lint, types, layers

lint: .venv/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .

types: .venv/.dev
	@$(BIN)/mypy

layers: .venv/.dev
	@$(BIN)/lint-imports --no-cache

format: .venv/.dev ## Format the code
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

bench: .venv/.dev ## Benchmarks against the floor and the yardstick, in one run (about 12 minutes)
	@$(BIN)/python -m benchmarks $(ARGS)

chaos: .venv/.dev ## Faults at every part of a mesh under load, and the books compared (about 45 minutes; Linux)
	@$(BIN)/python -m chaos $(ARGS)

chaos-kind: .venv/.dev ## The same on a kind cluster: pods, nodes and the operator are harmed as well (SEED=..., about 45 minutes)
	@CELLMESH_CHAOS_FAULTS=$(or $(FAULTS),30) CELLMESH_CHAOS_SEED=$(SEED) $(BIN)/python -m pytest -s tests/e2e/test_chaos.py $(ARGS)

tools: ## Build what those tests run, once: kube-apiserver, etcd, kubectl, kind, Helm (needs Go; minutes)
	@tests/kind/tools.sh

images: .venv/.runtime ## Build the images cellmesh-cell and cellmesh-operator (TAG=... for another tag; needs docker)
	@PYTHON=$(BIN)/python deploy/images.sh $(TAG)

node-image: ## Have kind's node image: the ordinary one, or one built where no registry is reached
	@tests/kind/docker.sh && tests/kind/node-image.sh

cluster: images ## A kind cluster named cellmesh with the images on its nodes; its kubeconfig: .data/kubeconfig
	@mkdir -p $(DATA) && tests/kind/cluster.sh create $(DATA)/kubeconfig
	@tests/kind/cluster.sh load $$(sed -n 's/^version = "\(.*\)"/cellmesh-cell:\1 cellmesh-operator:\1/p' pyproject.toml)

cluster-delete: ## Delete that cluster
	@tests/kind/cluster.sh delete

manifests: .venv/.dev ## Refresh what is made from the Cell's definition and the charts: install.yaml, tables, snapshots
	@tests/kind/tools.sh helm
	@$(BIN)/python -m tools.manifests
	@$(BIN)/python -m tools.cell_reference

lock: .venv/.dev ## Refresh the pinned versions and hashes in requirements/
	@$(UV_LOCK) --upgrade -o requirements/runtime.txt
	@$(UV_LOCK) --upgrade --extra operator -c requirements/runtime.txt -o requirements/operator.txt
	@$(UV_LOCK) --upgrade --extra operator --extra dev -c requirements/operator.txt -o requirements/dev.txt
	@echo pip | $(UV_PIP) --upgrade - -o requirements/pip.txt
	@echo "requirements/ refreshed; run make test before you commit it"

clean: ## Remove what was installed and built, but not the data of cells
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: what is installed stays as long as the pinned versions and pyproject.toml stay.
.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "cellmesh needs Python 3.11 or later; install it, or name it: make PYTHON=/path/to/python3"; exit 1; }
	@echo "Making .venv with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "cellmesh needs Python's venv module; on Debian and Ubuntu: apt install python3-venv"; exit 1; }

.venv/.runtime: requirements/runtime.txt pyproject.toml | .venv/bin/python
	@echo "Installing cellmesh ..."
	@$(PIP) install --require-hashes -r requirements/runtime.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

.venv/.dev: requirements/dev.txt .venv/.runtime
	@echo "Installing development tools ..."
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@
