"""One run of stage 2 in memory, and the files it leaves: result.json, predictions.csv, split.json, rejected.csv."""

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from kflm2.config.base import to_json
from kflm2.config.train import TrainConfig
from kflm2.data.molecules import Molecules
from kflm2.data.splits import Split
from kflm2.files import atomic, write_csv, write_json
from kflm2.llm.resolve import LLMSource
from kflm2.metrics.conformal import Calibration, Coverage
from kflm2.metrics.scores import Metrics, Scores, summarize, target_metrics
from kflm2.results import schema
from kflm2.results.provenance import commit, peak_memory_mb, versions
from kflm2.results.saved_runs import runs_in
from kflm2.results.schema import (
    DatasetRecord,
    DevelopmentRecord,
    LLMRecord,
    OriginRecord,
    RowCounts,
    RunResult,
    SplitRecord,
)
from kflm2.trainers.supervised import Ensemble

_HIDDEN = "hidden.safetensors"
_HIDDEN_ROWS = 2000
"""Molecules whose hidden states are written: as many dots as a map can show."""


@dataclass(frozen=True)
class Run:
    """One seed of one experiment."""

    config: TrainConfig
    molecules: Molecules
    source: LLMSource | None
    split: Split
    seed: int
    scores: dict[str, Scores]
    """Part -> metrics."""
    thresholds: np.ndarray
    """(K,) probability from which a molecule is called active, chosen on validation."""
    y_pred: np.ndarray
    """(n, K) predictions of all molecules, in row order."""
    std: np.ndarray
    """(n, K) standard deviation of the ensemble's members."""
    calibration: Calibration
    """Learnt on validation."""
    coverage: dict[str, Coverage]
    """Test part -> how often intervals, or sets of classes, hold the true value."""
    ensemble: Ensemble
    hidden: dict[str, np.ndarray] | None
    """(n, H) states of each view and of the fusion, of the first model; of the first run only."""
    seconds: dict[str, float]
    fused: np.ndarray | None = None
    """(F, n, H) states of the fusion, of the network of each inner fold; of the first run only."""
    development: DevelopmentRecord | None = None
    """What the search saw of the test part, if it did."""
    origin: OriginRecord | None = None
    """The saved model that it went on from."""
    learnt_before: frozenset[str] = frozenset()
    """Digests of the structures that this had learnt from."""
    without_xtb: dict[str, int] = field(default_factory=dict)
    """Reason -> molecules that have no xTB values for it."""
    bounds: dict[str, dict[str, int]] = field(default_factory=dict)
    """Part -> labels of which only a bound is known, and predictions that keep it; {} where no label is such a one."""


def write_run(run: Run, folder: Path) -> None:
    """Write one run's files; result.json comes last, so that a folder that has it is complete."""
    molecules, split = run.molecules, run.split
    (folder / schema.FILE).unlink(missing_ok=True)
    write_csv(folder / "predictions.csv", predictions(run))
    rejected = [dataclasses.asdict(rejection) for rejection in molecules.rejected]
    write_csv(folder / "rejected.csv", pd.DataFrame(rejected, columns=["row", "smiles", "reason"]))
    rows = {part: molecules.rows[index].tolist() for part, index in split.parts.items()}
    write_json(folder / "split.json", {"kind": split.kind, "seed": run.seed, "sha256": split.sha256, "rows": rows})
    # those of an earlier run would be of other weights
    (folder / _HIDDEN).unlink(missing_ok=True)
    if run.hidden is not None:
        _write_hidden(run, folder / _HIDDEN)
    schema.write_result(folder, result(run))


def _write_hidden(run: Run, path: Path) -> None:
    assert run.hidden is not None
    count = len(run.molecules.smiles)
    index = np.sort(np.random.default_rng(0).permutation(count)[:_HIDDEN_ROWS])
    arrays = {name: states[index].astype(np.float32) for name, states in run.hidden.items()}
    with atomic(path) as temporary:
        save_file({**arrays, "row": run.molecules.rows[index]}, temporary)


