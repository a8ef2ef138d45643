# Everything that people, hooks and CI call. `make` alone lists it.
# Needs GNU make, a POSIX shell and Python 3.11 or newer; the rest is installed into .venv from hash-pinned lists.

PYTHON ?=
JOBS ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
ARGS ?=
ROUNDS ?= 1000
MINUTES ?= 60
EXAMPLES ?= 200

VENV := .venv
BIN := $(VENV)/bin
SUPPORTED := import sys; sys.exit(sys.version_info < (3, 11))

# What the checks need to read the settings as in production. Nothing listens there and nothing is sealed with these.
CHECK_ENV := DJANGO_SETTINGS_MODULE=gateway_site.settings DEBUG=0 \
	SECRET_KEY=only-for-checks-0123456789-abcdefghijklmnopqrstuvwxyz-ABCDEFGHIJKLM \
	KEY_PEPPERS=1:0000000000000000000000000000000000000000000000000000000000000000 \
	ENCRYPTION_KEYS=1:0000000000000000000000000000000000000000000000000000000000000000 \
	DATABASE_URL=postgres://nobody@127.0.0.1:1/nothing REDIS_URL=redis://127.0.0.1:1/0 \
	PUBLIC_URL=https://gateway.example ALLOWED_HOSTS=gateway.example CSRF_TRUSTED_ORIGINS=https://gateway.example

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run test check lint fix bench million chaos soak machine lock screenshots browser node-sdks clean dependencies test-dependencies

help: ## List what make can do here
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: dependencies ## Start everything on this machine and print a working key (PORT=8000, HOST=127.0.0.1)
	@exec $(BIN)/python -m gateway_site.embedded run

test: test-dependencies ## Run the whole suite against servers of its own (ARGS="-k ledger", JOBS=2)
	@exec $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

check: lint test ## Check format, lint, types, imports, migrations, deployment, templates, then run the tests

lint: test-dependencies ## All of `check` except the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@echo "mypy"
	@$(CHECK_ENV) $(BIN)/mypy .
	$(BIN)/lint-imports --no-logo
	@echo "manage.py makemigrations --check"
	@$(CHECK_ENV) $(BIN)/python -W "ignore:Got an error checking a consistent migration history:RuntimeWarning" \
		manage.py makemigrations --check --dry-run
	@echo "manage.py check --deploy"
	@$(CHECK_ENV) $(BIN)/python manage.py check --deploy --fail-level WARNING
	@# Pages behind a sign-in need no search engine's hints (H030, H031); mails are styled in line (H021), as mail programs want it.
	$(BIN)/djlint --quiet --profile=django --ignore=H015,H020,H030,H031 --extend-exclude=emails --lint templates
	$(BIN)/djlint --quiet --profile=django --ignore=H015,H020,H021,H030,H031 --lint templates/emails
	$(BIN)/python -m tools.build_error_docs --check

fix: test-dependencies ## Put right what a machine can: format, safe lint fixes, generated pages
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python -m tools.build_error_docs

bench: test-dependencies ## Measure CPU, latency and streams side by side, with ratios
	@exec $(BIN)/python -m tests.performance.bench $(ARGS)

million: test-dependencies ## Time every query of the pages on a million requests
	@exec $(BIN)/python -m tests.performance.million $(ARGS)

chaos: test-dependencies ## Kill processes and servers at random under load and payments, audit the money on the way and in the end (ROUNDS=1000)
	@exec $(BIN)/python -m tests.faults.chaos --rounds $(ROUNDS) $(ARGS)

soak: test-dependencies ## Serve good and bad clients and failing providers for an hour, and see that nothing of it is left behind (MINUTES=60)
	@exec $(BIN)/python -m tests.faults.soak --minutes $(MINUTES) $(ARGS)

machine: test-dependencies ## Let a machine invent histories of requests and payments, compared with a small model (EXAMPLES=200)
	@MACHINE_EXAMPLES=$(EXAMPLES) MACHINE_STEPS=50 $(BIN)/python -m pytest -n 2 --timeout 0 -k adds_up \
		tests/billing/test_machine.py tests/billing/payments/test_machine.py $(ARGS)

