# Everything that is done with this repository. Each target first makes .venv, where that is not done yet.
.DEFAULT_GOAL := help
.PHONY: help demo test lint types bench chaos docs clean bootstrap

BIN := .venv/bin
# Tests that start servers of their own wait more than they compute, so two processes serve a small machine well.
JOBS ?= 2
TEST_LIMIT ?= 15m
CHAOS_LIMIT ?= 60m
PYTEST_ARGS ?=

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

bootstrap:
	@scripts/bootstrap.sh

demo: bootstrap ## the main job on real data, with a worker killed on the way (KEEP=1 to leave it running, Q="…" to ask)
	@$(BIN)/perdure demo $(if $(KEEP),--keep) $(if $(Q),--question "$$Q")

lint: bootstrap ## style, format, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: bootstrap ## strict types
	$(BIN)/mypy

test: bootstrap lint types ## everything: style, types, layers, and all tests with real servers
	@scripts/servers.sh
	@$(BIN)/python scripts/bounded.py $(TEST_LIMIT) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

chaos: bootstrap ## the long forms of the tests that kill, stop and cut real processes
	@scripts/servers.sh
	@$(BIN)/python scripts/bounded.py $(CHAOS_LIMIT) $(BIN)/python -m pytest tests/faults tests/e2e -m "chaos or not chaos" $(PYTEST_ARGS)

bench: bootstrap ## measure, beside the bare limits, and write bench/RESULTS.md
	$(BIN)/python -m bench

docs: bootstrap ## write the generated parts of the documentation anew
	$(BIN)/python scripts/generate_docs.py

clean: ## remove everything that was built, installed or left behind here
	rm -rf .venv .perdure dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
