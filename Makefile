# Everything a person or CI needs. `make help` lists the targets.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# One thread per process: tests run in several processes at once.
RUN    := HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1

.PHONY: help install demo test drills check format bench columns reference coming-from llms docs docs-test pictures readme-pictures notebooks release-check clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP)  ## make .venv with everything in it

$(STAMP): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e ".[test,docs]"
	@touch $@

demo: $(STAMP)  ## train, evaluate and predict on the embedded default: no network, account or GPU
	$(BIN)/python -m rmx

test: $(STAMP)  ## the tests (the slow drills are `make drills`)
	$(RUN) $(BIN)/python -m pytest -n auto --maxprocesses 4

drills: $(STAMP)  ## the long fault and exactness drills; prints a table of figures
	$(RUN) $(BIN)/python -m pytest -m slow --no-header -rs

parallel: $(STAMP)  ## several processes against one: every strategy, resharding, kills
	$(RUN) $(BIN)/python -m pytest -m slow --no-header tests/test_parallel.py tests/launch tests/faults/test_faults_shards.py

check: $(STAMP)  ## lint, types, import layers, tests: what CI runs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) test

format: $(STAMP)  ## let ruff repair what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## measure against TRL and others on this machine
	HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks.run

columns: $(STAMP)  ## write docs/columns.md from the table of column names
	$(BIN)/python -c "from rmx.data.rows.columns import markdown; print(markdown())" > docs/columns.md

reference: $(STAMP)  ## write docs/reference/ from the code
	$(BIN)/python -m rmx.reference

coming-from: $(STAMP)  ## write docs/coming_from/ from the tables of other trainers' keys
	$(BIN)/python -c "from pathlib import Path; from rmx.importing.pages import write_pages; write_pages(Path('docs/coming_from'))"

llms: $(STAMP)  ## write docs/llms.txt, the list of pages for language models
	$(BIN)/python docs/_hooks/llms.py

docs: $(STAMP)  ## build the documentation into site/ (strict, no network)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

docs-test: $(STAMP)  ## run every command whose output the documentation shows, build the site, check the menu
	$(RUN) $(BIN)/python -m pytest -m "slow or not slow" --no-header -rs tests/docs

pictures: $(STAMP)  ## draw the documentation's pictures (docs/pictures/runs.py makes the runs behind them anew)
	$(BIN)/python docs/pictures/draw.py

readme-pictures: $(STAMP)  ## run what README shows and draw it (needs Chromium)
	$(RUN) $(BIN)/python docs/pictures/readme.py

notebooks: $(STAMP)  ## run docs/notebooks/ and keep what they print
	$(RUN) $(BIN)/python docs/notebooks/execute.py

release-check: $(STAMP)  ## build, install the wheel into an empty environment, and run it from a foreign folder
	$(BIN)/python .ci/release_check.py

clean:  ## remove the environment and caches (outputs/ stays)
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .import_linter_cache build dist site
