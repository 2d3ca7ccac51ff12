# Two commands are enough: `make demo` and `make test`. Each sets up .venv from requirements.lock on first use.
# Plain `make` lists the targets and does nothing else.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
STUDY ?= demo
METHODS ?=
SEEDS ?=
SWEEPS ?=
NAMES ?=
RESULTS ?= results
PROFILE ?= local
THREADS ?= 1
VARIANT ?= s_v1
DEVICE ?= auto
PRECISION ?= bf16
BATCH ?= 16
BATCHES ?=
REPEATS ?= 10
PEOPLE ?= 96
WORKERS ?= 0
COMPILE ?= False
DEMO_SEEDS ?= 0
PARTS ?=
MODULES ?=
export FSD_CACHE ?= $(CURDIR)/_data
# large blocks are kept by the allocator instead of being returned to the system after every step (glibc only)
export GLIBC_TUNABLES ?= glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4294967295
export PYTHONWARNINGS ?= ignore::FutureWarning
# files and messages are UTF-8, whatever the locale
export PYTHONUTF8 ?= 1

# a variable's value for the shell, quoted and not expanded: folders and names are data
q = '$(subst ','\'',$(value $1))'
# the workflow, see workflow/Snakefile; the profiles switch off snakemake's own messages, also the one about a lock
WORKFLOW = $(BIN)/python -m snakemake --snakefile workflow/Snakefile --profile workflow/profiles/$(call q,PROFILE)
OR_LOCKED = || { if [ -n "$$(ls .snakemake/locks 2>/dev/null)" ]; then echo "another call is running here, or one was killed: wait for it, or 'make unlock'" >&2; fi; exit 1; }

PAPERMILL = $(BIN)/papermill --log-output --no-progress-bar --start-timeout 900

.PHONY: help demo grid start benchmarks soak unlock test quick coverage mutants hooks pages pair docs screenshots notebooks clean
help:  ## this list
	@awk -F ':.*  ## ' '/^[a-z]+:.*  ## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(READY)  ## the guide's methods on drawn people, table and figures (_runs/demo); METHODS="baseline fsd" SEEDS="0 1" for others
	@$(WORKFLOW) --config study=demo methods=$(if $(value METHODS),$(call q,METHODS),guide) seeds=$(if $(value SEEDS),$(call q,SEEDS),0) \
	  results=_runs threads=$(call q,THREADS) -- table $(OR_LOCKED)
	@cat _runs/demo/table.md; echo; echo "table, records and figures: _runs/demo; the notebooks as they ran: _runs/notebooks/demo"

# a record that is there stands; RERUN=1 repeats those made here with other code or settings
grid: $(READY)  ## runs of a study into results/: make grid STUDY=demo SEEDS="0 1 2" METHODS="baseline fsd" SWEEPS=all PROFILE=slurm
	@$(WORKFLOW) $(if $(RERUN),,--rerun-triggers software-env) --config study=$(call q,STUDY) methods=$(call q,METHODS) seeds=$(call q,SEEDS) sweeps=$(call q,SWEEPS) \
	  results=$(call q,RESULTS) threads=$(call q,THREADS) -- all $(OR_LOCKED)
	@cat $(call q,RESULTS)/$(call q,STUDY)/table.md

# to replace a record is to ask for it: a finished one would be left as it is
start: $(READY)  ## train the demo's warm start again and replace the weights in the package
	@mkdir -p _runs/notebooks; rm -f $(call q,RESULTS)/demo_start/runs/no_distillation-seed0/record.json
	@set -o pipefail; $(PAPERMILL) nbs/experiments/warm_start.ipynb _runs/notebooks/warm_start.ipynb -p full True -r out $(call q,RESULTS)/demo_start/runs/no_distillation-seed0 \
	  2>&1 | $(BIN)/python tools/plain_log.py

