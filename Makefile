# `make demo` and `make test` do all their own set-up in .venv. PYTHON=... picks the interpreter, TORCH=... another torch.
PYTHON ?= python3
TORCH  ?= torch==2.13.0
VENV   := .venv
BIN    := $(VENV)/bin

# The oldest torch that the extension loads on, and the newest; each takes some 7 GB here.
TORCHES ?= 2.10.0 2.14.1
OTHERS  ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/torchext
TESTING := setuptools>=77 wheel ninja numpy pybind11 pytest pytest-benchmark hypothesis pytest-xdist expecttest scikit-learn \
	matplotlib

SOURCES := setup.py pyproject.toml $(shell find csrc -type f)
CXX_FILES := $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

.PHONY: demo test test-long test-torches bench report sanitize static gpu lint format build wheel clean

demo: build
	$(BIN)/python -m torchext demo

# By our kernels wherever they can serve; then the ops' matrix again as users run it, by whichever measured faster.
test: build lint
	$(BIN)/python -m pytest -n auto -m "not long"
	$(BIN)/python -m pytest -n auto -m "not long" --backend auto -q

# The long tests; then everything that csrc/simt runs, in 20 other orders of its threads and blocks.
test-long: build
	$(BIN)/python -m pytest -n auto -m long
	for seed in $$(seq 1 20); do SIMT_SEED=$$seed $(BIN)/python -m pytest -q -n auto -m "not long" -k simt || exit 1; done

# By other torches, with the extension as it was built for this one: its ABI is stable. But for interpreted Triton.
test-torches: $(TORCHES:%=test-torch-%)

test-torch-%: $(OTHERS)/torch-%/installed build
	ln -sfn ../kernels torchext/kernels  # an installation maps it
	PYTHONPATH=. $(OTHERS)/torch-$*/bin/python -m pytest -n auto -m "not long" -k "not triton"

$(OTHERS)/torch-%/installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet torch==$* $(patsubst %,"%",$(TESTING))
	touch $@

.PRECIOUS: $(OTHERS)/torch-%/installed

# Beside stock and torch.compile, on 1 thread and on all: 10 minutes on 2 cores; then the page and its pictures.
bench: build
	$(BIN)/python -m bench

report: build
	$(BIN)/python -m bench report

# The GPU kernels, run on the CPU under AddressSanitizer and UBSan.
sanitize: build
	SANITIZE=1 $(BIN)/python setup.py build_ext --inplace
	SANITIZE=1 ASAN_OPTIONS=detect_leaks=0 LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) \
		$$($(CXX) -print-file-name=libubsan.so) $$($(CXX) -print-file-name=libstdc++.so.6)" \
		$(BIN)/python -m pytest -m "not long" -k simt

# What nvcc and Triton make of them: registers, spills, instructions; needs nvcc, no GPU. The newest Triton, and that of
# an interpreter given with it: `make static OLDEST=...` where torch is 2.11 tables the oldest.
static: build
	$(BIN)/python bench/static.py
	for python in $(BIN)/python $(OLDEST); do $$python bench/static_triton.py || exit 1; done

# Everything that needs a GPU, by an interpreter that has torch, Triton, pytest and ninja; nothing is downloaded.
gpu:
	$(PYTHON) bench/gpu.py $(STAGES) $(if $(WHEEL),--wheel $(WHEEL))

lint: $(VENV)/tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)

format: $(VENV)/tools
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

build: $(VENV)/built

# torch first and by its pin, so that nothing below drags in another one.
$(VENV)/tools: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet $(patsubst %,"%",$(TESTING)) triton ruff==0.17.5 clang-format==23.1.5 build
	touch $@

$(VENV)/built: $(VENV)/tools $(SOURCES)
	TORCHEXT_SIMT=1 $(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	touch $@

wheel: build
	rm -rf build/lib*  # a development build leaves torchext._simt there
	$(BIN)/python -m build --no-isolation

clean:
	rm -rf build dist *.egg-info torchext/_*.so
