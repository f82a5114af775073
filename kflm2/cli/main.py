"""`kflm2 <stage>`: the stages under one command."""

import itertools
import sys
from pathlib import Path

from kflm2 import __version__
from kflm2.cli.command import Stage
from kflm2.cli.stages import STAGES
from kflm2.errors import SettingError, one_of


def main() -> None:
    """Run the stage that the first words name."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return
    if words[0] == "--version":
        print(__version__)
        return
    try:
        stage, args = stage_and_args(words)
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    stage.program = f"kflm2 {stage.name}"
    stage.from_command_line(args)


def stage_and_args(words: list[str]) -> tuple[Stage, list[str]]:
    """The stage that the words after `kflm2` name, and its arguments.

    `train SAMPL` is short for `train --dataset SAMPL`, and `train my.csv` for `train --csv my.csv`.

    Raises:
        SettingError: no such stage.
    """
    length = 2 if " ".join(words[:2]) in STAGES else 1
    name, args = " ".join(words[:length]), words[length:]
    stage = STAGES[one_of("stage", name, tuple(STAGES))]
    if stage.table_first and args and not args[0].startswith("-"):
        from kflm2.data.datasets import DATASETS

        is_path = "://" in args[0] or Path(args[0]).suffix != "" or Path(args[0]).exists()
        is_table = args[0] not in DATASETS and is_path
        args = ["--csv" if is_table else "--dataset", *args]
    return stage, args


def usage() -> str:
    """All stages by group, a line each."""
    left = {name: f"  kflm2 {name} {stage.arguments}" for name, stage in STAGES.items()}
    width = max(map(len, left.values()))
    lines = [f"KFLM2 {__version__}: molecular properties from an LLM's reading of SMILES fused with a graph network."]
    for group, stages in itertools.groupby(STAGES.values(), key=lambda stage: stage.group):
        lines += ["", f"{group}:", *(f"{left[stage.name]:<{width}}  {stage.summary}" for stage in stages)]
    return "\n".join([*lines, "", "kflm2 STAGE --help lists the options of a stage with their defaults."])
