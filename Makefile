# A bare machine needs python3.11 (or newer), pip and make. Everything else goes into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
JOBS ?= 2
DEMO ?= runs/demo

.PHONY: demo demo-vision studio test test-thorough test-slow test-minimum lint format docs site picture emoji bench clean

demo: $(VENV)/.ready
	$(BIN)/efface erase rece --concept pistol --size short --out $(DEMO) --overwrite
	$(BIN)/efface attack $(DEMO) --with soft_prompt --trials 4 --budget 400
	@echo "To see it in the browser, and to try more: make studio"

# Makes the bundled classifier forget two classes, and measures it on held-out pictures.
demo-vision: $(VENV)/.ready
	$(BIN)/efface erase gs_lora --model icons-vit --concept cat --concept frog --out runs/demo-vision --overwrite

# Opens the page in the browser, on this machine alone.
studio: $(VENV)/.ready-studio
	$(BIN)/efface studio

test: $(VENV)/.ready-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -q

# Those of a second or more each, which CI runs as well.
test-thorough: $(VENV)/.ready-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -q -m "thorough and not slow and not gpu"

# Half an hour on two cores, and as long again for steps at the size of SD 1.5. What is not installed
# for them is skipped by name.
test-slow: $(VENV)/.ready-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -q -m slow

# Reads what is exported with the oldest diffusers and peft that are allowed.
test-minimum: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -q tests/exchange/test_minimum.py -m "slow or not slow"

lint: $(VENV)/.ready-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python tools/house_rules.py

format: $(VENV)/.ready-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Writes the generated pages: docs/methods, docs/cli.md and the results table of README.md.
docs: $(VENV)/.ready-dev
	$(BIN)/python tools/write_docs.py

# Builds the documentation into build/site; warnings, and links and anchors that lead nowhere, fail.
site: $(VENV)/.ready-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Renews the picture at the top of README.md.
picture: demo
	mkdir -p docs/images
	cp $(DEMO)/before_after.png docs/images/before_after.png
	$(MAKE) docs

# Rebuilds the bundled model from the public icon sets: hours on two cores, needs npm. Not part of CI.
emoji: $(VENV)/.ready-dev
	$(MAKE) -C emoji PYTHON=../$(BIN)/python

# Runs what has no result yet under benchmarks/results.
bench: $(VENV)/.ready-dev
	$(BIN)/python -m benchmarks

clean:
	rm -rf runs build dist .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing efface into $(VENV) (PyTorch included: this takes a few minutes the first time)"
	$(INSTALL) -e .
	@touch $@

$(VENV)/.ready-studio: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing efface and its studio into $(VENV)"
	@grep -vi '^pillow==' constraints.txt > $(VENV)/studio.txt  # Gradio wants an older Pillow
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(VENV)/studio.txt -e ".[studio]"
	@touch $@ $(VENV)/.ready

$(VENV)/.ready-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing efface and its development tools into $(VENV)"
	$(INSTALL) -e ".[dev]"
	@touch $@ $(VENV)/.ready
