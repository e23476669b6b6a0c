# make help lists the targets. Targets that run the code first create the environment in .venv if it is missing: for the
# demo with the packages that it needs, for all others with all packages.
PYTHON ?= python3
VENV ?= .venv
# The release the tests were run with; pip chooses the build for this machine. To use another release, or the file of a
# smaller CPU build: make install TORCH=...
TORCH ?= torch==2.13.0
# LOCKED=1 installs the versions in requirements/, with which the tests were run, instead of the newest.
LOCKED ?=
# Settings of make table5 and the like. ARGS are more overrides: ARGS="hydra/launcher=joblib hydra.launcher.n_jobs=2".
SCALE ?= laptop
# All tables at laptop scale are 59 jobs per seed, each about ten minutes of one core.
SEEDS ?= $(if $(filter laptop rehearsal,$(SCALE)),0 1,0 1 2)
ARGS ?=
FUZZ_SECONDS ?= 300
KILLS ?= 20
COMMA := ,
SPACE := $() $()
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_READY := $(VENV)/.demo-ready
# Compiling every module takes longer than all else that pip does here; Python compiles those that are used.
# With uv: make install INSTALLER="uv pip install --python .venv/bin/python"
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile
INSTALLER ?= $(PIP_INSTALL)
VERSIONS = $(if $(LOCKED),--constraint requirements/$(1).txt)

.DEFAULT_GOAL := help
TABLES := $(notdir $(basename $(wildcard experiments/*.yaml)))
# Folder of the reports. Those of this repository's own runs are in experiments/results.
RESULTS ?= runs/reports/$(SCALE)
.PHONY: help install demo world tables $(TABLES) docs pictures test lint unit quick fuzz test-faults gpu-check clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12
	@echo 'table5      train and report a table or figure; SCALE=laptop|rehearsal|paper SEEDS="0 1". Choose from:'
	@echo '            $(TABLES)' | fold -s -w 108 | sed '2,$$s/^/            /'

install: $(READY)  ## create the environment in .venv with all packages; LOCKED=1 for the versions in requirements/

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is required; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
# The pip that Python 3.11 brings takes twice as long to choose versions as a new one.
	@$(PIP_INSTALL) --upgrade pip || echo "pip stays as old as $(PYTHON); installing may take longer" >&2

$(DEMO_READY): pyproject.toml | $(BIN)/pip
	$(INSTALLER) $(call VERSIONS,demo) '$(TORCH)' --editable '.[extract,plot,train]'
	@touch $@

$(READY): pyproject.toml | $(BIN)/pip
	$(INSTALLER) $(call VERSIONS,test) '$(TORCH)' --editable '.[dev]'
	@touch $(DEMO_READY) $@

demo: $(DEMO_READY)  ## end-to-end demo on synthetic videos: 7 to 9 minutes on 2 idle cores
	$(BIN)/sdst demo

world: data/world/features.h5  ## make the small world's videos and features, the data of tables at laptop scale

# Up to K = 5 levels (Tab. K), and K = 4 at strides 2 and 3 (Tab. 4). Features of an older backbone are refused, not mixed.
data/world/features.h5: src/sdst/features/small_world/weights.safetensors | $(READY)
	$(BIN)/sdst world make --out data/world --size laptop
	$(BIN)/sdst extract --annotations data/world/train.jsonl data/world/val.jsonl data/world/test.jsonl \
		--videos data/world/videos --config small-world --video-layers 3,6,8,9,10,11,12 --text-layers 4,5,6,7,8 \
		--pooling adaptive avg cls --out $@

# The rehearsal's features of a data set: five layers and three poolings, for Tab. 3, 4 and K. QVHighlights takes 7 GB.
DATA := $(or $(SDST_DATA),data)
FEATURES := $(or $(SDST_FEATURES),$(DATA)/features)
$(FEATURES)/%-simulated.h5: | $(READY)
	@test -n "$(wildcard $(DATA)/$*/*.jsonl)" || { echo "$(DATA)/$* needs the annotations of $*, which are missing;" \
		"docs/real-data.md says where to get them" >&2; exit 2; }
	$(BIN)/sdst features simulate $(sort $(wildcard $(DATA)/$*/*.jsonl)) --clip-seconds $(if $(filter charades,$*),1,2) \
		--levels 5 --video-dim 256 --text-dim 256 --pooling adaptive avg cls --out $@

# Data sets that a table trains on at the scale of the paper.
datasets = $(shell sed -n 's/^  paper: //p' experiments/$(1).yaml | grep -o 'data=[a-z]*' | cut -d= -f2)
ifeq ($(SCALE),rehearsal)
.SECONDEXPANSION:
$(TABLES): $$(foreach name,$$(call datasets,$$@),$$(FEATURES)/$$(name)-simulated.h5)
endif

# The report is made even if a job failed.
$(TABLES): $(READY) $(if $(filter laptop,$(SCALE)),data/world/features.h5)
	if test -f conf/experiment/$@.yaml; \
		then $(BIN)/sdst train experiment=$@ scale=$(SCALE) seed=$(subst $(SPACE),$(COMMA),$(strip $(SEEDS))) $(ARGS); \
		else $(BIN)/sdst sweep $@ --scale $(SCALE) --seeds $(SEEDS) $(ARGS); fi; status=$$?; \
		$(BIN)/sdst report $@ --scale $(SCALE) --out $(RESULTS) && exit $$status

tables: $(READY)  ## write all reports of what was run, with an index
	$(BIN)/sdst report --all --scale $(SCALE) --out $(RESULTS)

docs: $(READY)  ## build the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

pictures:  ## make the documentation's pictures and the README's numbers anew, after make demo; needs Chromium
	PYTHONPATH=tests $(BIN)/python tools/notebooks.py
	PYTHONPATH=tests $(BIN)/python tools/pictures.py

test: lint unit  ## run everything that CI checks

lint: $(READY)  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Without files of bytecode, each test process would compile all tests again.
unexport PYTHONDONTWRITEBYTECODE

# The tests of a file share a process, and with it the fixtures that are made once.
unit: $(READY)  ## run all tests, one process per core
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist loadfile

quick: $(READY)  ## run unit and parity tests: about a minute on 2 cores
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/unit tests/parity -m "not slow" --numprocesses auto --dist loadfile

fuzz: $(READY)  ## break files of every kind for FUZZ_SECONDS: none may cause a traceback, crash or hang
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python tools/fuzz.py --seconds $(FUZZ_SECONDS)

test-faults: $(READY)  ## kill every process of training, extraction, sweeps and others KILLS times: nothing may be lost
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python tools/faults.py --kills $(KILLS)

gpu-check: $(READY)  ## check and measure everything on one GPU in under 8 minutes; reports in runs/gpu-check
	$(BIN)/sdst bench gpu $(ARGS)

clean:  ## remove caches; never runs or data
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist site
	find src tests -name __pycache__ -type d -exec rm -rf {} +
