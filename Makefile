# `make demo` and `make test` need only Python 3.11+, git and make; both set up .venv themselves.
PYTHON ?= python3
BIN := .venv/bin
TEST_ARGS ?=

.PHONY: demo test lint constraints clean

demo: .venv/installed
	$(BIN)/python bench/demo.py

test: .venv/installed lint
	$(BIN)/python -m pytest $(TEST_ARGS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)'; exit 1; }
	@echo 'Setting up .venv: a few minutes, about 3 GB (PyTorch is the reference of the tests)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,plan]'
	@touch $@

# Pins what is installed now; run it after a deliberate upgrade.
constraints: .venv/installed
	$(BIN)/python -m pip freeze --exclude-editable --exclude lfpc_jax | sed 's/+cpu$$//' > constraints.txt

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
