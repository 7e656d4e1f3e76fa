# The verbs of this project. Everything runs in .venv, which `make setup` makes from requirements.lock.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test proofs test-gpu test-browser bench-peers evidence-tasks evidence-boxes lint lock clean

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch .venv/ready

demo: setup
	$(BIN)/python examples/demo.py

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -q -m "not slow"

# The longer ones: killed, started twice, over ranks, as the README says. Shows k/N; begins where it failed before.
proofs: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow --stepwise -v -o console_output_style=count

test-gpu: setup
	$(BIN)/python -m pytest -m gpu

test-browser: setup
	$(BIN)/python -m pytest -m browser -q

# The same work in other tools, which go into out/bench-env. Those without a package: MDISTILLER=DIR REPDISTILLER=DIR
bench-peers: setup
	$(BIN)/python benchmarks/peers.py --to out/peers.json

# What the methods do for masks and series: resumes where it was, tells how long is left, hours on 2 cores. Real data.
evidence-tasks: setup
	test -n "$$TUTELAGE_DATA"  # the folder of the data sets
	OMP_NUM_THREADS=1 $(BIN)/tutelage compare recipes/ucr/study.toml --seeds 5 --jobs 2 --out out/evidence/ucr
	OMP_NUM_THREADS=1 $(BIN)/tutelage compare recipes/kvasir/study.toml --seeds 5 --jobs 2 --out out/evidence/kvasir

# The same for boxes.
evidence-boxes: setup
	test -n "$$TUTELAGE_DATA"  # the folder of the data sets
	OMP_NUM_THREADS=1 $(BIN)/tutelage compare recipes/bccd/study.toml --seeds 5 --jobs 2 --out out/evidence/bccd
	OMP_NUM_THREADS=1 $(BIN)/tutelage compare recipes/kvasir_boxes/study.toml --seeds 5 --jobs 2 --out out/evidence/kvasir_boxes

lint: setup
	$(BIN)/ruff check .
	$(BIN)/pyright

lock:
	uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 --generate-hashes --no-header -o requirements.lock

clean:
	rm -rf .venv out runs
