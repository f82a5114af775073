"""Statistical comparison of methods: tests of a metric that was measured on the same folds.

Throughout, a table has one row per fold (a run: one split, one seed) and one column per method. After Ash et al.,
Practically significant method comparison protocols for machine learning in small molecule drug discovery, J. Chem. Inf.
Model. 2025.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
import scikit_posthocs
from scipy import stats
from statsmodels.stats.anova import AnovaRM
from statsmodels.stats.multitest import multipletests

ALPHA = 0.05
_MOST_UNEQUAL = 9.0
"""Largest ratio of two methods' residual variances that is accepted as equal."""


@dataclass(frozen=True)
class Overall:
    """A test of whether any of the methods differ."""

    name: str
    statistic: float
    freedom: tuple[float, ...]
    p: float


@dataclass(frozen=True)
class Assumptions:
    """Assumptions of the analysis of variance and of Tukey's test."""

    shapiro: float
    """p of Shapiro and Wilk's test for normal residuals."""
    variances: float
    """Largest residual variance of a method over the smallest."""

    @property
    def hold(self) -> bool:
        """Whether both are met."""
        return self.shapiro >= ALPHA and self.variances <= _MOST_UNEQUAL


@dataclass(frozen=True)
class Pair:
    """Two methods; differences are first minus second."""

    first: str
    second: str
    difference: float
    """Mean over the folds."""
    low: float
    high: float
    """95 % interval of the paired difference, corrected for folds that share molecules."""
    tukey: tuple[float, float]
    """Simultaneous 95 % interval for all pairs."""
    p_tukey: float
    p_conover: float | None
    """None for two methods only."""
    p_wilcoxon: float
    p: float
    """p of the test whose assumptions hold; see compare."""
    effect: float
    """Cohen's d of the paired differences: their mean over their standard deviation; NaN if all are equal."""
    wins: int
    """Folds on which the first has the smaller metric."""
    losses: int
    """Folds on which the first has the larger metric."""


def residuals(table: pd.DataFrame) -> pd.DataFrame:
    """Residuals after subtracting the means of fold and method: the error of a randomized block design."""
    values = table.to_numpy()
    errors = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    return pd.DataFrame(errors, table.index, table.columns)


def assumptions(table: pd.DataFrame) -> Assumptions:
    """Whether the residuals are normal, and of equal variance for all methods."""
    errors = residuals(table)
    if np.allclose(errors, 0):  # Shapiro's test is not defined for equal values
        return Assumptions(1.0, 1.0)
    if errors.shape[1] == 2:
        # the two columns differ in sign only: there are only as many independent errors as folds
        errors = errors.iloc[:, :1]
    variances = errors.var(ddof=1)
    ratio = float(variances.max() / variances.min()) if variances.min() > 0 else float("inf")
    return Assumptions(float(stats.shapiro(errors.to_numpy().ravel()).pvalue), ratio)


def repeated_anova(table: pd.DataFrame) -> Overall:
    """Analysis of variance with repeated measures; the folds are the subjects."""
    # columns get numbers instead of names, as a method may be named fold
    numbered = pd.DataFrame(table.to_numpy()).rename_axis("fold").reset_index()
    long = numbered.melt("fold", var_name="method", value_name="figure")
    row = AnovaRM(long, "figure", "fold", within=["method"]).fit().anova_table.iloc[0]
    return Overall(
        "repeated-measures ANOVA",
        float(row["F Value"]),
        (float(row["Num DF"]), float(row["Den DF"])),
        float(row["Pr > F"]),
    )


def friedman(table: pd.DataFrame) -> Overall:
    """Friedman's test on ranks within folds; for three methods or more."""
    statistic, p = stats.friedmanchisquare(*(table[name] for name in table))
    return Overall("Friedman", float(statistic), (table.shape[1] - 1,), float(p))


def wilcoxon(table: pd.DataFrame) -> Overall:
    """Wilcoxon's signed-rank test of two methods."""
    first, second = (table[name] for name in table)
    result = stats.wilcoxon(first, second)
    return Overall("Wilcoxon", float(result.statistic), (), float(result.pvalue))


def wilcoxon_pairs(table: pd.DataFrame) -> list[float]:
    """p of every pair of methods by Wilcoxon's signed-rank test, with Holm's correction; in the order of combinations.

    Unlike in a test on mean ranks, p of two methods does not depend on the other methods (Benavoli, Corani, Mangili, J.
    Mach. Learn. Res. 2016, 17, 5).
    """
    differences = [(table[first] - table[second]).to_numpy() for first, second in combinations(table.columns, 2)]
    return holm([float(stats.wilcoxon(values).pvalue) if values.any() else 1.0 for values in differences])


