"""Sizes of LLMs compared with transformers and peft, and memory estimates compared with real runs."""

import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen2Config
from transformers.utils import logging

from kflm2.cli import stages
from kflm2.config.llms import LLMsConfig
from kflm2.llm.memory import Machine, Shape
from kflm2.llm.registry import EMBEDDED, LLMS
from kflm2.stages.llms import table

SMALL = Shape(width=24, layers=3, inner=40, heads=6, kv_heads=2, vocabulary=50, tied=False, qkv_bias=True)


def _model(shape: Shape) -> PreTrainedModel:
    """The model of a shape in transformers, on the meta device."""
    config = (Qwen2Config if shape.qkv_bias else LlamaConfig)(
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        intermediate_size=shape.inner,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
    )
    logging.set_verbosity_error()
    with torch.device("meta"):
        # eager attention consists of matrix products, which can be counted
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager")


@pytest.mark.parametrize("name", [*LLMS, "small"])
def test_parameters_equal_those_of_transformers(name: str) -> None:
    shape = SMALL if name == "small" else LLMS[name].shape
    assert shape is not None
    model = _model(shape)
    assert shape.parameters() == sum(weight.numel() for weight in model.parameters())
    assert shape.parameters(head=False) == sum(weight.numel() for weight in model.model.parameters())


def test_parameters_of_a_lora_adapter_equal_those_of_peft() -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(_model(SMALL), LoraConfig(r=5, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert SMALL.lora_parameters(5) == model.get_nb_trainable_parameters()[0]
    assert SMALL.lora_parameters(5, layers=1) * 3 == SMALL.lora_parameters(5)


def test_flops_equal_those_of_the_matrix_products() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model = _model(SMALL).model.to_empty(device="cpu")
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(input_ids=torch.ones(1, 7, dtype=torch.long))
    assert SMALL.flops(7) == pytest.approx(counter.get_total_flops(), rel=0.02)


_RUN = """
import re, sys, torch, transformers, peft
from kflm2.llm.checkpoints import checkpoint_folder
from kflm2.llm.loading import load
from kflm2.llm.registry import EMBEDDED, LLMS
folder = checkpoint_folder(LLMS[EMBEDDED])
kind, batch, tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
ids = torch.randint(0, 40000, (batch, tokens))
if kind == "embed":
    model = load(folder, None, torch.device("cpu")).model
    with torch.inference_mode():
        model(input_ids=ids, output_hidden_states=True, use_cache=False)
else:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = peft.LoraConfig(r=16, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config).train()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad])
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    optimizer.step()
# not ru_maxrss: a process begins with that of the one that starts it, and this one may be larger
print(1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read()).group(1)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="operating systems count memory differently")
@pytest.mark.parametrize(("kind", "batch", "tokens"), [("embed", 48, 100), ("lora", 12, 32)])
@pytest.mark.usefixtures("embedded")
def test_memory_estimates_of_the_embedded_llm_are_within_25_percent(kind: str, batch: int, tokens: int) -> None:
    shape = LLMS[EMBEDDED].shape
    assert shape is not None
    command = [sys.executable, "-c", _RUN, kind, str(batch), str(tokens)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert process.returncode == 0, process.stderr
    estimate = shape.embedding_bytes(batch, tokens, 4) if kind == "embed" else shape.lora_bytes(batch, tokens, 4, 16)
    assert estimate == pytest.approx(int(process.stdout.split()[-1]), rel=0.25)


def test_the_table_shows_which_llms_fit(capsys: pytest.CaptureFixture[str]) -> None:
    large = table(LLMsConfig(), Machine("GPU", 80e9, 2, "bfloat16")).splitlines()
    small = table(LLMsConfig(), Machine("GPU", 8.5e9, 2, "bfloat16")).splitlines()
    for name, rows, fits in (("DS_1.5B", small, "embed"), ("DS_7B", small, "no"), ("DS_7B", large, "both")):
        (line,) = [line for line in rows if line.startswith(f"{name} ")]
        assert fits in line.split()
    # the whole LLM is loaded before layers are cut, as `kflm2 finetune` reckons too
    cut = table(LLMsConfig(layers=8, batch=8), Machine("GPU", 12e9, 2, "bfloat16")).splitlines()
    assert "no" in next(line for line in cut if line.startswith("DS_7B ")).split()
    stages.llms.from_command_line(["--layers", "12"])
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[1 : 1 + len(LLMS)]] == list(LLMS)
    assert "the first 12 layers" in printed
    with pytest.raises(SystemExit) as stop:
        stages.llms.from_command_line(["--batch", "0"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: batch is 0; it must be at least 1\n"
