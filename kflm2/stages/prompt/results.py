"""What prompting leaves on disk: predictions.csv, split.json, result.json, and the summary over runs."""

import csv
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kflm2.config.base import to_json
from kflm2.config.prompt import PromptConfig
from kflm2.data.molecules import Molecules
from kflm2.files import atomic, write_json
from kflm2.llm.resolve import LLMSource
from kflm2.metrics.scores import summarize
from kflm2.results import schema
from kflm2.results.provenance import commit, peak_memory_mb, versions
from kflm2.results.schema import DatasetRecord, PromptResult, SplitRecord
from kflm2.stages.prompt.answers import PromptRun
from kflm2.stages.prompt.templates import PromptSpec


@dataclass(frozen=True)
class Experiment:
    """What all runs of a command share."""

    config: PromptConfig
    molecules: Molecules
    prompt_spec: PromptSpec
    source: LLMSource


def result(experiment: Experiment, run: PromptRun) -> PromptResult:
    """What result.json holds."""
    molecules, source, test = experiment.molecules, experiment.source, run.answers["test"]
    prompt_spec = dataclasses.asdict(experiment.prompt_spec)
    return PromptResult(
        dataset=DatasetRecord.of(molecules),
        seed=run.seed,
        split=SplitRecord.of(run.split),
        rows={
            "read": molecules.read,
            "kept": len(molecules.smiles),
            "rejected": [dataclasses.asdict(rejection) for rejection in molecules.rejected],
        },
        llm={
            "name": source.name,
            "digest": source.digests["weights"],
            "tokenizer": source.digests["tokenizer"],
            "adapter": source.digests.get("adapter"),
        },
        prompt_spec={"kind" if name == "task" else name: value for name, value in prompt_spec.items()},
        metrics=run.metrics,
        threshold=run.threshold,
        answered={
            "test": float(np.mean(~np.isnan(test.y_pred))),
            "test, written freely": run.unconstrained_readable,
            "share of the two answers": None if test.share is None else float(test.share.mean()),
        },
        robustness=run.robustness,
        validation_losses=[loss if math.isfinite(loss) else None for loss in run.losses],
        seconds=run.seconds,
        peak_memory_mb=peak_memory_mb(),
        config=to_json(experiment.config),
        versions=versions(),
        commit=commit(),
    )


def write_run(folder: Path, experiment: Experiment, run: PromptRun) -> None:
    """Write one run's files; result.json comes last, so that a folder that has it is complete."""
    (folder / schema.FILE).unlink(missing_ok=True)
    molecules = experiment.molecules
    target, labels = molecules.dataset.targets[0], run.split.labels()
    with atomic(folder / "predictions.csv") as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["row", "smiles", "part", f"y_true_{target}", f"y_pred_{target}", "prompt", "answer", "free"])
        for part, answers in run.answers.items():
            unconstrained = run.unconstrained if part == "test" else [""] * len(answers.texts)
            columns = (run.labelled[part], answers.y_pred, answers.prompts, answers.texts, unconstrained)
            for i, value, prompt, texts, text in zip(*columns, strict=True):
                y_pred = "" if np.isnan(value) else float(value)
                y_true = float(molecules.y_true[i, 0])
                row, smiles = int(molecules.rows[i]), molecules.smiles[i]
                lines.writerow([row, smiles, labels[i], y_true, y_pred, prompt, "|".join(texts), text])
    rows = {part: molecules.rows[index].tolist() for part, index in run.split.parts.items()}
    split = {"kind": run.split.kind, "sha256": run.split.sha256, "seed": run.seed, "rows": rows}
    write_json(folder / "split.json", split)
    schema.write_result(folder, result(experiment, run))


def write_summary(path: Path, experiment: Experiment, runs: Sequence[PromptRun]) -> None:
    """Mean, standard deviation and every value over the runs, of everyone who answered."""
    summary: dict[str, Any] = {}
    for name, parts in runs[0].metrics.items():
        summary[name] = {}
        for part in parts:
            each_run = [run.metrics.get(name, {}).get(part) for run in runs]
            metric_names = next((list(metrics) for metrics in each_run if metrics), [])
            summary[name][part] = {}
            for metric in metric_names:
                values = [metrics[metric] if metrics else None for metrics in each_run]
                mean, std = summarize(values)
                summary[name][part][metric] = {"mean": mean, "sd": std, "values": values}
    first = schema.to_json(result(experiment, runs[0]))
    shared = {key: first[key] for key in ("dataset", "rows", "llm", "wording", "config", "versions", "commit")}
    write_json(path, {**shared, "split": runs[0].split.kind, "seeds": [run.seed for run in runs], "metrics": summary})
