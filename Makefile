# Everything a newcomer needs: `make demo`, `make test`. Both set up a .venv of their own first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint pictures clean

demo: .venv/installed
	$(BIN)/python examples/00_demo.py

test: .venv/installed
	$(BIN)/python -m pytest -n auto --dist worksteal

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

pictures: .venv/installed
	$(BIN)/python docs/pictures.py

clean:
	rm -rf .venv demo
