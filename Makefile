# make quickstart: the main job on the built-in corpus.   make test: the tests.   Both make the environment first.
PYTHON ?= python3
BIN := .venv/bin
# Files go to workers in their order: by default those of few tests come last, and some of these take a minute or two.
ON_ALL_CORES := --numprocesses auto --dist loadfile --no-loadscope-reorder

.PHONY: quickstart test coverage site mutants fuzz faults soak bench lint format environment references clean

quickstart: .venv/installed
	$(BIN)/python launch.py study configs/quickstart.py --workdir runs/quickstart

# Compiled to bytecode first, for the many processes that tests start, where the environment lets Python keep none.
test: .venv/installed-test lint
	$(BIN)/python -m compileall -q ser_jax
	$(BIN)/python -m pytest $(ON_ALL_CORES) $(PYTEST_FLAGS)

# The tests, and which lines of ser_jax they run, also in the processes that they start.
coverage: .venv/installed-test
	$(BIN)/python -m pytest $(ON_ALL_CORES) --cov=ser_jax --cov-report=term-missing:skip-covered $(PYTEST_FLAGS)

# Puts small faults into the code, one at a time, and counts those that the tests notice. Most of an hour on two cores.
mutants: .venv/installed-test
	$(BIN)/python -m tests.mutants $(MUTANTS_FLAGS)

# Damages and makes up untrusted files, and reads them with every reader.   make fuzz FUZZ_FLAGS="--cases 100000"
fuzz: .venv/installed-test
	$(BIN)/python -m tests.fuzz $(FUZZ_FLAGS)

# Kills small jobs at random instants and compares their results with undisturbed ones.   make soak SOAK_FLAGS="--kills 100"
soak: .venv/installed-test
	$(BIN)/python -m tests.soak $(SOAK_FLAGS)

# Lets the disk and the permissions fail under every command.   make faults FAULTS_FLAGS="--points 12"
faults: .venv/installed-test
	$(BIN)/python -W ignore -m tests.faults $(FAULTS_FLAGS)

# The short set of benchmarks, with the peers; refreshes docs/performance.md. Takes half an hour on two cores.
bench: .venv/installed-references
	$(BIN)/python -m benchmarks.run --set short

# The documents as a site, in site/; every warning is an error.
site: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

lint: .venv/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: .venv/installed-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# PyTorch and others, which tests and benchmarks compare with live where they are installed.
references: .venv/installed-references

environment: .venv/installed

.venv/installed: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

.venv/installed-test: requirements-test.txt .venv/installed
	$(BIN)/python -m pip install --quiet --requirement requirements-test.txt
	touch $@

.venv/installed-docs: requirements-docs.txt .venv/installed
	$(BIN)/python -m pip install --quiet --requirement requirements-docs.txt
	touch $@

.venv/installed-references: requirements-references.txt .venv/installed-test
	$(BIN)/python -m pip install --quiet --requirement requirements-references.txt
	touch $@

clean:
	rm -rf .venv runs site
