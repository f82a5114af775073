"""Intervals and probabilities, compared with plain formulas and with their guarantees."""

import math

import numpy as np
import pytest
from scipy.special import expit

from kflm2.metrics.conformal import Calibration


def _regression(seed: int, count: int, members: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, predictions and std, (n, 1) each; the errors are proportional to the std, which is 0 without members."""
    rng = np.random.default_rng(seed)
    y_pred, std = rng.normal(size=(count, 1)), rng.uniform(0.2, 2.0, size=(count, 1))
    return y_pred + std * rng.normal(size=(count, 1)), y_pred, std if members else np.zeros((count, 1))


@pytest.mark.parametrize("members", [True, False])
def test_intervals_equal_the_plain_formula(members: bool) -> None:
    y_true, y_pred, std = _regression(0, 40, members)
    bounds = Calibration("regression", y_true, y_pred, std).intervals(np.array([[1.0]]), np.array([[0.7]]), 0.8)
    floor = np.median(std)
    scale_valid, scale = (std[:, 0] + floor, 0.7 + floor) if members else (np.ones(40), 1.0)
    # the value of rank ceil((n + 1) * confidence)
    rank = math.ceil(41 * 0.8)
    half_width = np.sort(np.abs(y_true - y_pred)[:, 0] / scale_valid)[rank - 1] * scale
    np.testing.assert_allclose(bounds[0, 0], [1 - half_width, 1 + half_width])


@pytest.mark.parametrize(("count", "confidence"), [(9, 0.9), (19, 0.9), (99, 0.9), (9, 0.8), (49, 0.8), (19, 0.95)])
def test_a_rank_that_is_a_whole_number_is_used_as_it_is(count: int, confidence: float) -> None:
    y_true, y_pred, std = _regression(7, count, members=False)
    bounds = Calibration("regression", y_true, y_pred, std).intervals(np.zeros((1, 1)), np.zeros((1, 1)), confidence)
    rank = round((count + 1) * confidence)
    assert bounds[0, 0, 1] == pytest.approx(np.sort(np.abs(y_true - y_pred)[:, 0])[rank - 1])


@pytest.mark.parametrize("confidence", [0.8, 0.9])
def test_intervals_have_the_requested_coverage(confidence: float) -> None:
    shares, widths = [], []
    for seed in range(100):
        y_true, y_pred, std = _regression(seed, 300)
        calibration = Calibration("regression", y_true[:100], y_pred[:100], std[:100])
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
    calibration = Calibration("regression", both, np.hstack([y_pred, y_pred]), np.hstack([std, std]))
    bounds = calibration.intervals(np.zeros((1, 2)), np.ones((1, 2)), 0.9)
    assert np.isfinite(bounds[0, 0]).all() and np.isinf(bounds[0, 1]).all()
    few = Calibration("regression", y_true[:5], y_pred[:5], std[:5])
    np.testing.assert_allclose(
        calibration.intervals(np.zeros((1, 2)), np.ones((1, 2)), 0.7)[0, 1],
        few.intervals(np.zeros((1, 1)), np.ones((1, 1)), 0.7)[0, 0],
    )
    coverage = calibration.coverage(np.full((3, 2), np.nan), np.zeros((3, 2)), np.ones((3, 2)), 0.9)
    assert (coverage.share, coverage.size) == (None, None)
    assert calibration.coverage(np.zeros((3, 2)), np.zeros((3, 2)), np.ones((3, 2)), 0.9).size is None


def _classes(seed: int, count: int, sharper: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities whose logits are `sharper` times the true ones."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 2, size=(count, 1))
    return (rng.uniform(size=(count, 1)) < expit(logits)).astype(float), expit(sharper * logits)


@pytest.mark.parametrize("sharper", [0.5, 1.0, 3.0])
def test_temperature_corrects_overconfidence(sharper: float) -> None:
    y_true, y_pred = _classes(3, 4000, sharper)
    calibration = Calibration("classification", y_true, y_pred, np.zeros_like(y_pred))
    assert calibration.temperature[0] == pytest.approx(sharper, rel=0.1)
    scaled = calibration.calibrated(y_pred)
    assert (np.diff(scaled[np.argsort(y_pred[:, 0]), 0]) >= 0).all()
    assert scaled.mean() == pytest.approx(y_true.mean(), abs=0.02)


def test_a_single_class_cannot_be_calibrated() -> None:
    y_pred = np.array([[0.2], [0.9]])
    calibration = Calibration("classification", np.ones((2, 1)), y_pred, np.zeros((2, 1)))
    np.testing.assert_allclose(calibration.calibrated(y_pred), y_pred, atol=1e-6)
    # without labels of class 0 it is never excluded
    assert calibration.sets(y_pred, 0.9)[:, 0, 0].all()


def test_sets_have_the_requested_coverage_for_each_class() -> None:
    shares: dict[int, list[float]] = {0: [], 1: []}
    for seed in range(60):
        y_true, y_pred = _classes(seed, 600, 1.0)
        calibration = Calibration("classification", y_true[:200], y_pred[:200], np.zeros((200, 1)))
        sets = calibration.sets(y_pred[200:], 0.9)[:, 0]
        for label, values in shares.items():
            values.append(sets[y_true[200:, 0] == label, label].mean())
    assert np.mean(shares[0]) == pytest.approx(0.9, abs=0.015)
    assert np.mean(shares[1]) == pytest.approx(0.9, abs=0.02)
