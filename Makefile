# Every target makes what it needs from nothing but python3, g++ and make, and is quick when repeated.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := $(VENV)/packages
READY := $(VENV)/ready
SOURCES := electra_kernels benchmarks tests csrc setup.py .ci
CPP := $(wildcard csrc/*.cpp csrc/*.h csrc/*/*.cpp csrc/*/*.cu csrc/*/*.h)
FIBERS := $(wildcard .ci/*.cpp tests/cuda_on_cpu/*.cpp tests/cuda_on_cpu/*.cu tests/cuda_on_cpu/*.h)

.PHONY: help demo test prove fuzz sanitize lint format bench gpu-check audit wheel torches clean again

help:  ## Say what each target does (default)
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(READY)  ## Pre-train the reference ELECTRA on real text and write report/report.html
	$(BIN)/electra-kernels pretrain --config demo --minutes 8 --pair-minutes 2 --output report

test: $(READY)  ## Lint, and the tests of every back end and of the package, with the time of each part
	@$(BIN)/python .ci/test.py test

prove: $(READY)  ## The slower proofs: builds, compiled code, mutants, sanitizers, benchmarks that run
	@$(BIN)/python .ci/test.py prove

MINUTES ?= 10

fuzz: $(READY)  ## New cases for the properties of every op until MINUTES are over, or one fails
	@$(BIN)/python tests/fuzz.py $(MINUTES)

sanitize: $(READY)  ## Tests of the compiled kernels with the sanitizers for addresses, undefined behaviour and threads
	@$(BIN)/python .ci/sanitize.py

lint: $(READY)  ## ruff, mypy and clang-format, changing nothing
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CPP) $(FIBERS)

format: $(READY)  ## Let ruff and clang-format rewrite the sources
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/clang-format -i $(CPP) $(FIBERS)

bench: $(READY)  ## Time every op against eager torch, write and draw the results; QUICK=1 for one size per op
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick)
	$(if $(QUICK),,$(BIN)/python -m benchmarks.plot)

gpu-check: $(if $(DRY_RUN),$(READY))  ## On a GPU: ONLY=proofs, ONLY=ops, ONLY=steps, each within 10 minutes; OUT=folder gets results and logs; DRY_RUN=1
	@$(if $(DRY_RUN),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu.check \
	  $(addprefix --only ,$(ONLY)) $(if $(DRY_RUN),--dry-run)

audit: $(READY)  ## Compile the GPU kernels without a GPU and check spills and access widths; print registers and memory
	$(BIN)/python -m benchmarks.codegen

wheel: $(READY)  ## Build dist/*.whl, isolated as pip does it, and tag it by the C library that it needs
	rm -rf build/wheel
	$(BIN)/python -m pip wheel -q --no-deps --wheel-dir build/wheel .
	PATH=$(abspath $(BIN)):$$PATH auditwheel repair --exclude 'libtorch*.so' --exclude libc10.so --wheel-dir dist build/wheel/*.whl
	@ls -l dist/*.whl

torches: $(READY)  ## Conformance of that wheel under other versions of torch: VERSIONS="2.11.0 2.14.1"
	$(BIN)/python .ci/torches.py $(VERSIONS)

clean:  ## Remove what these targets made; downloads stay in the cache folder
	rm -rf $(VENV) build dist report *.egg-info electra_kernels/_*.so electra_kernels/_build.json

$(PACKAGES): pyproject.toml .ci/constraints.txt .ci/venv.sh
	@bash .ci/venv.sh $(PYTHON) $(VENV)
	@touch $@

$(READY): $(PACKAGES) setup.py csrc/build.py electra_kernels/_version.py electra_kernels/backends/table.py $(CPP)
	@echo "Building the kernels"
	@$(BIN)/python -m pip install -qq --no-build-isolation --no-deps -e .
	@$(BIN)/python -c 'import json; record = json.load(open("electra_kernels/_build.json")); \
	  print("\n".join(f"warning: no {name}: {reason}" for name, reason in record["missing"].items()) or "Built")'
	@touch $@

# A build that was allowed to fail is no finished build where the build is required.
ifeq ($(ELECTRA_KERNELS_BUILD)$(wildcard electra_kernels/_C*.so),require)
$(READY): again
endif
