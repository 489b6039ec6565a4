# The two commands that matter: `make run` and `make test`. Both set up what they need first; a second call reuses it.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
# Containers often set it; then each of a hundred processes of the tests compiles the whole package anew.
unexport PYTHONDONTWRITEBYTECODE
# Every package is checked against hashes: pip takes them from constraints since 26.1, so it comes first.
PIP := -m pip install --quiet --disable-pip-version-check --require-hashes
LOCKED := $(BIN)/python $(PIP) -c constraints.txt

.PHONY: help run serve test fast-tests test-slow coverage lint docs wheel dev screenshots mutants lock licences clean

help:
	@echo "make run          set up and run the whole chain on the synthetic world"
	@echo "make test         set up, then run linters, type checks and fast tests at the same time"
	@echo "make test-slow    run the tests that take minutes: browsers, databases, many kills"
	@echo "make coverage     run the fast tests and report their coverage"
	@echo "make dev          start Dagster's UI on http://127.0.0.1:3000"
	@echo "make serve        start the page and the API on http://127.0.0.1:8000"
	@echo "make lint         run ruff, import-linter and mypy, and build the documentation strictly"
	@echo "make docs         build the documentation site in .site/"
	@echo "make wheel        build the wheel in dist/"
	@echo "make mutants      run mutation tests; takes an hour"
	@echo "make screenshots  take the screenshots of the documentation (needs Debian's chromium)"
	@echo "make lock         update constraints.txt after a change of pyproject.toml (UPGRADE=--upgrade: newest versions)"
	@echo "make licences     update docs/licences.md from the installed packages"

$(READY): pyproject.toml constraints.txt requirements-build.txt requirements-cpu.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "Python 3.11, 3.12 or 3.13 is needed: set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python $(PIP) -r requirements-build.txt
	@$(BIN)/python $(PIP) --no-deps -r requirements-cpu.txt 2>/dev/null \
		|| echo "pip finds no torch built for the processor alone: taking PyPI's (see requirements-cpu.txt)"
	$(BIN)/python -m pip install --quiet --quiet --no-deps --no-build-isolation -e .
	$(LOCKED) 'gh_assets[dev]'
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
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(SPHINX)

# -T shows where an extension failed; every warning is an error, and so is a link or an anchor that leads nowhere.
SPHINX := $(BIN)/sphinx-build -T -q -W --keep-going -d .site/.doctrees docs .site

docs: $(READY)
	$(SPHINX)

wheel: $(READY)
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

coverage: $(READY)
	$(BIN)/python -m pytest -n 4 -m 'not slow' --dist loadscope --no-loadscope-reorder --cov --cov-report term:skip-covered

# At the same time, because tests wait for processes and mypy is one process.
test: $(READY)
	@$(MAKE) --no-print-directory -j 2 lint fast-tests

fast-tests: $(READY)
	$(BIN)/python -m pytest -n 4 -m 'not slow' --dist loadscope --no-loadscope-reorder

test-slow: $(READY)
	$(LOCKED) 'gh_assets[scale,kubernetes,rendering,screenshots,embeddings]'
	$(BIN)/python -m pytest -n 2 -m slow --dist loadscope --no-loadscope-reorder

screenshots: $(READY)
	$(LOCKED) 'gh_assets[screenshots]'
	$(BIN)/python docs/screenshots.py

mutants: $(READY)
	$(LOCKED) 'gh_assets[mutants]'
	$(BIN)/python benchmarks/mutants.py $(TARGETS)

# In an environment of its own: a new dependency that is not locked yet cannot be installed into .venv.
LOCK := .venv-lock/bin/uv pip compile $(UPGRADE) --quiet --universal --generate-hashes --annotation-style line \
	--no-emit-index-url --custom-compile-command 'make lock'

lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python $(PIP) -r requirements-build.txt
	.venv-lock/bin/python $(PIP) -c constraints.txt uv
	$(LOCK) --all-extras --output-file constraints.txt pyproject.toml
	printf 'pip>=26.1\nsetuptools>=77\n' | $(LOCK) -c constraints.txt --output-file requirements-build.txt -

licences: $(READY)
	$(LOCKED) 'gh_assets[scale,kubernetes,rendering,screenshots,embeddings,lock,mutants]'
	$(BIN)/python docs/licences.py

clean:
	rm -rf .venv .venv-lock .site dist .gh_assets .mypy_cache .pytest_cache .ruff_cache
