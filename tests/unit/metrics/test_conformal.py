"""Intervals and probabilities, compared with plain formulas and with their guarantees."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit
from sklearn.metrics import log_loss

from kflm2.metrics.conformal import Calibration, coverage_range, promise


def _regression(seed: int, count: int, members: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, predictions and std, (n, 1) each; the errors are proportional to the std, which is 0 without members."""
    rng = np.random.default_rng(seed)
    y_pred, std = rng.normal(size=(count, 1)), rng.uniform(0.2, 2.0, size=(count, 1))
    return y_pred + std * rng.normal(size=(count, 1)), y_pred, std if members else np.zeros((count, 1))


@pytest.mark.parametrize("members", [True, False])
def test_intervals_equal_the_plain_formula(members: bool) -> None:
    y_true, y_pred, std = _regression(0, 40, members)
    bounds = Calibration.fit("regression", y_true, y_pred, std).intervals(np.array([[1.0]]), np.array([[0.7]]), 0.8)
    floor = np.median(std)
    scale_valid, scale = (std[:, 0] + floor, 0.7 + floor) if members else (np.ones(40), 1.0)
    # the value of rank ceil((n + 1) * confidence)
    rank = math.ceil(41 * 0.8)
    half_width = np.sort(np.abs(y_true - y_pred)[:, 0] / scale_valid)[rank - 1] * scale
    np.testing.assert_allclose(bounds[0, 0], [1 - half_width, 1 + half_width])


@pytest.mark.parametrize(("count", "confidence"), [(9, 0.9), (19, 0.9), (99, 0.9), (9, 0.8), (49, 0.8), (19, 0.95)])
def test_a_rank_that_is_a_whole_number_is_used_as_it_is(count: int, confidence: float) -> None:
    y_true, y_pred, std = _regression(7, count, members=False)
    bounds = Calibration.fit("regression", y_true, y_pred, std).intervals(
        np.zeros((1, 1)), np.zeros((1, 1)), confidence
    )
    rank = round((count + 1) * confidence)
    assert bounds[0, 0, 1] == pytest.approx(np.sort(np.abs(y_true - y_pred)[:, 0])[rank - 1])


@pytest.mark.parametrize(("count", "confidence"), [(9, 0.9), (19, 0.9), (99, 0.9), (9, 0.8)])
def test_sets_use_a_rank_that_is_a_whole_number_as_it_is(count: int, confidence: float) -> None:
    y_pred = np.random.default_rng(2).random((count, 1))
    calibration = Calibration("classification", np.zeros((count, 1)), y_pred, np.zeros((count, 1)), np.ones(1))
    largest = np.sort(y_pred[:, 0])[round((count + 1) * confidence) - 1]
    queries = np.array([[largest - 1e-6], [largest + 1e-6]])
    assert calibration.sets(queries, confidence)[:, 0, 0].tolist() == [True, False]


@pytest.mark.parametrize("confidence", [0.8, 0.9])
def test_intervals_have_the_requested_coverage(confidence: float) -> None:
    shares, widths = [], []
    for seed in range(100):
        y_true, y_pred, std = _regression(seed, 300)
        calibration = Calibration.fit("regression", y_true[:100], y_pred[:100], std[:100])
        coverage = calibration.coverage(y_true[100:], y_pred[100:], std[100:], confidence)
        shares.append(coverage.share)
        widths.append(coverage.size)
    # with 100 calibration rows each share deviates from the requested coverage by about 0.03
    assert np.mean(shares) == pytest.approx(confidence, abs=0.01)
    assert 1 < np.mean(widths) < 6


