"""Speed of fine-tuning the embedded LLM (stage 1) on the CPU: ours and the original's recipe.

    python benchmark/lora.py

Both recipes fine-tune a new adapter (rank 16, all linear maps, float32) of the whole LLM on the same molecules:
forward, backward and AdamW's steps, without the time of loading. One line per round; in each round the recipes run in
turn, so that other load affects both; then the median of each column. Real tokens are the tokens of the SMILES and
their end tokens, without padding. Columns:

    original   real tokens/s of one molecule per pass, padded to 80 tokens, loss over the padding too, a step every 8
    ours       real tokens/s of kflm2: 32 molecules of similar length per step, loss over real tokens
    ratio      ours / original
    cut        as ours, on the first 12 layers, with descriptors in each step, the next token in every third, no dropout
    ratio      cut / original
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from kflm2.config.finetune import FinetuneConfig
from kflm2.data.corpus import CorpusFilter
from kflm2.files import project_folder
from kflm2.llm import checkpoints, registry, resolve
from kflm2.llm.decoding import load_decoder
from kflm2.llm.loading import cut_layers
from kflm2.trainers.lora.dataset import Collator, CorpusDataset
from kflm2.trainers.lora.knowledge import KnowledgeTargets
from kflm2.trainers.lora.model import LoRAModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CPU = torch.device("cpu")
PADDED_TO = 80
ACCUMULATION = 8
OURS = FinetuneConfig()
CUT = FinetuneConfig(layers=12, knowledge=("descriptors",), next_token_every=3, dropout=0.0)


def fresh(
    config: FinetuneConfig, knowledge: KnowledgeTargets | None = None
) -> "tuple[LoRAModel, PreTrainedTokenizerBase, Any]":
    """The embedded LLM with a new adapter, its tokenizer, and an optimizer."""
    llm, tokenizer = load_decoder(checkpoints.checkpoint_folder(resolve.find(registry.EMBEDDED)), CPU)
    cut_layers(llm.model, config.layers, keep_norm=True)
    model = LoRAModel(llm, config, knowledge).train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return model, tokenizer, torch.optim.AdamW(weights, config.learning_rate)


def original_epoch(smiles: list[str]) -> Callable[[], None]:
    """A function that makes one pass over the molecules, one at a time."""
    model, tokenizer, optimizer = fresh(OURS)
    tokenizer.pad_token = tokenizer.eos_token

    def train() -> None:
        for number, text in enumerate(smiles, start=1):
            batch = tokenizer(text, return_tensors="pt", padding="max_length", truncation=True, max_length=PADDED_TO)
            out = model.peft(**batch, labels=batch["input_ids"])
            (out.loss / ACCUMULATION).backward()
            if number % ACCUMULATION == 0:
                optimizer.step()
                optimizer.zero_grad()

    return train


def our_epoch(config: FinetuneConfig, smiles: list[str]) -> Callable[[], None]:
    """A function that makes one pass over the molecules, in batches of similar length."""
    corpus = project_folder() / "dataset" / "zinc_sample.smi"
    targets = KnowledgeTargets(config.knowledge, config.knowledge_weight, smiles) if config.knowledge else None
    model, tokenizer, optimizer = fresh(config, targets)
    collator = Collator(tokenizer, PADDED_TO, 0.0, targets)
    size = config.batch_size
    dataset = list(CorpusDataset(CorpusFilter(corpus, limit=len(smiles)), tokenizer, 1, size, 0))

    def train() -> None:
        for start in range(0, len(dataset), size):
            model.step = start // size
            model(**collator(dataset[start : start + size]))["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()

    return train


def seconds(train: Callable[[], None]) -> float:
    """Time of one pass."""
    start = time.perf_counter()
    train()
    return time.perf_counter() - start


def main() -> None:
    """Load the models, measure the recipes in turn, print."""
    parser = argparse.ArgumentParser(description="Speed of fine-tuning the embedded LLM, on the CPU.")
    parser.add_argument("--molecules", type=int, default=192, help="first molecules of dataset/zinc_sample.smi (192)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each recipe (3)")
    options = parser.parse_args()
    smiles = (project_folder() / "dataset" / "zinc_sample.smi").read_text().split()[: options.molecules]

    _, tokenizer, _ = fresh(OURS)
    tokens = sum(len(ids) + 1 for ids in tokenizer(smiles)["input_ids"])
    sides = [original_epoch(smiles), our_epoch(OURS, smiles), our_epoch(CUT, smiles)]
    for warm_up in (original_epoch(smiles[:2]), our_epoch(OURS, smiles[:32])):
        warm_up()

    print(
        f"\n{registry.EMBEDDED}, {len(smiles)} molecules, {tokens} real tokens, float32,"
        f" torch {torch.__version__}, {torch.get_num_threads()} threads\n"
    )
    print("            original      ours   ratio       cut   ratio")
    print("             real tokens / s                  ")
    rounds = []
    for number in range(1, options.rounds + 1):
        original, ours, first_layers = (tokens / seconds(side) for side in sides)
        rounds.append((original, ours, ours / original, first_layers, first_layers / original))
        print_line(f"round {number}", rounds[-1])
    print_line("median", tuple(statistics.median(column) for column in zip(*rounds, strict=True)))


def print_line(title: str, columns: tuple[float, ...]) -> None:
    """One line of the table; the columns are those of the heading."""
    original, ours, ratio, first_layers, first_ratio = columns
    print(f"{title:9}{original:11.1f}{ours:10.1f}{ratio:7.2f}x{first_layers:9.1f}{first_ratio:7.2f}x", flush=True)


if __name__ == "__main__":
    main()
