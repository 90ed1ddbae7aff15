# Every target sets up what it needs in .venv by itself; the second time that takes no time.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
JOBS   ?= 2

# One thread per test worker: several workers with several threads each are slower, not faster.
TEST_ENV := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MPLBACKEND=Agg

.PHONY: demo test check bench docs format clean help

help:
	@echo "make demo    train on real digits, look at the cost; figures, a report and a summary"
	@echo "make test    the whole test suite, with coverage"
	@echo "make check   linter, formatter and type checker"
	@echo "make bench   speed, as ratios against the usual loop"
	@echo "make docs    the documentation, warnings are errors"

# Two sizes of environment: what the demo needs, and what developers need on top.
$(VENV)/.ready-%: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "thalweg needs Python 3.11 or later; found $$($(PYTHON) --version). Set PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing thalweg[$*] into $(VENV) (once) ..."
	@$(PIP) install --quiet -c constraints.txt -e '.[$*]'
	@touch $@

demo: $(VENV)/.ready-all
	@$(BIN)/thalweg demo

test: $(VENV)/.ready-dev
	@$(TEST_ENV) $(BIN)/python -m pytest -n $(JOBS) --cov --cov-report=term --cov-fail-under=95

check: $(VENV)/.ready-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/.ready-dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.ready-all
	@$(BIN)/python benchmarks/run.py

docs: $(VENV)/.ready-dev $(VENV)/.ready-docs
	@$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean:
	rm -rf $(VENV) docs/_build .pytest_cache .mypy_cache .ruff_cache
