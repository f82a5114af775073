"""Pictures of a comparison: the metric of every run, and the differences to the best method."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kflm2.metrics.statistics import Pair
from kflm2.plotting import BLUE, GREY, INK, ORANGE, SHADE, save_figure, styled
from kflm2.stages.compare.comparison import Comparison


@styled
def draw_means(comparison: Comparison, path: Path) -> None:
    """The metric of every run, and its mean, coloured by the verdict against the best method."""
    names = comparison.ordered()
    figure, axis = _rows(names)
    best = comparison.table[names[0]].mean()
    axis.axvspan(best - comparison.practical, best + comparison.practical, color=SHADE, lw=0)
    for row, name in enumerate(names):
        values = comparison.table[name].to_numpy()
        color = BLUE if row == 0 else _verdict_color(comparison, comparison.against_best(name))
        axis.plot(values, row + _jitter(len(values)), ".", color=color, ms=4, alpha=0.35)
        axis.plot(values.mean(), row, "o", color=color)
    axis.set_xlabel(f"test {comparison.metric}{_unit(comparison)}")
    _set_title(
        axis, comparison, f"{len(comparison.table)} runs and their mean", f"within {comparison.practical:g} of the best"
    )
    save_figure(figure, path)


@styled
def draw_pairs(comparison: Comparison, path: Path) -> None:
    """How much each method differs from the best one, a dot a run, with the simultaneous interval of the mean."""
    best, *names = comparison.ordered()
    figure, axis = _rows(names)
    axis.axvspan(-comparison.practical, comparison.practical, color=SHADE, lw=0)
    axis.axvline(0, color=INK, lw=0.8)
    for row, name in enumerate(names):
        pair = comparison.against_best(name)
        differences = (comparison.table[name] - comparison.table[best]).to_numpy()
        color = _verdict_color(comparison, pair)
        axis.plot(differences, row + _jitter(len(differences)), ".", color=color, ms=4, alpha=0.35)
        # a pair's difference is the best's minus the other's
        axis.plot([-pair.high, -pair.low], [row, row], color=color, lw=2)
        axis.plot(-pair.difference, row, "o", color=color)
    axis.set_xlabel(f"difference of test {comparison.metric} to {best}{_unit(comparison)}", parse_math=False)
    _set_title(
        axis, comparison, "run by run, with 95 % intervals of all pairs", f"less than matters, {comparison.practical:g}"
    )
    save_figure(figure, path)


def _set_title(axis: Axes, comparison: Comparison, what: str, shaded: str) -> None:
    verdicts = (
        "orange: worse than the best; grey: not shown to be worse"
        if comparison.design.is_sound
        else "no verdict from these runs"
    )
    axis.set_title(f"{comparison.reference.dataset}: {what}\n{verdicts}; shaded: {shaded}", fontsize=9)


def _verdict_color(comparison: Comparison, pair: Pair) -> str:
    return ORANGE if comparison.verdict(pair) == f"{pair.first} is better" else GREY


def _jitter(count: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.2, 0.2, count)


def _rows(names: list[str]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.5, 1.4 + 0.32 * len(names)))
    axis = figure.subplots()
    axis.set_yticks(range(len(names)), names, parse_math=False)
    axis.set_ylim(len(names) - 0.5, -0.5)
    return figure, axis


def _unit(comparison: Comparison) -> str:
    return f" ({comparison.unit})" if comparison.unit else ""
