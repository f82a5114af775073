"""Answers of an LLM to prompts, and how good and how stable they are."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from kflm2.data.datasets import Task
from kflm2.data.splits import Split
from kflm2.metrics.scores import PRIMARY_METRIC, Metrics, choose_thresholds, score, summarize
from kflm2.stages.prompt.templates import PromptSpec, parse_number


@dataclass(frozen=True)
class Answers:
    """The answers to n prompts for one target."""

    prompts: list[str]
    texts: list[list[str]]
    """As the LLM wrote them, one or more a prompt; of a class the likelier of the two."""
    y_pred: np.ndarray
    """(n,) the value, or the probability of class 1; NaN where no answer could be read."""
    share: np.ndarray | None
    """(n,) probability of the two answers of a class together, among all that could be written."""


@dataclass
class PromptRun:
    """One seed."""

    seed: int
    split: Split
    labelled: dict[str, list[int]]
    """train, valid, test -> the molecules with a label, which are prompted."""
    answers: dict[str, Answers] = field(default_factory=dict)
    """valid, test -> answers."""
    metrics: dict[str, dict[str, Metrics | None]] = field(default_factory=dict)
    """Who answered -> part -> metrics: a trivial answer, prompting, and a pipeline of stage 2."""
    threshold: float | None = None
    """Probability from which class 1 is called, chosen on valid."""
    unconstrained: list[str] = field(default_factory=list)
    """What the LLM writes to the test prompts without a grammar."""
    unconstrained_readable: float = 0.0
    """Share of these that can be read."""
    robustness: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """Random SMILES, paraphrases -> see stability."""
    losses: list[float] = field(default_factory=list)
    """Validation loss after each epoch."""
    seconds: float = 0.0


def is_readable(text: str, prompt_spec: PromptSpec) -> bool:
    """Whether the first line of an answer is what was asked for: a number or one of the two words, and no more."""
    text = next((line for line in text.splitlines() if line.strip()), "")
    if prompt_spec.task == "regression":
        return parse_number(text) is not None
    return text.strip() in {answer.strip() for answer in prompt_spec.answers}


def evaluate(run: PromptRun, y_true: np.ndarray, task: Task) -> None:
    """Set the metrics of the answers, and of the trivial one: the training part's mean, or its share of class 1.

    Args:
        run: with answers.
        y_true: (n,) of all molecules, NaN where the label is missing.
        task: of the target.
    """
    y_pred = np.full(len(y_true), np.nan)
    for part, answers in run.answers.items():
        y_pred[run.labelled[part]] = answers.y_pred
    trivial = np.full(len(y_true), np.mean(y_true[run.labelled["train"]]))
    thresholds = np.array([np.nan])
    if task == "classification":
        read = [i for i in run.labelled["valid"] if not np.isnan(y_pred[i])]
        thresholds = choose_thresholds(y_true[read, None], y_pred[read, None])
        run.threshold = float(thresholds[0])
    trivial_name = "mean of train" if task == "regression" else "majority"
    for name, values, cut in ((trivial_name, trivial, np.array([0.5])), ("prompting", y_pred, thresholds)):
        run.metrics[name] = {}
        for part, part_rows in run.split.parts.items():
            rows = [int(i) for i in part_rows if not np.isnan(y_true[i]) and not np.isnan(values[i])]
            if part != "train":
                run.metrics[name][part] = score(y_true[rows, None], values[rows, None], task, cut).targets[0]


def stability(answers: Sequence[np.ndarray], y_true: np.ndarray, task: Task) -> dict[str, float | None]:
    """How much answers to the same molecules differ between prompts.

    Args:
        answers: (n,) predictions, of the first prompts and then of variants.
        y_true: (n,)
        task: of the target.

    Returns:
        ways: number of variants; sd: mean over the molecules of the sample standard deviation over all prompts, in the
        target's unit (of classes, of the probability); figure: RMSE or ROC-AUC, mean over the variants.
    """
    name = PRIMARY_METRIC[task]
    values: list[float | None] = []
    for y_pred in answers[1:]:
        read = ~np.isnan(y_pred)
        metrics = score(y_true[read, None], y_pred[read, None], task, np.array([0.5])).targets[0]
        values.append(metrics[name] if metrics else None)
    with np.errstate(invalid="ignore"):
        std = np.nanstd(np.stack(answers), axis=0, ddof=1)
    return {"ways": len(answers) - 1, "sd": float(np.nanmean(std)), "figure": summarize(values)[0]}
