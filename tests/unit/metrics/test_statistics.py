"""Statistical tests on the same folds, compared with statsmodels and scipy called directly."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.anova import AnovaRM
from statsmodels.stats.multicomp import MultiComparison
from statsmodels.stats.multitest import multipletests

from kflm2.metrics import statistics
from kflm2.metrics.statistics import Pair


def _table(folds: int = 25, effects: tuple[float, ...] = (0.0, 0.01, 0.15, 0.4), seed: int = 3) -> pd.DataFrame:
    """Metrics with a strong effect of the fold, as in cross-validation."""
    rng = np.random.default_rng(seed)
    values = 1 + rng.normal(0, 0.3, (folds, 1)) + np.array(effects) + rng.normal(0, 0.05, (folds, len(effects)))
    return pd.DataFrame(values, columns=[f"m{number}" for number in range(len(effects))])


def _pair(pairs: list[Pair], first: str, second: str) -> Pair:
    return next(pair for pair in pairs if (pair.first, pair.second) == (first, second))


def test_analysis_of_variance_equals_statsmodels() -> None:
    table = _table()
    long = table.reset_index().melt("index")
    expected = AnovaRM(long, "value", "index", within=["variable"]).fit().anova_table.iloc[0]
    result = statistics.repeated_anova(table.rename(columns={"m0": "fold", "m1": "figure"}))
    assert (result.statistic, result.p) == pytest.approx((expected["F Value"], expected["Pr > F"]))
    assert result.freedom == (3, 72)
    # by hand: variance between methods over residual variance
    within = (statistics.residuals(table).to_numpy() ** 2).sum() / 72
    between = 25 * ((table.mean() - table.to_numpy().mean()) ** 2).sum() / 3
    assert result.statistic == pytest.approx(between / within)


def test_tukey_equals_statsmodels_where_folds_have_no_effect() -> None:
    """After subtracting fold means, the errors differ by the degrees of freedom only, which are known."""
    table = _table(seed=5)
    centred = table.sub(table.mean(axis=1), axis=0)
    long = centred.melt()
    expected = MultiComparison(long["value"], long["variable"]).tukeyhsd()
    p, half_width = statistics.tukey(table)
    folds, methods = table.shape
    ratio = ((folds - 1) * (methods - 1)) / (folds * methods - methods)  # of degrees of freedom: ours over statsmodels'
    q_statsmodels = stats.studentized_range.ppf(0.95, methods, folds * methods - methods)
    q_ours = stats.studentized_range.ppf(0.95, methods, (folds - 1) * (methods - 1))
    half_widths = (expected.confint[:, 1] - expected.confint[:, 0]) / 2
    np.testing.assert_allclose(half_width, half_widths / q_statsmodels * q_ours / np.sqrt(ratio), rtol=1e-6)
    assert p.loc["m0", "m1"] == p.loc["m1", "m0"]
    assert (np.diag(p) == 1).all()


def test_tukey_of_two_methods_is_the_paired_t_test() -> None:
    table = _table(effects=(0.0, 0.02))
    p, half_width = statistics.tukey(table)
    expected = stats.ttest_rel(table["m0"], table["m1"])
    assert p.loc["m0", "m1"] == pytest.approx(expected.pvalue, rel=1e-6)
    interval = expected.confidence_interval(0.95)
    assert half_width == pytest.approx((interval.high - interval.low) / 2, rel=1e-6)


def test_rank_tests_equal_scipy() -> None:
    table = _table()
    result = statistics.friedman(table)
    expected = stats.friedmanchisquare(*table.to_numpy().T)
    assert (result.statistic, result.p) == pytest.approx((expected.statistic, expected.pvalue))
    two = table[["m0", "m2"]]
    assert statistics.wilcoxon(two).p == stats.wilcoxon(two["m0"], two["m2"]).pvalue


def test_conover_equals_its_formula() -> None:
    """Conover, Practical Nonparametric Statistics, 3rd ed. 1999, section 5.8: Student's t of rank sums."""
    table = _table(folds=12, effects=(0.0, 0.02, 0.06))
    folds, methods = table.shape
    ranks = table.rank(axis=1)
    sums = ranks.sum()
    squares = (ranks**2).to_numpy().sum()
    freedom = (folds - 1) * (methods - 1)
    error = np.sqrt(2 * (folds * squares - (sums**2).sum()) / freedom)
    raw = {
        (first, second): 2 * stats.t.sf(abs(sums[first] - sums[second]) / error, freedom)
        for first, second in (("m0", "m1"), ("m0", "m2"), ("m1", "m2"))
    }
    corrected = multipletests(list(raw.values()), method="holm")[1]
    p_conover = statistics.conover(table)
    for (first, second), p in zip(raw, corrected, strict=True):
        assert p_conover.loc[first, second] == pytest.approx(p, rel=1e-6)


