"""Pictures of a run: parity or ROC, and the learning curve."""

import math
import textwrap
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kflm2.data.parts import PARTS
from kflm2.files import atomic
from kflm2.results.runs import Run

_COLORS = {"train": "#9aa5b1", "valid": "#e69f00", "test": "#0072b2"}  # told apart by the colour-blind too
_DPI = 150


def draw_run(run: Run, folder: Path) -> None:
    """Draw a run's pictures: parity.png (or roc.png for classes) and learning_curve.png."""
    if run.molecules.dataset.task == "regression":
        _save(_parity(run), folder / "parity.png")
    else:
        _save(_roc(run), folder / "roc.png")
    _save(_learning_curve(run), folder / "learning_curve.png")


def _save(figure: Figure, path: Path) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=_DPI)


def _panels(run: Run) -> tuple[Figure, list[Axes]]:
    """A square panel a target."""
    count = len(run.molecules.dataset.targets)
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    size = 4.2 if count <= 4 else 3.2
    figure = Figure(figsize=(size * columns, (size + 0.4) * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for empty in axes[count:]:
        empty.remove()
    figure.suptitle(_title(run), fontsize=10)
    return figure, list(axes[:count])


def _title(run: Run) -> str:
    return f"{run.molecules.dataset.name}, {run.config.model}, {run.split.kind} split, seed {run.seed}"


def _parity(run: Run) -> Figure:
    """Predicted against measured, a dot a molecule."""
    dataset = run.molecules.dataset
    figure, axes = _panels(run)
    for index, axis in enumerate(axes):
        true, predicted = run.molecules.y_true[:, index], run.y_pred[:, index]
        low = float(np.nanmin([np.nanmin(true), predicted.min()]))
        high = float(np.nanmax([np.nanmax(true), predicted.max()]))
        margin = 0.04 * (high - low or 1.0)
        limits = (low - margin, high + margin)
        axis.plot(limits, limits, color="#444444", linewidth=0.8, zorder=1)
        for part in PARTS:
            rows = getattr(run.split, part)
            rmse = float(np.sqrt(np.nanmean((true[rows] - predicted[rows]) ** 2)))
            label = f"{part} ({len(rows)}), RMSE {rmse:.2f}"
            size = 10 if part == "train" else 20
            axis.scatter(
                true[rows],
                predicted[rows],
                s=size,
                alpha=0.75,
                linewidths=0,
                color=_COLORS[part],
                label=label,
                zorder=2,
            )
        name = dataset.quantity if len(dataset.targets) == 1 and dataset.quantity else dataset.targets[index]
        unit = f" ({dataset.unit})" if dataset.unit else ""
        axis.set(xlim=limits, ylim=limits, box_aspect=1, xlabel=f"measured {name}{unit}", ylabel=f"predicted{unit}")
        axis.legend(fontsize=7, frameon=False, loc="upper left", handletextpad=0.2)
    return figure


def _roc(run: Run) -> Figure:
    """Receiver operating characteristic of each part."""
    from sklearn.metrics import auc, roc_curve

    figure, axes = _panels(run)
    for index, axis in enumerate(axes):
        axis.plot([0, 1], [0, 1], color="#444444", linewidth=0.8)
        for part in PARTS:
            rows = getattr(run.split, part)
            true, predicted = run.molecules.y_true[rows, index], run.y_pred[rows, index]
            present = ~np.isnan(true)
            if not present.any() or np.ptp(true[present]) == 0:
                continue
            false_rate, true_rate, _ = roc_curve(true[present], predicted[present])
            label = f"{part} ({present.sum()}), AUC {auc(false_rate, true_rate):.2f}"
            axis.plot(false_rate, true_rate, color=_COLORS[part], label=label)
        axis.set(box_aspect=1, xlabel="false positive rate", ylabel="true positive rate")
        # names of organ classes are sentences
        axis.set_title(textwrap.fill(run.molecules.dataset.targets[index], 36), fontsize=9)
        axis.legend(fontsize=7, frameon=False, loc="lower right")
    return figure


def _learning_curve(run: Run) -> Figure:
    """Loss after each epoch; the kept one is marked."""
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axis = figure.subplots()
    for number, one in enumerate(run.ensemble.members):
        epochs = np.arange(1, len(one.history["train"]) + 1)
        for part in ("train", "valid"):
            label = part if number == 0 else None
            axis.plot(epochs, one.history[part], color=_COLORS[part], linewidth=1.2, label=label)
        kept = one.history["valid"][one.best_epoch - 1]
        axis.scatter(one.best_epoch, kept, s=28, color=_COLORS["test"], zorder=3, label="kept" if number == 0 else None)
    regression = run.molecules.dataset.task == "regression"
    loss = "squared error (scaled target)" if regression else "cross-entropy"
    axis.set(xlabel="epoch", ylabel=loss, yscale="log")
    axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axis.set_title(_title(run), fontsize=10)
    axis.legend(frameon=False, fontsize=8)
    return figure
