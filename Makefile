# `make demo` and `make test` need only Python 3.11+, git and make; both set up .venv themselves.
PYTHON ?= python3
BIN := .venv/bin
TEST_ARGS ?=

.PHONY: demo warmstart test lint constraints clean

# What exists so far of the method's demo: a small model, checked, converted both ways, checked.
demo: export JAX_PLATFORMS ?= cpu
demo: .venv/installed
	$(BIN)/python bench/tiny_model.py runs/tiny
	$(BIN)/python launch/convert.py check runs/tiny
	$(BIN)/python launch/convert.py to-orbax runs/tiny runs/tiny-orbax --overwrite
	$(BIN)/python launch/convert.py to-hf runs/tiny-orbax runs/tiny-hf --overwrite
	$(BIN)/python launch/convert.py check runs/tiny-hf
	@echo 'The same with a real model: $(BIN)/python launch/convert.py to-orbax Qwen2.5-VL-3B-Instruct OUT'

# The model that all arms begin from, from random weights: configs/micro/warm.
warmstart: export JAX_PLATFORMS ?= cpu
warmstart: .venv/installed
	$(BIN)/python launch/new_model.py runs/warm/random --seed 0 --overwrite
	$(BIN)/python launch/train.py --config micro/words.py --run runs/warm/words
	$(BIN)/python launch/train.py --config micro/places.py --run runs/warm/places
	$(BIN)/python launch/train.py --config micro/warmstart.py --run runs/warm/start
	$(BIN)/python launch/convert.py to-hf runs/warm/start configs/micro/warm --overwrite

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
