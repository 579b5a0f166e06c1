# Everything a newcomer needs: `make demo`, `make test`. Both set up .venv first: the demo with the packages that the
# examples need, the tests with those of development too.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all lint examples pictures clean

demo: .venv/installed-examples
	$(BIN)/python examples/00_demo.py

test: .venv/installed-dev
	$(BIN)/python -m pytest -n auto --dist worksteal

# Also every setting for every callback: half an hour. Before a larger change lands.
test-all: .venv/installed-dev
	$(BIN)/python -m pytest -n auto --dist worksteal -m ""

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed-examples: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -e ".[examples]"
	@touch $@

# Adds what is missing; so the demo's packages are installed once, whichever comes first.
.venv/installed-dev: .venv/installed-examples
	$(BIN)/pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

# Every numbered example in a reduced form, to see that it runs; in full it runs by hand, as its first lines say.
# (`make -j2 examples` runs two at a time.)
REDUCED_00_demo := --epochs 3 --probe 16 --resolution 5
REDUCED_01_cka := --epochs 2 --num-examples 128
REDUCED_02_loss_contribution := --epochs 1 --probe 100
REDUCED_03_example_difficulty := --epochs 2 --samplers random
REDUCED_04_landscape := --epochs 1 --resolution 5 --curvature-resolution 3 --num-examples 32
REDUCED_05_skip_connections := --depth 8 --epochs 1 --activations relu --resolution 5 --radius 0.5 --num-examples 64 --curvature-resolution 0
REDUCED_06_intrinsic_dimension := --nets fc --epochs 2 --seeds 0 --dims 16 512 --resolution 8
REDUCED_07_coordconv := --max-steps 3 --places 60 --looks 1 --splits quadrant
REDUCED_08_multiply_by_one := --grid 5 --random 8 --steps 60 --rates 0.05 0.2
REDUCED_09_replay := --epochs 2
REDUCED_10_critical_points := --epochs 1 --iterations 3 --probe 64 --snapshots 4 --hidden 4
REDUCED_11_preflight := --seed 0
EXAMPLES := $(basename $(notdir $(wildcard examples/[0-9]*.py)))

examples: $(EXAMPLES:%=example-%)

example-%: .venv/installed-examples
	$(BIN)/python examples/$*.py $(REDUCED_$*) --out demo/examples/$* --wandb offline

pictures: .venv/installed-examples
	$(BIN)/python docs/pictures.py

clean:
	rm -rf .venv demo
