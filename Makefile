# Two commands on a fresh machine: `make demo` and `make test`. Each makes .venv and all that it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest

.PHONY: help install demo demo-real quick test test-scipion test-faults test-browser test-gui test-slurm test-downstream lint clean

help:
	@echo "make demo          simulate a small acquisition and make tomograms of it, on the CPU"
	@echo "make demo-real     the same with a real acquisition (EMPIAR-10499), fetched once"
	@echo "make test          all tests, the chain of four Scipion processes included"
	@echo "make quick         tests without Scipion processes and alignments, for the inner loop: under a minute"
	@echo "make install       only make $(VENV)"
	@echo "make lint          ruff and mypy"
	@echo "PYTHON=python3.12 chooses the interpreter (3.10, 3.11 or 3.12), VENV=folder another environment"

$(STAMP): pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v < (3, 13) else "tomostream needs Python 3.10, 3.11 or 3.12, and $(PYTHON) is %d.%d: try PYTHON=python3.11 make ..." % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/tomostream demo demo

demo-real: $(STAMP)
	$(BIN)/tomostream demo --real demo-real

quick: $(STAMP)
	$(PYTEST) -m "not chain and not slow" --numprocesses auto --maxprocesses 4 --dist loadscope

test: $(STAMP) lint
	$(PYTEST)
	$(MAKE) test-scipion

# The same modules under Scipion's own runner: a quick one, to show that they are found and run there too.
test-scipion: $(STAMP)
	$(BIN)/python -m tomostream.tests.under_scipion

test-faults: $(STAMP)
	$(PYTEST) tomostream/tests/test_faults.py tomostream/tests/test_outages.py tomostream/tests/test_chaos.py

# Readers and protocols that are not ours, in an environment of their own below build/ (network needed): what they read of a
# export, and whether they run downstream of our protocols. Not part of `make test`.
test-downstream: $(STAMP)
	$(BIN)/python -m tomostream.tests.downstream.check_handoff --environment build/downstream/readers
	$(BIN)/python -m tomostream.tests.downstream.check_protocols --environment build/downstream/scipion

# The live page in headless Chromium, Debian's (installing it needs root); its pictures are to be looked at.
test-browser: $(STAMP)
	command -v chromedriver >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check axe-core-python
	$(BIN)/python -m tomostream.tests.browser.check_page build/browser

# Scipion's own windows under a virtual display: pictures of the forms, summaries and plots of a project that ran.
# PROJECT=... names another one than the demo's. Installs nothing; says which apt packages are missing.
PROJECT ?= demo/project
test-gui: $(STAMP)
	$(BIN)/python benchmarks/gui_pictures.py $(PROJECT) build/gui

# A real SLURM on this machine, of Debian's packages; needs root.
test-slurm: $(STAMP)
	apt-get update -qq && apt-get install -y -qq --no-install-recommends slurm-wlm munge
	$(BIN)/python benchmarks/slurm_check.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy
	MYPYPATH=benchmarks $(BIN)/mypy --config-file benchmarks/mypy.ini benchmarks tomostream/tests/downstream

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache demo demo-real