benchmarks: $(READY)  ## times of one model on this machine, into results/benchmarks: VARIANT=t DEVICE=cuda BATCH=128 BATCHES="64 128 256" WORKERS=16 COMPILE=True
	@mkdir -p _runs/notebooks
	@set -o pipefail; OMP_NUM_THREADS=$(call q,THREADS) $(PAPERMILL) nbs/benchmarks.ipynb _runs/notebooks/benchmarks-$(call q,VARIANT).ipynb -r variant $(call q,VARIANT) -r device $(call q,DEVICE) \
	  -r precision $(call q,PRECISION) -p batch $(call q,BATCH) -r batches $(call q,BATCHES) -p repeats $(call q,REPEATS) -p people $(call q,PEOPLE) -p workers $(call q,WORKERS) -p compile $(call q,COMPILE) -p demo_seeds $(call q,DEMO_SEEDS) \
	  -r out $(call q,RESULTS)/benchmarks 2>&1 | $(BIN)/python tools/plain_log.py
	@ls $(call q,RESULTS)/benchmarks/speed-$(call q,VARIANT)-*.json

soak: $(READY)  ## kill, spoil and resume tiny runs for a quarter of an hour, into results/reliability
	@$(BIN)/python tools/soak.py --out $(call q,RESULTS)/reliability

unlock: $(READY)  ## after a call of demo or grid was killed
	@$(WORKFLOW) --unlock

test: $(READY)  ## everything CI checks; make test STEPS="sync tests" for a part
	@$(BIN)/python tools/check.py $(STEPS)

quick: $(READY)  ## the same in two minutes, for every commit: without notebooks, documents, slow tests and the README's commands
	@$(BIN)/python tools/check.py sync readme ruff quick

# both take long and are no part of `make test`
coverage: $(READY)  ## lines of the library that run in notebooks and tests, into results/reliability; PARTS="nbs/04_masks.ipynb tests/test_data.py" for some
	@$(BIN)/python tools/covered.py $(PARTS)

mutants: $(READY)  ## small faults in masks, losses and comparisons that tests notice, into results/reliability; MODULES="masks" for some
	@$(BIN)/python tools/mutants.py $(MODULES)

# git finds nbdev's programs in .venv, whether or not it is activated
hooks: $(READY)  ## once per clone: git merges notebooks cell by cell (nbdev's merge driver)
	@test -d .git || { echo "no .git folder here: run 'make hooks' in the clone itself, not in a worktree" >&2; exit 1; }
	@$(BIN)/nbdev_install_hooks
	@git config --local merge.nbdev-merge.driver "'$(abspath $(BIN))/nbdev_merge' %O %A %B %P"
	@printf '#!/bin/sh\nexec "%s/nbdev_trust"\n' "$(abspath $(BIN))" > .git/hooks/post-merge

pages: $(READY)  ## one page per method and per sweep, from the templates: make pages NAMES="fsd sweep_temperature" for some
	@$(BIN)/python tools/pages.py $(NAMES)
	@$(BIN)/nbdev_clean

pair: $(READY)  ## write the scripts of the templates and of the pages written by hand (nbs/experiments/_py)
	@$(BIN)/python tools/pair.py

docs: $(READY)  ## the site, in _docs/html
	@$(BIN)/python tools/check.py docs
	@echo "open _docs/html/index.html"

screenshots: $(READY)  ## pictures of every page, to look at, in _docs/screenshots (after make docs; needs a Chromium)
	@$(BIN)/python tools/screenshots.py

notebooks: $(READY)  ## run notebooks again and keep their outputs: make notebooks NB="nbs/04_masks.ipynb"
	@$(BIN)/python tools/run_notebooks.py $(NB)
	@$(BIN)/nbdev_clean

$(READY): requirements.lock settings.ini setup.py
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ...")'
	@echo "setting up .venv (once)"
	@"$(PYTHON)" -m venv .venv
	@$(BIN)/pip install -q --disable-pip-version-check -r requirements.lock
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

clean:  ## remove everything that the other targets made
	rm -rf .venv .snakemake _docs _proc _runs _data *.egg-info .pytest_cache .ruff_cache
