"""Intervals, probabilities and domains: against plain formulas, and against what they promise."""

import math

import numpy as np
import pytest
from scipy.special import expit

from kflm2.data.similarity import fingerprints
from kflm2.metrics.applicability_domain import ApplicabilityDomain
from kflm2.metrics.conformal import Calibration


def _regression(seed: int, count: int, members: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors that are as large as the members differ, (n, 1) each: measured, predicted, spread."""
    rng = np.random.default_rng(seed)
    y_pred, noise = rng.normal(size=(count, 1)), rng.uniform(0.2, 2.0, size=(count, 1))
    return y_pred + noise * rng.normal(size=(count, 1)), y_pred, noise if members else np.zeros((count, 1))


@pytest.mark.parametrize("members", [True, False])
def test_intervals_are_the_plain_formula(members: bool) -> None:
    y_true, y_pred, std = _regression(0, 40, members)
    found = Calibration("regression", y_true, y_pred, std).intervals(np.array([[1.0]]), np.array([[0.7]]), 0.8)
    floor = np.median(std)
    scale, own = (std[:, 0] + floor, 0.7 + floor) if members else (np.ones(40), 1.0)
    # the value of rank ceil((n + 1) * confidence)
    rank = math.ceil(41 * 0.8)
    width = np.sort(np.abs(y_true - y_pred)[:, 0] / scale)[rank - 1] * own
    np.testing.assert_allclose(found[0, 0], [1 - width, 1 + width])


@pytest.mark.parametrize(("count", "confidence"), [(9, 0.9), (19, 0.9), (99, 0.9), (9, 0.8), (49, 0.8), (19, 0.95)])
def test_where_the_rank_is_a_whole_number_it_is_that_one(count: int, confidence: float) -> None:
    y_true, y_pred, std = _regression(7, count, members=False)
    found = Calibration("regression", y_true, y_pred, std).intervals(np.zeros((1, 1)), np.zeros((1, 1)), confidence)
    rank = round((count + 1) * confidence)
    assert found[0, 0, 1] == pytest.approx(np.sort(np.abs(y_true - y_pred)[:, 0])[rank - 1])


@pytest.mark.parametrize("confidence", [0.8, 0.9])
def test_intervals_hold_as_often_as_they_say(confidence: float) -> None:
    shares, widths = [], []
    for seed in range(100):
        y_true, y_pred, std = _regression(seed, 300)
        own = Calibration("regression", y_true[:100], y_pred[:100], std[:100])
        coverage = own.coverage(y_true[100:], y_pred[100:], std[100:], confidence)
        shares.append(coverage.share)
        widths.append(coverage.size)
    # 100 calibration rows give shares around the promise with a deviation of about 0.03 each
    assert np.mean(shares) == pytest.approx(confidence, abs=0.01)
    assert 1 < np.mean(widths) < 6


def test_too_few_labels_give_infinite_intervals_and_missing_ones_do_not_count() -> None:
    y_true, y_pred, std = _regression(1, 30)
    both = np.hstack([y_true, y_true])
    both[5:, 1] = np.nan
    own = Calibration("regression", both, np.hstack([y_pred, y_pred]), np.hstack([std, std]))
    found = own.intervals(np.zeros((1, 2)), np.ones((1, 2)), 0.9)
    assert np.isfinite(found[0, 0]).all() and np.isinf(found[0, 1]).all()
    few = Calibration("regression", y_true[:5], y_pred[:5], std[:5])
    np.testing.assert_allclose(
        own.intervals(np.zeros((1, 2)), np.ones((1, 2)), 0.7)[0, 1],
        few.intervals(np.zeros((1, 1)), np.ones((1, 1)), 0.7)[0, 0],
    )
    nothing = own.coverage(np.full((3, 2), np.nan), np.zeros((3, 2)), np.ones((3, 2)), 0.9)
    assert (nothing.share, nothing.size) == (None, None)
    assert own.coverage(np.zeros((3, 2)), np.zeros((3, 2)), np.ones((3, 2)), 0.9).size is None


def _classes(seed: int, count: int, sharper: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities whose logits are `sharper` times what they should be."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 2, size=(count, 1))
    return (rng.uniform(size=(count, 1)) < expit(logits)).astype(float), expit(sharper * logits)


@pytest.mark.parametrize("sharper", [0.5, 1.0, 3.0])
def test_temperature_undoes_what_is_too_sharp(sharper: float) -> None:
    y_true, y_pred = _classes(3, 4000, sharper)
    own = Calibration("classification", y_true, y_pred, np.zeros_like(y_pred))
    assert own.temperature[0] == pytest.approx(sharper, rel=0.1)
    scaled = own.calibrated(y_pred)
    assert (np.diff(scaled[np.argsort(y_pred[:, 0]), 0]) >= 0).all()
    assert scaled.mean() == pytest.approx(y_true.mean(), abs=0.02)


def test_one_class_alone_cannot_be_calibrated() -> None:
    y_pred = np.array([[0.2], [0.9]])
    own = Calibration("classification", np.ones((2, 1)), y_pred, np.zeros((2, 1)))
    np.testing.assert_allclose(own.calibrated(y_pred), y_pred, atol=1e-6)
    # nothing is known of class 0, so it is never ruled out
    assert own.sets(y_pred, 0.9)[:, 0, 0].all()


def test_sets_hold_each_class_as_often_as_they_say() -> None:
    held: dict[int, list[float]] = {0: [], 1: []}
    for seed in range(60):
        y_true, y_pred = _classes(seed, 600, 1.0)
        own = Calibration("classification", y_true[:200], y_pred[:200], np.zeros((200, 1)))
        sets = own.sets(y_pred[200:], 0.9)[:, 0]
        for label, values in held.items():
            values.append(sets[y_true[200:, 0] == label, label].mean())
    assert np.mean(held[0]) == pytest.approx(0.9, abs=0.015)
    assert np.mean(held[1]) == pytest.approx(0.9, abs=0.02)


def test_a_domain_knows_its_own_and_lets_in_what_validation_was() -> None:
    rng = np.random.default_rng(0)
    train = [f"{'C' * n}{end}" for n in range(1, 15) for end in ("O", "N", "C(=O)O", "Cl")]
    valid = [f"{'C' * n}Br" for n in range(1, 21)]
    vectors = rng.normal(size=(len(train) + len(valid), 6))
    domain = ApplicabilityDomain.fit((train, vectors[: len(train)]), (valid, vectors[len(train) :]))
    own = domain.locate(fingerprints(train), vectors[: len(train)])
    assert own.nearest.tolist() == [fingerprints(train).index(mol) for mol in fingerprints(train)]
    assert (own.similarity == 1).all()
    inside = domain.locate(fingerprints(valid), vectors[len(train) :])
    assert (inside.similarity >= domain.least_similarity).mean() >= 0.95
    assert (inside.distance <= domain.most_distance).mean() >= 0.95
    odd = domain.locate(fingerprints(["c1ccc2c(c1)[nH]c1ccccc12"]), np.zeros((1, 6)))
    far = domain.locate(fingerprints(["CCO"]), np.full((1, 6), 50.0))
    assert not odd.inside[0] and not far.inside[0]
    assert domain.locate(fingerprints(["CCO"]), np.zeros((1, 6))).inside[0]


def test_a_column_that_never_varies_is_no_distance() -> None:
    vectors = np.ones((8, 3))
    vectors[:, 0] = range(8)
    domain = ApplicabilityDomain([f"{'C' * n}O" for n in range(1, 9)], vectors, 0.0, np.inf)
    assert np.isfinite(domain.locate(fingerprints(["CO"]), np.ones((1, 3))).distance).all()
