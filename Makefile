# Everything runs from a virtual environment in the checkout: nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup demo test lint clean

help:
	@echo "make setup   install everything into $(VENV)"
	@echo "make demo    set up, then train, tabulate and draw a small study (about 10 minutes on two cores)"
	@echo "make test    set up, then run all tests"
	@echo "make lint    style and types"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}: make PYTHON=python3.11 ..."'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@echo "safety-gymnasium is installed without its dependencies: its own pins (pygame 2.1.0, and numpy below 1.24"
	@echo "through gymnasium-robotics) cannot be met on Python 3.11, and single-agent tasks need neither."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps safety-gymnasium==1.0.0
	touch $@

demo: setup
	$(BIN)/python -m benchmarks.demo

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis
