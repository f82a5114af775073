"""Speed on a GPU beside the CPU of the same machine, in one run: what docs/performance.md tells of CPUs.

    python benchmark/gpu.py
    python benchmark/gpu.py --device cpu --molecules 64 --rounds 1     # a trial without a GPU: the CPU beside itself

Everything is of one LLM, by default the embedded one, on the first molecules of dataset/zinc_sample.smi and of SAMPL.
In each round the CPU and the GPU run in turn; a number is the median over rounds, a ratio the median of those within a
round, and above 1 the GPU is faster. Rows:

    embedding    molecules/s to the middle layer in a precision, without loading and without the cache
    stage 1      tokens/s of `kflm2 finetune` on all layers, without loading and evaluation; QLoRA has weights in 4 bit;
                 the CPU is taught an eighth of the molecules
    training     seconds an epoch of one crossAtt network on SAMPL, without reading and embedding; of 25 (five runs of
                 five), the seconds of all divided by 25: the CPU trains one on each core, the GPU all at once
    prediction   molecules/s of `kflm2 predict` with a crossAtt model of SAMPL, without starting

Where something cannot be had, such as QLoRA without CUDA or without bitsandbytes, its cell is empty. The trial shows
that the script works; of so few molecules its numbers mean nothing.
"""

import argparse
import contextlib
import functools
import importlib.util
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from embedding import embed_as_ours, seconds
from predict import KFLM2, speed
from training import FEW, MANY, speed_of_pipeline
from transformers import AutoTokenizer

from kflm2.config.train import TrainConfig
from kflm2.data.splits import make_splits
from kflm2.device import choose_device
from kflm2.errors import SettingError
from kflm2.featurize.embeddings import Embedder
from kflm2.files import project_folder
from kflm2.llm import resolve
from kflm2.llm.resolve import LLMSource
from kflm2.stages.train.members import Member, fit_all
from kflm2.stages.train.prepared import prepare

CPU = torch.device("cpu")
RUNS = 5
"""Of which the networks are trained at once."""
WARM_UP = 32
"""Molecules that are embedded before anything is measured."""
Measure = Callable[[torch.device], float]
"""A speed on a device; NaN where it cannot be had."""


def embedding(source: LLMSource, smiles: list[str]) -> Measure:
    """Molecules/s."""

    @functools.cache
    def embedder(device: torch.device) -> Embedder:
        loaded = Embedder(source, device)
        embed_as_ours(loaded, smiles[:WARM_UP])
        return loaded

    def measure(device: torch.device) -> float:
        loaded = embedder(device)
        return len(smiles) / seconds(lambda: embed_as_ours(loaded, smiles))[0]

    return measure


