# make demo    optimizes the scene `move` and leaves video, plots and metrics in runs/move-demo
# make test    the test suite      make verify   the slow checks too
# make bench   speed and memory    make lint     ruff     make clean
# make mutations    breaks every adjoint in one place at a time and expects a test to fail (half an hour)
#
# Every target installs what it needs into .venv. Another interpreter: make PYTHON=python3.12 ...

SHELL = bash
PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable
PYTEST = $(BIN)/python -m pytest
DEMO = runs/move-demo

# laws, kernels and the model: what must hold in f32 and with the other kernel language as well
KERNELS = tests/kernels tests/materials
# the part of it that runs on a GPU backend
DEVICE = tests/kernels

.PHONY: demo test test-f64 test-f32 test-quadrants test-vulkan verify mutations bench lint clean

demo: $(VENV)/.core
	$(BIN)/diffsim optimize move --out $(DEMO) --overwrite
	@echo "video, plots, metrics and best controls are in $(DEMO)"

test: test-f64 test-f32 test-quadrants test-vulkan

test-f64: $(VENV)/.dev
	$(PYTEST) -m "not slow" --durations 10

test-f32: $(VENV)/.dev
	DIFFSIM_TEST_PRECISION=f32 $(PYTEST) -m "not slow" $(KERNELS)

test-quadrants: $(VENV)/.dev
	DIFFSIM_KERNEL_LANGUAGE=quadrants $(PYTEST) -m "not slow" -k "not rollout and not evaluated_in_torch" $(KERNELS)

test-vulkan: $(VENV)/.dev
	@if $(BIN)/python -c 'import diffsim; diffsim.init(device="vulkan", precision="f32")' >/dev/null 2>&1; then \
	    set -x; DIFFSIM_TEST_DEVICE=vulkan DIFFSIM_TEST_PRECISION=f32 $(PYTEST) -m "not slow" $(DEVICE); \
	else \
	    echo "skipped the tests on Vulkan: no driver (Debian: apt-get install mesa-vulkan-drivers libvulkan1)"; \
	fi

verify: test
	$(PYTEST) -m slow --durations 10

# the rest of an interrupted run only; a part: python tests/mutations/run.py contact
mutations: $(VENV)/.dev
	$(BIN)/python tests/mutations/run.py

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/mpm.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# runs/ stays: what it holds may have taken hours
clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp file per set of requirements, so that a second call installs nothing. The larger sets contain the core.
$(VENV)/.core: setup.cfg pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) .
	@touch $@

$(VENV)/.dev: setup.cfg pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) '.[dev]'
	@touch $(VENV)/.core $@

$(VENV)/.bench: setup.cfg pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) '.[bench]'
	@touch $(VENV)/.core $@

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	    echo "there is no $(PYTHON): install Python 3.11, 3.12 or 3.13, or name it: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || { \
	    echo "diffsim needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is $$($(PYTHON) -V 2>&1):" \
	        "install one and name it: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
