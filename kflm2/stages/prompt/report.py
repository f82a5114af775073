"""The printed table of prompting: metrics beside a trivial answer and stage 2, and how stable the answers are."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kflm2.metrics.scores import IN_UNITS, METRIC_NAMES, PRIMARY_METRIC, summarize
from kflm2.stages.prompt.answers import PromptRun
from kflm2.stages.prompt.results import Experiment
from kflm2.text_table import aligned, mean_and_std

_LEFT_OUT = ("R2", "Brier", "balanced accuracy")


def table(runs: Sequence[PromptRun], experiment: Experiment, folder: Path) -> str:
    """Mean ± standard deviation over the runs of everyone who answered, on test, and what was measured on."""
    config, prompt_spec, dataset = experiment.config, experiment.prompt_spec, experiment.molecules.dataset
    sizes = " / ".join(f"{size} {part}" for part, size in runs[0].split.sizes.items())
    seeds = f"seed {runs[0].seed}" if len(runs) == 1 else f"seeds {runs[0].seed}..{runs[-1].seed}, mean ± sd"
    shots = f", {config.shots} examples ({config.shots_by})" if config.shots else ""
    unit = f", {prompt_spec.unit}" if prompt_spec.unit else ""
    lines = [
        "",
        f"{dataset.name} ({prompt_spec.quantity}{unit}), prompt {config.template}{shots}",
        f"{config.split} split {sizes}, {seeds}",
    ]
    names = [name for name in METRIC_NAMES[dataset.task] if name not in _LEFT_OUT]
    for part in [part for part in runs[0].split.parts if part not in ("train", "valid")]:
        rows = [[part, *names]]
        for who in runs[0].metrics:
            metrics = [run.metrics.get(who, {}).get(part) for run in runs]
            cells = [
                mean_and_std(*summarize([each[name] if each else None for each in metrics]), unit=name in IN_UNITS)
                for name in names
            ]
            rows.append([who, *cells])
        lines += ["", *aligned(rows)]
    lines += ["", _answered(runs, experiment)]
    for variants, first in runs[0].robustness.items():
        std, metric = (
            mean_and_std(*summarize([run.robustness[variants][key] for run in runs]), unit=dataset.task == "regression")
            for key in ("sd", "figure")
        )
        unit = prompt_spec.unit or ("probability" if dataset.task == "classification" else "")
        differ = f"answers differ by {std}{f' {unit}' if unit else ''}"
        lines.append(f"robustness  {first['ways']} {variants} more: {differ}; {PRIMARY_METRIC[dataset.task]} {metric}")
    seconds = sum(run.seconds for run in runs)
    return "\n".join([*lines, f"time        {seconds:.0f} s to train and prompt", f"results     {folder}"])


def _answered(runs: Sequence[PromptRun], experiment: Experiment) -> str:
    """How many answers could be read."""
    readable = float(np.mean([run.unconstrained_readable for run in runs]))
    unconstrained = f"{readable:.1%} of what is written freely"
    tests = [run.answers["test"] for run in runs]
    if experiment.prompt_spec.task == "regression":
        share = np.mean([np.mean(~np.isnan(answers.y_pred)) for answers in tests])
        return f"answers     {share:.1%} can be read under the number grammar, {unconstrained}"
    share = np.mean([np.mean(answers.share) for answers in tests if answers.share is not None])
    words = " and".join(experiment.prompt_spec.answers)
    return (
        f"answers    {words} have {share:.1%} of the probability of all that could be written; {readable:.1%} of what"
        " is written freely is one"
    )
