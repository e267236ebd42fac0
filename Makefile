# make demo, make test, make lint: each sets up what it needs in .venv first.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
# Set TORCH_INDEX to an index of CPU builds to avoid gigabytes of CUDA libraries.
TORCH_INDEX ?=
TORCH_VERSION := 2.13.0

.PHONY: setup native test lint format demo clean

setup: $(STAMP)

$(STAMP): pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "streamseg needs Python 3.10 or newer; $(PYTHON) is older. Set PYTHON=..."; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv"; exit 2; }
	$(BIN)/python -m pip install -q --upgrade "pip>=24"
	$(BIN)/python -m pip install -q "torch==$(TORCH_VERSION)" $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	@$(BIN)/python -c 'import torch; print("torch", torch.__version__, "CUDA build " + torch.version.cuda if torch.version.cuda else "CPU build")'
	$(BIN)/python -m pip install -q -e ".[cpu,export,dev]"
	@touch $@

native: setup
	STREAMSEG_NATIVE=1 $(BIN)/python setup.py -q build_native --inplace

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	rm -rf build/typing && mkdir -p build/typing/streamseg
	ln -s $(CURDIR)/src/streamseg/* build/typing/streamseg/
	ln -s $(CURDIR)/export $(CURDIR)/runtime $(CURDIR)/plugins $(CURDIR)/calibration $(CURDIR)/training build/typing/streamseg/
	MYPYPATH=build/typing $(BIN)/mypy -p streamseg

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist out *.egg-info
