"""What a run leaves on disk: result.json, predictions.csv, split.json, rejected.csv; and the summary over runs."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save_file

from kflm2.config.finetune import FinetuneConfig
from kflm2.config.prompt import PromptConfig
from kflm2.config.train import TrainConfig
from kflm2.data.molecules import Molecules
from kflm2.data.splits import Split
from kflm2.files import atomic, write_json
from kflm2.llm.resolve import LLMSource
from kflm2.metrics.conformal import Calibration, Coverage
from kflm2.metrics.scores import METRIC_NAMES, Metrics, Scores, summarize
from kflm2.results.provenance import commit, peak_memory_mb, versions
from kflm2.trainers.supervised import Ensemble


@dataclass(frozen=True)
class Run:
    """One seed of one experiment."""

    config: TrainConfig
    molecules: Molecules
    source: LLMSource | None
    split: Split
    seed: int
    scores: dict[str, Scores]
    """Part -> figures."""
    thresholds: np.ndarray
    """(K,) probability from which a molecule is called active, chosen on validation."""
    y_pred: np.ndarray
    """(n, K) predictions of all molecules, in row order."""
    std: np.ndarray
    """(n, K) standard deviation of the ensemble's members."""
    calibration: Calibration
    """Learnt on validation."""
    coverage: dict[str, Coverage]
    """Test part -> how often intervals, or sets of classes, hold what was measured."""
    ensemble: Ensemble
    hidden: dict[str, np.ndarray] | None
    """(n, H) states of each view and of the fusion, of the first model; of the first run only."""
    seconds: dict[str, float]


def write_run(run: Run, folder: Path) -> None:
    """Write one run's files; result.json comes last, so that a folder that has it is complete."""
    molecules, split = run.molecules, run.split
    (folder / "result.json").unlink(missing_ok=True)
    write_csv(folder / "predictions.csv", predictions(run))
    rejected = [dataclasses.asdict(rejection) for rejection in molecules.rejected]
    write_csv(folder / "rejected.csv", pd.DataFrame(rejected, columns=["row", "smiles", "reason"]))
    rows = {part: molecules.rows[own].tolist() for part, own in split.parts.items()}
    write_json(folder / "split.json", {"kind": split.kind, "seed": run.seed, "sha256": split.sha256, "rows": rows})
    if run.hidden is not None:
        _write_hidden(run, folder / "hidden.safetensors")
    write_json(folder / "result.json", result(run))


_HIDDEN_ROWS = 2000
"""Molecules whose states are kept: as many dots as a map bears."""


def _write_hidden(run: Run, path: Path) -> None:
    assert run.hidden is not None
    count = len(run.molecules.smiles)
    rows = np.sort(np.random.default_rng(0).permutation(count)[:_HIDDEN_ROWS])
    arrays = {name: states[rows].astype(np.float32) for name, states in run.hidden.items()}
    with atomic(path) as temporary:
        save_file({**arrays, "row": run.molecules.rows[rows]}, temporary)


def predictions(run: Run) -> pd.DataFrame:
    """A line a molecule, in row order: row in the file, SMILES, part, then each target, measured and predicted."""
    molecules = run.molecules
    frame = pd.DataFrame({"row": molecules.rows, "smiles": molecules.smiles, "part": run.split.labels()})
    for index, target in enumerate(molecules.dataset.targets):
        frame[f"y_true_{target}"] = molecules.y_true[:, index]
        frame[f"y_pred_{target}"] = run.y_pred[:, index]
    return frame


