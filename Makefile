# make demo    install, fetch, sweep the pocket benchmark, print the board
# make test    install if need be, run the tests
# make check   what CI runs: style, types, import floors, tests
# make bench   performance tables (not tests), written to bench/*.json, too; ORCA_REFERENCE=DIR compares with a checkout
#              of the reference implementation
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := demo
.DELETE_ON_ERROR:

# The first interpreter on the path that is new enough; `make demo PYTHON=/path/to/python` overrides.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11, 4))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := .[sweep,dev]
RESULTS ?= results

.PHONY: demo test check bench venv clean

# $(call stage,title,command) runs a command and says how long it took.
define stage
@begin=$$(date +%s); echo "== $(1)"; $(2); echo "== $(1): $$(( $$(date +%s) - begin )) s"
endef

demo: venv
	$(call stage,fetch data and bodies,$(BIN)/orca-sweep data fetch pocket --bodies)
	$(call stage,sweep,$(BIN)/orca-sweep benchmark pocket --budget quick --results $(RESULTS))
	$(call stage,leaderboard,$(BIN)/orca-sweep leaderboard pocket --budget quick --results $(RESULTS))

test: venv
	$(BIN)/python -m pytest

check: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

bench: venv
	@test -z "$${ORCA_REFERENCE:-}" || $(BIN)/python -m pip install --disable-pip-version-check --no-input --quiet -e '.[sweep,dev,bench]'
	@mkdir -p bench
	for script in tests/perf/bench_*.py; do \
		echo "== $$script"; $(BIN)/python "$$script" --json "bench/$$(basename "$$script" .py).json"; done

# The stamp is written last, so an interrupted installation is done again and a finished one is not.
venv: $(STAMP)

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.11.4 or newer found: install one, or say make PYTHON=/path/to/python" >&2; exit 2; }
	$(call stage,install (some minutes the first time),$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV); \
		$(BIN)/python -m pip install --disable-pip-version-check --no-input --quiet -e '$(EXTRAS)'; touch $@)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
