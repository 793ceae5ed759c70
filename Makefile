# Everything a fresh machine needs: Python 3.11 or later, make and a C compiler.
#   make run PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"   options for pip, here the CPU build of PyTorch
#   make run CONFIG=configs/gpt2-124m.yaml ARGS="--data.source my-texts/"        another config, options for gpt2flow or pytest
#   make setup PYTHON=/opt/python3.12/bin/python3                                another Python

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CONFIG ?= configs/demo.yaml
FIND_PYTHON = for p in python3.11 python3 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done
PYTHON ?= $(shell $(FIND_PYTHON))

.DEFAULT_GOAL := help
.PHONY: help setup run dashboard test test-kernels test-faults test-recovery test-team test-interop lint clean clean-venv clean-state

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## install everything into .venv (the other targets do it when it is needed)
	@echo "$(VENV) is ready."

run: $(READY) ## train the demo model: text, tokens, training, samples, registry
	@$(BIN)/gpt2flow run $(CONFIG) $(ARGS)

dashboard: $(READY) ## serve the MLflow and Prefect pages until Ctrl-C
	@$(BIN)/gpt2flow dashboard $(ARGS)

test: $(READY) ## run the tests
	@$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not interop and not team" $(ARGS)

test-kernels: $(READY) ## run what depends on the processor as each lesser one and without a compiler, or as LEVELS="avx2 none"
	@set -e; for level in $(or $(LEVELS),$$($(BIN)/python -c 'from gpt2core.machine.kernel_level import available; print(*available()[1:])')); do \
		echo "Kernels of level $$level:"; \
		GPT2FLOW_KERNELS=$$level $(BIN)/pytest -n 2 --dist loadfile -m "kernels and not slow" -rs $(ARGS); done

test-faults: $(READY) ## run the long proofs: kills, faults, full training runs
	@$(BIN)/pytest -m slow $(ARGS)

test-recovery: $(READY) ## kill training, worker and servers at any moment and show what became of it as a table
	@$(BIN)/pytest tests/faults/test_recovery.py tests/faults/test_nights.py $(ARGS)

test-team: $(READY) ## run nights against PostgreSQL, which Debian's package installs, and a server that speaks S3
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || { \
		echo "Installing PostgreSQL ..."; apt-get -qq update && apt-get -qq install --yes --no-install-recommends postgresql; } || { \
		echo "PostgreSQL is missing: install it with the package manager of your system, then run make test-team again."; exit 1; }
	@$(BIN)/pytest tests/faults/test_team.py $(ARGS)

test-interop: $(READY) ## send models through TensorFlow, transformers, peft and llama.cpp, installed into .venv-interop
	@$(BIN)/pytest -m interop tests/interop $(ARGS)

lint: $(READY) ## check style, formatting, types, who imports whom, and that what is imported is declared
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/deptry .

clean: ## remove caches and build leftovers; runs and .venv stay
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . \( -path ./$(VENV) -o -path ./.git -o -path ./.gpt2flow \) -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

clean-venv: ## remove .venv
	@rm -rf $(VENV)

clean-state: ## remove .gpt2flow with ALL runs, models and databases
	@rm -rf .gpt2flow

# The stamp is written last, so an interrupted set-up starts again, and only a change of what is installed repeats it.
$(READY): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ] || ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		echo "gpt2flow needs Python 3.11 or later, and '$(or $(PYTHON),python3)' is not: install one, or name it with make PYTHON=/path/to/python3.11"; \
		exit 1; fi
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		echo "Creating $(VENV) with $$($(PYTHON) --version) ..."; \
		$(PYTHON) -m venv --clear $(VENV) >$(VENV).log 2>&1 || { \
			cat $(VENV).log; rm -rf $(VENV) $(VENV).log; \
			echo "The virtual environment could not be made: on Debian and Ubuntu, apt install python3-venv helps."; exit 1; }; \
		rm -f $(VENV).log; }
	@echo "Installing gpt2flow and its libraries (minutes and gigabytes the first time) ..."
	@set -o pipefail; $(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev]' 2>&1 \
		| tee $(VENV)/setup.log | awk '/[0-9] [MG]B\)|ERROR|WARNING: Retrying/ { print "  " $$0; fflush() }' \
		|| { echo "The set-up failed: $(VENV)/setup.log says why; 'make' goes on from there."; exit 1; }
	@touch $@
