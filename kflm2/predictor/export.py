"""A run of stage 2 as a bundle, with a card that says what it is good for."""

from pathlib import Path

import numpy as np

from kflm2.config.pipelines import PIPELINES
from kflm2.metrics.applicability_domain import ApplicabilityDomain
from kflm2.metrics.scores import METRIC_NAMES
from kflm2.predictor.bundle import Bundle
from kflm2.results import runs as evidence


def export_bundle(run: evidence.Run, folder: Path) -> None:
    """Write a run's models, and all that prediction needs, into a folder.

    Args:
        run: with its hidden states.
        folder: see Bundle.save.
    """
    bundle = bundle_of(run)
    bundle.save(folder, card(bundle, folder.name))


def bundle_of(run: evidence.Run) -> Bundle:
    """The bundle of a run that has its hidden states."""
    assert run.hidden is not None
    dataset, fused = run.molecules.dataset, run.hidden["fused"]

    def part(rows: np.ndarray) -> tuple[list[str], np.ndarray]:
        return [run.molecules.smiles[i] for i in rows], fused[rows]

    told = evidence.result(run)
    keys = ("dataset", "model", "seed", "split", "rows", "metrics", "coverage", "versions", "commit")
    return Bundle(
        config=run.config,
        targets=dataset.targets,
        unit=dataset.unit,
        task=dataset.task,
        ensemble=run.ensemble,
        source=run.source,
        thresholds=run.thresholds,
        calibration=run.calibration,
        domain=ApplicabilityDomain.fit(part(run.split.train), part(run.split.valid)),
        made={"quantity": dataset.quantity, **{key: told[key] for key in keys}},
    )


def card(bundle: Bundle, name: str) -> str:
    """README.md of a bundle.

    Args:
        bundle: with what bundle_of says of how it was made.
        name: of its folder.
    """
    made, source = bundle.made, bundle.source
    what = made["quantity"] or ", ".join(bundle.targets)
    unit = f", {bundle.unit}" if bundle.unit else ""
    # without a test part, as in an estimator's fit, there are no figures of it
    parts = [part for part, size in made["split"]["sizes"].items() if part != "train" and size]
    figures = [
        f"| {figure} | " + " | ".join(_number(made["metrics"][part][figure]) for part in parts) + " |"
        for figure in METRIC_NAMES[bundle.task]
    ]
    said = [
        f"{100 * own['confidence']:g} % {'intervals' if bundle.task == 'regression' else 'sets of classes'} hold"
        f" {100 * own['share']:.1f} % of {part}."
        for part, own in made["coverage"].items()
        if own["share"] is not None
    ]
    llm = "none" if source is None else f"{source.name}, layers {', '.join(map(str, source.layers))}"
    adapter = "" if source is None else ", with the adapter in this folder" if source.adapter else ", no adapter"
    sizes = ", ".join(f"{size} {part}" for part, size in made["split"]["sizes"].items())
    versions = ", ".join(f"{package} {number}" for package, number in made["versions"].items())
    return "\n".join(
        [
            f"# {name}",
            "",
            f"Predicts {what}{unit} ({bundle.task}) of a molecule from its SMILES.",
            "",
            f"    kflm2 predict {name} molecules.csv -o predicted.csv",
            f"    kflm2 predict {name} CCO c1ccccc1",
            "",
            "## What it is",
            "",
            "| | |",
            "|---|---|",
            f"| pipeline | {bundle.config.model}: {PIPELINES[bundle.config.model].about} |",
            f"| models | {len(bundle.ensemble.members)}, whose mean predicts |",
            f"| LLM | {llm}{adapter} |",
            f"| trained on | {made['dataset']['name']}, SHA-256 {made['dataset']['sha256']} |",
            f"| molecules | {made['rows']['kept']} used, {made['rows']['rejected']} rejected |",
            f"| split | {made['split']['kind']}, seed {made['seed']}: {sizes} |",
            f"| versions | {versions} |",
            "",
            "## How well it predicts",
            "",
            "| | " + " | ".join(parts) + " |",
            "|---|" + "---|" * len(parts),
            *figures,
            "",
            *said,
            *([""] if said else []),
            "## How far to trust it",
            "",
            f"The split is {made['split']['kind']}. Molecules of another kind than those are predicted worse, and",
            "intervals then hold less often than they say; `in_domain` is no for a molecule that is less like the",
            "training part, by structure or by what the model makes of it, than 95 % of the validation part was.",
            "",
            "training.csv holds the SMILES of the training part: mind that before you give the folder away.",
            "",
        ]
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
