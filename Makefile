# Every target needs only Python 3.11+, git and make, and sets up .venv itself.
PYTHON ?= python3
BIN := .venv/bin
TEST_ARGS ?=

.PHONY: demo reproduce warmstart check test lint constraints clean

# The whole method in a small world: selection, both stages, evaluation, a table and a report.
demo: export JAX_PLATFORMS ?= cpu
demo: .venv/demo
	$(BIN)/python launch/demo.py --out runs/demo

# Every arm on three seeds, and from them docs/results.*: two hours on two cores, resumable.
reproduce: export JAX_PLATFORMS ?= cpu
reproduce: .venv/demo
	$(BIN)/python launch/demo.py --out runs/reproduce --arms all --seeds 0 1 2 --temperatures 0 1 \
	  --questions 1000 --write docs

# The model that all arms begin from, from random weights: configs/micro/warm.
warmstart: export JAX_PLATFORMS ?= cpu
warmstart: .venv/demo
	$(BIN)/python launch/new_model.py runs/warm/random --seed 0 --overwrite
	$(BIN)/python launch/train.py --config micro/close.py --run runs/warm/close
	$(BIN)/python launch/train.py --config micro/words.py --run runs/warm/words
	$(BIN)/python launch/train.py --config micro/lists.py --run runs/warm/lists
	$(BIN)/python launch/train.py --config micro/looks.py --run runs/warm/looks
	$(BIN)/python launch/train.py --config micro/warmstart.py --run runs/warm/start
	$(BIN)/python launch/convert.py to-hf runs/warm/start runs/warm/exported --overwrite
	rm runs/warm/exported/README.md  # the folder that ships has one of its own
	cp runs/warm/exported/* configs/micro/warm/
	sha256sum configs/micro/warm/model.safetensors

# Lint, types, and the tests that compile nothing: the tests' first tier. Some wait for processes, so three at once.
check: lint
	$(BIN)/python -m pytest -n 3 -m 'not compiles and not slow' $(TEST_ARGS)

# All tests but the slow ones, which `make test TEST_ARGS='-m slow'` runs.
test: lint
	$(BIN)/python -m pytest $(TEST_ARGS)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What running needs. PyTorch and the TPU compiler are not among it.
.venv/demo: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)'; exit 1; }
	@echo 'Setting up .venv: a minute or two, about 1.2 GB'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

# What tests and the planner need beside that: PyTorch is the reference of the tests.
.venv/installed: .venv/demo
	@echo 'Adding what the tests need: a few minutes, about 2 GB more'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,plan]'
	@touch $@

# Pins what is installed now; run it after a deliberate upgrade.
constraints: .venv/installed
	$(BIN)/python -m pip freeze --exclude-editable --exclude lfpc_jax | sed 's/+cpu$$//' > constraints.txt

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
