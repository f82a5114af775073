"""Speed of training on the CPU: pipelines of stage 2 beside chemprop, on the same molecules.

    python benchmark/training.py --chemprop PATH/TO/bin/chemprop
    python benchmark/training.py                     # without chemprop

Each number is molecules x epochs a second of training with one thread, everything else (reading, embedding, graphs,
descriptors, starting) not counted: it is of the difference between a training of many epochs and one of few. Of two at
once, the sum of two trainings side by side: of a pipeline by two processes (--jobs 2), of chemprop by two commands. In
each round the methods run in turn, so that other load affects all; then the median over rounds, and of the ratios
within a round.
"""

import argparse
import contextlib
import functools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from kflm2.config.train import TrainConfig
from kflm2.data.splits import Split, make_splits
from kflm2.stages.train.members import Member, fit_member
from kflm2.stages.train.prepared import Prepared, prepare
from kflm2.text_table import aligned
from kflm2.trainers.jobs import run_jobs

DATASETS = ("Delaney", "Lipophilicity")
PIPELINES = ("crossAtt", "combinedSepAtt", "gcn_indepent")
CPU = torch.device("cpu")
FEW, MANY = 3, 9
"""Epochs of the two trainings whose difference is a speed."""


def speed_of_pipeline(
    config: TrainConfig, prepared: Prepared, splits: dict[int, Split], jobs: int, device: torch.device = CPU
) -> float:
    """Molecules x epochs a second of as many trainings at once as there are jobs."""

    def seconds(epochs: int) -> float:
        work = functools.partial(fit_member, replace(config, epochs=epochs), prepared, splits, device)
        models = run_jobs(work, [Member(0, number) for number in range(jobs)], jobs, device == CPU, lambda count: None)
        return statistics.mean(model.seconds for model in models)

    return jobs * len(splits[0].train) * (MANY - FEW) / (seconds(MANY) - seconds(FEW))


def speed_of_chemprop(program: Path, prepared: Prepared, split: Split, jobs: int) -> float:
    """The same of chemprop with its own defaults, in which each epoch validates too, as ours does."""
    with tempfile.TemporaryDirectory() as folder:
        rows = np.concatenate([split.train, split.valid, split.test])
        table = pd.DataFrame({"smiles": [prepared.molecules.smiles[row] for row in rows]})
        table["y"] = prepared.molecules.y_true[rows, 0]
        sizes = (("train", split.train), ("val", split.valid), ("test", split.test))
        table["part"] = np.concatenate([[part] * len(index) for part, index in sizes])
        table.to_csv(Path(folder) / "table.csv", index=False)

        def seconds(epochs: int, job: int) -> float:
            arguments = ["train", "--data-path", "table.csv", "--smiles-columns", "smiles", "--target-columns", "y"]
            arguments += ["--splits-column", "part", "--task-type", "regression", "--epochs", str(epochs)]
            arguments += ["--accelerator", "cpu", "--output-dir", f"out-{epochs}-{job}"]
            start = time.perf_counter()
            done = subprocess.run(
                [str(program.absolute()), *arguments],
                cwd=folder,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
            )
            if done.returncode:
                sys.exit(f"chemprop failed:\n{done.stderr[-1000:]}")
            return time.perf_counter() - start

        with ThreadPoolExecutor(jobs) as pool:
            few, many = (list(pool.map(functools.partial(seconds, epochs), range(jobs))) for epochs in (FEW, MANY))
    return jobs * len(split.train) * (MANY - FEW) / (statistics.mean(many) - statistics.mean(few))


def main() -> None:
    """Measure, and print a table for each dataset."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chemprop", type=Path, help="path of chemprop's command, in an environment of its own")
    parser.add_argument("--datasets", nargs="+", default=DATASETS, help="default Delaney and Lipophilicity")
    parser.add_argument("--molecules", type=int, default=1500, help="of each dataset at most (default 1500)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for dataset in options.datasets:
        rounds: dict[str, list[tuple[float, float]]] = {}
        for number in range(options.rounds):
            for model in PIPELINES:
                config = TrainConfig.of(model, dataset=dataset, limit=options.molecules).resolved()
                with contextlib.redirect_stdout(sys.stderr):
                    prepared = prepare(config, CPU)
                (split,) = make_splits("random", prepared.molecules.smiles, [0], config.fractions)
                speeds = (speed_of_pipeline(config, prepared, {0: split}, jobs) for jobs in (1, 2))
                rounds.setdefault(model, []).append((next(speeds), next(speeds)))
            if options.chemprop:
                speeds = (speed_of_chemprop(options.chemprop, prepared, split, jobs) for jobs in (1, 2))
                rounds.setdefault("chemprop", []).append((next(speeds), next(speeds)))
            print(f"{dataset}, round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
        print(f"\n{dataset}, {len(split.train)} training molecules, molecules x epochs a second\n")
        print("\n".join(aligned(table(rounds))))


def table(rounds: dict[str, list[tuple[float, float]]]) -> list[tuple[str, ...]]:
    """A row a method: its speed alone and two at once, and both against chemprop."""
    rows: list[tuple[str, ...]] = [("", "one", "to chemprop", "two at once", "to chemprop")]
    for method, speeds in rounds.items():
        row = [method]
        for i in range(2):
            row.append(f"{statistics.median(speed[i] for speed in speeds):,.0f}")
            pairs = zip(speeds, rounds.get("chemprop", []), strict=False)
            ratios = [ours[i] / theirs[i] for ours, theirs in pairs]
            row.append(f"{statistics.median(ratios):.2f}" if ratios and method != "chemprop" else "")
        rows.append(tuple(row))
    return rows


if __name__ == "__main__":
    main()
