# `make quickstart`: install and run the main job. `make test`: every check there is.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: quickstart test lint clean

quickstart: $(VENV)/.hf
	$(BIN)/arbitrage run configs/quickstart.yaml

test: lint
	$(BIN)/pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.hf: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[hf]'
	touch $@

$(VENV)/.dev: $(VENV)/.hf
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[hf,dev]'
	touch $@

clean:
	rm -rf $(VENV) runs .mypy_cache .pytest_cache .ruff_cache .hypothesis