def test_too_few_labels_give_infinite_intervals_and_missing_labels_do_not_count() -> None:
    y_true, y_pred, std = _regression(1, 30)
    both = np.hstack([y_true, y_true])
    both[5:, 1] = np.nan
    calibration = Calibration.fit("regression", both, np.hstack([y_pred, y_pred]), np.hstack([std, std]))
    bounds = calibration.intervals(np.zeros((1, 2)), np.ones((1, 2)), 0.9)
    assert np.isfinite(bounds[0, 0]).all() and np.isinf(bounds[0, 1]).all()
    few = Calibration.fit("regression", y_true[:5], y_pred[:5], std[:5])
    np.testing.assert_allclose(
        calibration.intervals(np.zeros((1, 2)), np.ones((1, 2)), 0.7)[0, 1],
        few.intervals(np.zeros((1, 1)), np.ones((1, 1)), 0.7)[0, 0],
    )
    coverage = calibration.coverage(np.full((3, 2), np.nan), np.zeros((3, 2)), np.ones((3, 2)), 0.9)
    assert (coverage.share, coverage.size) == (None, None)
    assert calibration.coverage(np.zeros((3, 2)), np.zeros((3, 2)), np.ones((3, 2)), 0.9).size is None


@pytest.mark.parametrize(("count", "confidence"), [(64, 0.9), (20, 0.8)])
def test_the_range_of_coverage_is_that_of_simulated_models(count: int, confidence: float) -> None:
    """4,000 models: the errors of their calibration molecules and of new molecules are normal."""
    rng = np.random.default_rng(0)
    errors = rng.normal(size=(4000, count, 1))
    zeros = np.zeros((count, 1))
    ends = [
        Calibration.fit("regression", own, zeros, zeros).intervals(zeros[:1], zeros[:1], confidence)[0, 0, 1]
        for own in errors
    ]
    coverage = stats.norm.cdf(ends) - stats.norm.cdf(np.negative(ends))
    # of 4,000 draws, the quantiles are known to about 0.005
    assert coverage_range(count, confidence) == pytest.approx(np.quantile(coverage, [0.025, 0.975]), abs=0.01)


def test_too_few_molecules_promise_nothing_and_the_promise_is_in_words() -> None:
    assert coverage_range(8, 0.9) == (1, 1)
    # nine molecules: the largest error, which the tenth is below in 9 of 10 cases; the smallest of 9 uniforms to 1 / 9
    assert coverage_range(9, 0.9) == pytest.approx((0.025 ** (1 / 9), 0.975 ** (1 / 9)))
    assert "the intervals of one model hold 83 to 96 %" in promise(64, "regression", 0.9)
    assert "validation has 8 labels, too few for 90 %" in promise(8, "regression", 0.9)
    folds = promise(360, "regression", 0.9, folds=True)
    assert (
        "out-of-fold predictions of 360 labels" in folds and "about 87 to 93 %" in folds and "not guaranteed" in folds
    )
    assert "the inner folds have 8 labels, too few" in promise(8, "regression", 0.9, folds=True)


def test_the_promise_is_of_the_target_or_class_with_the_fewest_labels() -> None:
    y_true = np.array([[0.0, 1], [1, np.nan], [0, 1], [np.nan, np.nan], [1, 0]])
    zeros = np.zeros((5, 2))
    assert Calibration.fit("regression", y_true, zeros, zeros).fewest == 3
    assert Calibration.fit("classification", y_true, zeros + 0.5, zeros).fewest == 1
    assert Calibration.fit("classification", np.zeros((5, 1)), zeros[:, :1], zeros[:, :1]).fewest == 5


def test_widths_in_several_units_have_no_mean() -> None:
    y_true, y_pred, std = _regression(4, 60)
    both = (np.hstack([y_true, 1000 * y_true]), np.hstack([y_pred, 1000 * y_pred]), np.hstack([std, 1000 * std]))
    coverage = Calibration.fit("regression", *both).coverage(*both, 0.9)
    assert coverage.share is not None and coverage.size is None


