# Everything is installed in a virtual environment in the checkout; nothing else on the machine is changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup demo check test test-lowest soak bench lint docs release-check clean

help:
	@echo "make setup   install everything into $(VENV)"
	@echo "make demo    set up, then train, tabulate and draw a small study"
	@echo "make check   set up, then lint, types and the tests that say most: two minutes on two cores"
	@echo "make test    set up, then run all tests"
	@echo "make test-lowest    the same in short with the lowest versions that pyproject.toml claims, in .venv-lowest"
	@echo "make soak    kill, starve and damage runs for 80 minutes, and write docs/soak.md with its data (MINUTES=20: shorter)"
	@echo "make bench   measure everything in docs/benchmarks.md"
	@echo "make lint    style and types"
	@echo "make docs    the site of docs/ in site/, readable without a network"
	@echo "make release-check  wheel and sdist, a clean install, and tests from the installed package"

setup: $(STAMP)

$(STAMP): pyproject.toml setup.py constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}: make PYTHON=python3.11 ..."'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@echo "safety-gymnasium is installed without its dependencies: its own pins (pygame 2.1.0, and numpy below 1.24"
	@echo "through gymnasium-robotics) cannot be met on Python 3.11, and single-agent tasks need neither."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps safety-gymnasium==1.0.0
	touch $@

# Plain against augmented ALGD-VE-SDE on throttle, three seeds each, two runs at once; then a short run on a real task
# with a video; then the analysis: table, comparison, curves, predictions, and a report with everything.
RUNS ?= runs/demo
TRAIN := OMP_NUM_THREADS=1 $(BIN)/python run.py runs_dir=$(RUNS) logger=none
demo: setup
	$(TRAIN) experiment=throttle_demo hydra.launcher.jobs=2
	$(TRAIN) env=point_button1 initial_steps=400 total_steps=800 updates_per_step=1 log_every=100 \
	    eval.every=800 eval.episodes=2 eval.video=true
	@echo
	$(BIN)/python -m analysis table $(RUNS)/throttle
	$(BIN)/python -m analysis compare $(RUNS)/throttle --first guidance=augmented --second guidance=plain
	$(BIN)/python -m analysis curves $(RUNS)/throttle --quantities return,cost,lam --raw --out $(RUNS)/figures
	$(BIN)/python run.py runs_dir=$(RUNS) experiment=throttle study.runs=[$(RUNS)/throttle]
	@cat $(RUNS)/studies/throttle/throttle_cells.md
	$(BIN)/python -m analysis report $(RUNS) --out $(RUNS)/report.html
	@echo
	@echo "Everything on one page: $(RUNS)/report.html"
	@echo "Pictures: $(RUNS)/figures   video: $$(ls $(RUNS)/point_button1/*/*/videos/*.mp4)"
	@echo "Next: . $(VENV)/bin/activate && python run.py agent=vesde guidance=augmented env=point_button1 seed=0"

# The golden numbers, configurations with their identities, the directions of imports, checkpoints, and pages: about
# 120 s of CPU time, after 35 s for lint and types without a cache.
CHECKED := tests/config tests/algorithm/test_golden.py tests/algorithm/test_dual.py \
    tests/algorithm/test_lagrangian.py tests/algorithm/test_replay.py tests/cli/test_command_line.py \
    tests/storage/test_checkpoint.py tests/envs/test_toy.py tests/docs --ignore tests/docs/test_example.py
check: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile $(CHECKED)

# One process per core; the tests of a file stay in one process, since some share trained runs.
test: setup
	$(BIN)/python -m pytest -n logical --dist loadfile --no-loadscope-reorder

# Tests the lower bounds of the direct dependencies; indirect dependencies have the newest versions that these allow.
LOWEST := .venv-lowest
test-lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/python -m pytest $(CHECKED) tests/execution/test_native.py tests/envs/test_velocity.py \
	    tests/envs/test_navigation.py

$(LOWEST)/.installed: pyproject.toml
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip compile --quiet --no-header --no-annotate --resolution lowest-direct --extra dev \
	    --python $(LOWEST)/bin/python -o $(LOWEST)/constraints.txt pyproject.toml
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c $(LOWEST)/constraints.txt -e '.[dev]'
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps safety-gymnasium==1.0.0
	touch $@

# The faults of the tests, injected into as many runs as there is time for.
MINUTES ?= 80
soak: setup
	$(BIN)/python -m tests.soak --minutes $(MINUTES) --out docs/soak.md

bench: setup
	$(BIN)/python -m benchmarks

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

# The variable suppresses an advertisement that Material for MkDocs prints.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --clean
	@echo "Open site/index.html"

# Tests what a user of a release installs: of the checkout only the tests and the files they read are used.
RELEASE := build/release
release-check: setup
	rm -rf dist $(RELEASE)
	$(BIN)/python -m build --outdir dist .
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$$(ls dist/*.whl)[dev]"
	$(RELEASE)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps safety-gymnasium==1.0.0
	mkdir $(RELEASE)/tests-only && cp -r tests benchmarks docs README.md pyproject.toml run.py $(RELEASE)/tests-only
	cd $(RELEASE)/tests-only && ../bin/algd env=toy total_steps=100 logger=none runs_dir=../runs && \
	    ../bin/python -m pytest -p no:cacheprovider tests/algorithm/test_golden.py tests/config tests/cli/test_command_line.py

clean:
	rm -rf $(VENV) $(LOWEST) build dist site .pytest_cache .ruff_cache .mypy_cache .hypothesis
