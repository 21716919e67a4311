# make demo       install what it needs, fetch data and bodies, sweep eight data sets with a live leaderboard, open its page
# make test-fast  the tests to run while typing: no Ray cluster, nothing marked slow
# make test       tests of everything, a few minutes; each room's behaviour, a Ray sweep, a kill and resume, a browser, S3
# make test-all   also the exhaustive ones: fault runs, isolated nodes, jobs, installations; the scheduled workflow runs it
# make check      everything CI runs: style, submitted scores, types, tests
# make boards     build the boards, findings and the help of commands in README.md and docs/ again
# make page       build the leaderboard's page from page-src (needs Node.js; only after changes there)
# make docs       build the documentation site from docs/ into build/docs; a link that leads nowhere is an error
# make release-check  build wheel and source archive, install each in empty environments of PYTHONS, and run commands there
# make bench      performance tables (not tests), also written to bench/*.json; ORCA_REFERENCE=DIR compares with a
#                 checkout of the reference implementation
#
# Variables: PYTHON=/path/to/python (default: the first Python >= 3.11.4 on the path), PYTHONS="python3.11 python3.12"
# RELEASE_EXTRAS=sweep,trees (Pythons and extras of release-check; default: PYTHON, none), WORKERS=4 (parallel test
# processes; default: one per core, at most 8; 0: none), RESULTS=DIR (where make demo stores its results),
# CONSTRAINTS=FILE (pip's constraints; python -m benchmarks.lower_bounds prints those of the oldest versions).
SHELL := bash
ifeq ($(OS),Windows_NT)
$(error orca-ray runs on Linux and macOS. On Windows, install WSL (wsl --install), clone and run make in its shell)
endif
# Compiled tests are kept even where this variable is set: compiling them takes each of the parallel processes seconds.
unexport PYTHONDONTWRITEBYTECODE
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := demo
.DELETE_ON_ERROR:

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11, 4))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_STAMP := $(VENV)/.demo
EXTRAS := .[sweep,adapt,signals,export,serve,trees,dev,docs]
DEMO_EXTRAS := .[sweep,trees]
# PyPI's torch for Linux brings CUDA's libraries: 6.4 GB in all, of which 3.3 GB are downloaded; other builds take 2.5 GB.
NEEDED_MIB := 3000
NEEDED_WITH_CUDA_MIB := 7000
RESULTS ?= results
WORKERS ?= auto
# Without compiling, which Python does at the first import of the modules that are used, pip takes half the time.
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --no-input --no-compile --progress-bar off \
	$(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) -e
# Where PYTHONDONTWRITEBYTECODE is set, as in many containers, Python outside of make would compile at each import. Some
# packages hold files for other versions of Python, which cannot be compiled.
COMPILE := $(if $(PYTHONDONTWRITEBYTECODE),$(BIN)/python -m compileall -q -j 0 orca_ray $(VENV)/lib > $(VENV)/compile.log 2>&1 || true;)
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-fast test-all check boards page docs release-check bench venv clean

# $(call stage,title,command) runs a command and prints how long it took.
define stage
@begin=$$(date +%s); echo "== $(1)"; $(2); echo "== $(1): $$(( $$(date +%s) - begin )) s"
endef

