# Two commands on a fresh machine: make run, make test. Only Python 3.11 or newer and make are needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_HOME ?= $(CURDIR)/.demo

.PHONY: run test test-quick test-long lint docs screens guard bench clean

run: $(VENV)/.installed
	HERMES_HOME=$(DEMO_HOME) $(BIN)/hermes-celery up --demo

# Three at once on two cores: most of the time is spent waiting for workers and beats.
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 3 --dist worksteal

# The tests without beats, workers and servers to kill: two minutes. Run it before each commit.
test-quick: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/tour tests/unit tests/test_architecture.py tests/test_broad_exceptions.py --ignore tests/unit/test_linear_time.py
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/store -k fakeredis

# Every bad value, malformed message, hostile megabyte and old version there is; half an hour and more.
test-long: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 -m slow tests/store tests/system tests/projects tests/unit/test_linear_time.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The site, in site/; a page that differs from the code or a link that leads nowhere fails.
docs: $(VENV)/.installed-dev
	$(BIN)/python -m docs.generate --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The pictures in docs/screens/, from what the commands print now.
screens: $(VENV)/.installed-dev
	$(BIN)/python -m docs.generate.screens

guard: $(VENV)/.installed-dev
	$(BIN)/python -m bench.guard

bench: $(VENV)/.installed-dev
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) $(DEMO_HOME)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@ $(VENV)/.installed
