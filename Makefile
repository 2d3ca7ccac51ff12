# Two commands are enough: `make demo` and `make test`. Each sets up .venv from requirements.lock on first use.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
METHODS ?= baseline fsd
SEED ?= 0
export FSD_CACHE ?= $(CURDIR)/_data
# large blocks are kept by the allocator instead of being returned to the system after every step (glibc only)
export GLIBC_TUNABLES ?= glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=4294967295
export PYTHONWARNINGS ?= ignore::FutureWarning

.PHONY: demo test docs notebooks clean
demo: $(READY)  ## train baseline and fsd on synthetic people, print and save the table (_runs/demo)
	@rm -rf _runs/demo && mkdir -p _runs/demo/notebooks
	@set -euo pipefail; for m in $(METHODS); do echo "== $$m, seed $(SEED)"; \
	  $(BIN)/papermill nbs/experiments/$$m.ipynb _runs/demo/notebooks/$$m-seed$(SEED).ipynb \
	    -p study demo -p seed $(SEED) -p out _runs/demo/runs/$$m-seed$(SEED) --log-output --no-progress-bar 2>&1 | $(BIN)/python tools/plain_log.py; done
	@set -euo pipefail; $(BIN)/papermill nbs/experiments/ap_table.ipynb _runs/demo/notebooks/ap_table.ipynb -p study demo -p results _runs \
	    --no-progress-bar 2>&1 | $(BIN)/python tools/plain_log.py
	@cat _runs/demo/table.md; echo; echo "table, records and figures: _runs/demo"

test: $(READY)  ## everything CI checks; make test STEPS="sync tests" for a part
	@$(BIN)/python tools/check.py $(STEPS)

docs: $(READY)  ## the site, in _docs/html
	@$(BIN)/python tools/check.py docs
	@echo "open _docs/html/index.html"

notebooks: $(READY)  ## run notebooks again and keep their outputs: make notebooks NB="nbs/03_masks.ipynb"
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
	rm -rf .venv _docs _proc _runs _data *.egg-info .pytest_cache .ruff_cache
