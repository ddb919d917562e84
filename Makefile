# Every target needs only Python 3.11+, git and make, and sets up .venv itself.
PYTHON ?= python3
BIN := .venv/bin
TEST_ARGS ?=

.PHONY: demo demo-cropvlm reproduce reproduce-cropvlm warmstart micro-target check quick test test-long lint constraints clean

# The whole method in a small world: selection, both stages, evaluation, a table and a report.
demo: export JAX_PLATFORMS ?= cpu
demo: .venv/demo
	$(BIN)/python launch/demo.py --out runs/demo

# Every arm on three seeds, and from them docs/results.*: two hours on two cores, resumable.
reproduce: export JAX_PLATFORMS ?= cpu
reproduce: .venv/demo
	$(BIN)/python launch/demo.py --out runs/reproduce --arms all --seeds 0 1 2 --temperatures 0 1 \
	  --questions 1000 --write docs

# The second system in the same world: labels by a target model, crop networks that imitate them, both
# rewards, every kind of box, a table and a report.
demo-cropvlm: export JAX_PLATFORMS ?= cpu
demo-cropvlm: .venv/demo
	$(BIN)/python launch/demo.py --system cropvlm

# Every arm on three seeds, and from them docs/cropvlm_results.*: an hour on two cores, resumable.
reproduce-cropvlm: export JAX_PLATFORMS ?= cpu
reproduce-cropvlm: .venv/demo
	$(BIN)/python launch/demo.py --system cropvlm --out runs/reproduce-cropvlm --arms all \
	  --seeds 0 1 2 --questions 1000 --write docs

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

# The second system's models, from configs/micro/warm: the crop networks' start and their target.
micro-target: export JAX_PLATFORMS ?= cpu
micro-target: .venv/demo
	$(BIN)/python launch/train.py --config micro/boxes.py --run runs/warm/boxes
	$(BIN)/python launch/train.py --config micro/target.py --run runs/warm/target
	for model in boxes target; do \
	  $(BIN)/python launch/convert.py to-hf runs/warm/$$model runs/warm/exported-$$model --overwrite && \
	  rm runs/warm/exported-$$model/README.md && \
	  cp runs/warm/exported-$$model/* configs/micro/$$model/ && \
	  sha256sum configs/micro/$$model/model.safetensors || exit 1; \
	done

# Lint, types, and the quick tests that compile nothing: the tests' first tier.
check: .venv/installed
	$(MAKE) --no-print-directory --jobs=2 --output-sync lint quick

quick: .venv/installed
	$(BIN)/python -m pytest -m 'not compiles and not seconds and not long and not slow' $(TEST_ARGS)

# All tests but the long and the slow ones. `make test TEST_ARGS='-m slow'` runs the slow ones.
test: lint
	$(BIN)/python -m pytest $(TEST_ARGS)

# The long ones, which .ci/run adds to `make test`.
test-long: .venv/installed
	$(BIN)/python -m pytest -m 'long and not slow' $(TEST_ARGS)

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
