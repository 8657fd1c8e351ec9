# Each target sets up what it needs. Only git, make and Python 3.11 or newer must be there.
PYTHON ?= python3
CORES ?= all
CONFIG ?= config/config.yaml
# A worked config runs in a folder of its own: make run CONFIG=config/tiny-neox.yaml DIRECTORY=runs/tiny-neox
DIRECTORY ?= .
BIN := $(CURDIR)/.venv/bin

.PHONY: run test lint format bench

run: .venv/ready
	$(BIN)/snakemake --snakefile Snakefile --configfile $(CONFIG) --directory $(DIRECTORY) --cores $(CORES)
	@$(BIN)/sae-atlas summary $(DIRECTORY)

test: .venv/ready
	$(BIN)/python -m pytest

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint --configfile config/tiny-neox.yaml

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

.venv/ready: requirements.lock requirements-embedded.lock pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.11 ...')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-embedded.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# One training step beside other libraries' (minutes): benchmarks/RESULTS.md. TOY=--toy does it in seconds, at toy size.
bench: .bench-venv/ready
	.bench-venv/bin/python -m benchmarks.steps $(TOY)

# torch comes first and alone: asked for by anything else, it may be a build of gigabytes.
.bench-venv/ready: benchmarks/requirements.lock
	$(PYTHON) -m venv .bench-venv
	.bench-venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	.bench-venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/requirements.lock
	touch $@