def result(run: Run) -> dict[str, Any]:
    """What result.json holds."""
    molecules = run.molecules
    return {
        "dataset": {
            "name": molecules.dataset.name,
            "sha256": molecules.sha256,
            "targets": list(molecules.dataset.targets),
            "unit": molecules.dataset.unit,
            "kind": molecules.dataset.task,
        },
        "model": run.config.model,
        "seed": run.seed,
        "split": {"kind": run.split.kind, "sha256": run.split.sha256, "sizes": run.split.sizes},
        "rows": {"read": molecules.read, "kept": len(molecules.smiles), "rejected": len(molecules.rejected)},
        "llm": reader(run.source),
        "metrics": {part: own.mean for part, own in run.scores.items()},
        "targets": {
            part: dict(zip(molecules.dataset.targets, own.targets, strict=True)) for part, own in run.scores.items()
        },
        "thresholds": dict(zip(molecules.dataset.targets, run.thresholds.tolist(), strict=True))
        if molecules.dataset.task == "classification"
        else None,
        "coverage": {part: dataclasses.asdict(own) for part, own in run.coverage.items()},
        "best_epoch": [one.best_epoch for one in run.ensemble.members],
        # six digits are more than a curve shows
        "history": [
            {part: [float(f"{loss:.6g}") for loss in losses] for part, losses in one.history.items()}
            for one in run.ensemble.members
        ],
        "parameters": sum(weight.numel() for weight in run.ensemble.members[0].model.parameters()),
        "seconds": run.seconds,
        "peak_memory_mb": peak_memory_mb(),
        "config": plain(run.config),
        "versions": versions(),
        "commit": commit(),
    }


def reader(source: LLMSource | None) -> dict[str, Any] | None:
    """What result.json says of the LLM; None where none is read."""
    if source is None:
        return None
    return {
        "name": source.name,
        "digest": source.digests["weights"],
        "tokenizer": source.digests["tokenizer"],
        "adapter": source.digests.get("adapter"),
        "layers": list(source.layers),
    }


def write_summary(runs: Sequence[Run], path: Path) -> None:
    """Write mean, sample standard deviation and every value over the runs."""
    scores = {part: [run.scores[part] for run in runs] for part in runs[0].scores}
    names = METRIC_NAMES[runs[0].molecules.dataset.task]
    figures = {part: {name: _over([one.mean[name] for one in own]) for name in names} for part, own in scores.items()}
    targets = {
        part: {
            target: {name: _over([_value(one.targets[index], name) for one in own]) for name in names}
            for index, target in enumerate(runs[0].molecules.dataset.targets)
        }
        for part, own in scores.items()
    }
    head = result(runs[0])
    write_json(
        path,
        {
            **{key: head[key] for key in ("dataset", "model", "rows", "llm")},
            "split": runs[0].split.kind,
            "seeds": [run.seed for run in runs],
            "metrics": figures,
            "targets": targets,
            "coverage": {
                part: {
                    "confidence": own.confidence,
                    "share": _over([run.coverage[part].share for run in runs]),
                    "size": _over([run.coverage[part].size for run in runs]),
                }
                for part, own in runs[0].coverage.items()
            },
            **{key: head[key] for key in ("config", "versions", "commit")},
        },
    )


def _value(figures: Metrics | None, name: str) -> float | None:
    return figures[name] if figures else None


def _over(values: list[float | None]) -> dict[str, Any]:
    mean, sd = summarize(values)
    return {"mean": mean, "sd": sd, "values": values}


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a table atomically; floats keep all their digits."""
    with atomic(path) as temporary:
        frame.to_csv(temporary, index=False)


def plain(config: TrainConfig | FinetuneConfig | PromptConfig) -> dict[str, Any]:
    """Settings as JSON values; --config reads them back."""
    values = dataclasses.asdict(config)
    return {
        name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if name != "config" and value is not None
    }


_OF_A_RUN = ("seed", "runs", "out", "name", "save", "device")
"""Settings in which the runs of a method may differ."""


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that make a method, of result.json's config: those of a run, and where it lies, are left out.

    A setting that was not there yet when a run was made had what is its default now.
    """
    return {name: value for name, value in {**plain(TrainConfig()), **config}.items() if name not in _OF_A_RUN}
