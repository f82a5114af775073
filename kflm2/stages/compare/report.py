"""What a person reads of a comparison: the printed tables, Markdown, and the lines of pairs.csv."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from kflm2 import text_table
from kflm2.metrics.scores import IN_UNITS
from kflm2.metrics.statistics import LEAST_DATASETS, Pair, holm, over_datasets
from kflm2.stages.compare.comparison import Comparison

_PAIR_HEAD = ("difference", "95 % interval", "p", "d", "better on", "P better", "P alike", "P worse", "verdict")


def text(comparison: Comparison) -> str:
    """The tables as printed."""

    def table(rows: text_table.Rows) -> list[str]:
        # names and verdicts to the left, numbers to the right
        left = {0, *(index for index, title in enumerate(rows[0]) if title == "verdict")}
        return text_table.aligned(rows, left)

    return "\n".join(_lines(comparison, table))


def markdown(comparison: Comparison) -> str:
    """The same as Markdown."""
    return "\n".join([*_lines(comparison, text_table.markdown), ""])


def _lines(comparison: Comparison, table: Callable[[text_table.Rows], list[str]]) -> list[str]:
    unit = f" in {comparison.unit}" if comparison.unit else ""
    means, stds, ranks = comparison.table.mean(), comparison.table.std(ddof=1), comparison.ranks()
    form = _format(comparison)
    beaten = {
        name: sum(comparison.verdict(pair) == f"{name} is better" for pair in comparison.pairs)
        for name in comparison.table
    }
    rows = [
        [name, f"{means[name]:{form}} ± {stds[name]:{form}}", f"{ranks[name]:.2f}", str(beaten[name])]
        for name in comparison.ordered()
    ]
    lines = [
        "",
        f"{comparison.reference.dataset}, test {comparison.metric}{unit}: {len(comparison.table.columns)} methods on"
        f" the same {len(comparison.table)} runs ({comparison.reference.split})",
        f"a difference matters from {comparison.practical:g} on, as was said beforehand",
        "",
        *table([["", "mean ± sd", "rank", "better than"], *rows]),
        "",
        *(f"{name}: {note}" for name, note in comparison.development.items()),
        *([""] if comparison.development else []),
        *_design(comparison),
        "",
        *table([["", *_PAIR_HEAD], *(_pair_row(comparison, pair) for pair in comparison.pairs)]),
        "",
        "difference: first minus second. 95 % interval, p: corrected for runs that share molecules, and for all pairs",
        "at once. d: mean over standard deviation of the paired differences. better on: runs. P: probability that the",
        "first is better or worse by more than matters, or that they are alike; of each pair by itself.",
    ]
    if comparison.published:
        lines += ["", "published, on splits of their own, so not paired:"]
        rows = [
            [name, split, str(runs), text_table.mean_and_std(mean, None if math.isnan(std) else std, unit=True)]
            for name, split, runs, mean, std in comparison.published
        ]
        lines += table([["", "split", "runs", "mean ± sd"], *rows])
    return lines


def _design(comparison: Comparison) -> list[str]:
    """How many molecules the runs test, and how large a difference must be to be seen."""
    design, methods = comparison.design, len(comparison.table.columns)
    lines = [
        f"the runs test {design.tested} of {design.molecules} molecules; two runs share {100 * design.overlap:.0f} % of"
        f" their test parts ({100 * design.expected:.0f} % if drawn at random)",
        f"{design.runs} runs of {methods} methods tell a difference from chance if it is larger than"
        f" {design.resolution(methods):.2g} times",
        "its standard deviation over the runs (d)",
    ]
    if not design.is_sound:
        lines += [
            "NO VERDICT: the runs test the same few molecules again and again, and cannot say how a difference would",
            "come out on others; scaffold_cv5x5 and cluster_cv5x5 test every molecule",
        ]
    return lines


def _pair_row(comparison: Comparison, pair: Pair) -> list[str]:
    form = _format(comparison)
    wins, better, worse = (pair.wins, pair.losses), pair.probabilities.smaller, pair.probabilities.larger
    if not comparison.smaller_is_better:
        wins, better, worse = wins[::-1], worse, better
    return [
        f"{pair.first} - {pair.second}",
        f"{pair.difference:+{form}}",
        f"{pair.low:+{form}} to {pair.high:+{form}}",
        _p(pair.p) if comparison.design.is_sound else "-",
        "-" if math.isnan(pair.effect) else f"{pair.effect:+.2f}",
        f"{wins[0]}:{wins[1]}",
        *(f"{value:.2f}" for value in (better, pair.probabilities.alike, worse)),
        comparison.verdict(pair),
    ]


def _format(comparison: Comparison) -> str:
    """Of metrics and their differences."""
    return text_table.format_of(comparison.table.mean()) if comparison.metric in IN_UNITS else ".3f"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def pairs_table(comparison: Comparison) -> pd.DataFrame:
    """A line a pair, with all digits."""
    return pd.DataFrame(
        {
            "first": pair.first,
            "second": pair.second,
            "difference": pair.difference,
            "low": pair.low,
            "high": pair.high,
            "p": pair.p,
            "d": pair.effect,
            "first_smaller": pair.wins,
            "second_smaller": pair.losses,
            "probability_first_smaller": pair.probabilities.smaller,
            "probability_alike": pair.probabilities.alike,
            "probability_second_smaller": pair.probabilities.larger,
            "verdict": comparison.verdict(pair),
        }
        for pair in comparison.pairs
    )


def across(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Pairs of methods that several datasets have, with p corrected by Holm over the datasets.

    Returns:
        Columns first, second, dataset, figure (the metric), difference, p, p_holm, verdict (by p_holm), advantage: by
        how much the first is better, in units of the smallest difference that matters; NaN where that is 0.
    """
    rows = []
    names = [name for comparison in comparisons for name in comparison.table.columns]
    order = {name: index for index, name in enumerate(dict.fromkeys(names))}
    by_pair: dict[tuple[str, ...], list[tuple[Comparison, Pair, float]]] = {}
    for comparison in comparisons:
        for pair in comparison.pairs:
            # the same order of names in every dataset
            key = tuple(sorted((pair.first, pair.second), key=order.__getitem__))
            sign = 1.0 if key == (pair.first, pair.second) else -1.0
            by_pair.setdefault(key, []).append((comparison, pair, sign))
    for (first, second), entries in by_pair.items():
        if len(entries) < 2:
            continue
        for (comparison, pair, sign), p in zip(entries, holm([pair.p for _, pair, _ in entries]), strict=True):
            rows.append(
                {
                    "first": first,
                    "second": second,
                    "dataset": comparison.reference.dataset,
                    "figure": comparison.metric,
                    "difference": sign * pair.difference,
                    "p": pair.p,
                    "p_holm": p,
                    "verdict": comparison.verdict(pair, p),
                    "advantage": sign * _advantage(comparison, pair),
                }
            )
    columns = ["first", "second", "dataset", "figure", "difference", "p", "p_holm", "verdict", "advantage"]
    return pd.DataFrame(rows, columns=columns)