# $(call install,requirement) installs into $(VENV), prints the last line of pip's log every five seconds, and more of
# the log if pip fails. pip runs in the foreground, because background processes ignore Ctrl-C. Without a cache that can
# be written, pip must be told so, or it builds no wheel. The lock (6: exclusive, without waiting) is this shell's and
# pip's, and ends with them.
define install
test -n "$(PYTHON)" || { echo "no Python 3.11.4 or newer found: install one, or run make PYTHON=/path/to/python" >&2; exit 2; }; \
	$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11, 4) and f"Python 3.11.4 or newer is needed, $(PYTHON) is {v}: run make PYTHON=/path/to/python")'; \
	free=$$(( $$(df -Pk . | awk 'END {print $$4}') / 1024 )); \
	[[ -x $(BIN)/orca-sweep ]] || (( free >= $(NEEDED_MIB) )) || { echo "$$PWD: $$free MiB are free, the installation needs $(NEEDED_MIB): free some, or move the clone" >&2; exit 2; }; \
	[[ -x $(BIN)/orca-sweep || $$(uname -s) != Linux ]] || (( free >= $(NEEDED_WITH_CUDA_MIB) )) || echo "$$PWD: $$free MiB are free, which is too little if pip takes a torch with CUDA ($(NEEDED_WITH_CUDA_MIB) MiB)" >&2; \
	mkdir -p "$${PIP_CACHE_DIR:-$${HOME:-/}}" 2>/dev/null || true; \
	[[ -w $${PIP_CACHE_DIR:-$${HOME:-/}} ]] || export PIP_NO_CACHE_DIR=1; \
	exec 9< Makefile; \
	[[ "$$($(PYTHON) -c 'import fcntl; fcntl.flock(9, 6)' 2>&1)" != *BlockingIOError* ]] || { echo "another make installs into $$PWD/$(VENV): wait until it has ended" >&2; exit 2; }; \
	log=$(VENV)/install.log; \
	(while sleep 5 && kill -0 $$$$; do line=$$(grep -avi uninstall $$log 2>/dev/null | tail -n 1 | cut -c 1-48) || true; \
	echo "   $$(( $$(date +%s) - begin )) s: $${line:-…}"; done) 9<&- & beat=$$!; \
	trap 'kill $$beat 2>/dev/null || true' EXIT; \
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV); \
	$(INSTALL) '$(1)' > $$log 2>&1 || { hidden='^$$'; \
	! grep -qaE 'NewConnectionError|ProxyError|timed out' $$log || { hidden='Could not find a version|No matching distribution'; \
	echo "the package index cannot be reached: check the network, the proxy (HTTPS_PROXY), and pip's settings (pip config list)" >&2; }; \
	! grep -qa 'No space left' $$log || echo "no space is left in $$PWD, $${TMPDIR:-/tmp} (pip's temporary files) or pip's cache: free some, or set TMPDIR" >&2; \
	{ grep -ahE '^ *ERROR:|No space left' $$log | grep -vE "$$hidden" || true; } | sed 's,^ *,,' | sort -u | tail -n 3 | cut -c 1-200 >&2; \
	echo "pip could not install; all it said is in $$log. The same command tries again." >&2; exit 2; }
endef

demo: $(DEMO_STAMP)
	$(call stage,fetch data and bodies,$(BIN)/orca-sweep data fetch pocket --bodies)
	$(call stage,sweep,$(BIN)/orca-sweep benchmark demo --results $(RESULTS) --board pocket.html)

test: venv
	$(PYTEST)

test-fast: venv
	$(PYTEST) -m 'not slow and not ray and not network and not gpu and not exhaustive'

test-all: venv
	$(PYTEST) -m 'not network and not gpu'

# mypy runs at the same time as the tests, because Ray tests wait most of their time. Its report follows theirs.
check: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/orca-sweep results check
	@$(BIN)/mypy > $(VENV)/mypy.log 2>&1 & types=$$!; code=0; \
		$(PYTEST) || code=$$?; \
		wait $$types || code=1; echo "== mypy"; cat $(VENV)/mypy.log; exit $$code

boards: venv
	$(BIN)/python -m tests.test_boards
	$(BIN)/python -m benchmarks.command_pages

# The built files are committed, so that nobody else needs Node.js; a test compares them with their sources.
page:
	cd page-src && npm ci --no-audit --no-fund --silent && npm run --silent build

docs: venv
	$(BIN)/python -m sphinx -E -n -W --keep-going -q docs build/docs

release-check:
	$(PYTHON) -m benchmarks.release_check $(or $(PYTHONS),$(PYTHON)) $(if $(RELEASE_EXTRAS),--extras $(RELEASE_EXTRAS))

bench: venv
	@test -z "$${ORCA_REFERENCE:-}" || $(INSTALL) '.[sweep,dev,bench]'
	@mkdir -p bench
	for script in benchmarks/bench_*.py; do \
		echo "== $$script"; $(BIN)/python "$$script" --json "bench/$$(basename "$$script" .py).json"; done

# The stamp is written last, so an interrupted installation is repeated and a complete one is not.
venv: $(STAMP)

$(STAMP): pyproject.toml
	$(call stage,install (some minutes the first time),$(call install,$(EXTRAS)); $(COMPILE) touch $(DEMO_STAMP) $@)

$(DEMO_STAMP): pyproject.toml
	$(call stage,install (a minute or two the first time),$(call install,$(DEMO_EXTRAS)); touch $@)

clean:
	rm -rf $(VENV) page-src/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
