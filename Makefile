# `make demo` and `make test` work on a bare machine with Python 3.11 or later and nothing else. The demo needs what
# decoding needs; all else is installed for the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-shapes test-slow test-gpu test-browser test-cluster lint docs bench bench-quality bench-front help

help:  ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.decoding  ## the tiny model answers real prompts with three samplers
	$(BIN)/python scripts/demo.py

test: $(VENV)/.ready  ## the test suite, under ten minutes on two cores
	$(BIN)/python -m pytest -n 2

# The shapes in the signatures, checked at run time by jaxtyping and beartype.
SHAPED := dlm.engine,dlm.speculation,samplers,cache
test-shapes: $(VENV)/.ready  ## a part of the suite with every annotated shape checked
	$(BIN)/python -m pytest --jaxtyping-packages=$(SHAPED),beartype.beartype \
		tests/samplers tests/test_hooks.py tests/test_trace.py tests/test_noise.py tests/cache/test_block_causal.py \
		tests/cache/test_counts.py tests/speculation/test_probes.py \
		--ignore=tests/samplers/test_bad_input.py --ignore=tests/samplers/test_roles.py

test-slow: $(VENV)/.ready  ## the long tests
	$(BIN)/python -m pytest -m slow

test-gpu: $(VENV)/.ready  ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

test-browser: $(VENV)/.ready  ## the HTML pages in a headless Chromium (Debian: chromium chromium-driver)
	$(BIN)/python -m pytest -m browser

test-cluster: $(VENV)/.ready  ## sweeps on a small Slurm that the tests start (Debian: slurm-wlm munge; as root)
	$(BIN)/python -m pytest -m cluster tests/cluster

lint: $(VENV)/.ready  ## style, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.docs  ## the site, in build/site; a broken link fails
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/site
	@echo build/site/index.html

bench: $(VENV)/.ready  ## seconds per forward and outside it, beside a naive decoder
	$(BIN)/dlm bench

QUALITY ?= runs/quality
FRONT ?= runs/front
LIMIT ?= 30
WORKERS ?= 2
bench-quality: $(VENV)/.ready  ## every task x sampler on the tiny model; renews docs/parallelbench.md (resumable)
	$(BIN)/dlm eval grid=tiny task.limit=$(LIMIT) workers=$(WORKERS) out=$(QUALITY)
	$(BIN)/dlm report $(QUALITY) >/dev/null
	$(BIN)/python scripts/bench_quality.py $(QUALITY)

bench-front: $(VENV)/.ready  ## every sampler tuned alike, reported on other tasks; renews docs/front.md (resumable)
	$(BIN)/python scripts/bench_front.py $(FRONT) --output docs/front.md

# torch alone and first: on a machine with a CPU build at hand pip takes that, and nothing later replaces it.
$(VENV)/.decoding: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "dlm needs Python 3.11 or later; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.docs: $(VENV)/.decoding
	$(BIN)/pip install -q -c constraints.txt -e '.[docs]'
	touch $@

$(VENV)/.ready: $(VENV)/.decoding
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,plot,eval,sweep,quantize,adapters,constraints,tune,serve]'
	touch $@
