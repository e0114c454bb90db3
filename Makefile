# From a fresh clone: `make demo` shows the package, `make test` checks it in minutes, `make test-slow` has the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := $(VENV)/.demo
READY := $(VENV)/.ready
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt

# What a processor changes: kernels, the fused path and half precision.
PROCESSORS := tests/linear tests/kernels $(addprefix tests/,$(addprefix losses/test_,losses.py gradients.py bad_rows.py reduction.py reweighted.py opinfo.py) penalties/test_reduction.py $(addprefix maps/test_,maps.py guarantees.py edges.py) test_label_noise.py)

SITE := docs/_build/html

.PHONY: demo test check test-slow coverage docs linkcheck processors sanitize wheel bench format clean

# What the command needs; the rest is added to the same environment by whatever needs it.
$(DEMO): pyproject.toml constraints.txt hatch_build.py $(wildcard src/equipoise/kernels/cpu/*.cpp src/equipoise/kernels/cpu/*.h)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e '.[compare]'
	touch $@

$(READY): $(DEMO)
	$(PIP) -e '.[all,docs,dev]'
	touch $@

demo: $(DEMO)
	$(BIN)/equipoise compare --noise 0.4 --out demo
	@echo "open demo/report.html"

test check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/typos
	$(BIN)/basedpyright
	$(BIN)/pytest -n 2 -m "not slow"

# What takes long: planted faults, wheels, examples, processes, fuzzing, compilers, other libraries.
test-slow: $(READY)
	$(BIN)/pytest -n 2 -m slow

# Which lines and branches of the package the tests of `make test` run; pages in .coverage.html.
coverage: $(READY)
	$(BIN)/pytest -q -n 2 -m "not slow" --cov --cov-report=term --cov-report=html

# The site: pages from the tables and docstrings, every public name with a page, no dead link inside; warnings are errors.
docs: $(READY)
	$(BIN)/sphinx-build -W -n -q -j 2 -b html docs $(SITE)
	@echo "open $(SITE)/index.html"

# Links to other sites, which needs a network.
linkcheck: $(READY)
	$(BIN)/sphinx-build -W -n -q -b linkcheck docs docs/_build/linkcheck

processors: processors-default processors-avx2
	ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/pytest -q -n 2 -m "not slow" $(PROCESSORS)

processors-%: $(READY)
	ATEN_CPU_CAPABILITY=$* $(BIN)/pytest -q -n 2 -m "not slow" $(PROCESSORS)

# The compiled kernels under AddressSanitizer and UndefinedBehaviorSanitizer, which must find two planted faults.
sanitize: $(READY)
	$(BIN)/python tests/sanitize.py

# For example: make bench BENCH="--part cpu --shapes A --dtypes float32"
bench: $(READY)
	$(BIN)/python -m benchmarks.run $(BENCH)

# What a release is made of, for this machine: the source distribution, and a wheel made of it.
wheel: $(READY)
	$(PIP) -e '.[release]'
	$(BIN)/python -m build --outdir dist

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) demo .coverage* docs/_build docs/reference
