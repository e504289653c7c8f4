# `make demo` and `make test` need nothing but Python 3.11 or later with its venv module.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := data/demo
NEEDED_GB := 8
MINUTES ?= 10

.PHONY: demo test bench gpu-check soak fuzz lint lock clean help

help:
	@echo "make demo    install, make SYNTHETIC data, train, predict: the whole way through once"
	@echo "make test    install, run the tests (HCD_DATA=FOLDER_OR_ZIP adds those on real data)"
	@echo "make lint    ruff over the code"
	@echo "make lock    make requirements.txt anew from pyproject.toml"
	@echo "make clean   remove $(VENV), $(DEMO), runs/demo and cache/"

demo: $(STAMP)
	$(BIN)/python -m bench.demo

test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

lint: $(STAMP)
	$(BIN)/python -m pip install -q ruff
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

# requirements.txt: every package, pinned, for every Python that the project runs on.
lock: $(STAMP)
	$(BIN)/python -m pip install -q uv
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --no-emit-index-url \
		--custom-compile-command "make lock" --output-file requirements.txt

$(STAMP): requirements.txt
	@$(PYTHON) check_machine.py $(NEEDED_GB)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements.txt
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO) runs/demo cache
