# Each target sets up what it needs. Only git, make and Python 3.11 to 3.13 must be there.
PYTHON ?= python3
CORES ?= all
CONFIG ?= config/config.yaml
# A worked config runs in a folder of its own: make run CONFIG=config/tiny-neox.yaml DIRECTORY=runs/tiny-neox
DIRECTORY ?= .
BIN := ./.venv/bin
# Recipes name these as the shell's own variables, "$$CONFIG": no path is taken apart.
export CONFIG DIRECTORY

# The GPU that `make plan` compares with: L4, RTX4090, A100, H100, H200
GPU ?= H200

# Processes that run tests: one more than there are cores, for some tests wait for SLURM or for the network.
WORKERS = $(shell $(BIN)/python -c "import os; print(min(os.cpu_count(), 4) + 1)")

.PHONY: run lifecycle plan report test test-long fuzz licences audit test-peers slurm lint format golden tables releases bench bench-load bench-starts bench-claims bench-run bench-gpu gpu-check browser

# In a terminal one bar per rule; plain lines where the output goes into a file or a pipe, and in CI.
BARS := $(if $(and $(MAKE_TERMOUT),$(MAKE_TERMERR)),$(if $(CI),,--logger rich))

# On Linux jobs are forks of a process that has imported the libraries once; with an empty WARM each is an interpreter.
WARM ?= $(filter Linux,$(shell uname))
SNAKEMAKE := $(if $(WARM),$(BIN)/python workflow/warm.py,$(BIN)/snakemake)

# The config is read twice: Snakemake would follow a bomb of aliases to its end, and run code that a config may hold.
run: .venv/ready
	@$(BIN)/sae-atlas check "$$CONFIG"
	$(SNAKEMAKE) --snakefile Snakefile --configfile "$$CONFIG" --directory "$$DIRECTORY" --cores $(CORES) $(BARS)
	@$(BIN)/sae-atlas summary "$$DIRECTORY"

# A base model from scratch, tuned and merged: an atlas of each, and a page that compares them.
lifecycle: .venv/ready
	$(SNAKEMAKE) --snakefile workflow/three_stages.smk --configfile config/lifecycle.yaml --directory runs/lifecycle --cores $(CORES) $(BARS)
	@$(BIN)/sae-atlas summary runs/lifecycle

# Before a run: jobs, disk, arithmetic, time. After it: the same beside what it took.
plan: .venv/ready
	$(BIN)/sae-atlas plan "$$CONFIG" --directory "$$DIRECTORY" --gpu $(GPU)

# Snakemake's own page of a finished run, one file: results/report.html
report: .venv/ready
	$(BIN)/snakemake --snakefile Snakefile --configfile "$$CONFIG" --directory "$$DIRECTORY" --report results/report.html

# What every change runs: every kind of fault once or a few times; whole files at a time, in the order of tests/conftest.py.
test: .venv/ready browser slurm
	$(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder --durations=25

# The long forms of some of them: all of tiny-neox, here and on SLURM, the disk full at every stage, 20 kills, fuzzing for a
# minute a kind, every Triton kernel at every precision, the benchmarks at toy size, also beside the peers (1.7 GB).
test-long: .venv/ready .bench-venv/ready .circuit-tracer/ready browser slurm
	SLURM_WHOLE=1 $(BIN)/python -m pytest -m long --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder --durations=25
	.bench-venv/bin/python -m pytest -m long -k "gradients_agree or saelens or trainer" tests/test_benchmarks.py tests/test_quality.py
	.bench-venv/bin/python -m pytest -m long tests/peers

# What tests/test_golden.py holds the stages' results against, after a stage's version was raised.
golden: .venv/ready
	PYTHONPATH=tests $(BIN)/python -m golden

# The tables of config/README.md, from the classes of the sections; a test says where they are not current.
tables: .venv/ready
	PYTHONPATH=tests $(BIN)/python -m config_tables

# The list of releases that a recipe may name, from the one in the installed SAELens.
releases: .bench-venv/ready
	PYTHONPATH=tests:. .bench-venv/bin/python -m release_list

# The page of the atlas is tested in Chromium; where it cannot be installed those tests are skipped and say so.
browser:
	@command -v chromium > /dev/null || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && \
	apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium > /dev/null; } || \
	echo "no chromium here: the tests that need it will be skipped"

