"""Statistical comparison of methods: a metric that was measured on the same runs.

Throughout, a table has one row per run (one split, one seed) and one column per method. The runs share molecules, for
training and for testing, so that their metrics are not independent: a test that takes them as independent finds
differences that are not there. Here every variance is that of Nadeau and Bengio (Inference for the generalization
error, Machine Learning 2003, 52, 239), and p-values and intervals hold for all pairs of methods at once.
`benchmark/verdicts.py` measures how often equal methods are called different.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit
from scipy.stats import wilcoxon

ALPHA = 0.05
"""Probability of any false difference among all pairs of one comparison."""
LEAST_DATASETS = 6
"""Of a verdict over datasets: with fewer no signed-rank test gives a p below ALPHA."""
_MOST_OVERLAP = 1.5
"""Largest overlap of test parts, relative to that of parts drawn at random, with which a verdict is given."""
_CHANCE = 3.0
"""Standard deviations by which it may be larger all the same."""
_EQUAL = 1e-9
"""Differences that vary by less than this share of the metric are equal, but for rounding."""


@dataclass(frozen=True)
class Design:
    """What the runs of a comparison have in common."""

    runs: int
    molecules: int
    """In the table."""
    tested: int
    """Distinct molecules that are in a test part of any run."""
    test_share: float
    """Test molecules over training molecules, mean of the runs."""
    overlap: float
    """Share of a test part that is in the test part of another run too, mean of all pairs of runs."""
    expected: float
    """The same if all test parts were drawn at random."""

    @staticmethod
    def of(tests: Sequence[Collection[object]], train_sizes: Sequence[int], molecules: int) -> "Design":
        """The design of runs with given test molecules.

        Args:
            tests: of each run, two or more.
            train_sizes: training molecules of each run.
            molecules: in the table.
        """
        sets = [frozenset(test) for test in tests]
        overlaps = [len(a & b) / min(len(a), len(b)) for a, b in combinations(sets, 2)]
        return Design(
            runs=len(sets),
            molecules=molecules,
            tested=len(frozenset().union(*sets)),
            test_share=float(np.mean([len(test) / size for test, size in zip(sets, train_sizes, strict=True)])),
            overlap=float(np.mean(overlaps)),
            expected=float(np.mean([len(test) for test in sets])) / molecules,
        )

    @property
    def correlation(self) -> float:
        """Of a paired difference in two runs: at least Nadeau and Bengio's share of test molecules."""
        return max(self.test_share / (1 + self.test_share), self.overlap)

    @property
    def error_factor(self) -> float:
        """Standard error of the mean of a paired difference over its standard deviation among the runs."""
        return float(np.sqrt(1 / self.runs + self.correlation / (1 - self.correlation)))

    @property
    def is_sound(self) -> bool:
        """Whether the runs test enough different molecules for a verdict.

        Few and small test parts that are drawn at random may share more than expected, by chance.
        """
        size, pairs = self.expected * self.molecules, self.runs * (self.runs - 1) / 2
        # of a hypergeometric distribution
        one = self.expected * (1 - self.expected) * (self.molecules - size) / max(self.molecules - 1, 1) / size
        return self.overlap <= max(_MOST_OVERLAP * self.expected, self.expected + _CHANCE * math.sqrt(one / pairs))

    def resolution(self, methods: int) -> float:
        """Smallest mean difference that can be told from chance, in standard deviations of the paired differences."""
        return critical(methods * (methods - 1) // 2, self.runs) * self.error_factor


@dataclass(frozen=True)
class Probabilities:
    """Posterior probabilities of what two methods' difference is; see posterior."""

    smaller: float
    """The first has the smaller metric, by more than matters."""
    alike: float
    """The difference is less than matters."""
    larger: float


@dataclass(frozen=True)
class Pair:
    """Two methods; differences are first minus second."""

    first: str
    second: str
    difference: float
    """Mean over the runs."""
    low: float
    high: float
    """Simultaneous 95 % interval: with a probability of 95 % those of all pairs hold the true differences."""
    p: float
    """Adjusted for all pairs; below 0.05 where the interval leaves 0 out."""
    effect: float
    """Cohen's d of the paired differences: their mean over their standard deviation; NaN if all are equal."""
    wins: int
    """Runs on which the first has the smaller metric."""
    losses: int
    """Runs on which the first has the larger metric."""
    probabilities: Probabilities


def compare(table: pd.DataFrame, design: Design, practical: float) -> list[Pair]:
    """All pairs of methods, in the order of itertools.combinations.

    The statistic of a pair is the corrected resampled t of Nadeau and Bengio; p is adjusted for all pairs by Holm's
    method, the interval by Bonferroni's, so that it may hold 0 where p is a little below 0.05. The studentized range
    (Tukey, Games and Howell) has more power, but with ten runs of ten methods it does not hold 5 %.

    Args:
        table: (runs, methods) of a metric for which smaller or larger values may be better; three runs or more.
        design: of the runs.
        practical: smallest difference that matters.

    Returns:
        The pairs. Where a difference is the same in every run, as of metrics that can have few values only, it is not
        known how much it would vary: p is 1 and the interval infinite, unless all differences are 0.
    """
    names = list(combinations(table.columns, 2))
    differences = np.stack([(table[first] - table[second]).to_numpy() for first, second in names])
    means, stds = differences.mean(axis=1), differences.std(axis=1, ddof=1)
    rounding = _EQUAL * np.abs(table.to_numpy()).max()
    equal = stds <= rounding
    means = np.where(equal & (np.abs(means) <= rounding), 0.0, means)
    stds = np.where(equal, np.where(means == 0, 0.0, np.inf), stds)
    errors = stds * design.error_factor
    half_widths = critical(len(names), design.runs) * errors
    p = holm([_p(mean, error, design.runs) for mean, error in zip(means, errors, strict=True)])
    return [
        Pair(
            first,
            second,
            float(means[i]),
            float(means[i] - half_widths[i]),
            float(means[i] + half_widths[i]),
            p[i],
            float(means[i] / stds[i]) if 0 < stds[i] < np.inf else float("nan"),
            int((differences[i] < 0).sum()),
            int((differences[i] > 0).sum()),
            posterior(float(means[i]), float(errors[i]), design.runs, practical),
        )
        for i, (first, second) in enumerate(names)
    ]


def critical(pairs: int, runs: int) -> float:
    """The t from which a pair is told apart by Bonferroni's method."""
    return float(stdtrit(runs - 1, 1 - ALPHA / 2 / pairs))


def _p(mean: float, error: float, runs: int) -> float:
    """Of one pair by itself."""
    if error == 0:  # all differences are 0
        return 1.0
    return float(2 * stdtr(runs - 1, -abs(mean) / error))


def posterior(mean: float, error: float, runs: int, practical: float) -> Probabilities:
    """Bayesian correlated t-test (Benavoli and others, J. Mach. Learn. Res. 2017, 18, 77): one pair, by itself.

    With a flat prior the true difference has Student's t distribution around the mean, whose scale is the corrected
    standard error. Unlike p it can say that two methods are alike; it is not adjusted for the number of pairs.

    Args:
        mean: of the paired differences.
        error: its corrected standard error.
        runs: number of differences.
        practical: half width of the region in which a difference does not matter.
    """
    if error == 0:
        return Probabilities(float(mean < -practical), float(abs(mean) <= practical), float(mean > practical))
    smaller, larger = (float(stdtr(runs - 1, (-practical - sign * mean) / error)) for sign in (1, -1))
    return Probabilities(smaller, max(0.0, 1 - smaller - larger), larger)


def over_datasets(differences: Sequence[float]) -> float:
    """p of two methods with the datasets, not their runs, as the sample: Wilcoxon's signed-rank test.

    As Demsar (J. Mach. Learn. Res. 2006, 7, 1) advises. Unlike a verdict on one dataset it can find a small difference
    that is there on most of them; it says nothing about any one, and takes them as drawn from those of interest.

    Args:
        differences: of the two methods' mean metrics, one a dataset, in a unit that is the same for all datasets.

    Returns:
        Two-sided p, not corrected for several pairs; 1 with fewer than LEAST_DATASETS, or without a difference.
    """
    if len(differences) < LEAST_DATASETS or not np.any(differences):
        return 1.0
    return float(wilcoxon(differences).pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """p-values of several pairs or datasets, corrected so that any false positive stays below 5 %.

    Holm, Scand. J. Stat. 1979, 6, 65.
    """
    order = np.argsort(p)
    factors = np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(np.minimum(1, np.asarray(p, dtype=float)[order] * factors))
    return adjusted.tolist()
