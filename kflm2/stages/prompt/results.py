"""What prompting leaves on disk: predictions.csv, split.json, result.json, and the summary over runs."""

import csv
import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kflm2.config.base import to_json
from kflm2.config.prompt import PromptConfig
from kflm2.data.molecules import Molecules
from kflm2.errors import DataError
from kflm2.files import atomic, read_json, write_csv, write_json
from kflm2.llm.resolve import LLMSource
from kflm2.metrics.scores import summarize
from kflm2.results import methods, schema
from kflm2.results.provenance import commit, peak_memory_mb, versions
from kflm2.results.schema import DatasetRecord, PromptResult, SplitRecord
from kflm2.stages.prompt.answers import PromptRun
from kflm2.stages.prompt.templates import PromptSpec

_FREE = (
    "seed",
    "runs",
    "device",
    "unsloth",
    "out",
    "again",
    "compare",
    "config",
    "csv",
    "dataset",
    "target_columns",
    "llm",
    "adapter",
)
"""Settings in which the runs of a folder may differ, and those that are compared by what they stand for."""


@dataclass(frozen=True)
class Experiment:
    """What all runs of a command share."""

    config: PromptConfig
    molecules: Molecules
    prompt_spec: PromptSpec
    source: LLMSource

    @property
    def llm(self) -> dict[str, Any]:
        """As result.json names it."""
        digests = self.source.digests
        names = {"name": self.source.name, "digest": digests["weights"], "tokenizer": digests["tokenizer"]}
        return {**names, "adapter": digests.get("adapter")}

    @property
    def words(self) -> dict[str, Any]:
        """Templates and words, as result.json has them."""
        values = dataclasses.asdict(self.prompt_spec)
        return {"kind" if name == "task" else name: value for name, value in values.items()}

    @property
    def identity(self) -> dict[str, Any]:
        """What all runs of a folder must share."""
        return _identity(to_json(self.config), DatasetRecord.of(self.molecules), self.llm, self.words)


def result(experiment: Experiment, run: PromptRun) -> PromptResult:
    """What result.json holds."""
    molecules, test = experiment.molecules, run.answers["test"]
    return PromptResult(
        dataset=DatasetRecord.of(molecules),
        seed=run.seed,
        split=SplitRecord.of(run.split),
        rows={
            "read": molecules.read,
            "kept": len(molecules.smiles),
            "rejected": [dataclasses.asdict(rejection) for rejection in molecules.rejected],
        },
        llm=experiment.llm,
        prompt_spec=experiment.words,
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


def outdated(folder: Path, experiment: Experiment) -> list[Path]:
    """The folders of runs of other settings, prompts, data or LLM than a command's; refused without `again`.

    Raises:
        SettingError: there are such runs, and they may not be removed.
        DataError: a run cannot be read, and may not be removed.
    """
    config, others = experiment.config, dict[Path, str]()
    for path in sorted(folder.glob(f"{config.split}-*/{schema.FILE}")):
        try:
            found = schema.parse(PromptResult, read_json(path, "result", DataError), path)
            known = _identity(found.config, found.dataset, found.llm, found.prompt_spec)
            differ = methods.differences(known, experiment.identity)
        except DataError:
            if not config.again:
                raise
            differ = "unreadable"
        if differ:
            others[path.parent] = differ
    if not config.again:
        methods.refuse_others(folder, others, "--out OUT")
    return list(others)


def _identity(
    config: dict[str, Any], dataset: DatasetRecord, llm: dict[str, Any], words: dict[str, Any]
) -> dict[str, Any]:
    settings = {name: value for name, value in config.items() if name not in _FREE}
    # as JSON, which has no tuples
    written = json.loads(json.dumps({"LLM": llm, "prompts": words}))
    return {**settings, "target": dataset.targets, "file": dataset.sha256, **written}


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
    rejected = [dataclasses.asdict(rejection) for rejection in molecules.rejected]
    write_csv(folder / "rejected.csv", pd.DataFrame(rejected, columns=["row", "smiles", "reason"]))
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
