"""Whether methods differ: tests of figures that were measured on the same folds.

Throughout, a table has a row a fold (a run: one split, one seed) and a column a method. After Ash et al., Practically
significant method comparison protocols for machine learning in small molecule drug discovery, J. Chem. Inf. Model.
2025.
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
"""Residual variances of two methods that differ by more cannot pass for equal."""


@dataclass(frozen=True)
class Overall:
    """Whether any of the methods differ."""

    name: str
    statistic: float
    freedom: tuple[float, ...]
    p: float


@dataclass(frozen=True)
class Assumptions:
    """What an analysis of variance and Tukey's test rest on."""

    shapiro: float
    """p of Shapiro and Wilk's test that the residuals are normal."""
    variances: float
    """Largest residual variance of a method over the smallest."""

    @property
    def hold(self) -> bool:
        """Whether they can be relied on."""
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
    """95 % interval that holds for all pairs at once."""
    p_tukey: float
    p_conover: float | None
    """None where there are two methods only."""
    p_wilcoxon: float
    p: float
    """Of the test whose assumptions hold; see compare."""
    effect: float
    """Cohen's d of the paired differences: their mean over their deviation; NaN where all are equal."""
    wins: int
    """Folds on which the first has the smaller figure."""
    losses: int


def residuals(table: pd.DataFrame) -> pd.DataFrame:
    """What is left of figures when means of fold and method are taken away: the error of a randomized block design."""
    values = table.to_numpy()
    rest = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    return pd.DataFrame(rest, table.index, table.columns)


def assumptions(table: pd.DataFrame) -> Assumptions:
    """Whether residuals are normal, and of like variance for all methods."""
    rest = residuals(table)
    if np.allclose(rest, 0):  # Shapiro's test is not defined for equal values
        return Assumptions(1.0, 1.0)
    if rest.shape[1] == 2:
        # the two columns mirror each other: there are only as many errors as folds
        rest = rest.iloc[:, :1]
    variances = rest.var(ddof=1)
    ratio = float(variances.max() / variances.min()) if variances.min() > 0 else float("inf")
    return Assumptions(float(stats.shapiro(rest.to_numpy().ravel()).pvalue), ratio)


def repeated_anova(table: pd.DataFrame) -> Overall:
    """Analysis of variance with repeated measures: the folds are the subjects."""
    # numbers for names: a method may be called fold
    plain = pd.DataFrame(table.to_numpy()).rename_axis("fold").reset_index()
    long = plain.melt("fold", var_name="method", value_name="figure")
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
    found = stats.wilcoxon(first, second)
    return Overall("Wilcoxon", float(found.statistic), (), float(found.pvalue))


def wilcoxon_pairs(table: pd.DataFrame) -> list[float]:
    """p of every pair of methods by Wilcoxon's signed-rank test, with Holm's correction; in the order of combinations.

    Unlike a test on mean ranks, it says the same of two methods whatever others stand beside them (Benavoli, Corani,
    Mangili, J. Mach. Learn. Res. 2016, 17, 5).
    """
    differences = [(table[first] - table[second]).to_numpy() for first, second in combinations(table.columns, 2)]
    return holm([float(stats.wilcoxon(own).pvalue) if own.any() else 1.0 for own in differences])


def tukey(table: pd.DataFrame) -> tuple[pd.DataFrame, float]:
    """Tukey's honest significant difference with the error of repeated measures.

    Returns:
        p of every pair of methods, and the half width of the 95 % interval of all differences at once.
    """
    folds, methods = table.shape
    freedom = (folds - 1) * (methods - 1)
    error = float(np.sqrt((residuals(table).to_numpy() ** 2).sum() / freedom / folds))
    means = table.mean().to_numpy()
    apart = np.abs(means[:, None] - means[None, :])
    with np.errstate(divide="ignore", invalid="ignore"):
        q = np.where(apart == 0, 0.0, apart / error)
    p = stats.studentized_range.sf(q, methods, freedom)
    return pd.DataFrame(p, table.columns, table.columns), float(
        stats.studentized_range.ppf(1 - ALPHA, methods, freedom) * error
    )


def conover(table: pd.DataFrame) -> pd.DataFrame:
    """p of every pair of methods by Conover's test after Friedman's, with Holm's correction."""
    if (table.rank(axis=1).var() == 0).all():
        # every fold ranks the methods alike, and the formula would divide by what is left of the ranks, nothing: as
        # sure as a sign test can be
        tied = table.rank(axis=1).iloc[0].to_numpy()
        pairs = table.shape[1] * (table.shape[1] - 1) / 2
        least = min(1.0, pairs * 2 * 0.5 ** len(table))
        return pd.DataFrame(np.where(tied[:, None] == tied[None, :], 1.0, least), table.columns, table.columns)
    found = scikit_posthocs.posthoc_conover_friedman(table.to_numpy(), p_adjust="holm")
    return pd.DataFrame(found.to_numpy(), table.columns, table.columns)


def corrected_interval(differences: np.ndarray, test_share: float) -> tuple[float, float]:
    """95 % interval of the mean paired difference over folds whose training parts overlap.

    Such differences are not independent, and Student's interval is too narrow; Nadeau and Bengio (Inference for the
    generalization error, Machine Learning 2003) add the ratio of test to training molecules to 1 / n in its variance.

    Args:
        differences: (n,) of each fold.
        test_share: test molecules over training molecules; 0 gives Student's interval.
    """
    count = len(differences)
    error = np.sqrt((1 / count + test_share) * differences.var(ddof=1))
    half = float(stats.t.ppf(1 - ALPHA / 2, count - 1) * error)
    return float(differences.mean()) - half, float(differences.mean()) + half


def compare(table: pd.DataFrame, test_share: float) -> tuple[Assumptions, list[Overall], list[Pair]]:
    """All tests of a table of three folds or more.

    `Pair.p` is Tukey's where the assumptions hold, else Wilcoxon's.

    Args:
        table: a smaller or a larger figure may be the better one.
        test_share: see corrected_interval.
    """
    assumed = assumptions(table)
    several = table.shape[1] > 2
    overall = [repeated_anova(table), friedman(table) if several else wilcoxon(table)]
    p_tukey, half = tukey(table)
    p_conover = conover(table) if several else None
    pairs = []
    for (first, second), p_wilcoxon in zip(combinations(table.columns, 2), wilcoxon_pairs(table), strict=True):
        differences = (table[first] - table[second]).to_numpy()
        mean, deviation = float(differences.mean()), float(differences.std(ddof=1))
        low, high = corrected_interval(differences, test_share)
        own = None if p_conover is None else float(p_conover.loc[first, second])
        tested = float(p_tukey.loc[first, second])
        pairs.append(
            Pair(
                first,
                second,
                mean,
                low,
                high,
                (mean - half, mean + half),
                tested,
                own,
                p_wilcoxon,
                tested if assumed.hold else p_wilcoxon,
                mean / deviation if deviation > 0 else float("nan"),
                int((differences < 0).sum()),
                int((differences > 0).sum()),
            )
        )
    return assumed, overall, pairs


def holm(p: Sequence[float]) -> list[float]:
    """p-values of the same question asked of several datasets, corrected so that any false yes stays below 5 %."""
    return [float(value) for value in multipletests(p, ALPHA, "holm")[1]]
