"""What a person reads of a comparison: the printed tables, Markdown, and the lines of pairs.csv."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from kflm2.metrics.scores import SMALLER_IS_BETTER
from kflm2.metrics.statistics import ALPHA, Assumptions, Overall, Pair, holm
from kflm2.results.methods import Method


@dataclass(frozen=True)
class Compared:
    """A comparison on one dataset."""

    reference: Method
    """One of the methods, for what all share: dataset, unit, split."""
    figure: str
    practical: float
    """The smallest difference that matters, said beforehand."""
    table: pd.DataFrame
    """A row a fold, a column a method, the best mean first."""
    assumed: Assumptions
    overall: list[Overall]
    pairs: list[Pair]
    published: list[tuple[str, str, int, float, float]]

    @property
    def smaller_is_better(self) -> bool:
        """Of the figure."""
        return self.figure in SMALLER_IS_BETTER

    def ranks(self) -> pd.Series:
        """Mean rank over the folds, 1 for the best."""
        return self.table.rank(axis=1, ascending=self.smaller_is_better).mean()

    def ordered(self) -> list[str]:
        """Methods, the best mean first."""
        return list(self.table.columns)

    def verdict(self, pair: Pair, p: float | None = None) -> str:
        """What can be said of two methods.

        One is called better where the test says so, the corrected interval leaves 0 out, and the difference matters;
        they are alike where the whole interval lies within what does not matter.
        """
        p = pair.p if p is None else p
        first = (pair.difference < 0) == self.smaller_is_better
        better = pair.first if first else pair.second
        small = -self.practical <= pair.low and pair.high <= self.practical
        if p < ALPHA and (pair.low > 0 or pair.high < 0):
            if abs(pair.difference) >= self.practical:
                return f"{better} is better"
            return "differ by less than matters" if small else f"{better} may be better"
        return "alike" if small else "not told apart"


_PAIR_HEAD = (
    "difference",
    "95 % interval",
    "Tukey 95 %",
    "p Tukey",
    "p Conover",
    "p Wilcoxon",
    "d",
    "better on",
    "verdict",
)


def text(one: Compared) -> str:
    """The tables as printed."""
    return "\n".join(_lines(one, _plain))


def markdown(one: Compared) -> str:
    """The same as Markdown."""
    return "\n".join([*_lines(one, _pipes), ""])


def _lines(one: Compared, table: Callable[[list[str], list[list[str]]], list[str]]) -> list[str]:
    unit = f" in {one.reference.unit}" if one.reference.unit and one.figure in ("RMSE", "MAE") else ""
    means, deviations, ranks = one.table.mean(), one.table.std(ddof=1), one.ranks()
    beaten = {name: sum(one.verdict(pair) == f"{name} is better" for pair in one.pairs) for name in one.table}
    rows = [
        [name, f"{means[name]:.3f} ± {deviations[name]:.3f}", f"{ranks[name]:.2f}", str(beaten[name])]
        for name in one.ordered()
    ]
    lines = [
        "",
        f"{one.reference.dataset}, test {one.figure}{unit}: {len(one.table.columns)} methods on the same"
        f" {len(one.table)} runs ({one.reference.split})",
        f"a difference matters from {one.practical:g} on, as was said beforehand",
        "",
        *table(["", "mean ± sd", "rank", "better than"], rows),
        "",
        *_overall(one),
        "",
        *table(["", *_PAIR_HEAD], [_pair_row(one, pair) for pair in one.pairs]),
        "",
        "difference: first minus second. 95 % interval: of the paired difference, corrected for training parts that",
        "overlap. Tukey: of all pairs at once. d: mean over deviation of the paired differences. better on: runs.",
    ]
    if one.published:
        lines += ["", "published, on splits of their own, so not paired:"]
        lines += table(
            ["", "split", "runs", "mean ± sd"],
            [
                [name, split, str(runs), f"{mean:.3f}" + ("" if math.isnan(sd) else f" ± {sd:.3f}")]
                for name, split, runs, mean, sd in one.published
            ],
        )
    return lines


def _overall(one: Compared) -> list[str]:
    lines = [f"{own.name}: {_statistic(own)}, p {_p(own.p)}" for own in one.overall]
    assumed = one.assumed
    seen = f"residuals' normality (Shapiro) p {_p(assumed.shapiro)}, variances differ {assumed.variances:.1f}-fold"
    return [*lines, f"{seen}: the verdicts rest on p of {'Tukey' if assumed.hold else 'Wilcoxon'}"]


def _statistic(own: Overall) -> str:
    freedom = ", ".join(f"{value:g}" for value in own.freedom)
    letter = {"repeated-measures ANOVA": "F", "Friedman": "chi2", "Wilcoxon": "W"}[own.name]
    return f"{letter}({freedom}) = {own.statistic:.3g}" if freedom else f"{letter} = {own.statistic:.3g}"


def _pair_row(one: Compared, pair: Pair) -> list[str]:
    wins = (pair.wins, pair.losses) if one.smaller_is_better else (pair.losses, pair.wins)
    return [
        f"{pair.first} - {pair.second}",
        f"{pair.difference:+.3f}",
        f"{pair.low:+.3f} to {pair.high:+.3f}",
        f"{pair.tukey[0]:+.3f} to {pair.tukey[1]:+.3f}",
        _p(pair.p_tukey),
        "-" if pair.p_conover is None else _p(pair.p_conover),
        _p(pair.p_wilcoxon),
        "-" if math.isnan(pair.effect) else f"{pair.effect:+.2f}",
        f"{wins[0]}:{wins[1]}",
        one.verdict(pair),
    ]


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def pairs_table(one: Compared) -> pd.DataFrame:
    """A line a pair, with all digits."""
    return pd.DataFrame(
        {
            "first": pair.first,
            "second": pair.second,
            "difference": pair.difference,
            "low": pair.low,
            "high": pair.high,
            "tukey_low": pair.tukey[0],
            "tukey_high": pair.tukey[1],
            "p_tukey": pair.p_tukey,
            "p_conover": pair.p_conover,
            "p_wilcoxon": pair.p_wilcoxon,
            "p": pair.p,
            "d": pair.effect,
            "first_smaller": pair.wins,
            "second_smaller": pair.losses,
            "verdict": one.verdict(pair),
        }
        for pair in one.pairs
    )


def across(compared: Sequence[Compared]) -> pd.DataFrame:
    """Pairs of methods that several datasets have, with p corrected by Holm over the datasets.

    Returns:
        Columns first, second, dataset, figure, difference, p, p_holm, verdict; the verdict is by p_holm.
    """
    rows = []
    names = [name for one in compared for name in one.table.columns]
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    by_pair: dict[tuple[str, ...], list[tuple[Compared, Pair, float]]] = {}
    for one in compared:
        for pair in one.pairs:
            # the same order of names in every dataset
            key = tuple(sorted((pair.first, pair.second), key=places.__getitem__))
            sign = 1.0 if key == (pair.first, pair.second) else -1.0
            by_pair.setdefault(key, []).append((one, pair, sign))
    for (first, second), found in by_pair.items():
        if len(found) < 2:
            continue
        for (one, pair, sign), p in zip(found, holm([pair.p for _, pair, _ in found]), strict=True):
            rows.append(
                {
                    "first": first,
                    "second": second,
                    "dataset": one.reference.dataset,
                    "figure": one.figure,
                    "difference": sign * pair.difference,
                    "p": pair.p,
                    "p_holm": p,
                    "verdict": one.verdict(pair, p),
                }
            )
    columns = ["first", "second", "dataset", "figure", "difference", "p", "p_holm", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def across_text(found: pd.DataFrame) -> str:
    """On how many datasets the first is better, neither is shown to be, or the second is; a line a pair."""
    if found.empty:
        return "\nno two methods were measured on more than one dataset"
    rows = []
    for (first, second), own in found.groupby(["first", "second"], sort=False):
        won, lost = (int((own["verdict"] == f"{name} is better").sum()) for name in (first, second))
        rows.append([f"{first} - {second}", str(len(own)), f"{won}/{len(own) - won - lost}/{lost}"])
    return "\n".join(
        [
            "",
            "over the datasets (p by Holm): the first is better / neither is shown to be / the second is",
            *_plain(["", "datasets", "+/=/-"], rows),
        ]
    )


def _plain(head: list[str], rows: list[list[str]]) -> list[str]:
    wide = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]
    last = len(head) - 1

    def line(cells: list[str]) -> str:
        # names and verdicts to the left, figures to the right
        padded = [
            cell.ljust(width) if place == 0 or (place == last and head[last] == "verdict") else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, wide, strict=True))
        ]
        return "  ".join(padded).rstrip()

    return [line(head), *map(line, rows)]


def _pipes(head: list[str], rows: list[list[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"|{'|'.join('---' if not place else '--:' for place in range(len(head)))}|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
