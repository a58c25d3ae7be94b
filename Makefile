# On a fresh machine: `make run`, `make test`. You need Python 3.11 or newer and make, nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_HOME ?= $(CURDIR)/.demo

.PHONY: run test test-quick test-server test-docs test-redis test-long lint docs screens guard bench clean

run: $(VENV)/.installed
	HERMES_HOME=$(DEMO_HOME) $(BIN)/hermes-celery up --demo

# All tests. Four at once on two cores, since most of the time goes into waiting for processes.
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 4 --dist worksteal

# The tests without beats, workers and servers to kill: two minutes. Run it before each commit.
test-quick: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/tour tests/unit tests/test_architecture.py tests/test_broad_exceptions.py --ignore tests/unit/test_linear_time.py
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/store -k fakeredis

# The store's tests on a real server: the embedded Valkey, or the one that
# HERMES_CELERY_TEST_REDIS_URL names (its data are not safe there). One at a time: some fill the server.
test-server: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/store -k "not fakeredis"

# Follow each page of the documents, each example and each picture with real processes.
test-docs: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 3 --dist worksteal -m pages tests/docs tests/examples

# The store's tests on other servers: Redis 6.2, and the redis-server that is on PATH.
test-redis: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 -m slow tests/system/test_servers.py

# The long tests, half an hour and more: every bad value, malformed message, hostile text and old
# version.
test-long: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 -m slow tests/store tests/system tests/projects tests/unit/test_linear_time.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Build the site, site/index.html. Fails if a page differs from the code or a link leads nowhere.
# With --quiet, mkdocs would ignore the warnings that --strict fails for.
docs: $(VENV)/.installed-dev
	$(BIN)/python -m docs.generate --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "The site is built: open site/index.html in a browser."

# Make the pictures in docs/screens/ again, from what the commands print now.
screens: $(VENV)/.installed-dev
	$(BIN)/python -m docs.generate.screens

# Fails if something on the hot path has become a quarter more expensive.
guard: $(VENV)/.installed-dev
	$(BIN)/python -m bench.guard

# Make all numbers of docs/explanation/numbers.md again: an hour.
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
	@echo "Installing the tools for development into $(VENV); this takes a minute or two."
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@ $(VENV)/.installed
