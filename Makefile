# Two commands do all:
#   make serve   build a virtual environment, pull the default model, serve it on http://127.0.0.1:8343/v1
#   make test    build the development environment and run every test tier
# The others: make check (lint and types), make bench (ratios against its peers), make soak, make clean, and
# make example-train, which trains SmolLM2-135M for a task, judges and serves it (19 minutes on two cores).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL ?= smollm2-135m
# unit worker http faults real; `make test TIERS="unit http"` runs some of them.
TIERS ?= unit worker http faults real

# How llama.cpp is compiled; measured, see bench/LOG.md. LLAVA_BUILD=OFF leaves out the vision tools, which edged does
# not call: a third of the time.
export CMAKE_ARGS ?= -DLLAVA_BUILD=OFF -DGGML_NATIVE=ON -DGGML_OPENMP=ON $(WITHOUT_AMX)
# GCC 12 crashes its own AMX code (`ldtilecfg` reads 64 bytes of which its header declares 8), so a processor with AMX
# is used without it, wherever the compiler knows the flag.
WITHOUT_AMX = $(if $(shell echo | $(or $(CC),cc) -mno-amx-int8 -E - >/dev/null 2>&1 && echo knows),\
	-DCMAKE_C_FLAGS=-mno-amx-int8 -DCMAKE_CXX_FLAGS=-mno-amx-int8)
# For boxes of the same kind but not the same processor: AVX2 on x86-64 (2013 and later), the base line elsewhere.
PORTABLE_CMAKE_ARGS ?= -DLLAVA_BUILD=OFF -DGGML_NATIVE=OFF -DGGML_OPENMP=ON \
	$(if $(filter x86_64,$(shell uname -m)),-DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON)
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell getconf _NPROCESSORS_ONLN)
export HF_HUB_DISABLE_TELEMETRY = 1
export ORT_DISABLE_TELEMETRY = 1
export OLIVE_DISABLE_TELEMETRY = 1

.PHONY: serve test check bench soak clean setup setup-dev setup-train wheel example-train

serve: setup
	@$(BIN)/edged pull $(MODEL)
	@exec $(BIN)/edged serve

setup: $(VENV)/.serve
setup-dev: $(VENV)/.dev
setup-train: $(VENV)/.train

$(BIN)/python:
	@sh scripts/system-packages
	@echo "edged: making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.serve: pyproject.toml constraints.txt | $(BIN)/python
	@echo "edged: installing the daemon and both engines; llama.cpp is compiled once, about 4 to 10 minutes on two cores"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "edged: installing the daemon, the engines, the conversion tools (torch, Olive) and the test tools"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@cd tests/clients && npm install --silent --no-audit --no-fund
	@touch $@ $(VENV)/.serve

$(VENV)/.train: pyproject.toml constraints.txt | $(BIN)/python
	@echo "edged: installing the daemon, the engines, the conversion tools and the training tools"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train]'
	@touch $@ $(VENV)/.serve

check: setup-dev
	$(BIN)/ruff check .
	$(BIN)/mypy

# Real models want the cores for themselves, so they run last and one after another.
test: setup-dev
	@for tier in $(TIERS); do \
		case $$tier in real) workers=0 ;; *) workers=2 ;; esac; \
		echo "edged: tier $$tier"; \
		$(BIN)/pytest -q -m $$tier -n $$workers --durations=5 || exit 1; \
	done

# Half an hour on a machine that has nothing else to do; `make bench ARGS=--quick` only tries it.
ARGS ?= --log
bench: setup-dev
	$(BIN)/python -m bench $(ARGS)

soak: setup-dev
	$(BIN)/python -m bench.soak

# In a home of its own, build/example/home: nothing of the models that are installed is touched.
EXAMPLE := build/example
# 200 held-out items, 19 minutes on two cores; the README's figures are of 600 (EXAMPLE_DATA="--test 600"), which took 26.
EXAMPLE_DATA ?= --test 200
example-train: $(if $(wildcard $(VENV)/.dev),,setup-train)
	@mkdir -p $(EXAMPLE)
	@cp examples/home/*.toml examples/home/checks.py $(EXAMPLE)
	@$(BIN)/python examples/home/make_data.py $(EXAMPLE)/data $(EXAMPLE_DATA)
	@EDGED_HOME=$(EXAMPLE)/home $(BIN)/edged pull smollm2-135m
	@EDGED_HOME=$(EXAMPLE)/home $(BIN)/edged train $(EXAMPLE)/commands.toml
	@echo "edged: what came of it, in a browser: $(EXAMPLE)/runs/commands/evaluate/report.html"
	@echo "edged: to serve it: EDGED_HOME=$(EXAMPLE)/home $(BIN)/edged serve"

# A wheel of llama.cpp for boxes without a compiler: `pip install dist/*.whl` there, then edged itself.
wheel: $(BIN)/python
	@CMAKE_ARGS="$(PORTABLE_CMAKE_ARGS)" $(BIN)/python -m pip wheel --quiet --no-deps --no-cache-dir \
		--wheel-dir dist "$$(grep -o 'llama-cpp-python==[0-9.]*' pyproject.toml)" .
	@ls -l dist

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache
