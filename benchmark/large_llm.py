"""The paper's LLM, DS_1.5B, on this CPU: one LoRA step and one batch of embeddings, with random weights.

    python benchmark/large_llm.py

Time and memory depend on the shape of an LLM, not on the values of its weights; so nothing is downloaded. Each part
runs in a separate process, whose peak memory is compared with the estimate of `kflm2 llms`. The SMILES are tokenised by
the embedded LLM's tokenizer; its tokens have about the same length.
"""

import argparse
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from kflm2.config.finetune import FinetuneConfig
from kflm2.featurize.embeddings import Embedder
from kflm2.files import project_folder
from kflm2.llm import checkpoints, registry
from kflm2.llm.decoding import tokens_and_labels
from kflm2.llm.loading import LoadedLLM
from kflm2.llm.resolve import LLMSource
from kflm2.trainers.lora.model import LoRAModel

NAME = "DS_1.5B"
CPU = torch.device("cpu")
FLOAT32 = 4
CONTEXT = 512


def random_llm() -> Qwen2ForCausalLM:
    """A Qwen2 of the LLM's shape in float32."""
    shape = registry.LLMS[NAME].shape
    assert shape is not None
    config = Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=CONTEXT,
    )
    torch.manual_seed(0)
    return Qwen2ForCausalLM(config)


def lora_step(smiles: list[str]) -> dict[str, Any]:
    """Forward, backward and AdamW on one batch; the sizes, seconds and bytes of it."""
    config = FinetuneConfig()
    model = LoRAModel(random_llm(), config).train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, config.learning_rate)
    batch = tokens_and_labels(_tokenizer(), smiles, CONTEXT)
    start = time.perf_counter()
    loss = model(**batch)["loss"]
    loss.backward()
    optimizer.step()
    seconds = time.perf_counter() - start
    assert torch.isfinite(loss)
    molecules, tokens = batch["input_ids"].shape
    shape = registry.LLMS[NAME].shape
    assert shape is not None
    estimate = shape.lora_bytes(molecules, tokens, FLOAT32, config.rank)
    return {"molecules": molecules, "tokens": tokens, "seconds": seconds, "peak": _peak(), "estimate": estimate}


def embedding_batch(smiles: list[str]) -> dict[str, Any]:
    """One batch of mean states of the last layer; the sizes, seconds and bytes of it."""
    tokenizer = _tokenizer()
    model = random_llm().model.eval().requires_grad_(False)
    shape = registry.LLMS[NAME].shape
    assert shape is not None
    embedder = Embedder(LLMSource(NAME, project_folder(), None, (shape.layers,), {}), CPU)
    embedder.loaded = LoadedLLM(model, tokenizer, causal=True, context=CONTEXT)
    ids = tokenizer(smiles)["input_ids"]
    (batch, *_) = embedder.batches([len(molecule) for molecule in ids])
    start = time.perf_counter()
    states = embedder._states([ids[i] for i in batch])
    seconds = time.perf_counter() - start
    tokens = max(len(molecule) for molecule in states)
    estimate = shape.embedding_bytes(len(batch), tokens, FLOAT32)
    return {"molecules": len(batch), "tokens": tokens, "seconds": seconds, "peak": _peak(), "estimate": estimate}


def _tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(checkpoints.checkpoint_folder(registry.LLMS[registry.EMBEDDED]))


def _peak() -> int:
    """Peak memory of the process in bytes, on Linux."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Run both parts, print."""
    parser = argparse.ArgumentParser(description="Time and memory of an LLM of DS_1.5B's shape, on the CPU.")
    parser.add_argument("--molecules", type=int, default=32, help="molecules in the LoRA step (32)")
    options = parser.parse_args()
    smiles = (project_folder() / "dataset" / "zinc_sample.smi").read_text().split()[: options.molecules]
    threads = torch.get_num_threads()
    print(f"\n{NAME}'s shape, random weights, float32, torch {torch.__version__}, {threads} threads\n")
    print("                  molecules    tokens   seconds   peak memory   estimate")
    for title, part in (("LoRA step", lora_step), ("embedding batch", embedding_batch)):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            result = pool.submit(part, smiles).result()
        peak, estimate = (f"{result[name] / 1e9:.1f} GB" for name in ("peak", "estimate"))
        print(
            f"{title:16}{result['molecules']:11}{result['tokens']:10}{result['seconds']:10.1f}{peak:>14}{estimate:>11}",
            flush=True,
        )


if __name__ == "__main__":
    main()
