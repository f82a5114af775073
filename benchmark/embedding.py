"""Speed of embedding molecules with the embedded LLM on the CPU: ours, the original's, and the limit of the machine.

    python benchmark/embedding.py

Both implementations embed the same SMILES in float32: the mean of the last hidden states over a molecule's tokens.
The time includes tokenisation, but not loading. One line per round; in each round the implementations run in turn, so
that other load affects both; then the median of each column. Columns:

    original   molecules/s of one forward pass per molecule through the LLM with its vocabulary head
    ours       molecules/s of kflm2's Embedder to the same last layer, without reading its cache
    ratio      ours / original
    middle     molecules/s of kflm2's Embedder to the middle layer, kflm2's default
    ratio      middle / original
    mixed      the same in mixed precision, kflm2's default on a CPU with instructions for bfloat16
    ratio      mixed / original
    multiply   GFLOP/s of float32 matrix multiplication, 2048 x 2048, the best of some just before and after ours
    of ours    GFLOP/s of ours: 2 x parameters of the transformer blocks x tokens. Padding and the matrix products of
               attention are not counted, so it is an underestimate
    share      of ours / multiply

Then the RMSE of a linear probe of the states in each precision (ridge regression, the mean of five shuffles of a
five-fold cross-validation; the penalty is chosen within the training folds), on SAMPL in kcal/mol and on Delaney in log
mol/L, with the adapter that the LLM comes with and without. --no-probe leaves it out.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoModelForCausalLM, AutoTokenizer

from kflm2.data.datasets import find
from kflm2.data.reading import read_table
from kflm2.featurize.embeddings import Embedder
from kflm2.files import project_folder
from kflm2.llm import adapters, registry, resolve
from kflm2.llm.resolve import PRECISIONS, LLMSource
from kflm2.text_table import aligned

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CPU = torch.device("cpu")
WARM_UP = 4
"""Molecules before the first round."""
SIDE = 2048
"""Rows and columns of the multiplied matrices."""
TRIES = 4
"""Multiplications before ours, and again after it."""


def embed_as_original(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", smiles: list[str]) -> np.ndarray:
    """(n, D) embeddings, one molecule per forward pass."""
    means = []
    with torch.no_grad():
        for text in smiles:
            inputs = tokenizer(text, return_tensors="pt", padding=True, truncation=True)
            last = model(**inputs, output_hidden_states=True).hidden_states[-1]
            mask = inputs["attention_mask"].unsqueeze(-1)
            means.append((last * mask).sum(dim=1) / mask.sum(dim=1))
    return torch.cat(means).numpy()


def embed_as_ours(embedder: Embedder, smiles: list[str]) -> np.ndarray:
    """(n, D) embeddings, computed without the cache."""
    rows: dict[str, np.ndarray] = {}
    # embed() would read the embeddings of an earlier round from disk
    for group, states in embedder._compute(smiles, "mean", progress=False):
        rows.update(zip(group, states.values, strict=True))
    return np.stack([rows[text] for text in smiles])


def seconds(embed: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Time of one call, and its result."""
    start = time.perf_counter()
    states = embed()
    return time.perf_counter() - start, states


def multiply_flops() -> float:
    """FLOP/s of float32 matrix multiplication, the best of several."""
    left, right = torch.randn(2, SIDE, SIDE)
    out = torch.empty(SIDE, SIDE)
    best = float("inf")
    for _ in range(TRIES):
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        best = min(best, time.perf_counter() - start)
    return 2 * SIDE**3 / best


def flops(embedder: Embedder, smiles: list[str]) -> tuple[int, int]:
    """FLOPs of the blocks' weights on the SMILES, and the number of tokens."""
    assert embedder.loaded is not None
    blocks = embedder.loaded.model.get_submodule("layers")
    tokens = sum(len(ids) for ids in embedder.loaded.tokenizer(smiles)["input_ids"])
    return 2 * sum(weight.numel() for weight in blocks.parameters()) * tokens, tokens


