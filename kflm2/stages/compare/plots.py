"""Pictures of a comparison: Tukey's intervals, differences to the best run by run, and mean ranks."""

from pathlib import Path

import numpy as np
import pandas as pd
import scikit_posthocs
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kflm2.metrics.statistics import conover, corrected_interval
from kflm2.plotting import BLUE, GREY, INK, ORANGE, SHADE, save_figure, styled
from kflm2.stages.compare.comparison import Comparison


@styled
def draw_intervals(comparison: Comparison, path: Path) -> None:
    """Means with intervals that do not overlap where Tukey's test tells two methods apart."""
    means, names = comparison.table.mean(), comparison.ordered()
    half = (comparison.pairs[0].tukey[1] - comparison.pairs[0].difference) / 2
    best = names[0]
    figure, axis = _rows(names)
    axis.axvspan(means[best] - comparison.practical, means[best] + comparison.practical, color=SHADE, lw=0)
    for row, name in enumerate(names):
        apart = abs(means[name] - means[best]) > 2 * half
        color = BLUE if name == best else ORANGE if apart else GREY
        axis.errorbar(means[name], row, xerr=half, fmt="o", color=color, capsize=3)
    axis.set_xlabel(f"test {comparison.metric}{_unit(comparison)}")
    axis.set_title(
        f"{comparison.reference.dataset}: mean of {len(comparison.table)} runs, Tukey's 95 % intervals\n"
        f"blue: best; orange: told apart from it; shaded: within {comparison.practical:g} of it",
        fontsize=9,
    )
    save_figure(figure, path)


@styled
def draw_pairs(comparison: Comparison, path: Path) -> None:
    """How much each method differs from the best one, a dot a run, with the corrected interval of the mean."""
    best, *names = comparison.ordered()
    figure, axis = _rows(names)
    axis.axvspan(-comparison.practical, comparison.practical, color=SHADE, lw=0)
    axis.axvline(0, color=INK, lw=0.8)
    rng = np.random.default_rng(0)
    for row, name in enumerate(names):
        differences = (comparison.table[name] - comparison.table[best]).to_numpy()
        low, high = corrected_interval(differences, comparison.reference.test_share)
        axis.plot(differences, row + rng.uniform(-0.2, 0.2, len(differences)), ".", color=GREY, ms=4, alpha=0.6)
        axis.plot([low, high], [row, row], color=BLUE, lw=2)
        axis.plot(differences.mean(), row, "o", color=BLUE)
    axis.set_xlabel(f"difference of test {comparison.metric} to {best}{_unit(comparison)}", parse_math=False)
    axis.set_title(
        f"{comparison.reference.dataset}: run by run, with the mean's corrected 95 % interval\n"
        f"shaded: less than matters ({comparison.practical:g})",
        fontsize=9,
    )
    save_figure(figure, path)


@styled
def draw_ranks(comparison: Comparison, path: Path) -> None:
    """Mean ranks; bars join methods that Conover's test does not tell apart (critical-difference diagram)."""
    figure = Figure(figsize=(7, 1.2 + 0.22 * len(comparison.table.columns)))
    axis = figure.subplots()
    ranks: pd.Series = comparison.ranks()
    scikit_posthocs.critical_difference_diagram(
        ranks.rename(_escaped),
        conover(comparison.table).rename(index=_escaped, columns=_escaped),
        ax=axis,
        label_fmt_left="{label} {rank:.1f} ",
        label_fmt_right=" {rank:.1f} {label}",
        color_palette=[INK] * len(ranks),
    )
    axis.set_title(
        f"{comparison.reference.dataset}: mean rank by test {comparison.metric}, 1 is best; bars join what Conover's"
        " test does not tell apart",
        fontsize=8,
    )
    save_figure(figure, path)


def _escaped(name: str) -> str:
    return name.replace("$", r"\$")


def _rows(names: list[str]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.5, 1.4 + 0.32 * len(names)))
    axis = figure.subplots()
    axis.set_yticks(range(len(names)), names, parse_math=False)
    axis.set_ylim(len(names) - 0.5, -0.5)
    return figure, axis


def _unit(comparison: Comparison) -> str:
    return f" ({comparison.unit})" if comparison.unit else ""
