# `make demo` and `make test` each set up everything they need. PYTHON picks the interpreter, EXTRAS the flavour
# (EXTRAS=gpu,s3,dev on a machine with GPUs).
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= cpu,s3,dev
comma := ,
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))

.PHONY: demo reproduce-mini test test-all lint prose types check install lock clean chaos

install: $(STAMP)

$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Try make PYTHON=python3.12 …")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[$(EXTRAS)]'
	@touch $@

demo: $(STAMP)
	$(BIN)/orchestrator run demo

test: $(STAMP)
	$(BIN)/python -m pytest -q -m "not slow"

test-all: $(STAMP)
	$(BIN)/python -m pytest -q

# The paper's tables and figures at small size, about an hour on two cores; killed and started again it goes on.
# Needs the images: UNLEARN_DATA=… make reproduce-mini
reproduce-mini: $(STAMP)
	$(BIN)/orchestrator reproduce all --size mini

# Kills, damaged files, a full disk, races, wrong clocks: about half an hour on two cores. Writes docs/results/chaos.
# One scenario alone: make chaos CHAOS="--only driver --seed 1"
chaos: $(STAMP)
	$(BIN)/python -m tests.chaos --output docs/results/chaos $(CHAOS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

# Sentences of at most 25 words, lines of prose of at most 100 columns. PROSE="--all" looks at every file.
prose: $(STAMP)
	$(BIN)/python -m tests.prose $(PROSE)

types: $(STAMP)
	$(BIN)/mypy

check: lint types prose test

# Writes the versions of the current environment down, without local build tags, so that any index can serve them.
lock: $(STAMP)
	$(BIN)/python -m pip freeze --exclude-editable --disable-pip-version-check | sed -E 's/ @ .*//; s/\+[a-z0-9.]+$$//' > requirements.lock

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
