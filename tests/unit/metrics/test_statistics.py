"""The comparison of methods, against scipy's tests and simulations of equal methods."""

import itertools
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kflm2.data.splits import make_splits
from kflm2.metrics import statistics
from kflm2.metrics.statistics import Design, Pair, compare, posterior

ROOT = Path(__file__).parents[3]


def _table(runs: int = 25, effects: tuple[float, ...] = (0.0, 0.01, 0.15, 0.4), seed: int = 3) -> pd.DataFrame:
    """Metrics with a strong effect of the run, as in cross-validation."""
    rng = np.random.default_rng(seed)
    values = 1 + rng.normal(0, 0.3, (runs, 1)) + np.array(effects) + rng.normal(0, 0.05, (runs, len(effects)))
    return pd.DataFrame(values, columns=[f"m{number}" for number in range(len(effects))])


def _independent(runs: int) -> Design:
    """Runs that share no molecule."""
    return Design(runs, molecules=100, tested=100, test_share=0.0, overlap=0.0, expected=0.1)


def _pair(pairs: list[Pair], first: str, second: str) -> Pair:
    return next(pair for pair in pairs if (pair.first, pair.second) == (first, second))


def test_two_methods_on_independent_runs_get_the_paired_t_test() -> None:
    table = _table(effects=(0.0, 0.02))
    (pair,) = compare(table, _independent(25), 0.01)
    expected = stats.ttest_rel(table["m0"], table["m1"])
    interval = expected.confidence_interval(0.95)
    assert pair.p == pytest.approx(expected.pvalue, rel=1e-6)
    assert (pair.low, pair.high) == pytest.approx((interval.low, interval.high), rel=1e-6)
    assert pair.effect == pytest.approx(expected.statistic / 5)
    assert (pair.wins, pair.losses) == ((table["m0"] < table["m1"]).sum(), (table["m0"] > table["m1"]).sum())


def test_variances_are_corrected_for_shared_molecules() -> None:
    """Nadeau and Bengio: 1 / n becomes 1 / n + test / train."""
    table = _table()
    plain = compare(table, _independent(25), 0.01)
    corrected = compare(table, Design(25, 100, 100, test_share=0.25, overlap=0.17, expected=0.2), 0.01)
    ratio = np.sqrt((1 / 25 + 1 / 4) / (1 / 25))
    for before, after in zip(plain, corrected, strict=True):
        assert (after.high - after.low) / (before.high - before.low) == pytest.approx(ratio)
        assert after.difference == before.difference
        assert after.p >= before.p
    # more overlap of test parts than of parts drawn at random is a larger correlation
    overlapping = Design(25, 100, 30, test_share=0.25, overlap=0.5, expected=0.2)
    assert overlapping.error_factor == pytest.approx(np.sqrt(1 / 25 + 1))
    assert not overlapping.is_sound


def test_p_and_intervals_are_adjusted_for_all_pairs() -> None:
    table = _table(effects=(0.0, 0.02, 0.05, 0.08, 0.3))
    design = Design(25, 100, 100, test_share=0.25, overlap=0.17, expected=0.2)
    pairs = compare(table, design, 0.01)
    assert len(pairs) == 10
    # of a pair by itself: Student's t with the corrected variance
    t = [pair.effect / np.sqrt(1 / 25 + 0.25) for pair in pairs]
    alone = 2 * stats.t.sf(np.abs(t), 24)
    largest = 0.0
    for rank, index in enumerate(np.argsort(alone)):
        largest = max(largest, min(1.0, (10 - rank) * alone[index]))
        assert pairs[index].p == pytest.approx(largest)
    excluded = [not pair.low <= 0 <= pair.high for pair in pairs]
    assert excluded == list(alone < 0.05 / 10)
    assert 2 < sum(excluded) < 9
    # a difference of exactly the resolution has an interval that ends at 0
    differences = table["m1"] - table["m0"]
    shifted = table.assign(m1=table["m1"] - differences.mean() + design.resolution(5) * differences.std(ddof=1))
    pair = _pair(compare(shifted, design, 0.01), "m0", "m1")
    assert pair.high == pytest.approx(0, abs=1e-12)


def test_the_design_counts_molecules_and_overlaps() -> None:
    tests = [{1, 2, 3, 4}, {3, 4, 5, 6}, {1, 2, 3, 9}]
    design = Design.of(tests, [16, 16, 8], 20)
    assert (design.runs, design.tested, design.expected) == (3, 7, 0.2)
    assert design.overlap == pytest.approx((2 + 3 + 1) / 4 / 3)
    assert design.test_share == pytest.approx((4 / 16 + 4 / 16 + 4 / 8) / 3)
    # half of such small parts may be shared by chance; of parts ten times as large it is not
    larger = [{10 * number + digit for number in test for digit in range(10)} for test in tests]
    assert Design.of(larger, [160, 160, 80], 200).overlap == design.overlap
    assert not Design.of(larger, [160, 160, 80], 200).is_sound
    folds = [np.arange(20)[fold::5] for fold in range(5)]
    cross_validation = Design.of(folds, [16] * 5, 20)
    assert (cross_validation.overlap, cross_validation.tested) == (0, 20)
    assert cross_validation.is_sound


