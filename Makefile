# The front door. Needs Python 3.11 or newer with venv; everything else goes into .venv.
#   make serve PYTHON=python3.13      another interpreter
#   make test ARGS="tests/gateway -k settings"      part of the tests (without the coverage floor)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python
COOL_DOWN ?= 7 days
PIN := $(BIN)/uv pip compile --quiet --exclude-newer "$(COOL_DOWN)" --universal --python-version 3.11 --generate-hashes --no-header
DOCKER ?= docker
IMAGE ?= tidegate
ARGS ?=
TEST_PROCESSES ?= 2
DIST ?= dist

.DEFAULT_GOAL := help
.PHONY: help serve test lint format bench bench-quick tables conformance dashboards image image-test requirements dist clean

help: ## Show this
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(VENV)/.installed ## Run the gateway on 127.0.0.1:8000 (ops on 9000), with no other service
	@key=; [ -n "$$TIDEGATE_API_KEY" ] || key=" TIDEGATE_API_KEY=local-trial"; export TIDEGATE_API_KEY="$${TIDEGATE_API_KEY:-local-trial}"; \
	  echo "In the terminal you publish from:  export PATH=\"$(CURDIR)/$(BIN):\$$PATH\"$$key"; \
	  exec $(BIN)/tidegate serve $(ARGS)

test: $(VENV)/.installed-test ## Run the whole test suite, with the coverage floor
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) $(if $(ARGS),$(ARGS),--cov --cov-report=term)

lint: $(VENV)/.installed-test $(VENV)/.installed-lint ## Check style, types and the floor plan; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-lint ## Put the code into its form
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-bench ## Measure beside other servers; the results go into docs/performance.md
	$(BIN)/python -m benchmarks $(ARGS)

bench-quick: $(VENV)/.installed-bench ## The same in about two minutes, printed only
	$(BIN)/python -m benchmarks --quick $(ARGS)

tables: $(VENV)/.installed-test ## Write anew what is made from settings and metrics: tables in docs/, the chart's schema
	$(BIN)/python docs/tables.py
	$(BIN)/python -m tests.deploy.chart.settings_schema

conformance: $(VENV)/.installed-test ## All Autobahn cases against the wire (about eight minutes)
	$(BIN)/python -m tests.conformance.run $(ARGS)

dashboards: $(VENV)/.installed-dashboards ## Write dashboards and recording rules anew, and the chart's copies of them
	$(BIN)/python -m dashboards.build $(ARGS)

dist: $(BIN)/uv ## Build sdist and wheel into dist/ (DIST=elsewhere), and check their metadata
	rm -f "$(DIST)"/tidegate-*.whl "$(DIST)"/tidegate-*.tar.gz
	$(BIN)/uv build --quiet --build-constraints requirements-build.txt --require-hashes --out-dir "$(DIST)"
	$(BIN)/uv tool run --quiet --exclude-newer "$(COOL_DOWN)" twine==7.0.0 check --strict "$(DIST)"/*.whl "$(DIST)"/*.tar.gz

image: ## Build the container image `tidegate` (IMAGE=another:name)
	DOCKER_BUILDKIT=1 $(DOCKER) build --tag "$(IMAGE)" --build-arg REVISION="$$(git rev-parse HEAD 2>/dev/null || echo unknown)" \
	  --build-arg VERSION="$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' gateway/version.py)" $(ARGS) .

image-test: $(VENV)/.installed-test ## Build the image and try it, in a Docker daemon of its own (needs root)
	$(BIN)/python -m pytest -m image tests/deploy/image $(ARGS)

requirements: | $(BIN)/uv ## Pin what the image and releases are built from, out for a week (ARGS=--upgrade: the newest)
	$(PIN) --extra redis --extra nats --output-file requirements.txt $(ARGS) pyproject.toml
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
	  | $(PIN) --output-file requirements-build.txt $(ARGS) -

clean: ## Remove what was made, .venv too
	rm -rf $(VENV) build dist htmlcov .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './node_modules/*' -prune -exec rm -rf {} +

# ── the environment; each step is done again only when what it is made from has changed ──────────────────────────────

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Tidegate needs Python 3.11 or newer; this is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "This Python comes without venv. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9.17'
	@touch $@

$(VENV)/.installed: pyproject.toml gateway/version.py | $(BIN)/uv
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(INSTALL) --editable '.[redis,nats]' --group test
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(INSTALL) --editable '.[redis,nats]' --group bench
	@touch $@

$(VENV)/.installed-dashboards: $(VENV)/.installed
	$(INSTALL) --group dashboards
	@touch $@

$(VENV)/.installed-lint: $(VENV)/.installed
	$(INSTALL) --group lint
	@touch $@
