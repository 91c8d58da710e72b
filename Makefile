# `make help` lists the targets. Everything is installed into .venv, by uv, which is brought in where it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TEST_THREADS := OMP_NUM_THREADS=1 # many small tensors: more threads only wait for each other

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-all test-lowest coverage bench gpu-check gpu-train docs check format clean

help: ## show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY) ## create .venv with recviz (editable) and its tools, at the versions of constraints.txt

$(READY): pyproject.toml constraints.txt
	if command -v uv >/dev/null; then uv venv --quiet --allow-existing --python $(PYTHON) $(VENV); \
	else $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet --disable-pip-version-check uv; fi
	UV_COMPILE_BYTECODE=1 $$(command -v uv || echo $(BIN)/uv) pip install --quiet --python $(BIN)/python \
		-c constraints.txt -e '.[dev]'
	touch $@

quickstart: $(READY) ## pretrain on drawn data and print the probe: two minutes on two cores, after set-up
	$(BIN)/recviz fit --config quickstart.yaml

test: $(READY) ## the tests that CI runs
	$(TEST_THREADS) $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-all: $(READY) check ## all tests, also slow, data (RECVIZ_DATA=DIR) and gpu
	$(TEST_THREADS) $(BIN)/python -m pytest -q -m ''

coverage: $(READY) ## make test with the slow tests, and the lines of src that no test runs
	rm -rf build/coverage && mkdir -p build/coverage
	$(TEST_THREADS) $(BIN)/coverage run -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m 'not gpu and not data'
	$(BIN)/coverage combine -q && $(BIN)/coverage report

test-lowest: $(READY) ## the tests at the lowest versions that pyproject.toml allows, in build/lowest
	$$(command -v uv || echo $(BIN)/uv) venv --quiet --clear --python $(or $(LOWEST_PYTHON),3.10) build/lowest
	UV_COMPILE_BYTECODE=1 $$(command -v uv || echo $(BIN)/uv) pip install --quiet --python build/lowest/bin/python \
		--resolution lowest-direct -e '.[dev]'
	$(TEST_THREADS) build/lowest/bin/python -m pytest -q -W default::DeprecationWarning -W default::FutureWarning -n 2 --dist loadfile --no-loadscope-reorder --ignore tests/cli/test_lowest_versions.py

bench: $(READY) ## comparison with other libraries, into docs/results (DATA=DIR with CIFAR-100, PHOTOS=DIR); 40 minutes
	$(BIN)/python benchmarks/beside_peers.py $(if $(DATA),--data $(DATA)) $(if $(PHOTOS),--photos $(PHOTOS))

gpu-check: $(READY) ## tests and timings on a GPU, then CIFAR-100 for the rest of 8 minutes (DATA=DIR with CIFAR-100)
	$(BIN)/python benchmarks/gpu_check.py $(if $(DATA),--data $(DATA))

gpu-train: $(READY) ## continue that run for MINUTES=9
	$(BIN)/python benchmarks/gpu_train.py --minutes $(or $(MINUTES),9) $(if $(DATA),--data $(DATA))

docs: $(READY) ## build the documentation into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

check: $(READY) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## format the code with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv and caches; runs/ stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist
