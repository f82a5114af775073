"""Pictures of a comparison: Tukey's intervals, differences to the best run by run, and mean ranks."""

from pathlib import Path

import numpy as np
import pandas as pd
import scikit_posthocs
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kflm2.files import atomic
from kflm2.metrics.statistics import conover, corrected_interval
from kflm2.stages.compare.report import Compared

_BEST, _WORSE, _OPEN = "#0072b2", "#d55e00", "#7f8c8d"  # told apart by the colour-blind too
_DPI = 150


def draw_intervals(one: Compared, path: Path) -> None:
    """Means with intervals that do not overlap where Tukey's test tells two methods apart."""
    means, names = one.table.mean(), one.ordered()
    half = (one.pairs[0].tukey[1] - one.pairs[0].difference) / 2
    best = names[0]
    figure, axis = _rows(names)
    axis.axvspan(means[best] - one.practical, means[best] + one.practical, color="#ecf0f1", lw=0)
    for place, name in enumerate(names):
        apart = abs(means[name] - means[best]) > 2 * half
        color = _BEST if name == best else _WORSE if apart else _OPEN
        axis.errorbar(means[name], place, xerr=half, fmt="o", color=color, capsize=3)
    axis.set_xlabel(f"test {one.figure}{_unit(one)}")
    axis.set_title(
        f"{one.reference.dataset}: mean of {len(one.table)} runs, Tukey's 95 % intervals\n"
        f"blue: best; orange: told apart from it; shaded: within {one.practical:g} of it",
        fontsize=9,
    )
    _save(figure, path)


def draw_pairs(one: Compared, path: Path) -> None:
    """How much each method differs from the best one, a dot a run, with the corrected interval of the mean."""
    best, *names = one.ordered()
    figure, axis = _rows(names)
    axis.axvspan(-one.practical, one.practical, color="#ecf0f1", lw=0)
    axis.axvline(0, color="#2c3e50", lw=0.8)
    rng = np.random.default_rng(0)
    for place, name in enumerate(names):
        differences = (one.table[name] - one.table[best]).to_numpy()
        low, high = corrected_interval(differences, one.reference.test_share)
        axis.plot(differences, place + rng.uniform(-0.2, 0.2, len(differences)), ".", color=_OPEN, ms=4, alpha=0.6)
        axis.plot([low, high], [place, place], color=_BEST, lw=2)
        axis.plot(differences.mean(), place, "o", color=_BEST)
    axis.set_xlabel(f"difference of test {one.figure} to {best}{_unit(one)}", parse_math=False)
    axis.set_title(
        f"{one.reference.dataset}: run by run, with the mean's corrected 95 % interval\n"
        f"shaded: less than matters ({one.practical:g})",
        fontsize=9,
    )
    _save(figure, path)


def draw_ranks(one: Compared, path: Path) -> None:
    """Mean ranks; bars join methods that Conover's test does not tell apart (critical-difference diagram)."""
    figure = Figure(figsize=(7, 1.2 + 0.22 * len(one.table.columns)), layout="constrained")
    axis = figure.subplots()
    ranks: pd.Series = one.ranks()
    scikit_posthocs.critical_difference_diagram(
        ranks.rename(_escaped),
        conover(one.table).rename(index=_escaped, columns=_escaped),
        ax=axis,
        label_fmt_left="{label} {rank:.1f} ",
        label_fmt_right=" {rank:.1f} {label}",
        color_palette=["#2c3e50"] * len(ranks),
    )
    axis.set_title(
        f"{one.reference.dataset}: mean rank by test {one.figure}, 1 is best; bars join what Conover's test does not"
        " tell apart",
        fontsize=8,
    )
    _save(figure, path)


def _escaped(name: str) -> str:
    return name.replace("$", r"\$")


def _rows(names: list[str]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.5, 1.4 + 0.32 * len(names)), layout="constrained")
    axis = figure.subplots()
    axis.set_yticks(range(len(names)), names, parse_math=False)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _unit(one: Compared) -> str:
    return f" ({one.reference.unit})" if one.reference.unit and one.figure in ("RMSE", "MAE") else ""


def _save(figure: Figure, path: Path) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=_DPI)