def predictions(run: Run) -> pd.DataFrame:
    """A line a molecule, in row order: row in the file, SMILES, part, then of each target y_true and y_pred.

    Where some labels are bounds, y_true of these is blank, and a further column has them. Feature columns come last.
    """
    molecules = run.molecules
    frame = pd.DataFrame({"row": molecules.rows, "smiles": molecules.smiles, "part": run.split.labels()})
    for k, target in enumerate(molecules.dataset.targets):
        frame[f"y_true_{target}"] = molecules.y_true[:, k]
        frame[f"y_pred_{target}"] = run.y_pred[:, k]
        if molecules.bounds is not None:
            frame[f"bound_{target}"] = list(map(_bound, *molecules.bounds[:, :, k]))
    if molecules.covariates is not None:
        for column, values in zip(molecules.covariate_columns, molecules.covariates.T, strict=True):
            frame[f"feature_{column.name}"] = column.words(values) if column.categories else values
    return frame


def _bound(lower: float, upper: float) -> str:
    """`>10` or `<0.5`, of a label of which only this is known, else ''."""
    return "" if math.isnan(lower) and math.isnan(upper) else f"<{upper:g}" if math.isnan(lower) else f">{lower:g}"


def result(run: Run) -> RunResult:
    """What result.json holds."""
    targets, members = run.molecules.dataset.targets, run.ensemble.all_members
    classes = run.molecules.dataset.task == "classification"
    return RunResult(
        dataset=DatasetRecord.of(run.molecules),
        model=run.config.model,
        seed=run.seed,
        split=SplitRecord.of(run.split),
        rows=RowCounts.of(run.molecules),
        llm=LLMRecord.of(run.source),
        origin=run.origin,
        metrics={part: scores.mean for part, scores in run.scores.items()},
        targets={part: dict(zip(targets, scores.targets, strict=True)) for part, scores in run.scores.items()},
        thresholds=dict(zip(targets, run.thresholds.tolist(), strict=True)) if classes else None,
        coverage=run.coverage,
        best_epoch=[member.best_epoch for member in members],
        # six digits are more than a curve shows
        history=[
            {part: [float(f"{loss:.6g}") for loss in losses] for part, losses in member.history.items()}
            for member in members
        ],
        parameters=sum(weight.numel() for weight in members[0].model.parameters()),
        variance=members[0].variance,
        weights=_weights(run),
        without_xtb=run.without_xtb,
        bounds=run.bounds,
        seconds=run.seconds,
        peak_memory_mb=peak_memory_mb(),
        config=to_json(run.config),
        development=run.development,
        versions=versions(),
        commit=commit(),
    )


def _weights(run: Run) -> dict[str, dict[str, float]]:
    """Target -> model -> its weight, where there are several kinds of models."""
    ensemble = run.ensemble
    names = ensemble.names(run.config.model)
    if len(names) == 1 or ensemble.weights is None:
        return {}
    return {
        target: dict(zip(names, column.round(4).tolist(), strict=True))
        for target, column in zip(run.molecules.dataset.targets, ensemble.weights.T, strict=True)
    }


def write_summary(folder: Path, split: str) -> None:
    """Write mean, sample standard deviation and every value over all runs of a kind of split in a method's folder.

    These may come from several commands; their settings and data must be the same.
    """
    saved = [run for run in runs_in(folder) if run.split_kind == split]
    runs = [run.result for run in sorted(saved, key=lambda run: run.seed)]
    first, record = runs[0], runs[0].dataset
    metrics = {
        part: {name: _over([run.metrics.get(part, {}).get(name) for run in runs]) for name in record.mean_metrics}
        for part in first.metrics
    }
    targets = {
        part: {
            target: {
                name: _over([_value(run.targets.get(part, {}).get(target), name) for run in runs])
                for name in target_metrics(record.task, len(record.targets))
            }
            for target in record.targets
        }
        for part in first.targets
    }
    coverage = {
        part: {
            "confidence": one.confidence,
            "share": _over([run.coverage[part].share for run in runs if part in run.coverage]),
            "size": _over([run.coverage[part].size for run in runs if part in run.coverage]),
        }
        for part, one in first.coverage.items()
    }
    values = schema.to_json(first)
    write_json(
        folder / f"summary-{split}.json",
        {
            **{key: values[key] for key in ("dataset", "model", "rows", "llm")},
            "split": split,
            "seeds": [run.seed for run in runs],
            "development": [run.development and run.development.seen for run in runs],
            "metrics": metrics,
            "targets": targets,
            "coverage": coverage,
            **{key: values[key] for key in ("config", "versions", "commit")},
        },
    )


def _value(metrics: Metrics | None, name: str) -> float | None:
    return metrics.get(name) if metrics else None


def _over(values: list[float | None]) -> dict[str, Any]:
    mean, std = summarize(values)
    return {"mean": mean, "sd": std, "values": values}
