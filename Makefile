# Every target works in the environment .venv, which `make setup` makes from nothing but Python 3.11.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
STEP ?= all
DATA ?= data
ROWS ?=
TARGET ?= nutrition
ACCELERATOR ?= cpu
STORE ?= sqlite:///$(CURDIR)/build/mlflow.db
export TARGET STORE  # recipes read them from the environment, where a quote in a name is no quote of the shell

.DEFAULT_GOAL := help
.PHONY: help setup run ui quick test test-long lint size compile manifests image bench peers study serve docs constraints hashes clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make the environment .venv
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"calrec needs Python 3.11 or newer, {sys.executable} is {v[0]}.{v[1]}; give another one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	@# torch first and pinned: an unpinned one brings gigabytes of CUDA packages.
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[pipeline,dev]'
	$(BIN)/python -m pip check
	@touch $@

run: setup  ## run the whole pipeline on the embedded sample: four categories, two targets
	$(BIN)/calrec run --run sample

ui: setup  ## open the MLflow UI on the local store, or on STORE=sqlite:///…
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow server --backend-store-uri "$$STORE" --workers 1 --port 5000

quick: setup  ## the tests that need no server, no store and no child process
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "quick and not long"

test: setup  ## all tests, files in two processes
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-long: setup  ## the tests that take minutes, and 2,000 damaged files for each reader
	$(BIN)/python -m pytest -m long
	CALREC_FUZZ=2000 $(BIN)/python -m pytest tests/ingest/test_fuzz.py

lint: setup  ## ruff, mypy, import contracts, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/typos

compile: setup  ## write the pipelines and the components as YAML to build/, and check them
	$(BIN)/calrec compile --components --out build
	$(BIN)/calrec validate build/*.yaml

size: setup  ## lines of code by room
	@$(BIN)/python -m tests.size

bench: setup $(if $(filter all train,$(STEP)),.venv/.bench)  ## time a step against its reference: make bench STEP=bm25
	$(BIN)/python -m tests.benchmarks $(STEP)
.venv/.bench: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	@touch $@

peers: .venv-peers/.installed  ## make the environment .venv-peers of SASRec, BERT4Rec and GRU4Rec: tests/benchmarks/peers
.venv-peers/.installed: tests/benchmarks/peers/requirements.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --upgrade pip
	.venv-peers/bin/python -m pip install --quiet torch==2.13.0
	.venv-peers/bin/python -m pip install --quiet -r $<
	.venv-peers/bin/python -m pip check
	@touch $@

study: setup  ## the study on public data: make study DATA=FOLDER [ROWS="--target beauty2014 --row no-stage1"]
	$(BIN)/calrec study --data $(DATA) $(ROWS)

docs: setup  ## pages of the API from the docstrings: build/docs/calrec.html
	$(BIN)/pdoc --docformat google --output-directory build/docs calrec

constraints: setup  ## write the installed versions to constraints.txt
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//' > constraints.txt

hashes: setup  ## write what the image installs, by hash, to images/requirements-ACCELERATOR.txt; after each constraints
	$(BIN)/python images/hashes.py $(ACCELERATOR)

clean:  ## remove what runs and builds left, not the environment
	rm -rf build

manifests: setup  ## render and check the Kubernetes manifests
	$(BIN)/python -m tests.manifests

image:  ## build and test the container image, where a Docker engine runs: images/README.md has the arguments
	images/build

serve: setup  ## answer requests with the champion of a local run: make serve TARGET=packaged-meat
	@mkdir -p build
	MLFLOW_TRACKING_URI="$$STORE" $(BIN)/calrec serve "models:/calrec-$$TARGET@champion"
