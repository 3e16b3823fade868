# Every target makes what it needs from nothing but python3, g++ and make, and is quick when repeated.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
SOURCES := electra_kernels benchmarks tests setup.py

.PHONY: help demo test lint format bench clean

help:  ## Say what each target does (default)
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(READY)  ## Pre-train the reference ELECTRA on real text and write report/report.html
	$(BIN)/electra-kernels pretrain --config demo --minutes 8 --pair-minutes 2 --output report

test: $(READY)  ## Lint, build and every test, with the time of each part
	$(BIN)/python .ci/test.py

lint: $(READY)  ## ruff, mypy and clang-format, changing nothing
	$(BIN)/ruff check $(SOURCES) .ci
	$(BIN)/ruff format --check $(SOURCES) .ci
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror csrc/*.cpp

format: $(READY)  ## Let ruff and clang-format rewrite the sources
	$(BIN)/ruff check --fix $(SOURCES) .ci
	$(BIN)/ruff format $(SOURCES) .ci
	$(BIN)/clang-format -i csrc/*.cpp

bench: $(READY)  ## Time every op against eager torch; QUICK=1 for one size per op
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick)

clean:  ## Remove what these targets made; downloads stay in the cache folder
	rm -rf $(VENV) build dist report *.egg-info electra_kernels/_C*.so electra_kernels/_build.json

$(READY): pyproject.toml setup.py .ci/constraints.txt .ci/venv.sh csrc/bindings.cpp
	bash .ci/venv.sh $(PYTHON) $(VENV)
	touch $@