def fine_tuning(llm: str, folder: Path, smiles: list[str], *options: str) -> Measure:
    """Tokens/s of stage 1, padding not counted."""
    tokenizer = AutoTokenizer.from_pretrained(LLMSource.of(resolve.find(llm), None, "last").folder)
    tokens = sum(len(ids) + 1 for ids in tokenizer(smiles)["input_ids"]) / len(smiles)

    def measure(device: torch.device) -> float:
        four_bit = device.type == "cuda" and importlib.util.find_spec("bitsandbytes") is not None
        if "--load-4bit" in options and not four_bit:
            return float("nan")
        taught = smiles if device.type == "cuda" else smiles[: max(64, len(smiles) // 8)]  # a CPU takes minutes for all
        (folder / "corpus.smi").write_text("".join(f"{text}\n" for text in taught), encoding="utf-8")
        # a process of its own, so that its memory is not shared with what was measured before
        command = [KFLM2, "finetune", "--llm", llm, "--corpus", folder / "corpus.smi", "--out", folder / "models"]
        command += ["--no-evaluate", "--device", device, *options]
        subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
        (path,) = (folder / "models").glob("*/corpus/kflm2.json")
        record = json.loads(path.read_text(encoding="utf-8"))
        return tokens * record["corpus"]["taught"] / record["seconds"]

    return measure


def training(llm: str, limit: int) -> Measure:
    """Seconds an epoch."""
    config = TrainConfig.of(dataset="SAMPL", llm=llm, limit=limit).resolved()

    def measure(device: torch.device) -> float:
        prepared = prepare(config, device)
        (split,) = make_splits("random", prepared.molecules.smiles, [0], config.fractions)
        return len(split.train) / speed_of_pipeline(config, prepared, {0: split}, 1, device)

    return measure


def training_at_once(llm: str, limit: int) -> Measure:
    """Seconds an epoch of each of the networks of five runs."""
    config = TrainConfig.of(dataset="SAMPL", llm=llm, limit=limit, split="cv5x5", runs=RUNS).resolved()

    def measure(device: torch.device) -> float:
        prepared = prepare(config, device)
        found = make_splits("cv5x5", prepared.molecules.smiles, range(RUNS), config.fractions, folds=config.folds)
        splits = dict(enumerate(found))
        members = [Member(seed, number) for seed in splits for number in range(config.networks)]

        def taken(epochs: int) -> float:
            start = time.perf_counter()
            list(fit_all(replace(config, epochs=epochs), prepared, splits, device, members, lambda _: None))
            return time.perf_counter() - start

        return (taken(MANY) - taken(FEW)) / (MANY - FEW) / len(members)

    return measure


def prediction(llm: str, folder: Path, smiles: list[str]) -> Measure:
    """Molecules/s, the start taken out by the difference of two commands."""
    common = ["--llm", llm, "--epochs", "3", "--out", str(folder / "results"), "--save", str(folder / "model")]
    subprocess.run([str(KFLM2), "train", "SAMPL", *common], check=True, stdout=subprocess.DEVNULL)
    counts = (len(smiles) // 4, len(smiles))
    return lambda device: speed(folder / "model", smiles, folder, counts, "--llm", llm, "--device", device)


def measure_all(llm: str, device: torch.device, smiles: list[str], rounds: int) -> list[tuple[str, ...]]:
    """A row for each measurement: its name, its unit, the speed on the CPU and on the device, and the ratio."""
    found = resolve.find(llm)
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(sys.stderr):
        folder = Path(name)
        measures: dict[str, tuple[str, Measure]] = {}
        for precision in ("float32", "bfloat16"):
            source = LLMSource.of(found, None, "middle", precision)
            measures[f"embedding, {precision}"] = ("molecules/s", embedding(source, smiles))
        measures["stage 1, LoRA"] = ("tokens/s", fine_tuning(llm, folder, smiles))
        measures["stage 1, QLoRA"] = ("tokens/s", fine_tuning(llm, folder, smiles, "--load-4bit"))
        measures["training, crossAtt"] = ("s an epoch", training(llm, len(smiles)))
        measures[f"training, {5 * RUNS} crossAtt networks"] = ("s an epoch each", training_at_once(llm, len(smiles)))
        measures["prediction, crossAtt"] = ("molecules/s", prediction(llm, folder, smiles))
        speeds: dict[str, list[tuple[float, float]]] = {title: [] for title in measures}
        for number in range(1, rounds + 1):
            for title, (_, measure) in measures.items():
                speeds[title].append((measure(CPU), measure(device)))
                values = " and ".join(_cell(value) or "none" for value in speeds[title][-1])
                print(f"round {number} of {rounds}: {title}, {values} {measures[title][0]}", flush=True)
    rows: list[tuple[str, ...]] = []
    for title, (unit, _) in measures.items():
        cpu, other = (statistics.median(column) for column in zip(*speeds[title], strict=True))
        ratios = [pair[0] / pair[1] if unit.startswith("s ") else pair[1] / pair[0] for pair in speeds[title]]
        rows.append((title, unit, _cell(cpu), _cell(other), _cell(statistics.median(ratios))))
    return rows


def _cell(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main() -> None:
    """Measure in turn, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:N, or cpu for a trial")
    parser.add_argument("--llm", default="SmolLM2_135M", help="which LLM (SmolLM2_135M)")
    parser.add_argument("--molecules", type=int, default=2000, help="molecules of each measurement (2000)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each row (3)")
    options = parser.parse_args()
    try:
        device = choose_device(options.device)
    except SettingError as error:
        sys.exit(f"no GPU to measure: {error}")
    smiles = (project_folder() / "dataset" / "zinc_sample.smi").read_text().split()[: options.molecules]
    rows = measure_all(options.llm, device, smiles, options.rounds)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    threads = f"{torch.get_num_threads()} threads of the CPU"
    print(f"\n{options.llm}, {len(smiles)} molecules, torch {torch.__version__}, {threads}\n")
    print(f"| | | CPU | {gpu} | ratio |\n|---|---|---|---|---|")
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))


if __name__ == "__main__":
    main()
