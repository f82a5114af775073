"""`kflm2 <stage>`: the stages under one command."""

import sys
from pathlib import Path

from kflm2 import __version__
from kflm2.cli import stages
from kflm2.cli.command import Command, Stage
from kflm2.data.datasets import DATASETS

STAGES: dict[str, Stage | Command] = {
    "finetune": stages.finetune,
    "train": stages.train,
    "prompt": stages.prompt,
    "tune": stages.tune,
    "compare": stages.compare,
    "ablate": stages.ablate,
    "report": stages.report,
    "predict": stages.predict,
    "explain": stages.explain,
    "datasets": stages.datasets,
    "datasets get": stages.datasets_get,
    "datasets audit": stages.datasets_audit,
    "llms": stages.llms,
}

_USAGE = f"""KFLM2 {__version__}: molecular properties from an LLM's reading of SMILES fused with a graph network.

usage: kflm2 finetune [options]                      stage 1: teach an LLM chemistry by LoRA
       kflm2 train [DATASET|CSV] [options]           stage 2: train and measure a pipeline on a dataset or a CSV
       kflm2 prompt [DATASET|CSV] [options]          stage 3: ask the LLM itself, and hold its answers against stage 2
       kflm2 tune [DATASET|CSV] [options]            search for settings that predict well, without the test part
       kflm2 compare FOLDER ... [options]            which of several methods predicts better, and how sure that is
       kflm2 ablate [DATASET|CSV] [options]          what LLM, graph and descriptors each add to a pipeline
       kflm2 predict MODEL FILE|SMILES ... [options] molecules predicted by a model that train --save kept
       kflm2 explain MODEL FILE|SMILES ... [options] what drives a prediction: atoms, tokens, descriptors
       kflm2 report FOLDER ... [-o FILE]             one page of what was found: figures, pictures, a map, molecules
       kflm2 datasets [NAME ...]                     which datasets are here, and what is in them
       kflm2 datasets get NAME ...|all [--from DIR]  download datasets
       kflm2 datasets audit DATASET|CSV [options]    rejected rows, duplicates, leakage, distance of test to training
       kflm2 llms [options]                          LLMs: size, memory, which are here and which fit this machine

       kflm2 train --help                            settings, with their defaults; so for every line above
"""


def main() -> None:
    """Run the stage that the first words name."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return
    if words[0] == "--version":
        print(__version__)
        return
    length = 2 if " ".join(words[:2]) in STAGES else 1
    stage, rest = " ".join(words[:length]), words[length:]
    if stage not in STAGES:
        print(f"error: unknown stage {stage!r}; choose one of: {', '.join(STAGES)}", file=sys.stderr)
        sys.exit(2)
    # `kflm2 train SAMPL` is short for `kflm2 train --dataset SAMPL`, `kflm2 train my.csv` for `--csv my.csv`
    if stage in ("train", "prompt", "tune", "ablate", "datasets audit") and rest and not rest[0].startswith("-"):
        is_table = rest[0] not in DATASETS and (Path(rest[0]).suffix != "" or Path(rest[0]).exists())
        rest = ["--csv" if is_table else "--dataset", *rest]
    STAGES[stage].program = f"kflm2 {stage}"
    STAGES[stage].from_command_line(rest)
