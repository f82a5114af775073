"""A run of stage 2 as a bundle, with a card that says what it is good for."""

from pathlib import Path

import numpy as np

from kflm2.evaluation import evidence
from kflm2.evaluation.metrics import NAMES
from kflm2.evaluation.uncertainty import Domain
from kflm2.predictor.bundle import Bundle
from kflm2.settings import MODELS


def keep(run: evidence.Run, folder: Path) -> None:
    """Write a run's models, and all that prediction needs, into a folder.

    Args:
        run: with its hidden states.
        folder: see Bundle.save.
    """
    bundle_of(run).save(folder, _card(run, folder.name))


def bundle_of(run: evidence.Run) -> Bundle:
    """The bundle of a run that has its hidden states."""
    assert run.hidden is not None
    dataset, fused = run.molecules.dataset, run.hidden["fused"]

    def part(rows: np.ndarray) -> tuple[list[str], np.ndarray]:
        return [run.molecules.smiles[i] for i in rows], fused[rows]

    told = evidence.result(run)
    keys = ("dataset", "model", "seed", "split", "rows", "metrics", "coverage", "versions", "commit")
    return Bundle(
        settings=run.settings,
        targets=dataset.targets,
        unit=dataset.unit,
        kind=dataset.kind,
        ensemble=run.ensemble,
        source=run.source,
        thresholds=run.thresholds,
        calibration=run.calibration,
        domain=Domain.fit(part(run.split.train), part(run.split.valid)),
        made={key: told[key] for key in keys},
    )


def _card(run: evidence.Run, name: str) -> str:
    """README.md of a bundle."""
    dataset, source = run.molecules.dataset, run.source
    regression = dataset.kind == "regression"
    what = dataset.quantity or ", ".join(dataset.targets)
    unit = f", {dataset.unit}" if dataset.unit else ""
    parts = [part for part in run.scores if part != "train"]
    figures = [
        f"| {figure} | " + " | ".join(_number(run.scores[part].mean[figure]) for part in parts) + " |"
        for figure in NAMES[dataset.kind]
    ]
    said = [
        f"{100 * own.confidence:g} % {'intervals' if regression else 'sets of classes'} hold"
        f" {_number(own.share, 100)} % of {part}."
        for part, own in run.coverage.items()
    ]
    llm = "none" if source is None else f"{source.name}, layers {', '.join(map(str, source.layers))}"
    adapter = "" if source is None else ", with the adapter in this folder" if source.adapter else ", no adapter"
    rejected = len(run.molecules.rejected)
    sizes = ", ".join(f"{size} {part}" for part, size in run.split.sizes.items())
    return "\n".join(
        [
            f"# {name}",
            "",
            f"Predicts {what}{unit} ({dataset.kind}) of a molecule from its SMILES.",
            "",
            f"    kflm2 predict {name} molecules.csv -o predicted.csv",
            f"    kflm2 predict {name} CCO c1ccccc1",
            "",
            "## What it is",
            "",
            "| | |",
            "|---|---|",
            f"| pipeline | {run.settings.model}: {MODELS[run.settings.model].about} |",
            f"| models | {len(run.ensemble.members)}, whose mean predicts |",
            f"| LLM | {llm}{adapter} |",
            f"| trained on | {dataset.name}, SHA-256 {run.molecules.sha256} |",
            f"| molecules | {len(run.molecules.smiles)} used, {rejected} rejected |",
            f"| split | {run.split.kind}, seed {run.seed}: {sizes} |",
            f"| versions | {', '.join(f'{name} {number}' for name, number in evidence.versions().items())} |",
            "",
            "## How well it predicts",
            "",
            "| | " + " | ".join(parts) + " |",
            "|---|" + "---|" * len(parts),
            *figures,
            "",
            *said,
            "",
            "## How far to trust it",
            "",
            f"These figures are of molecules split off by {run.split.kind}. Molecules of another kind are predicted",
            "worse, and the intervals then hold less often than they say; `in_domain` is no for a molecule that is",
            "less like the training part, by structure or by what the model makes of it, than 95 % of the validation",
            "part was.",
            "",
            "training.csv holds the SMILES of the training part: mind that before you give the folder away.",
            "",
        ]
    )


def _number(value: float | None, factor: float = 1.0) -> str:
    return "-" if value is None else f"{factor * value:.3g}" if factor != 1.0 else f"{value:.3f}"
