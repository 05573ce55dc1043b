# Every target works on a machine that has only Python >= 3.11, make and git.
# PYTHON=python3.12 chooses the interpreter, ARGS="tests/client -x" goes to pytest.

BIN := .venv/bin
INSTALLED := .venv/.installed
BENCH_INSTALLED := .venv/.installed-bench
SOURCES := proto/rhapsode_contract client/rhapsode_client server/rhapsode_server trainer/rhapsode_trainer tools
# Tests that kill processes or count on the time that others need.
ALONE := tests/soak tests/docs/test_walk.py $(wildcard $(addprefix tests/faults/,test_li*.py test_worker_*.py test_publisher_*.py))
KERNELS := $(wildcard $(addprefix server/rhapsode_server/engine/kernels/,*.cpp *.h compile.py))
BEGAN := $(shell date +%s)

CANDIDATES := python3 python3.14 python3.13 python3.12 python3.11 python
IS_SUITABLE := import ensurepip, sys; sys.exit(sys.version_info < (3, 11))
PYTHON = $(shell for python in $(CANDIDATES); do "$$python" -c '$(IS_SUITABLE)' && echo "$$python" && break; done 2>/dev/null)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help install demo serve test check fmt lint types proto proto-check generated client docs site dashboard images sbom audit check-slow check-deploy soak walk fuzz bench bench-train clean clean-all

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

install: $(INSTALLED) ## Create .venv with everything in it

demo: install ## Train on real poems, serve the model, stream a poem
	@$(BIN)/python tools/demo.py $(BEGAN)

serve: install ## Serve ./models on 127.0.0.1:50051 until Ctrl-C
	@$(BIN)/rhapsode-serve --models ./models

test: install ## Run the tests
ifdef ARGS
	$(BIN)/pytest $(ARGS)
else
	$(BIN)/pytest -m "not slow" --numprocesses auto --maxprocesses 4 --dist worksteal $(addprefix --ignore ,$(ALONE))
	$(BIN)/pytest -m "not slow" $(ALONE)
endif

check: lint types proto-check generated test ## Everything that must hold before a change goes in

check-slow: install ## The tests that take ten seconds and more each; CI runs them after check
	$(BIN)/pytest -m slow

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

generated: install ## Check that the blocking client and the pages of docs/ are what is generated
	$(BIN)/python tools/generate_client.py --check
	$(BIN)/python tools/generate_cli_reference.py --check
	$(BIN)/python tools/generate_performance.py --check

client: install ## Generate the blocking client from the asyncio one
	$(BIN)/python tools/generate_client.py

docs: install ## Generate docs/api.md, docs/cli.md and docs/performance.md from messages, help screens and results
	$(BIN)/python tools/generate_reference.py
	$(BIN)/python tools/generate_cli_reference.py
	$(BIN)/python tools/generate_performance.py

site: install ## Build the documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dashboard: install ## Generate deploy/grafana/rhapsode.json, and the alerts of deploy/kubernetes
	$(BIN)/python tools/generate_dashboard.py
	$(BIN)/python tools/prometheus_rule.py

images: | $(BIN)/pip ## Build the images: ARGS="--torch cpu serve"
	$(BIN)/python tools/images.py $(ARGS)

sbom: install ## Write build/sbom: what each image installs, in CycloneDX
	$(BIN)/python tools/sbom.py

audit: install ## Compare the pins with advisories: ADVISORIES=all.zip
	$(BIN)/python tools/audit.py $(ADVISORIES)

check-deploy: install ## Build and run the images, and the other slow checks of deploy/
	RHAPSODE_DEPLOY=1 $(BIN)/pytest tests/deploy tests/tools/test_sbom.py --timeout 3600

soak: install ## An hour of everything at once, and the slow tests: 200 kills of a training run, 100 swaps under load
	RHAPSODE_SOAK=1 $(BIN)/pytest tests/soak tests/faults tests/trainer/training/test_fast.py --timeout 7200

walk: install ## Run README and tutorials to the letter, half an hour
	RHAPSODE_WALK=1 $(BIN)/pytest tests/docs/test_walk.py --timeout 7200

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
	$(BIN)/pip install --no-compile -r requirements-dev.txt -e proto -e "client[ui]" -e "server[otel,openai]" -e "trainer[text,spacy,stories,rating,lora,sweep]"
	@touch $@

$(BENCH_INSTALLED): requirements-bench.txt constraints.txt | $(INSTALLED)
	PIP_CONSTRAINT=constraints.txt $(BIN)/pip install -r requirements-bench.txt
	@touch $@
