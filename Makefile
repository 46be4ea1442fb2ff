# The project's commands. `make demo` and `make test` need only Python 3.11 (or 3.12) and git.
#
#   make app IMAGE=scan.nii.gz PORT=8080
#   make demo IMAGE=scan.nii.gz POINTS="40,120,130,+ 40,150,130,-" OUT=somewhere
#
# Variables given on the command line reach the recipes as environment variables, so that a path
# with blanks in it stays one word.

BIN := .venv/bin

# Threads of OpenMP that spin while they wait are slow beyond measure on a machine that does
# something else besides; see src/protosam/cli/__init__.py.
export OMP_WAIT_POLICY ?= passive

.PHONY: help setup rendering app demo test format clean screenshots
.DEFAULT_GOAL := help

help:
	@echo "make app     set up, then open the page in the browser; IMAGE=file or folder, PORT=number"
	@echo "make demo    set up, then segment the phantom, and IMAGE=... if given; writes into demo_out/"
	@echo "make test    set up, then run all checks: ruff, mypy, import contracts, pytest with coverage"
	@echo "make setup   the environment .venv alone, with the command protosam in it"
	@echo "make screenshots  make the pictures in Resources/Screenshots anew"
	@echo "make format  let ruff format the code and mend what it can"
	@echo "make clean   remove .venv, demo_out and what the checks leave behind"

setup:
	@sh scripts/setup_venv.sh

# What the page and the tests need of the system; see the script.
rendering:
	@sh scripts/setup_rendering.sh

app: setup rendering
	@$(BIN)/protosam app $${IMAGE:+"$$IMAGE"} $${PORT:+--port "$$PORT"} $${MODEL:+--model "$$MODEL"}

screenshots: setup rendering
	@sh scripts/setup_rendering.sh chromium
	$(BIN)/python scripts/make_screenshots.py
	$(BIN)/python scripts/make_batch_pictures.py

demo: setup
	@$(BIN)/protosam demo --out "$${OUT:-demo_out}" $${IMAGE:+--image "$$IMAGE"} $${POINTS:+--points "$$POINTS"}

test: setup rendering
	@sh scripts/setup_rendering.sh chromium
	@sh scripts/setup_dicom_tools.sh
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest --cov --cov-report=term:skip-covered --cov-fail-under=85

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv demo_out .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	rm -f .coverage .coverage.*
