# Every chore of the repository, one target each; .ci/run and the workflows call the same targets.
# Targets use the `python` on PATH, which CONTRIBUTING.md says how to set up.
PYTHON ?= python
PYTEST = $(PYTHON) -m pytest
CPP_FILES = $(shell git ls-files '*.cpp' '*.hpp')

.PHONY: help test test-fast quality lint format bench docs

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/:.*  ## /\t/' | expand -t 14

test:  ## all tests but the grades of the demonstration model
	$(PYTEST)

test-fast:  ## the same on every core, without the slow files: a minute
	$(PYTEST) -n auto -m "not integration"

quality:  ## grades of the demonstration model against the published ones: minutes
	$(PYTEST) training/nano/quality

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

bench:  ## kernels against this machine's limits (benchmarks/ has the others)
	$(PYTHON) benchmarks/kernels.py

docs:  ## the documentation as a site, in site/; a warning is an error
	$(PYTHON) -m mkdocs build --strict
