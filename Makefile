# Every target works on a machine that has only Python >= 3.11, make and git.
# PYTHON=python3.12 chooses the interpreter, ARGS="tests/client -x" goes to pytest.

BIN := .venv/bin
INSTALLED := .venv/.installed
BENCH_INSTALLED := .venv/.installed-bench
SOURCES := proto/rhapsode_contract client/rhapsode_client server/rhapsode_server trainer/rhapsode_trainer tools
KERNELS := $(wildcard $(addprefix server/rhapsode_server/engine/kernels/,*.cpp *.h compile.py))
BEGAN := $(shell date +%s)

CANDIDATES := python3 python3.14 python3.13 python3.12 python3.11 python
IS_SUITABLE := import ensurepip, sys; sys.exit(sys.version_info < (3, 11))
PYTHON = $(shell for python in $(CANDIDATES); do "$$python" -c '$(IS_SUITABLE)' && echo "$$python" && break; done 2>/dev/null)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help install demo serve test check fmt lint types proto proto-check docs soak fuzz bench bench-train clean clean-all

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

install: $(INSTALLED) ## Create .venv with everything in it

demo: install ## Train on real poems, serve the model, stream a poem
	@$(BIN)/python tools/demo.py $(BEGAN)

serve: install ## Serve ./models on 127.0.0.1:50051 until Ctrl-C
	@$(BIN)/rhapsode-serve --models ./models

test: install ## Run the tests
	$(BIN)/pytest $(ARGS)

check: lint types proto-check test ## Everything that must hold before a change goes in

fmt: install ## Format, and repair what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: install ## Check format and style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install ## Check types
	$(BIN)/mypy $(SOURCES)

proto: install ## Generate the Python of proto/rhapsode/v1, and docs/api.md
	$(BIN)/python tools/generate_proto.py
	$(BIN)/python tools/generate_reference.py

proto-check: install ## Check the .proto files and that what is generated is theirs
	$(BIN)/buf lint proto
	$(BIN)/python tools/generate_proto.py --check
	$(BIN)/python tools/generate_reference.py --check

docs: install ## Generate docs/api.md from the comments of proto/rhapsode/v1
	$(BIN)/python tools/generate_reference.py

soak: install ## The slow tests: 200 kills of a training run, 100 swaps under load, 400 canaries, compiled layers
	RHAPSODE_SOAK=1 $(BIN)/pytest tests/faults tests/trainer/training/test_fast.py --timeout 3600

fuzz: install ## Long random tests: 20,000 requests to a live server, 10,000 dropped streams, texts
	RHAPSODE_FUZZ=1 $(BIN)/pytest tests/fuzz tests/server/text --timeout 3600

bench: install $(BENCH_INSTALLED) ## Measure serving beside its peers, in under 15 minutes
	$(BIN)/python -m benchmarks.serving $(ARGS)

bench-train: install ## Measure training beside stock Trainer
	$(BIN)/python benchmarks/training.py $(ARGS)

clean: ## Remove caches and build products; models stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist */build */dist */*.egg-info
	find . \( -path ./.venv -o -path ./.git -o -path ./models \) -prune -o -type d -name __pycache__ -exec rm -rf {} +

clean-all: clean ## Remove .venv too; models stay
	rm -rf .venv

# pip is the last thing that venv writes: where it exists the environment is whole.
$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "Rhapsode needs Python >= 3.11 with venv: install it, or name one: make PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c '$(IS_SUITABLE)' || { echo "$(PYTHON) is no Python >= 3.11 with venv" >&2; exit 1; }
	"$(PYTHON)" -m venv .venv

# The variables pin what builds the distributions too: the first for older pips, the second for newer.
$(INSTALLED): pyproject.toml constraints.txt requirements-dev.txt $(wildcard */pyproject.toml) server/hatch_build.py $(KERNELS) | $(BIN)/pip
	PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
	$(BIN)/pip install -r requirements-dev.txt -e proto -e client -e server -e "trainer[text,spacy,stories,rating,lora,sweep]"
	@touch $@

$(BENCH_INSTALLED): requirements-bench.txt constraints.txt | $(INSTALLED)
	PIP_CONSTRAINT=constraints.txt $(BIN)/pip install -r requirements-bench.txt
	@touch $@