def _classes(seed: int, count: int, sharper: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities whose logits are `sharper` times the true ones."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 2, size=(count, 1))
    return (rng.uniform(size=(count, 1)) < expit(logits)).astype(float), expit(sharper * logits)


@pytest.mark.parametrize("sharper", [0.5, 1.0, 3.0])
def test_temperature_corrects_overconfidence(sharper: float) -> None:
    y_true, y_pred = _classes(3, 4000, sharper)
    calibration = Calibration.fit("classification", y_true, y_pred, np.zeros_like(y_pred))
    assert calibration.temperature[0] == pytest.approx(sharper, rel=0.1)
    scaled = calibration.calibrated(y_pred)
    assert (np.diff(scaled[np.argsort(y_pred[:, 0]), 0]) >= 0).all()
    assert scaled.mean() == pytest.approx(y_true.mean(), abs=0.02)


def test_probabilities_are_scaled_only_where_that_helps_others() -> None:
    """Of few molecules with good probabilities, the best temperature is fitted to chance."""
    kept, gain = [], []
    for seed in range(40):
        y_true, y_pred = _classes(seed, 30, 1.0)
        zeros = np.zeros_like(y_pred)
        calibration = Calibration.fit("classification", y_true, y_pred, zeros)
        always = Calibration.fit("classification", y_true, y_pred, zeros, always_scale=True)
        kept.append(calibration.temperature[0] == 1)
        # the temperature of earlier versions is the one that cross-entropy of these molecules likes best
        for other in (0.9, 1.1):
            assert _nll(y_true, always.calibrated(y_pred)) <= _nll(
                y_true, dataclasses.replace(always, temperature=other * always.temperature).calibrated(y_pred)
            )
        true, pred = _classes(1000 + seed, 2000, 1.0)
        gain.append(_nll(true, always.calibrated(pred)) - _nll(true, calibration.calibrated(pred)))
    assert 20 < sum(kept) < 40
    # on other molecules, on average
    assert np.mean(gain) > 0


def _nll(y_true: np.ndarray, probability: np.ndarray) -> float:
    return float(log_loss(y_true[:, 0], probability[:, 0]))


def test_a_single_class_cannot_be_calibrated() -> None:
    y_pred = np.array([[0.2], [0.9]])
    calibration = Calibration.fit("classification", np.ones((2, 1)), y_pred, np.zeros((2, 1)))
    np.testing.assert_allclose(calibration.calibrated(y_pred), y_pred, atol=1e-6)
    # without labels of class 0 it is never excluded
    assert calibration.sets(y_pred, 0.9)[:, 0, 0].all()


def test_sets_have_the_requested_coverage_for_each_class() -> None:
    shares: dict[int, list[float]] = {0: [], 1: []}
    for seed in range(60):
        y_true, y_pred = _classes(seed, 600, 1.0)
        calibration = Calibration.fit("classification", y_true[:200], y_pred[:200], np.zeros((200, 1)))
        sets = calibration.sets(y_pred[200:], 0.9)[:, 0]
        for label, values in shares.items():
            values.append(sets[y_true[200:, 0] == label, label].mean())
    assert np.mean(shares[0]) == pytest.approx(0.9, abs=0.015)
    assert np.mean(shares[1]) == pytest.approx(0.9, abs=0.02)


def test_without_names_the_intervals_are_the_same_and_labels_are_gone() -> None:
    y_true, y_pred, std = (np.repeat(array, 2, axis=1) for array in _regression(4, 50))
    y_true[::7, 1] = np.nan
    whole = Calibration.fit("regression", y_true, y_pred, std)
    anonymous = whole.anonymous()
    queries = np.array([[0.5, 1.0], [-3.0, 2.0]]), np.array([[0.3, 0.4], [1.0, 0.1]])
    np.testing.assert_array_equal(whole.intervals(*queries, 0.9), anonymous.intervals(*queries, 0.9))
    assert whole.fewest == anonymous.fewest
    assert not np.isin(anonymous.y_true, y_true).any() and not anonymous.y_pred.any()


def test_without_names_the_sets_are_the_same() -> None:
    rng = np.random.default_rng(5)
    labels, y_pred = rng.integers(0, 2, (60, 1)).astype(float), rng.random((60, 1))
    whole = Calibration.fit("classification", labels, y_pred, np.zeros((60, 1)))
    anonymous = whole.anonymous()
    queries = rng.random((20, 1))
    np.testing.assert_array_equal(whole.sets(queries, 0.8), anonymous.sets(queries, 0.8))
    np.testing.assert_array_equal(whole.calibrated(queries), anonymous.calibrated(queries))
    assert not np.array_equal(labels, anonymous.y_true)
