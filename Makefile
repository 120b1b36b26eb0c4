# Everything a newcomer needs; `make help` lists it.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
EXPERIMENT ?= tiny
VENV := .venv
BIN := $(VENV)/bin
export DAGSTER_HOME := $(CURDIR)/.dagster_home
export PYTHONPATH := $(CURDIR)
# Threads that wait spin for less long: a third faster where other work shares the cores, no slower where none does.
export GOMP_SPINCOUNT ?= 10000

.PHONY: help run test test-slow test-peer ui explore lint bench bench-bias bench-sampling tiny-model clean install
.DEFAULT_GOAL := help

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.installed ## Create .venv with pinned dependencies

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

run: install ## Materialize every asset of the experiment that is not up to date (EXPERIMENT=tiny)
	@$(BIN)/python -m assets.run --experiment $(EXPERIMENT)

test: install ## Run the tests (a few minutes)
	$(BIN)/python -m pytest -q

test-slow: install ## Run the tests that take longer
	$(BIN)/python -m pytest -q -m slow

ui: install ## Open the Dagster UI on 127.0.0.1:3000
	@mkdir -p $(DAGSTER_HOME) && cp dagster.yaml $(DAGSTER_HOME)/dagster.yaml
	SUSC_EXPERIMENT=$(EXPERIMENT) $(BIN)/dagster dev -w workspace.yaml -h 127.0.0.1 -p 3000

explore: install ## Serve the explorer of the experiment on loopback (EXPERIMENT=tiny)
	@$(BIN)/python -m resources.serve --experiment $(EXPERIMENT)

lint: install ## Check style, types and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

$(VENV)/.peer: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,peer]'
	touch $@

test-peer: $(VENV)/.peer ## Replay the reference library's chains (installs it)
	$(BIN)/python -m pytest -q tests/test_peer.py

bench: install ## Measure the estimators against the sample covariance
	$(BIN)/python benchmarks/estimators.py

bench-bias: install ## Compare what first_order and the covariance estimate (a quarter of an hour)
	$(BIN)/python benchmarks/estimators.py --bias

bench-sampling: $(VENV)/.peer ## Measure sampling against the reference library (half an hour; installs it)
	$(BIN)/python benchmarks/sampling.py

tiny-model: install ## Train the embedded default model anew (about half an hour on 2 cores)
	$(BIN)/python -m resources.train_tiny

clean: ## Remove the environment; artifacts in data/ stay
	rm -rf $(VENV) *.egg-info build
