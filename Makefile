# What there is to do here. Every target sets up what it needs; ARGS goes on to the command behind it.
.DEFAULT_GOAL := help
.PHONY: help setup demo model test coverage lint format bench latency chaos soak lock clean
.NOTPARALLEL:

ARGS ?=
DATA ?= ../shared/data/ga360
TESTS := .venv/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder
export PYTHON
# What is said shows at once, also where a build machine reads it through a pipe.
export PYTHONUNBUFFERED := 1
# uv leaves byte code to the first run; without it every start compiles torch and transformers anew, for 10 s.
unexport PYTHONDONTWRITEBYTECODE

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '%s\n' '' '  make demo ARGS="--seconds 60"    options of `intent demo`' \
	  '  make test ARGS="-k window"       options of pytest' \
	  '  make model ARGS="--size mini"    options of `intent train`' \
	  '  make setup PYTHON=python3.12     which Python makes .venv (3.11 to 3.14; default: the newest found)'

setup: ## the virtual environment, the locked packages, Apache Kafka's jars
	@sh scripts/setup.sh

demo: setup ## the whole system on this machine, live in the terminal
	@.venv/bin/intent demo $(ARGS)

model: setup ## train a bundle from the real sample in DATA, into models/shop-tiny
	@.venv/bin/intent train --data $(DATA) --out models/shop-tiny --half-life-days 10 --notes worker/training/ablation.md $(ARGS)

test: setup ## every test, on a real Kafka, three files at a time
	@$(TESTS) $(ARGS)

coverage: setup ## the same, told line by line what they reach, in twice the time
	@$(TESTS) --cov --cov-report=term $(ARGS)

lint: setup ## ruff, formatting and mypy --strict
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy worker tests loadtest

format: setup ## write the code as the formatter wants it
	.venv/bin/ruff check --fix-only --quiet .
	.venv/bin/ruff format .

bench: setup ## the same job on this worker, stock Faust, Quix Streams and a bare loop: throughput and ratios
	@.venv/bin/python -m loadtest pipeline $(ARGS)

latency: setup ## open-loop load on a real Kafka: latency percentiles
	@.venv/bin/python -m loadtest latency $(ARGS)

chaos: setup ## 200 faults on a running system, checked against an oracle
	@.venv/bin/python -m tests.chaos $(ARGS)

soak: setup ## 30 minutes at half the load it can take: does anything grow?
	@.venv/bin/python -m loadtest soak $(ARGS)

lock: setup ## pin the newest packages and jars that fit pyproject.toml
	.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --all-extras --no-header \
	  --no-annotate --upgrade pyproject.toml --output-file requirements.lock
	.venv/bin/python -m worker.kafka.jars lock

clean: ## remove .venv, caches, and the local broker and state in .intent
	@if [ -x .venv/bin/intent ] && [ -d .intent/broker ]; then .venv/bin/intent broker stop; fi
	rm -rf .venv .intent .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage htmlcov dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
