"""Pictures of a run: parity or ROC, and the learning curve."""

import math
import textwrap
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kflm2.data.parts import PARTS
from kflm2.data.splits import Split
from kflm2.plotting import INK, PART_COLOURS, save_figure, styled, use_log_scale
from kflm2.results.runs import Run

_MANY_DOTS = 300
"""Above this number of molecules in a part its dots are small."""


@styled
def draw_run(run: Run, folder: Path) -> None:
    """Draw a run's pictures: parity.png (or roc.png for classes) and learning_curve.png."""
    if run.molecules.dataset.task == "regression":
        save_figure(_parity(run), folder / "parity.png")
    else:
        save_figure(_roc(run), folder / "roc.png")
    save_figure(_learning_curve(run), folder / "learning_curve.png")


def _panels(run: Run) -> tuple[Figure, list[Axes]]:
    """A square panel a target."""
    count = len(run.molecules.dataset.targets)
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    size = 4.2 if count <= 4 else 3.2
    figure = Figure(figsize=(size * columns, (size + 0.4) * rows))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for empty in axes[count:]:
        empty.remove()
    figure.suptitle(_title(run), fontsize=10)
    return figure, list(axes[:count])


def _title(run: Run) -> str:
    return f"{run.molecules.dataset.name}, {run.config.model}, {run.split.kind} split, seed {run.seed}"


def _drawn(split: Split) -> list[tuple[str, np.ndarray]]:
    """Parts and their rows; of several test sets the test part that they make up."""
    return [(part, rows) for part, rows in split.measured.items() if part in PARTS]


def _part_name(part: str, split: Split) -> str:
    return "out-of-fold" if split.folds and part == "valid" else part


def _parity(run: Run) -> Figure:
    """Predicted against measured, a dot a molecule that has a label."""
    dataset = run.molecules.dataset
    figure, axes = _panels(run)
    for k, axis in enumerate(axes):
        true, predicted = run.molecules.y_true[:, k], run.y_pred[:, k]
        low = float(np.nanmin([np.nanmin(true), predicted.min()]))
        high = float(np.nanmax([np.nanmax(true), predicted.max()]))
        margin = 0.04 * (high - low or 1.0)
        limits = (low - margin, high + margin)
        axis.plot(limits, limits, color=INK, linewidth=0.8, zorder=1)
        for part, rows in _drawn(run.split):
            rows = rows[~np.isnan(true[rows])]
            rmse = float(np.sqrt(np.mean((true[rows] - predicted[rows]) ** 2))) if len(rows) else np.nan
            name = _part_name(part, run.split)
            label = f"{name} ({len(rows)}), RMSE {rmse:.2f}" if len(rows) else f"{name} (no label)"
            size = 10 if len(rows) > _MANY_DOTS else 20
            axis.scatter(
                true[rows],
                predicted[rows],
                s=size,
                alpha=0.75,
                linewidths=0,
                color=PART_COLOURS[part],
                label=label,
                zorder=2,
            )
        name = dataset.quantity if len(dataset.targets) == 1 and dataset.quantity else dataset.targets[k]
        unit = f" ({dataset.unit})" if dataset.unit else ""
        axis.set(xlim=limits, ylim=limits, box_aspect=1, xlabel=f"measured {name}{unit}", ylabel=f"predicted{unit}")
        axis.legend(fontsize=7, loc="upper left", handletextpad=0.2)
    return figure


def _roc(run: Run) -> Figure:
    """Receiver operating characteristic of each part."""
    from sklearn.metrics import auc, roc_curve

    figure, axes = _panels(run)
    for k, axis in enumerate(axes):
        axis.plot([0, 1], [0, 1], color=INK, linewidth=0.8)
        for part, rows in _drawn(run.split):
            true, predicted = run.molecules.y_true[rows, k], run.y_pred[rows, k]
            present = ~np.isnan(true)
            if not present.any() or np.ptp(true[present]) == 0:
                continue
            false_rate, true_rate, _ = roc_curve(true[present], predicted[present])
            label = f"{_part_name(part, run.split)} ({present.sum()}), AUC {auc(false_rate, true_rate):.2f}"
            axis.plot(false_rate, true_rate, color=PART_COLOURS[part], label=label)
        axis.set(box_aspect=1, xlabel="false positive rate", ylabel="true positive rate")
        # names of organ classes are sentences
        axis.set_title(textwrap.fill(run.molecules.dataset.targets[k], 36), fontsize=9)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7, loc="lower right")
        else:
            axis.text(0.5, 0.25, "every part has one class only", ha="center", fontsize=8)
    return figure


def _learning_curve(run: Run) -> Figure:
    """Loss after each epoch; the epoch whose weights are used is marked."""
    figure = Figure(figsize=(5.2, 3.6))
    axis = figure.subplots()
    for number, member in enumerate(run.ensemble.all_members):
        epochs = np.arange(1, len(member.history["train"]) + 1)
        for part in ("train", "valid"):
            label = part if number == 0 else None
            axis.plot(epochs, member.history[part], color=PART_COLOURS[part], linewidth=1.2, label=label)
        best = member.history["valid"][member.best_epoch - 1]
        label = "used" if number == 0 else None
        axis.scatter(member.best_epoch, best, s=28, color=PART_COLOURS["test"], zorder=3, label=label)
    regression = run.molecules.dataset.task == "regression"
    loss = "squared error (scaled target)" if regression else "cross-entropy"
    use_log_scale(axis)
    axis.set(xlabel="epoch", ylabel=loss)
    axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axis.set_title(_title(run), fontsize=10)
    axis.legend(fontsize=8)
    return figure
