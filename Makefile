# make demo: from EEG to images and a report.  make test: the tests.  Both set up what they need.  CONTRIBUTING.md lists all
# targets; ARGS="…" passes options on.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: setup demo test test-all test-gpu lint format docs bench bundled-model clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt launch/setup_environment.sh
	@PYTHON="$(PYTHON)" VENV="$(VENV)" bash launch/setup_environment.sh
	@touch "$@"

demo: setup
	@"$(BIN)/python" "$(BIN)/neuroimagen" demo --out runs/demo $(ARGS)

# Two processes, each with whole files: tests that share fixtures stay together, and most of a test's time is one thread's.
# One thread each: two processes of two threads wait for each other on two cores.
test: setup
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} "$(BIN)/python" -m pytest -m "not slow" -n 2 --dist loadfile $(ARGS)

test-all: setup
	@"$(BIN)/python" -m pytest $(ARGS)

# The tests that need an NVIDIA GPU, and only those. All other tests run on the CPU, even where there is a GPU.
test-gpu: setup
	@"$(BIN)/python" -m pytest --gpu $(ARGS)

lint: setup
	@"$(BIN)/ruff" check .
	@"$(BIN)/ruff" format --check .
	@"$(BIN)/python" -m mypy -p neuroimagen
	@"$(BIN)/pyright"
	@"$(BIN)/python" -m pytest tests/test_rooms.py

format: setup
	@"$(BIN)/ruff" check --fix .
	@"$(BIN)/ruff" format .

# The site, in build/site/index.html. Every warning is an error, and nothing is fetched.
docs: setup
	@"$(BIN)/python" -m sphinx --fail-on-warning --keep-going --quiet --doctree-dir build/doctrees docs build/site $(ARGS)
	@echo "site: build/site/index.html"

bench: setup
	@"$(BIN)/python" "$(BIN)/neuroimagen" bench $(or $(ARGS),mining)

# Trains the bundled model from scratch, on CPU. The model card in trainer/bundled_model/bundled_64px/ describes it.
bundled-model: setup
	@"$(BIN)/python" -m neuroimagen.trainer.bundled_model.training --out trainer/bundled_model/bundled_64px $(ARGS)

clean:
	rm -rf build dist runs .pytest_cache .mypy_cache .ruff_cache
