"""A comparison of methods on one dataset, and what can be concluded of a pair of them."""

from dataclasses import dataclass, field

import pandas as pd

from kflm2.metrics.scores import SMALLER_IS_BETTER
from kflm2.metrics.statistics import ALPHA, Design, Pair
from kflm2.results.methods import Method

NO_VERDICT = "no verdict"


def conclude(pair: Pair, design: Design, practical: float, smaller_is_better: bool, p: float | None = None) -> str:
    """What can be said of two methods.

    One is called better where the test says so and the difference matters; they are alike where the whole interval lies
    within what does not matter. Runs that test too few different molecules give no verdict.

    Args:
        pair: the difference of the two.
        design: of the runs.
        practical: the smallest difference that matters.
        smaller_is_better: of the metric.
        p: default the pair's own.
    """
    if not design.is_sound:
        return NO_VERDICT
    p = pair.p if p is None else p
    first = (pair.difference < 0) == smaller_is_better
    better = pair.first if first else pair.second
    small = -practical <= pair.low and pair.high <= practical
    if p < ALPHA:
        if abs(pair.difference) >= practical:
            return f"{better} is better"
        return "differ by less than matters" if small else f"{better} may be better"
    return "alike" if small else "not told apart"


@dataclass(frozen=True)
class Comparison:
    """A comparison on one dataset."""

    reference: Method
    """One of the methods, for what all share: dataset, unit, split."""
    metric: str
    practical: float
    """The smallest difference that matters, given beforehand."""
    table: pd.DataFrame
    """A row a fold, a column a method, the best mean first."""
    design: Design
    pairs: list[Pair]
    published: list[tuple[str, str, int, float, float]]
    """Method, split, runs, mean and standard deviation."""
    development: dict[str, str] = field(default_factory=dict)
    """Method -> a sentence on its runs whose test molecules a search saw; methods without such runs are left out."""

    @property
    def smaller_is_better(self) -> bool:
        """Of the metric."""
        return self.metric in SMALLER_IS_BETTER

    def ranks(self) -> pd.Series:
        """Mean rank over the folds, 1 for the best."""
        return self.table.rank(axis=1, ascending=self.smaller_is_better).mean()

    def ordered(self) -> list[str]:
        """Methods, the best mean first."""
        return list(self.table.columns)

    def verdict(self, pair: Pair, p: float | None = None) -> str:
        """What can be said of two methods; see conclude.

        Args:
            pair: of this comparison.
            p: default the pair's own.
        """
        return conclude(pair, self.design, self.practical, self.smaller_is_better, p)

    def against_best(self, name: str) -> Pair:
        """The pair of the best method, which is its first, and another."""
        best = self.ordered()[0]
        return next(pair for pair in self.pairs if (pair.first, pair.second) == (best, name))

    @property
    def unit(self) -> str:
        """Of the metric; empty where it has none."""
        return (self.reference.record.unit or "") if self.metric in ("RMSE", "MAE") else ""
