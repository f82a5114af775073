"""What a person sees of a search: the best settings, every trial, which settings mattered."""

import csv
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import optuna
from optuna.trial import FrozenTrial, TrialState

from kflm2.files import atomic


def best_so_far(study: optuna.Study, figure: str) -> str:
    """The best figure, for a progress bar."""
    found = [own.value for own in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    values = [value for value in found if value is not None]
    if not values:
        return ""
    best = min(values) if study.direction == optuna.study.StudyDirection.MINIMIZE else max(values)
    return f"best {figure} {best:.3f}"


def summary(study: optuna.Study, trials: list[FrozenTrial], figure: str, inner: int, folder: Path) -> str:
    """Counts, and the best trial's settings."""
    states = {"completed": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    counts = {name: sum(own.state == state for own in trials) for name, state in states.items()}
    lines = ["", f"{len(trials)} trials: " + ", ".join(f"{number} {name}" for name, number in counts.items())]
    reasons = {str(own.user_attrs["failed"]) for own in trials if "failed" in own.user_attrs}
    lines += [f"  failed: {reason}" for reason in sorted(reasons)]
    if not counts["completed"]:
        return "\n".join([*lines, "no trial was completed"])
    best = study.best_trial
    what = f"inner {figure} {best.value:.3f}, mean of {inner} divisions without the test part"
    lines.append(f"best      trial {best.number}, {what}")
    for name, value in best.params.items():
        lines.append(f"          {name} {value:.4g}" if isinstance(value, float) else f"          {name} {value}")
    return "\n".join([*lines, f"settings  {folder / 'best.json'}, for --config"])


def write_trials(path: Path, rows: list[dict[str, Any]], columns: list[str]) -> None:
    """A line a trial."""
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, columns, restval="")
        table.writeheader()
        table.writerows(rows)


def draw(study: optuna.Study, folder: Path, figure: str) -> None:
    """importance.png and parallel.png, from three completed trials on."""
    completed = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    varied = [name for name in completed[0].params if len({own.params.get(name) for own in completed}) > 1]
    if len(completed) < 3 or not varied:
        return
    matplotlib.use("Agg")
    from optuna.visualization import matplotlib as pictures

    with warnings.catch_warnings(), matplotlib.rc_context({"figure.constrained_layout.use": True}):
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        importance: Any = pictures.plot_param_importances(study, params=varied, target_name=figure)
        importance.get_legend().remove()
        importance.set_xlabel(f"importance for {figure}")
        _save(importance.figure, folder / "importance.png")
        parallel: Any = pictures.plot_parallel_coordinate(study, params=varied, target_name=figure)
        parallel.figure.set_size_inches(1.5 * (len(varied) + 2), 5)
        _save(parallel.figure, folder / "parallel.png")


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    for axis in figure.axes:
        for place in ("left", "center"):
            axis.set_title("", loc=place)
        axis.set_facecolor("white")
        axis.grid(False)
        for text in axis.get_yticklabels():
            # ticks of neighbouring axes lie in the lines of the picture
            text.set_bbox({"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5})
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=150, bbox_inches="tight")
    pyplot.close(figure)
