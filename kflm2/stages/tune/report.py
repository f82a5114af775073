"""Output of a search: summary with the best settings, table of the trials, plots of the settings' importance."""

import csv
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import optuna
from optuna.trial import FrozenTrial, TrialState

from kflm2.files import atomic
from kflm2.plotting import save_figure, styled


def best_so_far(study: optuna.Study, metric: str) -> str:
    """The best metric, for a progress bar."""
    completed = [trial.value for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    values = [value for value in completed if value is not None]
    if not values:
        return ""
    best = min(values) if study.direction == optuna.study.StudyDirection.MINIMIZE else max(values)
    return f"best {metric} {best:.3f}"


def summary(study: optuna.Study, trials: list[FrozenTrial], metric: str, splits: str, folder: Path) -> str:
    """Text with the counts of trials and the best trial's settings.

    Args:
        study: the search's study.
        trials: finished trials.
        metric: name of the objective.
        splits: over what the metric was measured, in words.
        folder: of best.json.
    """
    states = {"completed": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    counts = {name: sum(trial.state == state for trial in trials) for name, state in states.items()}
    lines = ["", f"{len(trials)} trials: " + ", ".join(f"{number} {name}" for name, number in counts.items())]
    reasons = {str(trial.user_attrs["failed"]) for trial in trials if "failed" in trial.user_attrs}
    lines += [f"  failed: {reason}" for reason in sorted(reasons)]
    if not counts["completed"]:
        return "\n".join([*lines, "no trial was completed"])
    best = study.best_trial
    metric_text = f"inner {metric} {best.value:.3f}, {splits}, without the test part"
    lines.append(f"best      trial {best.number}, {metric_text}")
    for name, value in best.params.items():
        lines.append(f"          {name} {value:.4g}" if isinstance(value, float) else f"          {name} {value}")
    return "\n".join([*lines, f"settings  {folder / 'best.json'}, for --config"])


def write_trials(path: Path, rows: list[dict[str, Any]], columns: list[str]) -> None:
    """Write trials.csv, one row per trial."""
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


@styled
def draw(study: optuna.Study, folder: Path, metric: str) -> None:
    """Write importance.png and parallel.png, if there are at least three completed trials."""
    completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    varied = [name for name in completed[0].params if len({trial.params.get(name) for trial in completed}) > 1]
    if len(completed) < 3 or not varied:
        return
    matplotlib.use("Agg")
    from optuna.visualization import matplotlib as optuna_plots

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        importance: Any = optuna_plots.plot_param_importances(study, params=varied, target_name=metric)
        importance.get_legend().remove()
        importance.set_xlabel(f"importance for {metric}")
        _tidy_and_save(importance.figure, folder / "importance.png")
        parallel: Any = optuna_plots.plot_parallel_coordinate(study, params=varied, target_name=metric)
        parallel.figure.set_size_inches(1.5 * (len(varied) + 2), 5)
        _tidy_and_save(parallel.figure, folder / "parallel.png")


def _tidy_and_save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    for axis in figure.axes:
        for side in ("left", "center"):
            axis.set_title("", loc=side)
        axis.set_facecolor("white")
        axis.grid(False)
        for text in axis.get_yticklabels():
            # tick labels of the inner axes overlap the lines of the plot
            text.set_bbox({"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5})
    save_figure(figure, path, bbox_inches="tight")
    pyplot.close(figure)