def main() -> None:
    """Load both implementations, measure them in turn, print."""
    parser = argparse.ArgumentParser(description="Speed of embedding SMILES with the embedded LLM, on the CPU.")
    parser.add_argument("--molecules", type=int, default=200, help="first molecules of dataset/zinc_sample.smi (200)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each implementation (3)")
    parser.add_argument("--no-probe", action="store_true", help="do not compare the precisions")
    options = parser.parse_args()
    smiles = (project_folder() / "dataset" / "zinc_sample.smi").read_text().split()[: options.molecules]

    llm = resolve.find(registry.EMBEDDED)
    source, middle_source = (LLMSource.of(llm, None, layers) for layers in ("last", "middle"))
    mixed_source = LLMSource.of(llm, None, "middle", "mixed")
    tokenizer = AutoTokenizer.from_pretrained(source.folder)
    model = AutoModelForCausalLM.from_pretrained(source.folder, dtype=torch.float32).eval()
    embedder, middle, mixed = (Embedder(layers, CPU) for layers in (source, middle_source, mixed_source))
    embed_as_original(model, tokenizer, smiles[:WARM_UP])
    embed_as_ours(embedder, smiles[:WARM_UP])
    embed_as_ours(middle, smiles[:WARM_UP])
    embed_as_ours(mixed, smiles[:WARM_UP])
    work, tokens = flops(embedder, smiles)

    print(
        f"\n{source.name}, {len(smiles)} molecules, {tokens} tokens, float32,"
        f" torch {torch.__version__}, {torch.get_num_threads()} threads\n"
    )
    print("            original      ours   ratio    middle   ratio     mixed   ratio    multiply   of ours   share")
    print("             mol / s   mol / s           mol / s           mol / s            GFLOP/s   GFLOP/s        ")
    rounds = []
    for number in range(1, options.rounds + 1):
        original_time, original = seconds(lambda: embed_as_original(model, tokenizer, smiles))
        before = multiply_flops()
        our_time, ours = seconds(lambda: embed_as_ours(embedder, smiles))
        multiply = max(before, multiply_flops())
        middle_time, _ = seconds(lambda: embed_as_ours(middle, smiles))
        mixed_time, _ = seconds(lambda: embed_as_ours(mixed, smiles))
        done = work / our_time
        rounds.append(
            (
                len(smiles) / original_time,
                len(smiles) / our_time,
                original_time / our_time,
                len(smiles) / middle_time,
                original_time / middle_time,
                len(smiles) / mixed_time,
                original_time / mixed_time,
                multiply / 1e9,
                done / 1e9,
                done / multiply,
            )
        )
        print_line(f"round {number}", rounds[-1])
    print_line("median", tuple(statistics.median(column) for column in zip(*rounds, strict=True)))

    difference = np.abs(ours - original).max()
    scale = np.sqrt(np.mean(original.astype(np.float64) ** 2))
    print(
        f"\nlargest difference between the two embeddings: {difference:.1e},"
        f" which is {difference / scale:.1e} of their root mean square, {scale:.2f}"
    )
    if not options.no_probe:
        compare_precisions()


def probe(source: LLMSource, dataset: str) -> float:
    """RMSE of a linear probe of the mean states."""
    molecules = read_table(find(dataset))
    x = Embedder(source, CPU).embed(molecules.smiles, "mean").take(np.arange(len(molecules.smiles))).values
    y = molecules.y_true[:, 0]
    errors = []
    for seed in range(5):
        ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 5, 25)))
        y_pred = cross_val_predict(ridge, x, y, cv=KFold(5, shuffle=True, random_state=seed))
        errors.append(float(np.sqrt(np.mean((y_pred - y) ** 2))))
    return statistics.mean(errors)


def compare_precisions() -> None:
    """Print the RMSE of the probes."""
    llm = resolve.find(registry.EMBEDDED)
    rows: list[tuple[str, ...]] = [("probe", *PRECISIONS)]
    for adapter in (adapters.default_adapter(llm), None):
        for dataset in ("SAMPL", "Delaney"):
            sources = (LLMSource.of(llm, adapter, "middle", precision) for precision in PRECISIONS)
            errors = [probe(source, dataset) for source in sources]
            cells = (f"{error:.3f} ({error / errors[0] - 1:+.1%})" for error in errors)
            rows.append((f"{dataset}, {'fine-tuned' if adapter else 'base'} LLM", *cells))
    print("", *aligned(rows), sep="\n")


def print_line(title: str, columns: tuple[float, ...]) -> None:
    """One line of the table; the columns are those of the heading."""
    original, ours, ratio, middle, middle_ratio, mixed, mixed_ratio, multiply, done, share = columns
    speeds = (
        f"{original:11.1f}{ours:10.1f}{ratio:7.2f}x{middle:9.1f}{middle_ratio:7.2f}x{mixed:9.1f}{mixed_ratio:7.2f}x"
    )
    print(f"{title:9}{speeds}{multiply:11.0f}{done:10.0f}{share:8.0%}", flush=True)


if __name__ == "__main__":
    main()
