# A fresh machine needs python3 (3.11 or later, with venv and pip) and make.
#
#   make demo    draws a small data set, trains on it, captions, explains: minutes on two cores
#   make test    all tests
#   make check   formatting, rules, types and the fast tests
#   make oldest  the fast tests with the oldest releases that pyproject.toml allows

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/installed.pyproject.toml

.PHONY: venv demo test check oldest format clean

# Installs when pyproject.toml says something else than at the last installation. uv decides on all versions in one go,
# which keeps torch and torchvision together; where it is not on the PATH, the environment gets its own.
venv:
	@cmp -s pyproject.toml $(STAMP) || $(MAKE) --no-print-directory install

.PHONY: install
install:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "showtell needs Python 3.11 or later: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet uv
	PATH="$(CURDIR)/$(BIN):$$PATH"; \
	uv pip install --quiet --python $(BIN)/python 'setuptools>=77' && \
	uv pip install --python $(BIN)/python --no-build-isolation --editable '.[dev]'
	cp pyproject.toml $(STAMP)

demo: venv
	$(BIN)/showtell demo

test: venv
	$(BIN)/python -m pytest -n auto --dist loadfile

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist loadfile -m 'not slow'

oldest: venv
	PATH="$$PATH:$(CURDIR)/$(BIN)"; \
	uv venv --quiet --clear --python $(BIN)/python $(VENV)-oldest && \
	uv pip install --quiet --python $(VENV)-oldest/bin/python --resolution lowest-direct --editable '.[dev]'
	$(VENV)-oldest/bin/python -m pytest -n auto --dist loadfile -m 'not slow'

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(VENV)-oldest showtell-demo .mypy_cache .pytest_cache .ruff_cache
