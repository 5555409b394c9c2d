# Each target sets up what it needs. PYTHON picks the interpreter, EXTRAS the flavour:
# EXTRAS=gpu,s3,dev on a machine with GPUs.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= cpu,s3,dev
WORKERS ?= 2
comma := ,
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))

# Some containers switch bytecode off. Then each of the hundreds of processes of a test run compiles
# all sources.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo reproduce-mini test test-fast test-slow test-all lint prose types check docs install lock clean chaos

help:  ## list the targets
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | awk -F '\t' '{printf "  make %-16s %s\n", $$1, $$2}'

install: $(STAMP)  ## set up .venv

$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Try make PYTHON=python3.12 …")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[$(EXTRAS)]'
	@touch $@

demo: $(STAMP)  ## set up and run the demo
	$(BIN)/orchestrator run demo

# Tests run in parallel. Those that share a Ray, a server or a file stay in one process.
PYTEST := $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup --no-loadscope-reorder

test: $(STAMP)  ## set up and run the tests, 5 to 10 minutes on two cores
	$(PYTEST) -m "not (slow or long)"

test-fast: $(STAMP)  ## the quick ones, without Ray, a server, a browser or a whole run
	$(PYTEST) -m "not (medium or slow or long or ray or mlflow_server or browser)"

# One at a time: two Rays on two cores keep each other from starting.
test-slow: $(STAMP)  ## whole runs on Ray, kills and real servers
	$(BIN)/python -m pytest -q -m "slow and not long"

test-all: $(STAMP)  ## every test: the two above, more cases of the slow ones, and what takes minutes each
	$(PYTEST)

# Killed and started again it goes on. Needs the images: UNLEARN_DATA=… make reproduce-mini
reproduce-mini: $(STAMP)  ## the paper's tables and figures at their smallest size, about two and a half hours on two cores
	$(BIN)/orchestrator reproduce all --size mini

# Writes docs/results/chaos. One scenario alone: make chaos CHAOS="--only driver --seed 1"
chaos: $(STAMP)  ## kills, damaged files, a full disk, races, wrong clocks: about half an hour
	$(BIN)/python -m tests.chaos --output docs/results/chaos $(CHAOS)

lint: $(STAMP)  ## ruff and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

# PROSE=--all looks at every file; PROSE=--shrink takes files out of the list of exceptions.
prose: $(STAMP)  ## sentences of at most 25 words, prose lines of at most 100 columns
	$(BIN)/python -m tests.prose $(PROSE)

types: $(STAMP)  ## mypy; benchmarks folder by folder, as each imports its own neighbours
	$(BIN)/mypy
	for folder in benchmarks/*/; do MYPYPATH=$$folder $(BIN)/mypy $$folder*.py || exit 1; done

check: lint prose types test  ## all of the above; continuous integration runs test-slow, too

docs: $(STAMP)  ## the documentation site, into build/site
	$(BIN)/python docs/scripts/tables.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# Without local build tags, so that any index can serve the versions.
lock: $(STAMP)  ## write requirements.lock from the current environment
	$(BIN)/python -m pip freeze --exclude-editable --disable-pip-version-check | sed -E 's/ @ .*//; s/\+[a-z0-9.]+$$//' > requirements.lock

clean:  ## remove .venv and caches
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
