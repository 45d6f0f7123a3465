# Two commands for a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
.DELETE_ON_ERROR:
.PHONY: demo test test-all check postgis system bench bench-seams bench-training label-studio test-faults verify docs docs-site lock clean

# One install for everything, exact versions from constraints.txt.
.venv/installed: setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,docs]'
	touch $@

# What the benchmarks compare with.
.venv/peers: .venv/installed
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,docs,bench]'
	touch $@

# Threads that wait asleep: on a machine with other work, waiting awake makes learning ten times slower.
demo: export OMP_WAIT_POLICY ?= PASSIVE
demo: .venv/installed  ## paint five villages, learn on three, hold out one, map the fifth, score it
	$(BIN)/python -m pipeline.sample demo
	cd demo && ../$(BIN)/luigi --module pipeline ReportImage --image-id scene_042 --local-scheduler
	cd demo && ../$(BIN)/jengo summary scene_042

# What the tests need from Debian (PostGIS, Chromium, QGIS): installed where it is missing and we are root.
system: .venv/installed
	$(BIN)/python tests/system_packages.py

# Files of tests side by side, each process with one thread: two cores take half the time.
test: export OMP_NUM_THREADS ?= 1
test: .venv/installed system  ## all tests but the slow and the GPU ones
	$(BIN)/python -m pytest -m "not slow and not gpu" -n auto --maxprocesses 4 --dist loadfile

test-all: .venv/installed system  ## every test this machine can run
	$(BIN)/python -m pytest

check: .venv/installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

postgis: .venv/installed system  ## a PostGIS of our own on a free port, for trying things out; Ctrl-C stops it
	$(BIN)/python tests/postgis.py serve

# Frameworks that read imagery, in an environment of their own: they want other versions than ours.
.venv/frameworks/installed: .venv/peers
	$(BIN)/python -m venv .venv/frameworks
	$(BIN)/python -c "import numpy, pathlib; print(pathlib.Path(numpy.__file__).parents[1])" \
		> "$$(.venv/frameworks/bin/python -c 'import site; print(site.getsitepackages()[0])')/ours.pth"
	PIP_CONSTRAINT=constraints.txt .venv/frameworks/bin/python -m pip install --quiet \
		--disable-pip-version-check torchgeo rio-tiler
	touch $@

bench: .venv/frameworks/installed system  ## every stage beside its peers in one table; below 20 minutes on two free cores
	$(BIN)/python -m tests.benchmarks

bench-seams: .venv/peers system  ## how well and how fast seams are closed, beside other libraries; into docs/benchmarks.md
	$(BIN)/python -m tests.benchmarks.seams --write

bench-training: .venv/installed  ## what learning is worth, beside torchvision's reference; half an hour on two cores
	$(BIN)/python -m tests.benchmarks.bench_training

# Apart from ours: its pins and ours do not agree.
label-studio: .venv/installed  ## what tests/test_label_studio.py needs: a Label Studio in an environment of its own
	$(PYTHON) -m venv .venv/label-studio
	.venv/label-studio/bin/python -m pip install --quiet --disable-pip-version-check label-studio==1.23.2

test-faults: .venv/installed system  ## 100 kills and every other fault, in one table; into docs/reliability.md
	nice -n 10 $(BIN)/python -m tests.faults --write

WORKSPACE ?= demo
verify: .venv/installed  ## whether a workspace is whole: make verify WORKSPACE=village
	cd $(WORKSPACE) && $(CURDIR)/$(BIN)/jengo verify

docs: .venv/installed  ## the reference pages from the code, the notebook's outputs
	$(BIN)/python docs/reference.py
	$(BIN)/python docs/run_notebook.py

docs-site: .venv/installed  ## the documentation as a site in site/
	$(BIN)/python -m mkdocs build --strict

lock: .venv/peers  ## write down what is installed as the exact versions to install
	sed -n '/^#/p' constraints.txt > .lock
	$(BIN)/python -m pip freeze --exclude-editable --all | grep -v -i -E '^(jengo|pip)==' | LC_ALL=C sort -f >> .lock
	mv .lock constraints.txt

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
