"""The stages, a function each: its settings or its signature are its command line."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from kflm2.cli.command import Command, Stage
from kflm2.config.ablate import AblateConfig
from kflm2.config.compare import CompareConfig
from kflm2.config.explain import ExplainConfig
from kflm2.config.finetune import FinetuneConfig
from kflm2.config.predict import PredictConfig
from kflm2.config.prompt import PromptConfig
from kflm2.config.report import ReportConfig
from kflm2.config.table import TableConfig
from kflm2.config.train import TrainConfig
from kflm2.config.tune import TuneConfig

Names = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME ...|all]")]


def _train(settings: TrainConfig) -> None:
    """Predict molecular properties: LLM states of SMILES fused with a graph network over atoms.

    Reads a table of molecules, splits it, trains one pipeline for every seed, and prints and writes how well it
    predicts: OUT/<dataset>/<model>/<split>-<seed>/ with result.json, predictions.csv and pictures, and a summary.
    """
    # torch takes seconds to import, and --help or a mistyped setting should not wait for it
    from kflm2.stages.train.stage import run

    run(settings)


def _finetune(settings: FinetuneConfig) -> None:
    """Teach an LLM chemistry: LoRA on a corpus of SMILES, by the next token and by RDKit's descriptors.

    Writes OUT/<LLM>/<corpus>/ with an adapter that peft loads, a model card, losses and checkpoints; stage 2 finds it
    there.
    """
    from kflm2.stages.finetune.stage import run

    run(settings)


def _prompt(settings: PromptConfig) -> None:
    """Ask the LLM itself: fine-tuned on a dataset's prompts, it answers with the property, without any graph.

    Prints how well beside a trivial answer and a pipeline of stage 2 on the same split, and writes
    OUT/<dataset>/prompt_<template>/<split>-<seed>/ with result.json and predictions.csv.
    """
    from kflm2.stages.prompt.stage import run

    run(settings)


def _tune(settings: TuneConfig) -> None:
    """Search for settings of stage 2 that predict well, without a look at the test part.

    Several processes may run the same command and share the study; a killed one loses nothing. Writes
    OUT/<dataset>/<model>/tune-<sampler>/ with trials.csv, best.json for --config, and pictures.
    """
    from kflm2.stages.tune.stage import run

    run(settings)


def _compare(settings: CompareConfig) -> None:
    """Hold methods against each other on the same runs, and say which differences can be believed.

    Reads folders of results, runs baselines on their splits, and prints and writes paired differences with intervals,
    the tests that go with them, and a verdict a pair: OUT/<dataset>/ with compare.md, pairs.csv and pictures.
    """
    from kflm2.stages.compare.stage import run

    run(settings)


def _ablate(settings: AblateConfig) -> None:
    """Leave parts of a pipeline out, and say what each adds: LLM, graph, descriptors, and the LLM's own knowledge.

    Trains every choice of views, an LLM before stage 1 and one with random weights, on the same splits; runs that are
    there already are kept. Then compares them, as `kflm2 compare` does: OUT/<model>-ablation/<dataset>/.
    """
    from kflm2.stages.ablate import run

    run(settings)


def _predict(settings: PredictConfig) -> None:
    """Predict molecules with a model that `kflm2 train --save` kept: a row for every row, in order.

    Each with an interval that holds the true value as often as --confidence says, whether the molecule is of the kind
    the model knows, the most similar training molecule, and a status: ok, or why there is no prediction. Ends with
    status 3 where some rows have none.
    """
    from kflm2.stages.predict import run

    if run(settings):
        sys.exit(3)


def _report(settings: ReportConfig) -> None:
    """Put what runs left on disk on one page for a browser: figures, pictures, a map of molecules, the worst ones.

    The page is one file, asks nothing of any network, and is the same bytes for the same results.
    """
    from kflm2.stages.report.stage import run

    run(settings)


def _explain(settings: ExplainConfig) -> None:
    """Show what drives predictions of a model that `kflm2 train --save` kept: atoms, tokens and descriptors.

    Integrated gradients on all that the model reads, in the target's unit, with a check that the parts add up to the
    prediction; for classes the log-odds are explained. Writes OUT/ with a picture a molecule as SVG and PNG, maps of
    attention where tokens and atoms attend to each other, attributions.csv and explained.json. Ends with status 3 where
    some molecules have no prediction.
    """
    from kflm2.stages.explain.stage import run

    if run(settings):
        sys.exit(3)


def _datasets(names: Names = ()) -> None:
    """Print a table of the datasets: which are here, their rows, targets, classes and known dirt.

    Args:
        names: some of them; default all.
    """
    from kflm2.stages.datasets import overview

    overview(() if "all" in names else names)


def _get(names: Names, from_: Annotated[Path | None, tyro.conf.arg(name="from")] = None) -> None:
    """Download datasets into dataset/, each file checked by its SHA-256; a broken-off download is resumed.

    Args:
        names: of datasets; all for the eleven of the paper; ZINC, MOSES or ChEMBL for a corpus to teach an LLM with.
        from_: copy from this folder instead, with the same checks.
    """
    from kflm2.data.download import get

    get(names, from_)


def _audit(settings: Annotated[TableConfig, tyro.conf.arg(name="")]) -> None:
    """Look for what makes a dataset's figures doubtful: unreadable rows, duplicates, leakage, tests close to training.

    Writes OUT/<dataset>/audit-<split>-<seed>/ with rejected.csv, duplicates.csv, leakage.csv, similarity.csv,
    audit.json and audit.png.
    """
    from kflm2.stages.audit.stage import audit

    audit(settings)


def _llms(batch: int = 16, tokens: int = 32, rank: int = 16, layers: int | None = None) -> None:
    """Print what each LLM of the registry takes to run, whether it is on this machine, and whether it fits.

    Args:
        batch: molecules at a time.
        tokens: of a molecule; drug-like SMILES have about 30.
        rank: of a LoRA adapter on all linear maps.
        layers: that are kept, from the first; default all.
    """
    from kflm2.llm.memory import Machine
    from kflm2.stages.llms import table

    print(table(batch, tokens, rank, layers, Machine.here()))


train = Stage(_train, TrainConfig)
finetune = Stage(_finetune, FinetuneConfig)
prompt = Stage(_prompt, PromptConfig)
tune = Stage(_tune, TuneConfig)
compare = Stage(_compare, CompareConfig)
ablate = Stage(_ablate, AblateConfig)
predict = Stage(_predict, PredictConfig)
explain = Stage(_explain, ExplainConfig)
report = Stage(_report, ReportConfig)
datasets = Command(_datasets)
datasets_get = Command(_get)
datasets_audit = Command(_audit)
llms = Command(_llms)
