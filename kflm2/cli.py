"""`kflm2 <stage>`: the stages under one command."""

import sys

from kflm2 import __version__, stages

STAGES = {"train": stages.train}

_USAGE = f"""KFLM2 {__version__}: molecular properties from an LLM's reading of SMILES fused with a graph network.

usage: kflm2 train [DATASET] [options]     stage 2: train and measure a pipeline on a dataset or a CSV
       kflm2 train --help                  its settings, with their defaults
"""


def main() -> None:
    """Run the stage that the first word names."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return
    if words[0] == "--version":
        print(__version__)
        return
    if words[0] not in STAGES:
        print(f"error: unknown stage {words[0]!r}; choose one of: {', '.join(STAGES)}", file=sys.stderr)
        sys.exit(2)
    stage, *rest = words
    # `kflm2 train SAMPL` is short for `kflm2 train --dataset SAMPL`
    if rest and not rest[0].startswith("-"):
        rest = ["--dataset", *rest]
    STAGES[stage].program = f"kflm2 {stage}"
    STAGES[stage].from_command_line(rest)