def tukey(table: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """Tukey's honest significant difference with the error of repeated measures.

    Returns:
        p of every pair of methods, and the half width of the simultaneous 95 % interval of all differences.
    """
    folds, methods = table.shape
    freedom = (folds - 1) * (methods - 1)
    error = float(np.sqrt((residuals(table).to_numpy() ** 2).sum() / freedom / folds))
    means = table.mean().to_numpy()
    differences = np.abs(means[:, None] - means[None, :])
    with np.errstate(divide="ignore", invalid="ignore"):
        q = np.where(differences == 0, 0.0, differences / error)
    p = stats.studentized_range.sf(q, methods, freedom)
    return pd.DataFrame(p, table.columns, table.columns), float(
        stats.studentized_range.ppf(1 - ALPHA, methods, freedom) * error
    )


def conover(table: pd.DataFrame) -> pd.DataFrame:
    """p of every pair of methods by Conover's test after Friedman's, with Holm's correction."""
    if (table.rank(axis=1).var() == 0).all():
        # every fold ranks the methods alike, and the formula would divide by the residual variance of the ranks, which
        # is 0: take the smallest p of a sign test, corrected for the number of pairs
        ranks = table.rank(axis=1).iloc[0].to_numpy()
        pairs = table.shape[1] * (table.shape[1] - 1) / 2
        p_sign = min(1.0, pairs * 2 * 0.5 ** len(table))
        return pd.DataFrame(np.where(ranks[:, None] == ranks[None, :], 1.0, p_sign), table.columns, table.columns)
    p = scikit_posthocs.posthoc_conover_friedman(table.to_numpy(), p_adjust="holm")
    return pd.DataFrame(p.to_numpy(), table.columns, table.columns)


def corrected_interval(differences: np.ndarray, test_share: float) -> tuple[float, float]:
    """95 % interval of the mean paired difference over folds whose training parts overlap.

    Such differences are not independent, and Student's interval is too narrow; Nadeau and Bengio (Inference for the
    generalization error, Machine Learning 2003) add the ratio of test to training molecules to 1 / n in its variance.

    Args:
        differences: (n,) one per fold.
        test_share: test molecules over training molecules; 0 gives Student's interval.
    """
    count = len(differences)
    error = np.sqrt((1 / count + test_share) * differences.var(ddof=1))
    half_width = float(stats.t.ppf(1 - ALPHA / 2, count - 1) * error)
    return float(differences.mean()) - half_width, float(differences.mean()) + half_width


def compare(table: pd.DataFrame, test_share: float) -> tuple[Assumptions, list[Overall], list[Pair]]:
    """All tests of a table of three folds or more.

    `Pair.p` is Tukey's where the assumptions hold, else Wilcoxon's.

    Args:
        table: of a metric for which smaller or larger values may be better.
        test_share: see corrected_interval.
    """
    checks = assumptions(table)
    several = table.shape[1] > 2
    overall = [repeated_anova(table), friedman(table) if several else wilcoxon(table)]
    p_tukey, half_width = tukey(table)
    p_conover = conover(table) if several else None
    pairs = []
    for (first, second), p_wilcoxon in zip(combinations(table.columns, 2), wilcoxon_pairs(table), strict=True):
        differences = (table[first] - table[second]).to_numpy()
        mean, std = float(differences.mean()), float(differences.std(ddof=1))
        low, high = corrected_interval(differences, test_share)
        pair_conover = None if p_conover is None else float(p_conover.loc[first, second])
        pair_tukey = float(p_tukey.loc[first, second])
        pairs.append(
            Pair(
                first,
                second,
                mean,
                low,
                high,
                (mean - half_width, mean + half_width),
                pair_tukey,
                pair_conover,
                p_wilcoxon,
                pair_tukey if checks.hold else p_wilcoxon,
                mean / std if std > 0 else float("nan"),
                int((differences < 0).sum()),
                int((differences > 0).sum()),
            )
        )
    return checks, overall, pairs


def holm(p: Sequence[float]) -> list[float]:
    """p-values of the same test on several datasets or pairs, corrected so that any false positive stays below 5 %."""
    return [float(value) for value in multipletests(p, ALPHA, "holm")[1]]