def across_text(pairs: pd.DataFrame) -> str:
    """What all datasets say, a line a pair.

    On how many the first is better, neither is shown to be, or the second is; and where there are datasets enough,
    which one is better with the datasets as the sample.
    """
    if pairs.empty:
        return "\nno two methods were measured on more than one dataset"
    rows, tested = [], {}
    for (first, second), datasets in pairs.groupby(["first", "second"], sort=False):
        name = f"{first} - {second}"
        won, lost = (int((datasets["verdict"] == f"{name} is better").sum()) for name in (first, second))
        rows.append([name, str(len(datasets)), f"{won}/{len(datasets) - won - lost}/{lost}"])
        if len(datasets) >= LEAST_DATASETS and datasets["advantage"].notna().all():
            tested[name] = datasets["advantage"].tolist()
    lines = [
        "",
        "over the datasets (p by Holm): the first is better / neither is shown to be / the second is",
        *text_table.aligned([["", "datasets", "+/=/-"], *rows]),
    ]
    if tested:
        p_values = holm([over_datasets(advantages) for advantages in tested.values()])
        middles = [f"{np.median(advantages):+.2f}" for advantages in tested.values()]
        rows = [[name, middle, f"{p:.3f}"] for name, middle, p in zip(tested, middles, p_values, strict=True)]
        lines += [
            "",
            "with the datasets as the sample (signed-rank test, p by Holm over the pairs): by how much the first is",
            "better, in units of --practical, median over the datasets",
            *text_table.aligned([["", "better by", "p"], *rows]),
        ]
    return "\n".join(lines)


def _advantage(comparison: Comparison, pair: Pair) -> float:
    """By how much the first of a pair is better, in units of what matters."""
    better = -pair.difference if comparison.smaller_is_better else pair.difference
    return better / comparison.practical if comparison.practical else float("nan")