def test_posterior_probabilities_equal_a_simulation() -> None:
    rng = np.random.default_rng(0)
    draws = 0.3 + 0.2 * rng.standard_t(9, 400_000)
    result = posterior(0.3, 0.2, 10, 0.1)
    expected = ((draws < -0.1).mean(), (abs(draws) <= 0.1).mean(), (draws > 0.1).mean())
    assert (result.smaller, result.alike, result.larger) == pytest.approx(expected, abs=3e-3)
    assert result.smaller + result.alike + result.larger == pytest.approx(1)


@pytest.mark.parametrize(("molecules", "runs"), [(30, 3), (30, 5), (65, 3), (100, 3), (100, 10), (642, 5)])
def test_random_splits_are_hardly_ever_taken_for_repeated_ones(molecules: int, runs: int) -> None:
    refused = 0
    for seed in range(200):
        splits = make_splits("random", ["C"] * molecules, range(runs * seed, runs * (seed + 1)))
        sizes = [len(split.train) for split in splits]
        refused += not Design.of([split.test.tolist() for split in splits], sizes, molecules).is_sound
    assert refused <= 6
    fixed = make_splits("random", ["C"] * molecules, [0] * runs)
    assert not Design.of([split.test.tolist() for split in fixed], [1] * runs, molecules).is_sound


def test_a_difference_that_is_the_same_in_every_run_proves_nothing() -> None:
    """As of ROC-AUCs of a few molecules; by a t-test p would be 0."""
    table = pd.DataFrame({"a": [0.8, 0.9, 1.0], "b": [0.7, 0.8, 0.9], "c": [0.8, 0.9, 1.0 + 1e-13]})
    pairs = compare(table, Design(3, 100, 30, 0.125, 0.1, 0.1), 0.01)
    pair = _pair(pairs, "a", "b")
    assert pair.difference == pytest.approx(0.1)
    assert (pair.low, pair.high, pair.p) == (-np.inf, np.inf, 1) and np.isnan(pair.effect)
    equal = _pair(pairs, "a", "c")
    assert (equal.difference, equal.p, equal.probabilities.alike) == (0, 1, 1)


@pytest.mark.filterwarnings("error")
def test_equal_methods_are_no_error() -> None:
    table = _table()
    table["m1"] = table["m0"]
    table["m2"] = table["m0"] + 1
    pairs = compare(table, _independent(25), 0.1)
    pair = _pair(pairs, "m0", "m1")
    assert (pair.difference, pair.low, pair.high, pair.p, pair.probabilities.alike) == (0, 0, 0, 1, 1)
    assert np.isnan(pair.effect)


def test_holm_equals_the_corrected_values() -> None:
    p = [0.01, 0.04, 0.03]
    assert statistics.holm(p) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.5, 0.9, 0.001]) == pytest.approx([1.0, 1.0, 0.003])


def test_the_p_over_datasets_is_the_share_of_signs_that_are_as_extreme() -> None:
    differences = [0.62, 1.3, -0.05, 0.2, 0.9, 0.33, -0.41, 2.0]
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    found = abs((np.sign(differences) * ranks).sum())
    signs = np.array(list(itertools.product([-1, 1], repeat=len(differences))))
    assert statistics.over_datasets(differences) == pytest.approx(np.mean(np.abs(signs @ ranks) >= found))
    assert statistics.over_datasets([1.0] * 5) == 1.0  # five of five: 0.0625 at best
    assert statistics.over_datasets([1.0, 1.1, 1.2, 1.3, 1.4, 1.5]) == pytest.approx(2 / 64)
    assert statistics.over_datasets([0.0] * 7) == 1.0


@pytest.mark.parametrize("methods", [2, 4, 6, 10])
@pytest.mark.parametrize("kind", ["cv5x5", "random", "scaffold_cv5x5"])
def test_equal_methods_are_rarely_told_apart(kind: str, methods: int) -> None:
    """A short form of benchmark/verdicts.py: any false difference in at most 7 % of the comparisons."""
    count = 200
    found = runpy.run_path(str(ROOT / "benchmark" / "verdicts.py"))["false_differences"](kind, methods, count, seed=7)
    assert found <= 0.07 * count
