"""What prompting leaves on disk: predictions.csv, split.json, result.json, and the summary over runs."""

import csv
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kflm2.config.prompt import PromptConfig
from kflm2.data.molecules import Molecules
from kflm2.data.splits import Split
from kflm2.files import atomic, write_json
from kflm2.llm import adapters, checkpoints, registry
from kflm2.metrics.scores import Metrics, summarize
from kflm2.results.provenance import commit, peak_memory_mb, versions
from kflm2.results.runs import plain
from kflm2.stages.prompt.templates import PromptSpec


@dataclass(frozen=True)
class Answers:
    """What was answered to some prompts; n of them, one target."""

    prompts: list[str]
    raw: list[list[str]]
    """Texts as the LLM wrote them, one or more a prompt; of a class the likelier of the two."""
    y_pred: np.ndarray
    """(n,) the value, or the probability of class 1; NaN where no answer could be read."""
    share: np.ndarray | None
    """(n,) what the two answers of a class have together among all that could be written."""


@dataclass
class PromptRun:
    """One seed."""

    seed: int
    split: Split
    asked: dict[str, list[int]]
    """Part -> the molecules asked about: those of valid and test that have a label."""
    answered: dict[str, Answers] = field(default_factory=dict)
    """Part -> answers."""
    figures: dict[str, dict[str, Metrics | None]] = field(default_factory=dict)
    """Who answered -> part -> figures: a trivial answer, prompting, and a pipeline of stage 2."""
    threshold: float | None = None
    """Probability from which class 1 is called, chosen on valid."""
    free: list[str] = field(default_factory=list)
    """What the LLM writes to the test's prompts when nothing bounds it."""
    read_free: float = 0.0
    """Share of these that can be read."""
    spread: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """Random SMILES and paraphrases -> how much answers to the same molecule differ, and how well they predict."""
    losses: list[float] = field(default_factory=list)
    """Validation loss after each epoch."""
    seconds: float = 0.0


def made_from(
    config: PromptConfig,
    molecules: Molecules,
    prompt_spec: PromptSpec,
    llm: registry.LLM,
    adapter: Path | None,
    checkpoint: Path,
) -> dict[str, Any]:
    """What all runs of a command share."""
    dataset, digests = molecules.dataset, checkpoints.checkpoint_digest(checkpoint)
    return {
        "dataset": {
            "name": dataset.name,
            "sha256": molecules.sha256,
            "targets": list(dataset.targets),
            "unit": dataset.unit,
            "kind": dataset.task,
        },
        "rows": {
            "read": molecules.read,
            "kept": len(molecules.smiles),
            "rejected": [dataclasses.asdict(own) for own in molecules.rejected],
        },
        "llm": {
            "name": llm.name,
            "digest": digests["weights"],
            "tokenizer": digests["tokenizer"],
            "adapter": adapters.digest(adapter) if adapter else None,
        },
        "wording": dataclasses.asdict(prompt_spec),
        "config": plain(config),
        "versions": versions(),
        "commit": commit(),
    }


def write_run(folder: Path, made: dict[str, Any], molecules: Molecules, one: PromptRun) -> None:
    """Write one run's files; result.json comes last, so that a folder that has it is complete."""
    (folder / "result.json").unlink(missing_ok=True)
    target = molecules.dataset.targets[0]
    labels = one.split.labels()
    with atomic(folder / "predictions.csv") as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["row", "smiles", "part", f"y_true_{target}", f"y_pred_{target}", "prompt", "answer", "free"])
        for part, answers in one.answered.items():
            free = one.free if part == "test" else [""] * len(answers.raw)
            asked = zip(one.asked[part], answers.y_pred, answers.prompts, answers.raw, free, strict=True)
            for i, value, prompt, texts, text in asked:
                known = "" if np.isnan(value) else float(value)
                y_true = float(molecules.y_true[i, 0])
                row, smiles = int(molecules.rows[i]), molecules.smiles[i]
                lines.writerow([row, smiles, labels[i], y_true, known, prompt, "|".join(texts), text])
    parts = {part: molecules.rows[own].tolist() for part, own in one.split.parts.items()}
    split = {"kind": one.split.kind, "sha256": one.split.sha256}
    write_json(folder / "split.json", {**split, "seed": one.seed, "rows": parts})
    test = one.answered["test"]
    write_json(
        folder / "result.json",
        {
            **made,
            "seed": one.seed,
            "split": {**split, "sizes": one.split.sizes},
            "metrics": one.figures,
            "threshold": one.threshold,
            "answered": {
                "test": float(np.mean(~np.isnan(test.y_pred))),
                "test, written freely": one.read_free,
                "share of the two answers": None if test.share is None else float(test.share.mean()),
            },
            "robustness": one.spread,
            "validation_losses": [loss if math.isfinite(loss) else None for loss in one.losses],
            "seconds": one.seconds,
            "peak_memory_mb": peak_memory_mb(),
        },
    )


def write_summary(path: Path, made: dict[str, Any], runs: Sequence[PromptRun]) -> None:
    """Mean, sd and every value over the runs, of everyone who answered."""
    metrics: dict[str, Any] = {}
    for who, first in runs[0].figures.items():
        metrics[who] = {}
        for part in first:
            own = [run.figures.get(who, {}).get(part) for run in runs]
            names = next((list(figures) for figures in own if figures), [])
            metrics[who][part] = {}
            for name in names:
                values = [figures[name] if figures else None for figures in own]
                mean, sd = summarize(values)
                metrics[who][part][name] = {"mean": mean, "sd": sd, "values": values}
    write_json(path, {**made, "split": runs[0].split.kind, "seeds": [run.seed for run in runs], "metrics": metrics})
