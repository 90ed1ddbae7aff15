# Every target sets up what it needs in .venv by itself; the second time that takes no time.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
JOBS   ?= 2
# For `make bench`: SCALE=smoke takes a minute; PEERS=1 runs other packages beside.
SCALE  ?= full
PEERS  ?=
PEERS_VENV := .venv-peers

# One thread per test worker: several workers with several threads each are slower, not faster.
TEST_ENV := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MPLBACKEND=Agg

.PHONY: demo test check bench docs format clean help

help:
	@echo "make demo    train on real digits, look at the cost; figures, a report and a summary"
	@echo "make test    the whole test suite, with coverage"
	@echo "make check   linter, formatter and type checker"
	@echo "make bench   speed, as ratios against the usual loop (SCALE=smoke, PEERS=1)"
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

# Other packages run in an environment of their own; without --no-deps they would pull gigabytes.
$(PEERS_VENV)/.ready:
	@test -x $(PEERS_VENV)/bin/python || $(PYTHON) -m venv $(PEERS_VENV)
	@$(PEERS_VENV)/bin/python -m pip --disable-pip-version-check install --quiet \
	  -c constraints.txt torch==2.13.0 numpy
	@$(PEERS_VENV)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps \
	  loss-landscapes==3.0.6 loss-landscape-3d==0.1.3 pyhessian==0.1 \
	  curvlinops-for-pytorch==3.0.1 einops einconv opt-einsum unfoldNd linear_operator \
	  backpack-for-pytorch jaxtyping wadler_lindig scipy plotly==7.1.0 narwhals packaging
	@touch $@

bench: $(VENV)/.ready-dev $(if $(PEERS),$(PEERS_VENV)/.ready)
	@$(BIN)/python benchmarks/run.py --scale $(SCALE) \
	  $(if $(PEERS),--peers $(PEERS_VENV)/bin/python)
	@$(BIN)/python benchmarks/recording.py --scale $(SCALE)
	@$(BIN)/python benchmarks/displacement.py --scale $(SCALE)
	@$(BIN)/python benchmarks/curvature.py --scale $(SCALE) \
	  $(if $(PEERS),--peers $(PEERS_VENV)/bin/python)
	@$(BIN)/python benchmarks/report.py --scale $(SCALE) \
	  $(if $(PEERS),--peers $(PEERS_VENV)/bin/python)
	@$(BIN)/python benchmarks/table.py --scale $(SCALE)

docs: $(VENV)/.ready-dev $(VENV)/.ready-docs
	@$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean:
	rm -rf $(VENV) $(PEERS_VENV) docs/_build .pytest_cache .mypy_cache .ruff_cache
