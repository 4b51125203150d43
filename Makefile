# Two commands: `make book` and `make test`. Both set everything up by themselves in .venv/.
SHELL := bash
.SHELLFLAGS := -o pipefail -ec
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
STAMP := .venv/.installed
PROFILE ?= full
JOBS ?= 2
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
# The longer ones run in `make book`; their outputs are compared every week, or by `make test LONG=`.
LONG := $(foreach number,02 03 04 05 06 07 10 13 16 17 18,$(wildcard notebooks/$(number)_*.ipynb))
COMPARED = $(filter-out $(LONG),$(NOTEBOOKS))
QUIET := TF_CPP_MIN_LOG_LEVEL=3 TF_USE_LEGACY_KERAS=1 CUDA_VISIBLE_DEVICES=-1
# What is compared runs alike everywhere: on one thread (two notebooks at a time), without a GPU.
ALIKE := $(QUIET) OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1
# Files in their order: the few long tests of the browser would else come last, when one worker has nothing to do.
TWO := -n 2 --dist loadfile --no-loadscope-reorder -q
# A Python that can make the environment; TensorFlow has no builds for later ones.
SUITABLE := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c '$(SUITABLE)' >/dev/null 2>&1 && { echo $$p; break; }; done)

.PHONY: help setup book test publish lint clean

help:  ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */  make \1\t/' | expand -t 18

setup: $(STAMP)  ## make .venv and install what pyproject.toml and constraints.txt say

$(STAMP): pyproject.toml constraints.txt
	@$(or $(PYTHON),false) -c '$(SUITABLE)' 2>/dev/null || { \
		echo "edgelab needs Python 3.11, 3.12 or 3.13 with venv: install one, or name it with make PYTHON=/path/to/python" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "set-up: making .venv with $$($(PYTHON) --version)"; $(PYTHON) -m venv .venv; }
	@echo "set-up: installing into .venv; the first time this fetches about 1.5 GB"
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[book,test]' \
		2>&1 | tee .venv/install.log | awk '/^ *Downloading .*[0-9][0-9] MB\)/ {print "set-up:   " $$2 " " $$3 " " $$4; fflush()} \
		/^Installing collected/ {print "set-up:   unpacking"; fflush()}' \
		|| { tail -n 15 .venv/install.log >&2; echo "set-up failed: the lines above are from .venv/install.log" >&2; exit 1; }
	@touch $@
	@echo "set-up: done"

book: $(STAMP)  ## run the course on the embedded digits (JOBS chapters at a time) and build the book
	@$(QUIET) $(BIN)/edgelab run --profile ci --jobs $(JOBS)
	@$(BIN)/edgelab book

publish: $(STAMP)  ## run the course on CIFAR-10 (hours; PROFILE=zoo: minutes) and keep the outputs in the repository
	@$(if $(filter ci,$(PROFILE)),$(ALIKE),TF_CPP_MIN_LOG_LEVEL=3) $(BIN)/edgelab run --profile $(PROFILE) --publish

lint: $(STAMP)  ## style, types and spelling
	@echo "lint: ruff check";   $(BIN)/ruff check --quiet .
	@echo "lint: ruff format";  $(BIN)/ruff format --check --quiet . || { $(BIN)/ruff format --check .; exit 1; }
	@echo "lint: mypy";         $(BIN)/mypy --no-error-summary edgelab
	@echo "lint: codespell";    git ls-files -z | xargs -0 $(BIN)/codespell

test: lint  ## all checks: lint, notebooks against their outputs, tests of the package and the book
ifneq ($(COMPARED),)
	@echo "test: notebooks against their outputs"
	@$(ALIKE) $(BIN)/python -m pytest --nbval $(COMPARED) $(TWO)
endif
	@echo "test: package and book"
	@$(ALIKE) $(BIN)/python -m pytest tests $(TWO)
	@echo "make test: ruff, mypy, codespell,$(if $(COMPARED), $(words $(COMPARED)) of $(words $(NOTEBOOKS)) notebooks,) and the tests above have passed"

clean:  ## remove what was built; .venv and the cache of data and checkpoints stay
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis edgelab.egg-info
