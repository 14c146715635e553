# `make` says what there is. Every target makes .venv first if it is not there or out of date.
PYTHON ?= python3
SUITE ?= default
DEVICE ?= auto
OUT ?=
RUN = $(or $(OUT),results/latest)
VENV := .venv
BIN := $(VENV)/bin

# A GPU box often has a torch of its own and no package registry; then its python is asked, and nothing is installed.
EVIDENCE_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))

.DEFAULT_GOAL := help

.PHONY: help
help: ## say what there is
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: setup
setup: $(VENV)/.ready ## make .venv and install, pinned by constraints.txt

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,examples,peers]'
	@touch $@

.PHONY: browser
browser: ## install the Chromium that the tests of the page run in, where there is none
	bash .ci/browser

.PHONY: bench
bench: setup ## measure a suite and write its report.html: SUITE=default DEVICE=auto OUT=results/<suite>-<timestamp>
	$(BIN)/rematbench run $(SUITE) --device $(DEVICE) $(if $(OUT),--out $(OUT)); status=$$?; \
	  [ $$status -gt 1 ] || $(BIN)/rematbench report $(RUN) --out $(RUN)/report.html || exit; exit $$status

.PHONY: test
test: setup ## run the tests, one thread each; three processes for two cores, as some tests wait
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

.PHONY: check
check: setup ## format, lint, types and floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_floors.py

.PHONY: gate
gate: setup ## hold the smoke suite to results/baseline/cpu.csv
	$(BIN)/rematbench run smoke --device cpu --rounds 0
	$(BIN)/rematbench check results/latest --against results/baseline/cpu.csv --strict-wins

.PHONY: docs
docs: $(VENV)/.docs ## build the documentation into site/; a warning ends it
	$(BIN)/mkdocs build --strict

$(VENV)/.docs: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

.PHONY: zoo
zoo: $(VENV)/.zoo ## measure the networks of tests/zoo and write docs/zoo.md; an hour. ONLY='timm.*' does some
	$(BIN)/python -m tests.zoo $(foreach pattern,$(ONLY),--only '$(pattern)')

$(VENV)/.zoo: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[zoo]'
	@touch $@

.PHONY: speed
speed: setup ## benchmark the harness itself with pytest-benchmark
	$(BIN)/python -m pytest benchmarks --benchmark-only -s

.PHONY: gpu-evidence
gpu-evidence: ## ask a GPU what is known from reading alone: DEVICE=auto OUT=results/gpu-evidence
	PYTHONPATH=bench $(EVIDENCE_PYTHON) benchmarks/gpu_evidence.py --device $(DEVICE) $(if $(filter cpu,$(DEVICE)),--small) $(if $(OUT),--out $(OUT))

.PHONY: clean
clean: ## remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
