"""Figures of merit against scikit-learn and scipy called directly."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from kflm2.metrics.scores import choose_thresholds, pearson, score, summarize

NONE = np.full(3, np.nan)


def test_regression_is_the_mean_over_targets_of_the_labels_there_are() -> None:
    rng = np.random.default_rng(0)
    y_true, noise = rng.normal(size=(20, 3)), rng.normal(size=(20, 3))
    y_pred = y_true + noise
    y_true[rng.random((20, 3)) < 0.3] = np.nan
    scores = score(y_true, y_pred, "regression", NONE)
    expected: dict[str, list[float]] = {"RMSE": [], "MAE": [], "R2": [], "Pearson": [], "Spearman": []}
    for true, predicted in zip(y_true.T, y_pred.T, strict=True):
        known = ~np.isnan(true)
        expected["RMSE"].append(np.sqrt(((true - predicted)[known] ** 2).mean()))
        expected["MAE"].append(np.abs(true - predicted)[known].mean())
        expected["R2"].append(metrics.r2_score(true[known], predicted[known]))
        expected["Pearson"].append(stats.pearsonr(true[known], predicted[known]).statistic)
        expected["Spearman"].append(stats.spearmanr(true[known], predicted[known]).statistic)
    assert scores.mean == pytest.approx({name: np.mean(values) for name, values in expected.items()})
    for index, own in enumerate(scores.targets):
        assert own == pytest.approx({name: values[index] for name, values in expected.items()})


def test_classes_are_judged_by_probability_and_by_the_threshold() -> None:
    rng = np.random.default_rng(1)
    y_true = (rng.random((60, 2)) < 0.3).astype(float)
    y_pred = np.clip(0.3 * y_true + 0.7 * rng.random((60, 2)), 0, 1)
    y_true[:9, 1] = np.nan
    thresholds = np.array([0.4, 0.6])
    scores = score(y_true, y_pred, "classification", thresholds)
    for index, own in enumerate(scores.targets):
        known = ~np.isnan(y_true[:, index])
        true, probability = y_true[known, index], y_pred[known, index]
        called = probability >= thresholds[index]
        assert own == pytest.approx(
            {
                "ROC-AUC": metrics.roc_auc_score(true, probability),
                "PR-AUC": metrics.average_precision_score(true, probability),
                "Brier": ((true - probability) ** 2).mean(),
                "MCC": np.corrcoef(true, called)[0, 1],
                "balanced accuracy": (called[true == 1].mean() + (~called[true == 0]).mean()) / 2,
            }
        )


def test_roc_auc_is_of_probabilities_not_of_rounded_ones() -> None:
    y_true = np.array([[0.0], [1.0], [0.0], [1.0]])
    y_pred = np.array([[0.6], [0.9], [0.7], [0.8]])
    figures = score(y_true, y_pred, "classification", np.array([0.5])).mean
    assert (figures["ROC-AUC"], figures["PR-AUC"]) == (1.0, 1.0)
    assert (figures["balanced accuracy"], figures["MCC"]) == (0.5, 0.0)


def test_a_target_with_one_class_is_left_out_and_none_at_all_is_none() -> None:
    y_true = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, np.nan]])
    y_pred = np.array([[0.2, 0.1], [0.1, 0.3], [0.3, 0.9]])
    scores = score(y_true, y_pred, "classification", np.full(2, 0.5))
    assert scores.targets[1] is None
    assert scores.mean["ROC-AUC"] == 0.0
    assert set(score(y_true[:, 1:], y_pred[:, 1:], "classification", np.full(1, 0.5)).mean.values()) == {None}


def test_the_threshold_is_the_best_on_validation_between_two_probabilities() -> None:
    y_true = np.array([[0, 0, 1.0], [0, 1, 1], [1, 0, 1], [1, 1, 1], [np.nan, 0, np.nan]])
    y_pred = np.array([[0.1, 0.2, 0.5], [0.3, 0.9, 0.5], [0.4, 0.4, 0.5], [0.8, 0.7, 0.5], [0.35, 0.6, 0.5]])
    np.testing.assert_allclose(choose_thresholds(y_true, y_pred), [0.35, 0.65, 0.5])


def test_no_threshold_has_a_better_balanced_accuracy() -> None:
    rng = np.random.default_rng(2)
    y_true = (rng.random((80, 1)) < 0.2).astype(float)
    y_pred = rng.random((80, 1)) * 0.5 + 0.2 * y_true
    (chosen,) = choose_thresholds(y_true, y_pred)

    def accuracy(threshold: float) -> float:
        return metrics.balanced_accuracy_score(y_true[:, 0], y_pred[:, 0] >= threshold)

    assert accuracy(chosen) == max(accuracy(threshold) for threshold in np.linspace(0, 1, 2001))
    assert accuracy(chosen) > 0.6


def test_predictions_that_rank_everything_wrong_call_nothing_active() -> None:
    y_true, y_pred = np.array([[1.0], [1.0], [0.0]]), np.array([[0.1], [0.2], [0.9]])
    (threshold,) = choose_thresholds(y_true, y_pred)
    assert not (y_pred >= threshold).any()
    y_pred[2] = 1.0  # a sigmoid far up is exactly 1
    (threshold,) = choose_thresholds(y_true, y_pred)
    assert not (y_pred >= threshold).any()


def test_a_constant_has_no_correlation() -> None:
    assert np.isnan(pearson(np.array([1.0, 2.0]), np.array([3.0, 3.0])))
    figures = score(np.array([[1.0], [2.0]]), np.full((2, 1), 3.0), "regression", NONE[:1]).mean
    assert figures["Pearson"] is None
    assert figures["Spearman"] is None
    assert figures["RMSE"] == pytest.approx(np.sqrt(2.5))
    flat = score(np.full((3, 1), 2.0), np.array([[1.0], [2.0], [4.0]]), "regression", NONE[:1]).mean
    assert flat["R2"] is flat["Pearson"] is None


def test_the_deviation_is_the_samples_and_one_run_has_none() -> None:
    assert summarize([1.0, 2.0, 6.0]) == pytest.approx((3.0, np.std([1, 2, 6], ddof=1)))
    assert summarize([2.5]) == (2.5, None)
    assert summarize([None, 4.0]) == (4.0, None)
    assert summarize([None]) == (None, None)