lock: test-dependencies ## Pin requirements*.in with hashes into requirements*.txt (ARGS=--upgrade for newer versions)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url $(ARGS) \
		requirements.in -o requirements.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url $(ARGS) \
		requirements-dev.in -o requirements-dev.txt

browser: ## Install Chromium for tests that drive pages (apt; elsewhere any Chromium on the PATH will do)
	@for name in chromium chromium-browser google-chrome; do \
		if command -v $$name >/dev/null 2>&1; then echo "$$name is installed."; exit 0; fi; \
	done; \
	if ! command -v apt-get >/dev/null 2>&1; then echo "Install Chromium with your system's package manager."; exit 1; fi; \
	if [ "$$(id -u)" = 0 ]; then apt-get update && apt-get install -y --no-install-recommends chromium; \
	else sudo apt-get update && sudo apt-get install -y --no-install-recommends chromium; fi

node-sdks: ## Install the Node SDKs and axe-core that tests/journeys drives (needs node 20 and npm; without them those tests are skipped)
	@if ! command -v npm >/dev/null 2>&1; then echo "npm is not here: the journeys of the Node SDKs will be skipped."; \
	elif cmp -s tests/journeys/node/package-lock.json tests/journeys/node/node_modules/.installed; then :; \
	else cd tests/journeys/node && npm ci --silent && cp package-lock.json node_modules/.installed; fi

screenshots: test-dependencies ## Take the pictures of README and docs from a throwaway installation (ARGS="--only overview")
	@exec $(BIN)/python -m tests.journeys.screenshots $(ARGS)

clean: ## Remove caches and built files (never .gateway, your data, nor .venv)
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis staticfiles build
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -not -path './.gateway/*' -prune -exec rm -rf {} +

# -- Dependencies --------------------------------------------------------------------------------------------------------------------
# A copy of each list that was installed lies in .venv: the same bytes, hashes included, mean that there is nothing to do. Both lists go into
# one command, because with --require-hashes the second may lean on pins of the first.

installed = cmp -s $(1) $(VENV)/$(1).installed

define install
	$(BIN)/python -c '$(SUPPORTED)' || { echo "The Python in $(VENV) is older than 3.11: remove $(VENV) and run make again." >&2; exit 1; }; \
	echo "Installing $(1) ..."; \
	if uv --version >/dev/null 2>&1; then \
		uv pip install --quiet --require-hashes --python $(BIN)/python $(addprefix -r ,$(1)); \
	else \
		{ $(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null; } && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes $(addprefix -r ,$(1)); \
	fi && for list in $(1); do cp $$list $(VENV)/$$list.installed; done
endef

dependencies: $(BIN)/python
	@$(call installed,requirements.txt) || { $(call install,requirements.txt); }

test-dependencies: $(BIN)/python
	@{ $(call installed,requirements.txt) && $(call installed,requirements-dev.txt); } || \
		{ $(call install,requirements.txt requirements-dev.txt); }

# Made anew when it is missing or its Python is gone (then the link is dangling, and make takes it for missing).
$(BIN)/python:
	@found=; for python in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11 python); do \
		if $$python -c '$(SUPPORTED)' >/dev/null 2>&1; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "Tollgate needs Python 3.11 or newer, and found none$$(python3 --version 2>/dev/null | sed 's/^/ (only /; s/$$/)/')." >&2; \
		echo "Install it (Debian and Ubuntu: apt install python3 python3-venv), or say where it is: make run PYTHON=/path/to/python3.12" >&2; \
		exit 1; \
	fi; \
	echo "Making $(VENV) with $$($$found --version) ..."; \
	if uv --version >/dev/null 2>&1; then uv venv --quiet --clear --python "$$($$found -c 'import sys; print(sys.executable)')" $(VENV); \
	else $$found -m venv --clear $(VENV); fi || { \
		echo "The virtual environment could not be made. On Debian and Ubuntu: apt install python3-venv" >&2; rm -rf $(VENV); exit 1; }
