# `make install`, `make demo` and `make test` need nothing but Python 3.11 or later with its venv module.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
DEMO := data/demo
NEEDED_GB := 8
MINUTES ?= 10
KILLS ?= 30
SOAK_OUT ?= data/soak.json

.PHONY: help install demo test test-fast bench gpu-check fuzz soak matrix notebook lint lock clean

help:
	@echo "make install $(VENV) with all that the programs need"
	@echo "make demo    install, make SYNTHETIC data, train, predict: the whole way through once"
	@echo "make test    install, run the tests (HCD_DATA=FOLDER_OR_ZIP adds those on real data)"
	@echo "make test-fast   those that take seconds, a minute in all: for the inner loop"
	@echo "make bench   measure for some minutes, results into data/bench-results/ (DATA=FOLDER_OR_ZIP: on your patches)"
	@echo "make gpu-check   tests and bench on a GPU at Kaggle's size, 5 minutes (REAL=FOLDER_OR_ZIP adds the AUC)"
	@echo "make fuzz    damage TIFF files and all others that are read, for MINUTES=10"
	@echo "make soak    kill and disturb packing, training and predicting KILLS=30 times each; figures in $(SOAK_OUT)"
	@echo "make matrix  the tests that read files, with the oldest and newest packages allowed, on each Python found"
	@echo "make notebook  run notebooks/quickstart.ipynb and keep its outputs in it"
	@echo "make lint    ruff and mypy over the code"
	@echo "make lock    make the pinned requirements anew from pyproject.toml"
	@echo "make clean   remove $(VENV), $(DEMO), runs/demo and cache/"

install: $(STAMP)
	@echo "installed: $(BIN)/python train.py --help"

demo: $(STAMP)
	$(BIN)/python demo.py

# Files side by side in JOBS processes; then, one by one, the tests whose moments others would shift.
JOBS ?= auto
NONE_IS_FINE := status=$$?; [ $$status -eq 5 ] || exit $$status
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not alone" -n $(JOBS) --maxprocesses 8 --dist loadfile $(ARGS); $(NONE_IS_FINE)
	$(BIN)/python -m pytest -m alone $(ARGS); $(NONE_IS_FINE)

# The inner loop: files of tests that take seconds. A new file counts as one until it is named here.
SLOW := test_feeder test_bench_peers test_fuzz_files test_refused_files test_sources test_stain_groups test_bench_loader \
  test_tiff test_fine_tune test_timm test_predict test_pack_together test_trust test_fuzz_tiff test_padding \
  test_compile_ahead test_export test_left_out test_explore test_pages test_models test_pcam_run test_light test_bench_job \
  test_limit test_ddp test_one_command test_triton test_resume test_surroundings test_report test_resources test_streams \
  test_synthetic test_notebook test_pack_vanishes test_predictor test_soak test_soak_troubles test_gpu_check \
  test_step_graph test_launcher test_tensorboard_log test_bench_train test_bench_model
FAST = $(filter-out $(addprefix %/,$(addsuffix .py,$(SLOW))),$(wildcard tests/*/test_*.py))
test-fast: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not alone" -n $(JOBS) --maxprocesses 8 --dist loadfile $(FAST) $(ARGS)

# The short version of every command of the bench, on SYNTHETIC patches unless DATA names others.
DATA :=
bench: $(STAMP)
	$(if $(DATA),,$(BIN)/python -m pipeline synth --out data/bench --train 2000 --test 0)
	$(BIN)/python -m bench all --short --data-dir $(or $(DATA),data/bench) --out-dir data/bench-results

# All that needs a GPU. Results into data/gpu-check/; OPTIONS="--device cpu --patches 600" shows on a CPU that it runs.
REAL :=
OPTIONS :=
gpu-check: $(STAMP)
	$(BIN)/python -m bench.gpu_check --out data/gpu-check $(if $(REAL),--real $(REAL)) $(OPTIONS)

# Damaged TIFF files, tables, packed files, settings and checkpoints, for longer than `make test` gives them.
fuzz: $(STAMP)
	FUZZ_MINUTES=$(MINUTES) $(BIN)/python -m pytest -s tests/pipeline/test_fuzz_tiff.py tests/programs/test_fuzz_files.py

# Troubles, and programs killed, at random moments, processes of their own, oftener than `make test` kills.
soak: $(STAMP)
	KILLS=$(KILLS) SOAK_OUT=$(SOAK_OUT) $(BIN)/python -m pytest -s tests/programs/test_soak.py tests/programs/test_soak_troubles.py

# The tests that read and write files, with the oldest and newest packages that pyproject.toml allows.
matrix: $(STAMP)
	$(BIN)/python tests/matrix.py

notebook: $(STAMP)
	rm -rf data/quickstart runs/quickstart
	env -u HCD_DATA $(BIN)/jupyter execute --inplace notebooks/quickstart.ipynb

lint: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Every package, pinned, for every Python that the project runs on. The second file is for drivers older than
# CUDA 13's: DALI's CUDA 12 build, and the last torch whose plain build on PyPI is one for CUDA 12. The third adds what
# single options need, and names nothing that the first has: installing it moves none of those.
COMPILE := $(BIN)/uv pip compile --universal --python-version 3.11 --no-emit-index-url \
	--custom-compile-command "make lock"
lock: $(STAMP)
	$(BIN)/python -m pip install -q uv
	$(COMPILE) pyproject.toml --output-file requirements.txt
	sed 's/dali-cuda130/dali-cuda120/; s/"torch>=.*"/"torch==2.10.0"/; s/"torchvision>=.*"/"torchvision==0.25.0"/' \
		pyproject.toml > $(VENV)/pyproject.toml
	$(COMPILE) $(VENV)/pyproject.toml --output-file requirements-cu12.txt
	(echo "# On top of requirements.txt or requirements-cu12.txt: pip install -r requirements-extras.txt" && \
		$(COMPILE) pyproject.toml --extra extras --constraint requirements.txt --no-annotate --no-header -q | \
		grep -vxFf requirements.txt) > $(VENV)/extras.txt
	mv $(VENV)/extras.txt requirements-extras.txt

$(STAMP): requirements.txt
	@$(PYTHON) check_machine.py $(NEEDED_GB)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements.txt
	@touch $@

# What looks at the code and never runs with it: pinned, so that a new release of either finds nothing new in old code.
$(DEV_STAMP): requirements-dev.txt $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements-dev.txt
	@touch $@

clean:
	rm -rf $(VENV) $(DEMO) runs/demo cache
