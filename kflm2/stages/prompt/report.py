"""What a person sees of prompting: its figures beside a trivial answer and stage 2, and how steady answers are."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kflm2.config.prompt import PromptConfig
from kflm2.data.datasets import Task
from kflm2.data.molecules import Molecules
from kflm2.metrics.scores import METRIC_NAMES, PRIMARY_METRIC, score, summarize
from kflm2.stages.prompt.results import PromptRun
from kflm2.stages.prompt.templates import PromptSpec, parse


def readable(text: str, prompt_spec: PromptSpec) -> bool:
    """Whether the first line of a free answer says what was asked for: a number or one of the two words, no more."""
    text = next((line for line in text.splitlines() if line.strip()), "")
    if prompt_spec.task == "regression":
        return parse(text) is not None
    return text.strip() in {own.strip() for own in prompt_spec.answers}


def spread(answers: list[np.ndarray], y_true: np.ndarray, task: Task) -> dict[str, float | None]:
    """How much answers to the same molecules differ.

    Args:
        answers: (n,) predictions, as asked first and then in other ways.
        y_true: (n,)
        task: of the target.

    Returns:
        ways: how many other ways there were; sd: mean over the molecules of the sample standard deviation over all
        ways, in the target's unit (of classes, of the probability); figure: RMSE or ROC-AUC, mean of the other ways.
    """
    name = PRIMARY_METRIC[task]
    figures: list[float | None] = []
    for own in answers[1:]:
        known = ~np.isnan(own)
        found = score(y_true[known, None], own[known, None], task, np.array([0.5])).targets[0]
        figures.append(found[name] if found else None)
    with np.errstate(invalid="ignore"):
        each = np.nanstd(np.stack(answers), axis=0, ddof=1)
    return {"ways": len(answers) - 1, "sd": float(np.nanmean(each)), "figure": summarize(figures)[0]}


def table(
    runs: Sequence[PromptRun], config: PromptConfig, molecules: Molecules, prompt_spec: PromptSpec, folder: Path
) -> str:
    """Mean ± sd over the runs of everyone who answered, on test, and what the figures rest on."""
    dataset, task = molecules.dataset, molecules.dataset.task
    sizes = " / ".join(f"{size} {part}" for part, size in runs[0].split.sizes.items())
    seeds = f"seed {runs[0].seed}" if len(runs) == 1 else f"seeds {runs[0].seed}..{runs[-1].seed}, mean ± sd"
    shots = f", {config.shots} examples ({config.shots_by})" if config.shots else ""
    unit = f", {prompt_spec.unit}" if prompt_spec.unit else ""
    names = [name for name in METRIC_NAMES[task] if name not in ("R2", "Brier", "balanced accuracy")]
    lines = [
        "",
        f"{dataset.name} ({prompt_spec.quantity}{unit}), prompt {config.template}{shots}",
        f"{config.split} split {sizes}, {seeds}",
    ]
    for part in [own for own in runs[0].split.parts if own not in ("train", "valid")]:
        lines += ["", f"{part:16}" + "".join(f"{name:>18}" for name in names)]
        for who in runs[0].figures:
            own = [run.figures.get(who, {}).get(part) for run in runs]
            cells = [_cell(*summarize([figures[name] if figures else None for figures in own])) for name in names]
            lines.append(f"{who:16}" + "".join(f"{cell:>18}" for cell in cells))
    free = f"{np.mean([run.read_free for run in runs]):.1%} of what is written freely"
    shares = [run.answered["test"].share for run in runs]
    if task == "regression":
        read = np.mean([np.mean(~np.isnan(run.answered["test"].y_pred)) for run in runs])
        lines += ["", f"answers     {read:.1%} can be read under the number grammar, {free}"]
    else:
        share = np.mean([np.mean(own) for own in shares if own is not None])
        words = " and".join(prompt_spec.answers)
        lines += [
            "",
            f"answers    {words} have {share:.1%} of the probability of all that could be written; {free} is one",
        ]
    for way, first in runs[0].spread.items():
        sds, figures = ([run.spread[way][name] for run in runs] for name in ("sd", "figure"))
        sd, figure = _cell(*summarize(sds)), _cell(*summarize(figures))
        of = prompt_spec.unit or ("probability" if task == "classification" else "")
        what = f"{first['ways']} {way} more"
        lines.append(
            f"robustness  {what}: answers differ by {sd}{f' {of}' if of else ''}; {PRIMARY_METRIC[task]} {figure}"
        )
    lines += [
        f"time        {sum(run.seconds for run in runs):.0f} s to teach and ask",
        f"results     {folder}",
    ]
    return "\n".join(lines)


def _cell(mean: float | None, sd: float | None) -> str:
    if mean is None:
        return "-"
    return f"{mean:.3f}" if sd is None else f"{mean:.3f} ± {sd:.3f}"
