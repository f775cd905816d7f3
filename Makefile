# `make demo` and `make test` need nothing but Python 3.11-3.13 with pip; everything else is installed into .venv.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
BIN := .venv/bin
STAMP := .venv/.installed
SOURCES := operator workers kernels proto charts tools testbed tests bench
TESTS ?= tests

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements.lock pyproject.toml tools/install.sh
	@bash tools/install.sh .venv
	@touch $@

install: $(STAMP) ## make .venv with everything the project needs

demo: $(STAMP) ## serve the bundled model with one prefill and one decode worker and ask it a question; ARGS=--once ends by itself
	@$(BIN)/proa demo $(ARGS)

test: $(STAMP) lint ## check style, types, import arrows and generated files, then run every test (TESTS=path for a part)
	@$(BIN)/python -m pytest $(TESTS)

lint: $(STAMP) ## ruff, mypy, import-linter, generated files
	@$(BIN)/ruff check -q $(SOURCES)
	@$(BIN)/ruff format -q --check $(SOURCES)
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo >/dev/null || $(BIN)/lint-imports
	@$(BIN)/python tools/gen_proto.py --check 2>/dev/null
	@$(BIN)/python tools/gen_crd.py --check
	@$(BIN)/python tools/gen_chart_readme.py --check
	@$(BIN)/python -m tools.monitoring --check

format: $(STAMP) ## format the sources and fix what ruff can fix
	@$(BIN)/ruff check -q --fix $(SOURCES)
	@$(BIN)/ruff format -q $(SOURCES)

gen: $(STAMP) ## regenerate the protobuf code, the CRDs, the charts' READMEs, rules and dashboards
	@$(BIN)/python tools/gen_proto.py
	@$(BIN)/python tools/gen_crd.py
	@$(BIN)/python tools/gen_chart_readme.py
	@$(BIN)/python -m tools.monitoring

rules-test: $(STAMP) ## check the alerts with promtool: each fires when it should, and only then
	@$(BIN)/python -m pytest tests/monitoring/test_rules.py

kernels-aot: $(STAMP) ## compile the kernels for gfx942 and gfx950 without a GPU; ARGS=--check compares with docs/kernels-aot.md
	@$(BIN)/python tools/kernels_aot.py $(ARGS)

lock: $(STAMP) ## resolve requirements.lock anew
	@bash tools/lock.sh

cluster-up: $(STAMP) ## start a real one-node Kubernetes on this machine and leave it running
	@$(BIN)/python -m testbed.up

cluster-down: $(STAMP) ## stop that cluster and leave nothing behind
	@$(BIN)/python -m testbed.down

demo-k8s: $(STAMP) ## from nothing to an answer through Kubernetes; ARGS=--once stops it again
	@$(BIN)/python -m testbed.demo $(ARGS)

model: $(STAMP) ## train the bundled model anew on one GPU, about 6 minutes (docs/tiny-moe.md)
	@$(BIN)/python -m tools.tiny_moe.corpus
	@$(BIN)/python -m tools.tiny_moe.tokenizer
	@$(BIN)/python -m tools.tiny_moe.train --compile
	@$(BIN)/python -m tools.tiny_moe.evaluate

model-eval: $(STAMP) ## measure the bundled model's tasks on held-out inputs
	@$(BIN)/python -m tools.tiny_moe.corpus
	@$(BIN)/python -m tools.tiny_moe.evaluate

clean: ## remove everything that was installed or built
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

.PHONY: help install demo test lint format gen rules-test kernels-aot lock cluster-up cluster-down demo-k8s model model-eval clean
