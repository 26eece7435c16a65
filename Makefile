# The whole vocabulary; `make help` explains it.
PORT ?= 8080
DATA_DIR ?= .data
ARGS ?=
PYTHON ?= python3
RUN := .venv/bin/python
READY := .venv/ready
# Compiled code is kept, whatever the caller's habit: each of a dozen processes would compile everything again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help up up-open down test check fmt migrate openapi bench

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  PORT=$(PORT) and DATA_DIR=$(DATA_DIR) apply to up, up-open and down, DATA_DIR to bench; ARGS to test and bench."

up: $(READY) ## start everything on this machine and stay in the foreground
	@exec $(RUN) -m stack up --port "$(PORT)" --data-dir "$(DATA_DIR)"

up-open: $(READY) ## the same without credentials, for development on this machine only
	@exec $(RUN) -m stack up --port "$(PORT)" --data-dir "$(DATA_DIR)" --open

down: $(READY) ## stop what `make up` started for DATA_DIR
	@exec $(RUN) -m stack down --data-dir "$(DATA_DIR)"

test: $(READY) ## run the tests on throw-away servers: make test ARGS="tests/stack -k lock"
	@exec $(RUN) -m stack test -- $(ARGS)

check: $(READY) ## formatting, lint, types, import rules, missing migrations
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	$(RUN) -m stack run -- $(RUN) manage.py makemigrations --check --dry-run

fmt: $(READY) ## format the code and fix what can be fixed
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

migrate: $(READY) ## migrate DATABASE_URL; a busy table fails the deploy after 3 s, and not the users
	DATABASE_LOCK_TIMEOUT_S=3 $(RUN) manage.py migrate --noinput

openapi: $(READY) ## write docs/reference/openapi.yaml
	$(RUN) -m stack run -- $(RUN) manage.py spectacular --file docs/reference/openapi.yaml

bench: $(READY) ## measure a running stack
	@exec $(RUN) -m bench --data-dir "$(DATA_DIR)" $(ARGS)

$(READY): pyproject.toml uv.lock
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed, and $(PYTHON) is not here."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed.")'
	test -x .venv/bin/pip || $(PYTHON) -m venv .venv
	test -x .venv/bin/uv || .venv/bin/pip install --quiet --disable-pip-version-check uv
	.venv/bin/uv sync --locked --inexact
	@touch $@
