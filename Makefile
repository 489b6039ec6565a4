# The two commands that matter: `make run` and `make test`. Both set up what they need first; a second call reuses it.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help run serve test test-slow lint dev screenshots lock clean

help:
	@echo "make run          set up, and run the whole chain on the synthetic world"
	@echo "make test         set up, then lint, types and all tests"
	@echo "make test-slow    tests that take minutes: the UI, and real data if they are there"
	@echo "make dev          the Dagster UI on http://127.0.0.1:3000"
	@echo "make serve        the page and the API on http://127.0.0.1:8000"
	@echo "make lint         ruff and mypy"
	@echo "make screenshots  pictures for the documentation (needs Debian's chromium)"

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "Python 3.11, 3.12 or 3.13 is needed: set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

run: $(READY)
	$(BIN)/gh-assets run

serve: $(READY)
	$(BIN)/gh-assets serve

dev: $(READY)
	$(BIN)/dagster dev

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n 2 -m 'not slow' --dist loadscope --no-loadscope-reorder

test-slow: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[scale,kubernetes,rendering,screenshots]'
	$(BIN)/python -m pytest -n 2 -m slow --dist loadscope --no-loadscope-reorder

screenshots: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[screenshots]'
	$(BIN)/python docs/screenshots.py

lock: $(READY)
	{ echo "# Every package of the environment, pinned. Made from a working one by: make lock"; \
	  $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//' | grep -v '^-e'; } > constraints.txt.new
	mv constraints.txt.new constraints.txt

clean:
	rm -rf .venv .gh_assets .mypy_cache .pytest_cache .ruff_cache
