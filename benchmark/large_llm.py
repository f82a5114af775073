"""The paper's larger LLMs, with random weights: LoRA steps and embeddings on the CPU or a GPU.

    python benchmark/large_llm.py                                              # DS_1.5B on this CPU
    python benchmark/large_llm.py --device cuda --llm DS_1.5B DS_7B DS_8B      # also with weights in 4 bit

Time and memory depend on the shape of an LLM, not on the values of its weights; so nothing is downloaded. A checkpoint
with random weights is written, and read by the code of stages 1 and 2: float32 on a CPU, bfloat16 on a GPU. Each part
runs in a separate process, whose peak memory (on a GPU: of tensors) stands beside the estimate by which `kflm2 llms`
and `kflm2 finetune` tell what fits. The SMILES are tokenised by the embedded LLM's tokenizer; its tokens have about the
same length. On a GPU a few steps come first, and the median of the others counts.
"""

import argparse
import contextlib
import importlib.util
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config

from kflm2.config.finetune import FinetuneConfig
from kflm2.device import choose_device, choose_precision, llm_dtype
from kflm2.errors import SettingError
from kflm2.featurize.embeddings import Embedder
from kflm2.files import project_folder
from kflm2.llm import checkpoints, registry
from kflm2.llm.decoding import load_decoder, tokens_and_labels
from kflm2.llm.loading import quiet
from kflm2.llm.memory import Shape
from kflm2.llm.resolve import LLMSource
from kflm2.stages.finetune.stage import memory_needed
from kflm2.text_table import markdown
from kflm2.trainers.lora.model import LoRAModel

CONTEXT = 512
WARM_UP, STEPS = 3, 10
"""LoRA steps on a GPU; on a CPU there is one."""
EMBEDDED = {"cpu": 32, "cuda": 2048}
"""Molecules that are embedded."""
Row = tuple[str, int, int, float, float, float]
"""What was done, molecules, tokens with padding, seconds, and bytes at most and estimated."""


def shape_of(name: str) -> Shape:
    """Of a registered LLM."""
    shape = registry.LLMS[name].shape
    assert shape is not None
    return shape


def write_checkpoint(name: str, device: torch.device, folder: Path) -> None:
    """Random weights of an LLM's shape in bfloat16, with the embedded LLM's tokenizer."""
    shape = shape_of(name)
    sizes: dict[str, Any] = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "tie_word_embeddings": shape.tied,
        "max_position_embeddings": CONTEXT,
    }
    config = Qwen2Config(**sizes) if shape.qkv_bias else LlamaConfig(**sizes)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(checkpoints.checkpoint_folder(registry.LLMS[registry.EMBEDDED]))
    with device, quiet():
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def lora(name: str, folder: Path, device: torch.device, smiles: list[str], four_bit: bool) -> Row:
    """Forward, backward and AdamW on a batch, as stage 1 does it."""
    config = replace(FinetuneConfig(), batch_size=len(smiles), load_4bit=four_bit)
    llm, tokenizer = load_decoder(folder, device, four_bit)
    model = LoRAModel(llm, config).train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, config.learning_rate)
    batch = {key: tensor.to(device) for key, tensor in tokens_and_labels(tokenizer, smiles, CONTEXT).items()}

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = model(**batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert torch.isfinite(loss)

    for _ in range(WARM_UP if device.type == "cuda" else 0):
        step()
    seconds = statistics.median(_seconds(step, device) for _ in range(STEPS if device.type == "cuda" else 1))
    estimate = memory_needed(shape_of(name), config, llm_dtype(device).itemsize)
    molecules, tokens = batch["input_ids"].shape
    return "QLoRA step" if four_bit else "LoRA step", molecules, molecules * tokens, seconds, _peak(device), estimate


def embedding(name: str, folder: Path, device: torch.device, smiles: list[str], four_bit: bool) -> Row:
    """Mean states of the last layer, as stage 2 computes them."""
    assert not four_bit
    shape = shape_of(name)
    precision = choose_precision("auto", device) if device.type == "cuda" else "float32"
    embedder = Embedder(LLMSource(name, folder, None, (shape.layers,), {}, precision=precision), device)
    lengths = embedder.token_counts(smiles)
    batches = [[lengths[i] for i in batch] for batch in embedder.batches(lengths)]
    if device.type == "cuda":
        embedder.embed_uncached(smiles, "mean")
    seconds = _seconds(lambda: embedder.embed_uncached(smiles, "mean"), device)
    estimate = max(shape.embedding_bytes(len(batch), max(batch), llm_dtype(device).itemsize) for batch in batches)
    tokens = sum(len(batch) * max(batch) for batch in batches)
    return "embedding", len(smiles), tokens, seconds, _peak(device), estimate


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _peak(device: torch.device) -> float:
    """Peak memory in bytes: of tensors on a GPU; of the process on a CPU (Linux)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _quietly(part: Callable[..., Row], *arguments: object) -> Row:
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        return part(*arguments)


def main() -> None:
    """Run all parts, print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:N")
    parser.add_argument("--llm", nargs="+", default=["DS_1.5B"], help="names of `kflm2 llms` (DS_1.5B)")
    parser.add_argument("--molecules", type=int, default=32, help="molecules in a LoRA step (32)")
    options = parser.parse_args()
    try:
        device = choose_device(options.device)
    except SettingError as error:
        sys.exit(str(error))
    smiles = (project_folder() / "dataset" / "zinc_sample.smi").read_text().split()
    parts: list[tuple[Callable[..., Row], int, bool]] = [
        (lora, options.molecules, False),
        (embedding, EMBEDDED[device.type], False),
    ]
    if device.type == "cuda" and importlib.util.find_spec("bitsandbytes"):
        parts.insert(1, (lora, options.molecules, True))
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    rows = []
    for name in options.llm:
        with tempfile.TemporaryDirectory() as folder:
            write_checkpoint(name, device, Path(folder))
            torch.cuda.empty_cache()  # the parts are other processes
            for part, molecules, four_bit in parts:
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                    arguments = (name, Path(folder), device, smiles[:molecules], four_bit)
                    title, count, tokens, seconds, peak, estimate = pool.submit(_quietly, part, *arguments).result()
                print(f"{name}: {title}, {seconds:.3g} s", file=sys.stderr, flush=True)
                speed = f"{count / seconds:,.0f}" if count > 9 * seconds else f"{count / seconds:.2g}"
                cells = [f"{count:,}", f"{tokens:,}", f"{seconds:.3g}", speed]
                rows.append([name, title, *cells, f"{peak / 1e9:.1f} GB", f"{estimate / 1e9:.1f} GB"])
    print(f"\n{where}, torch {torch.__version__}, random weights\n")
    titles = ["LLM", "", "molecules", "tokens", "seconds", "molecules/s", "memory", "estimate"]
    print("\n".join(markdown([titles, *rows])))


if __name__ == "__main__":
    main()
