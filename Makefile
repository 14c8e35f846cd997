# make serve    installs what is needed and serves the bundled model (MODEL=, ARGS= to change that)
# make test     installs what tests need, then runs every check and test
# make nightly  also runs the tests that take long, such as 100,000 hostile HTTP requests
# make fuzz     runs the scheduler through episodes drawn from seeds (SEEDS=, PROCESSES=), and goes on where it was interrupted
# make benchmark measures the bundled model on this CPU, and transformers beside it
# make gpu      runs the tests that need a GPU, then measures kernels, engine and server on it; figures go to out/gpu
#               (TOKENIZER= is a directory with the tokenizer of Llama-3.1, instead of one that is made up)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLIENTS := .venv-clients
MODEL ?=
ARGS ?=
TOKENIZER ?=
SEEDS ?= 1000000
PROCESSES ?= 2

.PHONY: serve test check nightly fuzz benchmark gpu clean

serve: $(VENV)/installed
	$(BIN)/lightllm serve $(MODEL) $(ARGS)

test: check
	$(BIN)/pytest

check: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/codespell lightllm tests benchmarks docs README.md
	$(BIN)/pyright --pythonpath $(BIN)/python

nightly: check $(CLIENTS)/installed
	$(BIN)/pytest -m "not gpu"

fuzz: $(VENV)/installed-test
	$(BIN)/python -m tests.fuzzing --seeds $(SEEDS) --processes $(PROCESSES)

benchmark: $(VENV)/installed-test
	$(BIN)/python -m benchmarks.cpu

gpu: $(VENV)/installed-test
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[gpu]"
	mkdir -p out/gpu
	$(BIN)/lightllm check --device cuda >out/gpu/check.txt
	cat out/gpu/check.txt
	$(BIN)/pytest -m gpu
	$(BIN)/lightllm bench ops --output-json out/gpu/ops.json
	$(BIN)/python -m benchmarks.gpu --json out/gpu/engine.json
	$(BIN)/python -m benchmarks.gpu_serve --out out/gpu $(if $(TOKENIZER),--tokenizer $(TOKENIZER))

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

# Client libraries of other projects, which tests drive the server with. Without npm those of JavaScript are left out.
$(CLIENTS)/installed: tests/end_to_end/clients/requirements.txt tests/end_to_end/clients/package.json
	test -x $(CLIENTS)/bin/python || $(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --requirement tests/end_to_end/clients/requirements.txt
	cp tests/end_to_end/clients/package.json $(CLIENTS)/
	! command -v npm >/dev/null || npm install --silent --prefix $(CLIENTS)
	touch $@

clean:
	rm -rf $(VENV) $(CLIENTS)