# The chain is tested on a SLURM of one node; where it cannot be installed that test is skipped and says so.
slurm:
	@command -v slurmctld > /dev/null || \
	{ [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && \
	apt-get update -qq && apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge > /dev/null; } || \
	echo "no SLURM here: the tests that need it will be skipped"

# Damaged and hostile configs, checkpoints, stores and models, ten minutes for every kind (FUZZ_SEED=1000: other ones).
fuzz: .venv/ready
	FUZZ_SECONDS=600 $(BIN)/python -m pytest -s -m long tests/test_fuzz_config.py tests/test_fuzz_files.py

# Licences of everything in the lock, as the packages state them: docs/licences.md.
licences: .venv/ready .tools-venv/ready
	{ sed '/^|/,$$d' docs/licences.md; .tools-venv/bin/pip-licenses --python $(BIN)/python --format=markdown --order=license \
	--packages torch $$(sed -n 's/^\([A-Za-z0-9._-]*\)==.*/\1/p' requirements.lock); } > docs/licences.new && mv docs/licences.new docs/licences.md

# Known vulnerabilities in what the lock names; it asks the package index for each.
audit: .tools-venv/ready
	.tools-venv/bin/pip-audit --disable-pip --require-hashes -r requirements.lock
	.tools-venv/bin/pip-audit --disable-pip --no-deps -r requirements-torch.lock

.tools-venv/ready:
	$(PYTHON) -m venv .tools-venv
	.tools-venv/bin/python -m pip install --quiet --disable-pip-version-check pip-licenses==5.5.5 pip-audit==2.10.1
	touch $@

# What we export, loaded by SAELens, sparsify and dictionary_learning themselves, in the benchmark's environment (1.7 GB), by
# transformers 4, by circuit-tracer in one of its own (1.6 GB), and what we measure beside sae-bench in another (1.7 GB).
test-peers: .venv/ready .bench-venv/ready .transformers4/ready .circuit-tracer/ready .saebench/ready
	.bench-venv/bin/python -m pytest tests/peers --numprocesses=$(WORKERS) --dist=loadfile
	$(BIN)/python -m pytest tests/peers/test_saebench_parts.py

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint --configfile config/tiny-neox.yaml

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow

.venv/ready: requirements.lock requirements-torch.lock requirements-embedded.lock pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and 'Python 3.11 to 3.13 is needed: make PYTHON=python3.11 ...')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-torch.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-embedded.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# A training step beside other libraries' (minutes): benchmarks/RESULTS.md; what its int8 product misses: SCREENING.md
# (5 minutes); what the precision of stores costs: STORES.md, and of passes: PRECISION.md (10 minutes each);
# whether one learning rate suits all layers: RATES.md (20 minutes); what fine-tuning on the KL gains: FINETUNE.md (a quarter of
# an hour); which SAEs find known features: KNOWN_TRUTH.md (an hour); how good the SAEs are: QUALITY.md (some eight hours). The
# last two go on with the rows that are missing.
# TOY=--toy does it all in a minute, at toy size.
bench: .bench-venv/ready
	.bench-venv/bin/python -m benchmarks.steps $(TOY)
	.bench-venv/bin/python -m benchmarks.screening $(TOY)
	.bench-venv/bin/python -m benchmarks.stores $(TOY)
	.bench-venv/bin/python -m benchmarks.precision $(TOY)
	.bench-venv/bin/python -m benchmarks.rates $(TOY)
	.bench-venv/bin/python -m benchmarks.finetune $(TOY)
	.bench-venv/bin/python -m benchmarks.known_truth $(TOY)
	.bench-venv/bin/python -m benchmarks.quality $(TOY)

# The plan of ten times the atlas, every stage at 16 times the tokens, a wide model: LOAD.md (half an hour, 21 GB of memory).
bench-load: .venv/ready
	$(BIN)/python -m benchmarks.load $(TOY)

# Whether a layer learns faster from the SAE of the layer before it: STARTS.md (a quarter of an hour).
bench-starts: .venv/ready
	$(BIN)/python -m benchmarks.starts $(TOY)

# What peers claim, tried on the default at an equal L0: CLAIMS.md (an hour; stopped, it goes on with the rows that are missing).
bench-claims: .venv/ready
	$(BIN)/python -m benchmarks.claims $(TOY)

# What every rule of the default's run takes at the commit BEFORE and now: RUN.md (two whole runs).
bench-run: .venv/ready
	$(BIN)/python -m benchmarks.run --before "$(or $(BEFORE),$(error BEFORE=COMMIT is missing))"

# The training step on this machine's GPU, in tokens per second: benchmarks/gpu_results.json.
bench-gpu: .venv/ready
	$(BIN)/python -m benchmarks.gpu_steps

# All that a machine with a GPU is asked, in under eight minutes, one file of results: benchmarks/gpu_check.json.
gpu-check: .venv/ready
	$(BIN)/python -m benchmarks.gpu_check

.transformers4/ready: .bench-venv/ready
	.bench-venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --target .transformers4 \
	transformers==4.57.3 huggingface_hub==0.36.2 tokenizers==0.22.2
	touch $@

.circuit-tracer/ready: tests/peers/circuit-tracer.lock
	$(PYTHON) -m venv .circuit-tracer
	.circuit-tracer/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	.circuit-tracer/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/peers/circuit-tracer.lock
	touch $@

.saebench/ready: tests/peers/saebench.lock
	$(PYTHON) -m venv .saebench
	.saebench/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	.saebench/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/peers/saebench.lock
	touch $@

# torch comes first and alone: asked for by anything else, it may be a build of gigabytes.
.bench-venv/ready: benchmarks/requirements.lock requirements-embedded.lock
	$(PYTHON) -m venv .bench-venv
	.bench-venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	.bench-venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/requirements.lock
	.bench-venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-embedded.lock
	touch $@
