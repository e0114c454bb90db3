# Two commands do everything from a fresh clone: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test check bench format clean

$(READY): pyproject.toml constraints.txt hatch_build.py $(wildcard src/equipoise/stats/*.cpp src/equipoise/stats/*.h)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[compare,entmax,lightning,rl,sklearn,targets,transformers,triton,dev]'
	touch $@

demo: $(READY)
	$(BIN)/equipoise compare --noise 0.4 --out demo
	@echo "open demo/report.html"

test check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/typos
	$(BIN)/basedpyright
	$(BIN)/pytest -n 2

# For example: make bench BENCH="--part cpu --shapes A --dtypes float32"
bench: $(READY)
	$(BIN)/python -m benchmarks.run $(BENCH)

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) demo
