# Every chore of the repository, one target each; .ci/run and the workflows call the same targets.
# Targets use the `python` on PATH, which CONTRIBUTING.md says how to set up.
PYTHON ?= python
PYTEST = $(PYTHON) -m pytest
CPP_FILES = $(shell git ls-files '*.cpp' '*.hpp')

.PHONY: help test test-fast clients quality nightly oracles lint format generate bench docs wheel lowest \
	asan tsan tsan-python fuzz

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/:.*  ## /\t/' | expand -t 14

test:  ## all tests but the grades of the demonstration model
	$(PYTEST)

test-fast:  ## the same on every core, without the slow files: a minute
	$(PYTEST) -n auto -m "not integration"

clients:  ## heavy clients of the server, and Ray, as far as they are installed: minutes
	$(PYTEST) -m clients

quality:  ## grades of the demonstration model against the published ones: minutes
	$(PYTEST) training/nano/quality

nightly:  ## failing memory, forks, MINUTES=30 of random grammars beside streams: two hours
	$(PYTEST) -m nightly -o timeout=7200 tests/nightly

oracles:  ## asks llama.cpp again what tests have recorded (ten minutes of building, once)
	PYTHONPATH=tests $(PYTHON) -m support.llama_cpp $(ORACLE_PYTHON)

lint:  ## linters, formatters, type checker; a missing tool is an error
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	clang-format --dry-run --Werror $(CPP_FILES)
	$(PYTHON) -m mypy
	check-jsonschema --builtin-schema github-workflows .github/workflows/*.yml
	! grep -rn gil_scoped_ cpp/bindings  # aborts while Python ends: GilReleased does not

format:  ## rewrite Python and C++ in the one style
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .
	clang-format -i $(CPP_FILES)

generate:  ## what follows from the declarations of sampling parameters, and from shaders
	$(PYTHON) scripts/sampling_parameters.py
	$(PYTHON) cpp/gpu/make_shaders.py

bench:  ## kernels against this machine's limits (benchmarks/ has the others)
	$(PYTHON) benchmarks/kernels.py

docs:  ## the documentation as a site, in site/; a warning is an error
	$(PYTHON) -m mkdocs build --strict

WHEEL_ENV = $(CURDIR)/build/wheel/env/bin
wheel:  ## a manylinux wheel in wheelhouse/, tried without a compiler on PATH
	rm -rf build/wheel wheelhouse
	$(PYTHON) -m pip wheel -q --no-deps --wheel-dir build/wheel .
	$(PYTHON) -m auditwheel show build/wheel/*.whl
	$(PYTHON) -m auditwheel repair --wheel-dir wheelhouse build/wheel/*.whl
	$(PYTHON) -m venv build/wheel/env
	$(WHEEL_ENV)/pip install -q "$$(echo wheelhouse/*.whl)[grammar]" pytest pytest-asyncio pytest-timeout
	env PATH=$(WHEEL_ENV) $(WHEEL_ENV)/starchat chat "How do I sort a list in Python?"
	env PATH=$(WHEEL_ENV) $(WHEEL_ENV)/python -m pytest -q tests/test_kernels.py tests/test_stream.py

# An environment for each adapter: first the oldest versions it allows, then what its tests need.
# Copies, because NLTK refuses to read files that have several hard links.
lowest:  ## adapters' tests with the oldest frameworks that they declare, after make wheel
	set -e; export UV_LINK_MODE=copy; for adapter in integrations/*/; do \
	  export VIRTUAL_ENV=$(CURDIR)/build/lowest/$$(basename $$adapter); \
	  uv venv -q --clear $$VIRTUAL_ENV; \
	  uv pip install -q --resolution lowest-direct -r $$adapter/pyproject.toml \
	    "starchat @ file://$$(echo $(CURDIR)/wheelhouse/*.whl)"; \
	  uv pip freeze -q > $$VIRTUAL_ENV/lowest.txt; \
	  uv pip install -q -c $$VIRTUAL_ENV/lowest.txt --group $$adapter/pyproject.toml:test -e ./$$adapter; \
	  echo "--- $$adapter"; uv pip freeze -q | grep -E "^(langchain|lang|llama.index|pydantic)"; \
	  (cd $$adapter && $$VIRTUAL_ENV/bin/python -m pytest -q); \
	done

# Builds of the core alone, in their own folders.
SANITIZED = cmake -DCMAKE_BUILD_TYPE=None -DSTARCHAT_PYTHON=OFF

asan:  ## C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer (gcc)
	CXX=g++ $(SANITIZED) -S . -B build/asan -DSTARCHAT_CPP_TESTS=ON \
	  -DCMAKE_CXX_FLAGS="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all"
	cmake --build build/asan --parallel
	ctest --test-dir build/asan --output-on-failure

tsan:  ## C++ tests under ThreadSanitizer (gcc)
	CXX=g++ $(SANITIZED) -S . -B build/tsan -DSTARCHAT_CPP_TESTS=ON \
	  -DCMAKE_CXX_FLAGS="-O1 -g -fsanitize=thread"
	cmake --build build/tsan --parallel
	ctest --test-dir build/tsan --output-on-failure

# A copy of the package with a module of its own. Python itself and other libraries are not
# instrumented, so races between their accesses alone say nothing.
TSAN_PYTHON = $(CURDIR)/build/tsan-python
tsan-python:  ## threads, tasks, cancels and closes of one engine under ThreadSanitizer (gcc)
	CXX=g++ cmake -DCMAKE_BUILD_TYPE=None -S . -B $(TSAN_PYTHON) \
	  -DPython_EXECUTABLE="$$($(PYTHON) -c 'import sys; print(sys.executable)')" \
	  -Dpybind11_DIR="$$($(PYTHON) -m pybind11 --cmakedir)" \
	  -DCMAKE_CXX_FLAGS="-O1 -g -fsanitize=thread"
	cmake --build $(TSAN_PYTHON) --target _core --parallel
	mkdir -p $(TSAN_PYTHON)/package
	rm -rf $(TSAN_PYTHON)/package/starchat
	cp -r src/starchat $(TSAN_PYTHON)/package
	cp $(TSAN_PYTHON)/_core.*.so $(TSAN_PYTHON)/package/starchat
	LD_PRELOAD="$$(g++ -print-file-name=libtsan.so)" \
	  TSAN_OPTIONS="ignore_noninstrumented_modules=1 exitcode=66" \
	  PYTHONPATH="$(TSAN_PYTHON)/package:tests:$$($(PYTHON) -c \
	    'import numpy, pathlib; print(pathlib.Path(numpy.__file__).parents[1])')" \
	  setarch -R $(PYTHON) -S -m support.many_threads 60

SECONDS ?= 60
fuzz:  ## every target of cpp/fuzz for SECONDS=60, and the C++ tests in the same build (clang)
	CXX=clang++ $(SANITIZED) -S . -B build/fuzz -DSTARCHAT_FUZZ=ON -DSTARCHAT_CPP_TESTS=ON \
	  -DCMAKE_CXX_FLAGS="-O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all"
	cmake --build build/fuzz --parallel
	ctest --test-dir build/fuzz --output-on-failure
	PYTHONPATH=tests $(PYTHON) cpp/fuzz/run.py build/fuzz $(SECONDS)
