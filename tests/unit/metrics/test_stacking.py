"""Weights of models: those that are known, equal ones where nothing is to be gained, and never outside the simplex."""

import numpy as np
import pytest
from scipy.optimize import nnls
from scipy.special import expit

from kflm2.metrics.stacking import stacking_weights

N = 400
RNG = np.random.default_rng(3)
FOLD = RNG.permutation(np.arange(N) % 5)
Y = RNG.normal(size=N)


def test_errors_that_are_independent_are_weighed_by_their_variance() -> None:
    y_pred = Y + RNG.normal(size=(3, N)) * np.array([[0.5], [1.0], [2.0]])
    weights = stacking_weights(Y, y_pred, FOLD, "regression")
    inverse = np.array([4, 1, 0.25])
    np.testing.assert_allclose(weights, inverse / inverse.sum(), atol=0.06)
    # a second way: non-negative least squares, with a heavy row for the sum
    found, _ = nnls(np.vstack([y_pred.T, np.full((1, 3), 1e5)]), np.append(Y, 1e5))
    np.testing.assert_allclose(weights, found, atol=1e-3)


def test_a_model_that_only_harms_gets_nothing() -> None:
    y_pred = np.stack([Y + 0.1 * RNG.normal(size=N), -Y])
    np.testing.assert_allclose(stacking_weights(Y, y_pred, FOLD, "regression"), [1, 0], atol=0.02)


def test_what_gets_nothing_has_a_weight_of_exactly_0() -> None:
    y = np.random.default_rng(3).normal(size=80)
    noise = np.random.default_rng(4).normal(size=(2, 80))
    weights = stacking_weights(y, np.stack([y, *noise]), np.arange(80) % 4, "regression")
    assert weights.tolist() == [1.0, 0.0, 0.0]


def test_equal_where_cross_validation_finds_nothing_better() -> None:
    same = Y + RNG.normal(size=N)
    assert stacking_weights(Y, np.stack([same, same, same]), FOLD, "regression").tolist() == [1 / 3] * 3
    # of two molecules, and of one fold, nothing can be learnt
    assert stacking_weights(Y[:1], np.stack([same, Y])[:, :1], FOLD[:1], "regression").tolist() == [0.5, 0.5]
    assert stacking_weights(Y, np.stack([same, Y]), np.zeros(N), "regression").tolist() == [0.5, 0.5]
    assert stacking_weights(Y, same[None], FOLD, "regression").tolist() == [1]


@pytest.mark.parametrize(("unit", "offset"), [(1e-9, 0.0), (1e-4, 3.0), (1e6, 0.0), (1.0, 1e4)])
def test_the_unit_of_the_labels_does_not_count(unit: float, offset: float) -> None:
    y_pred = Y + RNG.normal(size=(3, N)) * np.array([[0.5], [1.0], [2.0]])
    expected = stacking_weights(Y, y_pred, FOLD, "regression")
    assert expected[0] > 0.6
    weights = stacking_weights(unit * Y + offset, unit * y_pred + offset, FOLD, "regression")
    np.testing.assert_allclose(weights, expected, atol=1e-4)


def test_missing_labels_do_not_count() -> None:
    y_pred = Y + RNG.normal(size=(2, N)) * np.array([[0.5], [1.0]])
    known = np.arange(N) < 300
    expected = stacking_weights(Y[known], y_pred[:, known], FOLD[known], "regression")
    assert np.array_equal(stacking_weights(np.where(known, Y, np.nan), y_pred, FOLD, "regression"), expected)


def test_classes_by_their_cross_entropy() -> None:
    logits = 2 * RNG.normal(size=N)
    labels = (RNG.random(N) < expit(logits)).astype(float)
    y_pred = np.stack([expit(logits), RNG.random(N)])
    weights = stacking_weights(labels, y_pred, FOLD, "classification")
    assert weights[0] > 0.85 and weights.sum() == pytest.approx(1) and (weights >= 0).all()
    # a probability of 1 for what is wrong is costly, not infinite
    assert np.isfinite(stacking_weights(labels, np.round(y_pred), FOLD, "classification")).all()
