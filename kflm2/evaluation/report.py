"""What a person sees of the runs: the printed table, the parity plot, the learning curve."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kflm2.data.molecules import Molecules
from kflm2.data.parts import PARTS
from kflm2.evaluation.evidence import Run, peak_memory_mb
from kflm2.evaluation.metrics import MAIN, NAMES, Scores, summarize
from kflm2.files import atomic
from kflm2.settings import MODELS

_COLORS = {"train": "#9aa5b1", "valid": "#e69f00", "test": "#0072b2"}  # told apart by the colour-blind too
_DPI = 150


def short(valid: Scores) -> str:
    """The main figure on validation, for a progress bar."""
    name = MAIN[valid.kind]
    value = valid.mean[name]
    return "" if value is None else f"valid {name} {value:.3f}"


def rejections(molecules: Molecules, most: int = 5) -> str:
    """One line a rejected row, the first few."""
    shown = [f"  row {own.row}: {own.smiles[:60]!r}: {own.reason}" for own in molecules.rejected[:most]]
    more = len(molecules.rejected) - len(shown)
    return "\n".join(
        [
            f"{len(molecules.rejected)} of {molecules.read} rows are rejected (all are in rejected.csv):",
            *shown,
            *([f"  and {more} more"] if more > 0 else []),
        ]
    )


def table(runs: Sequence[Run], folder: Path) -> str:
    """Mean ± sd over the runs for every part of the split, and what the figures rest on."""
    first, last = runs[0], runs[-1]
    parts = tuple(first.scores)
    molecules, kind = first.molecules, first.molecules.dataset.kind
    dataset, source = molecules.dataset, first.source
    targets = dataset.targets[0] if len(dataset.targets) == 1 else f"mean of {len(dataset.targets)} targets"
    what = f"{dataset.quantity or targets}{f', {dataset.unit}' if dataset.unit else ''}"
    seeds = (
        f"seed {first.seed}" if len(runs) == 1 else f"seeds {first.seed}..{last.seed}, mean ± sd of {len(runs)} runs"
    )
    sizes = " / ".join(f"{size} {part}" for part, size in first.split.sizes.items())
    wide = max(10, *(len(name) + 2 for name in NAMES[kind]))
    lines = [
        "",
        f"{dataset.name} ({what}), {first.settings.model}: {MODELS[first.settings.model].about}",
        f"{first.split.kind} split {sizes}, {seeds}",
        "",
        f"{'':{wide}}" + "".join(f"{part:>18}" for part in parts),
    ]
    for name in NAMES[kind]:
        cells = [_cell(*summarize([run.scores[part].mean[name] for run in runs])) for part in parts]
        unit = dataset.unit if kind == "regression" and name in ("RMSE", "MAE") else ""
        lines.append(f"{name:{wide}}" + "".join(f"{cell:>18}" for cell in cells) + (f"  {unit}" if unit else ""))
    lines += [*_targets(runs), *_left_out(runs), *_coverage(runs)]
    seconds = first.seconds
    training = sum(run.seconds["training"] for run in runs)
    views = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items() if name != "training")
    lines += [
        "",
        f"rows      read {molecules.read}, kept {len(molecules.smiles)}, rejected {len(molecules.rejected)}",
        "LLM       "
        + (
            "none"
            if source is None
            else f"{source.name}, layers {', '.join(map(str, source.layers))}, adapter {source.adapter or 'none'}"
        ),
        f"time      {views + ', ' if views else ''}training {training:.1f} s",
    ]
    if (peak := peak_memory_mb()) is not None:
        lines.append(f"memory    {peak} MB at most")
    lines.append(f"results   {folder}")
    return "\n".join(lines)


def _targets(runs: Sequence[Run]) -> list[str]:
    """The main figure on test, target by target, where there are several."""
    dataset = runs[0].molecules.dataset
    if len(dataset.targets) == 1:
        return []
    name = MAIN[dataset.kind]
    lines = ["", f"test {name} of each target"]
    for index, target in enumerate(dataset.targets):
        own = [run.scores["test"].targets[index] for run in runs]
        lines.append(f"{_cell(*summarize([figures[name] if figures else None for figures in own])):>18}  {target}")
    return lines


def _left_out(runs: Sequence[Run]) -> list[str]:
    """A line for every target that some run could not judge in some part."""
    first = runs[0]
    regression = first.molecules.dataset.kind == "regression"
    why = "fewer than two labels" if regression else "one class only"
    lines = []
    for index, target in enumerate(first.molecules.dataset.targets):
        for part in first.scores:
            seeds = [str(run.seed) for run in runs if run.scores[part].targets[index] is None]
            if seeds:
                where = "" if len(seeds) == len(runs) else f" of seed {', '.join(seeds)}"
                fallback = "; its threshold is 0.5" if part == "valid" and not regression else ""
                lines.append(f"left out of the mean: {target}, of which {part}{where} has {why}{fallback}")
    return ["", *lines] if lines else []


def _coverage(runs: Sequence[Run]) -> list[str]:
    """How far intervals calibrated on validation can be trusted on test."""
    first = runs[0]
    regression = first.molecules.dataset.kind == "regression"
    lines = [""]
    for part, own in first.coverage.items():
        share = _cell(*summarize([_percent(run.coverage[part].share) for run in runs]), digits=1)
        size = _cell(*summarize([run.coverage[part].size for run in runs]), digits=2)
        what = f"wide {size} {first.molecules.dataset.unit}".rstrip() if regression else f"of {size} classes"
        kind = "intervals" if regression else "sets"
        lines.append(f"{100 * own.confidence:g} % {kind} hold {share} % of {part}, {what}")
    return lines


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _cell(mean: float | None, sd: float | None, digits: int = 3) -> str:
    if mean is None:
        return "-"
    return f"{mean:.{digits}f}" if sd is None else f"{mean:.{digits}f} ± {sd:.{digits}f}"


def draw_run(run: Run, folder: Path) -> None:
    """Draw a run's pictures: parity.png (or roc.png for classes) and learning_curve.png."""
    if run.molecules.dataset.kind == "regression":
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
    return f"{run.molecules.dataset.name}, {run.settings.model}, {run.split.kind} split, seed {run.seed}"


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
    regression = run.molecules.dataset.kind == "regression"
    loss = "squared error (scaled target)" if regression else "cross-entropy"
    axis.set(xlabel="epoch", ylabel=loss, yscale="log")
    axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axis.set_title(_title(run), fontsize=10)
    axis.legend(frameon=False, fontsize=8)
    return figure
