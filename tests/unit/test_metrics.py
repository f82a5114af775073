"""Figures of merit against scikit-learn and scipy called directly."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from kflm2.evaluation.metrics import evaluate, pearson, summarize


def test_regression_is_the_mean_over_targets_of_the_labels_there_are() -> None:
    rng = np.random.default_rng(0)
    y_true, noise = rng.normal(size=(20, 3)), rng.normal(size=(20, 3))
    y_pred = y_true + noise
    y_true[rng.random((20, 3)) < 0.3] = np.nan
    figures = evaluate(y_true, y_pred, "regression")
    expected: dict[str, list[float]] = {"RMSE": [], "MAE": [], "R2": [], "Pearson": []}
    for true, predicted in zip(y_true.T, y_pred.T, strict=True):
        known = ~np.isnan(true)
        expected["RMSE"].append(np.sqrt(((true - predicted)[known] ** 2).mean()))
        expected["MAE"].append(np.abs(true - predicted)[known].mean())
        expected["R2"].append(metrics.r2_score(true[known], predicted[known]))
        expected["Pearson"].append(stats.pearsonr(true[known], predicted[known]).statistic)
    assert figures == pytest.approx({name: np.mean(values) for name, values in expected.items()})


def test_roc_auc_is_of_probabilities_not_of_rounded_ones() -> None:
    y_true = np.array([[0.0], [1.0], [0.0], [1.0]])
    y_pred = np.array([[0.6], [0.9], [0.7], [0.8]])
    assert evaluate(y_true, y_pred, "classification") == {"ROC-AUC": 1.0, "PR-AUC": 1.0}


def test_a_target_with_one_class_is_left_out_and_none_at_all_is_none() -> None:
    y_true = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, np.nan]])
    y_pred = np.array([[0.2, 0.1], [0.1, 0.3], [0.3, 0.9]])
    assert evaluate(y_true, y_pred, "classification")["ROC-AUC"] == 0.0
    assert evaluate(y_true[:, 1:], y_pred[:, 1:], "classification") == {"ROC-AUC": None, "PR-AUC": None}


def test_a_constant_has_no_correlation() -> None:
    assert np.isnan(pearson(np.array([1.0, 2.0]), np.array([3.0, 3.0])))
    assert evaluate(np.array([[1.0], [2.0]]), np.full((2, 1), 3.0), "regression")["Pearson"] is None


def test_the_deviation_is_the_samples_and_one_run_has_none() -> None:
    assert summarize([1.0, 2.0, 6.0]) == pytest.approx((3.0, np.std([1, 2, 6], ddof=1)))
    assert summarize([2.5]) == (2.5, None)
    assert summarize([None, 4.0]) == (4.0, None)
    assert summarize([None]) == (None, None)