def test_the_interval_is_students_and_wider_where_training_parts_overlap() -> None:
    differences = _table()["m2"].to_numpy() - _table()["m0"].to_numpy()
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert statistics.corrected_interval(differences, 0.0) == pytest.approx((expected.low, expected.high))
    low, high = statistics.corrected_interval(differences, 0.25)
    # 25 runs of five folds: 1/25 becomes 1/25 + 1/4
    assert (high - low) / (expected.high - expected.low) == pytest.approx(np.sqrt((1 / 25 + 1 / 4) / (1 / 25)))


def test_the_corrected_interval_has_the_stated_coverage() -> None:
    """For two equal methods in repeated cross-validation, about 5 % of the intervals exclude 0; many of Student's."""
    rng = np.random.default_rng(0)
    outside = {0.0: 0, 0.25: 0}
    for _ in range(300):
        # differences of errors per molecule, the same molecules in each repeat, plus an effect of the training part
        per_molecule = rng.normal(0, 1, 100)
        differences = []
        for _ in range(5):
            order = rng.permutation(100)
            differences += [per_molecule[fold].mean() + rng.normal(0, 0.05) for fold in np.array_split(order, 5)]
        for share in outside:
            low, high = statistics.corrected_interval(np.array(differences), share)
            outside[share] += not low <= 0 <= high
    assert outside[0.25] / 300 < 0.1
    assert outside[0.0] / 300 > 0.25


def test_p_is_of_the_test_whose_assumptions_hold() -> None:
    normal = _table()
    checks, overall, pairs = statistics.compare(normal, 0.25)
    assert checks.hold
    assert [test.name for test in overall] == ["repeated-measures ANOVA", "Friedman"]
    assert all(pair.p == pair.p_tukey for pair in pairs)
    pair = _pair(pairs, "m0", "m2")
    assert pair.difference == pytest.approx((normal["m0"] - normal["m2"]).mean())
    assert pair.effect == pytest.approx(pair.difference / (normal["m0"] - normal["m2"]).std(ddof=1))
    assert (pair.wins, pair.losses) == ((normal["m0"] < normal["m2"]).sum(), (normal["m0"] > normal["m2"]).sum())
    assert pair.tukey[0] < pair.difference < pair.tukey[1]
    assert _pair(pairs, "m0", "m1").p > 0.05 > pair.p

    skewed = normal.copy()
    skewed.loc[[3, 11], "m3"] += 4.0
    checks, _, pairs = statistics.compare(skewed, 0.25)
    assert not checks.hold
    assert all(pair.p == pair.p_wilcoxon for pair in pairs)
    raw = [stats.wilcoxon(skewed[pair.first], skewed[pair.second]).pvalue for pair in pairs]
    assert [pair.p for pair in pairs] == pytest.approx(multipletests(raw, method="holm")[1])

    unequal = normal.copy()
    unequal["m3"] += np.random.default_rng(1).normal(0, 1, 25)
    assert not statistics.assumptions(unequal).hold

    # two methods have only as many independent errors as folds: scipy's test of the paired differences
    two = normal[["m0", "m3"]]
    assert statistics.assumptions(two).shapiro == pytest.approx(stats.shapiro(two["m0"] - two["m3"]).pvalue)
    two = skewed[["m0", "m3"]]
    _, overall, (pair,) = statistics.compare(two, 0.25)
    assert overall[1].name == "Wilcoxon"
    assert pair.p_conover is None
    assert pair.p == stats.wilcoxon(two["m0"], two["m3"]).pvalue


def test_a_clear_difference_does_not_depend_on_the_other_methods() -> None:
    """Conover's test depends on the ranks of all other methods; 25 wins of 25 must not depend on them."""
    table = _table(effects=(0.0, 0.5, 5.0, 10.0))
    rng = np.random.default_rng(0)
    for number in range(8):
        table[f"noisy{number}"] = rng.standard_t(2, size=25) * 30
    checks, _, pairs = statistics.compare(table, 0.25)
    pair = _pair(pairs, "m0", "m1")
    assert not checks.hold and (pair.wins, pair.losses) == (25, 0)
    assert pair.p < 0.001 < pair.p_conover


@pytest.mark.filterwarnings("error")
def test_equal_methods_are_no_error() -> None:
    table = _table()
    table["m1"] = table["m0"]
    _, _, pairs = statistics.compare(table, 0.25)
    pair = _pair(pairs, "m0", "m1")
    assert (pair.difference, pair.low, pair.high) == (0, 0, 0)
    assert (pair.p_tukey, pair.p_conover, pair.p_wilcoxon) == (1, 1, 1)
    assert np.isnan(pair.effect)


@pytest.mark.filterwarnings("error")
def test_equal_ranks_in_every_fold_are_no_error() -> None:
    table = _table(effects=(0.0, 5.0, 10.0, 10.0))
    table["m3"] = table["m2"]
    p = statistics.conover(table)
    # the smallest p of a sign test of 25 folds, corrected for six pairs
    assert p.loc["m0", "m1"] == 6 * 2 * 0.5**25
    assert p.loc["m2", "m3"] == 1
    assert statistics.conover(table.head(3)).loc["m0", "m1"] == 1


def test_holm_equals_the_corrected_values() -> None:
    p = [0.01, 0.04, 0.03]
    assert statistics.holm(p) == pytest.approx([0.03, 0.06, 0.06])
