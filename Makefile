# make help lists the targets. Every target makes the environment in .venv first, if it is not there yet.
PYTHON ?= python3
VENV ?= .venv
# The release the tests were run with. pip chooses the build for this machine among those it is offered; name another
# release, or the file of a smaller CPU build, with: make install TORCH=...
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help install demo test lint unit clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(READY)  ## make the environment in .venv

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check '$(TORCH)'
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(READY)  ## from videos of a small world to moments in them: under 10 minutes on 2 cores
	$(BIN)/sdst demo

test: lint unit  ## everything that CI checks

lint: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(READY)  ## all tests, one process per core
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto

clean:  ## remove caches; never touches runs or data
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find src tests -name __pycache__ -type d -exec rm -rf {} +
