# Two commands: `make demo` and `make test`. Each makes its own .venv first.
#   make demo [FAST=1]   corpus, training, generation, evaluation, report
#   make test [SLOW=1]   lint, types, tests
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
# The first that runs and is new enough; a version manager's shim may exist and not run.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
FAST ?=
SLOW ?=
RUN := $(if $(FAST),demo_fast,demo)
EXP := experiments/$(RUN)
# A quarter of the corpus and of the test items for a quick look, beside the whole one.
DATA := $(if $(FAST),data/quarter,data)
# Waiting threads spin for a tenth of the default time: no slower on a free machine, far faster on a busy one.
export GOMP_SPINCOUNT ?= 30000

.PHONY: help demo test install lint types clean

help: ## Show this help
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

# The stamp names what was installed: a changed pyproject or constraints file installs again.
STAMP := $(VENV)/.installed
$(STAMP): pyproject.toml constraints.txt
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "No Python 3.11 or newer found; install one, or say: make PYTHON=path/to/python"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV); } || $(MAKE) --no-print-directory virtualenv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[speech,singing,video,archives,eval,dev]'
	@touch $@

install: $(STAMP) ## Make .venv with everything in it

.PHONY: virtualenv
virtualenv: # for a Python whose venv module lacks pip (Debian without python3-venv)
	rm -rf $(VENV)
	$(PYTHON) -m pip install --quiet --target $(VENV)-bootstrap virtualenv
	PYTHONPATH=$(VENV)-bootstrap $(PYTHON) -m virtualenv --quiet $(VENV)
	rm -rf $(VENV)-bootstrap

demo: $(STAMP) ## Corpus, training, generation, evaluation, report (FAST=1: about two minutes)
	$(BIN)/unisono prepare mini --out $(DATA)/mini $(if $(FAST),--share 0.25)
	$(BIN)/python train.py experiment=$(RUN) data_root=$(DATA)
	$(BIN)/python inference.py exp_dir=$(EXP) data_root=$(DATA)
	$(BIN)/unisono generate t2a "two low knocks, then a rising whistle" --model $(EXP)/model -o $(EXP)/generated/knocks.wav --duration 2 --seed 3
	$(BIN)/unisono generate tts "Hello there. How are you?" --model $(EXP)/model -o $(EXP)/generated/hello.wav --speaker en-us
	$(BIN)/unisono generate "remove the noise from this recording" --model $(EXP)/model -o $(EXP)/generated/clean.wav \
		--audio $(DATA)/mini/speech_enhancement/noisy/se_test_00000.flac
	$(BIN)/python evaluate.py exp_dir=$(EXP) data_root=$(DATA)

lint: $(STAMP) ## Ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## Mypy
	$(BIN)/mypy

# Of the slow tests many start several processes each: two at a time on any machine.
test: lint types ## Lint, types, tests (SLOW=1: also training runs, kills, several processes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n logical --maxprocesses 8
	$(if $(SLOW),OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n 2)

clean: ## Remove environment, corpora and runs
	rm -rf $(VENV) data experiments build dist
