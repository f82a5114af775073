"""Metrics, compared with scikit-learn and scipy called directly."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from kflm2.metrics.scores import choose_thresholds, pearson, score, summarize

NO_THRESHOLDS = np.full(3, np.nan)


def test_regression_metrics_are_means_over_targets_without_missing_labels_and_units() -> None:
    rng = np.random.default_rng(0)
    y_true, noise = rng.normal(size=(20, 3)), rng.normal(size=(20, 3))
    y_pred = y_true + noise
    y_true[rng.random((20, 3)) < 0.3] = np.nan
    y_train = rng.normal(size=(12, 3)) * [1, 2, 5]
    y_train[:4, 1] = np.nan
    scores = score(y_true, y_pred, "regression", NO_THRESHOLDS, y_train)
    names = ["scaled RMSE", "RMSE", "MAE", "R2", "Pearson", "Spearman"]
    expected: dict[str, list[float]] = {name: [] for name in names}
    for true, predicted, train in zip(y_true.T, y_pred.T, y_train.T, strict=True):
        mask = ~np.isnan(true)
        expected["RMSE"].append(np.sqrt(((true - predicted)[mask] ** 2).mean()))
        expected["scaled RMSE"].append(expected["RMSE"][-1] / np.nanstd(train))
        expected["MAE"].append(np.abs(true - predicted)[mask].mean())
        expected["R2"].append(metrics.r2_score(true[mask], predicted[mask]))
        expected["Pearson"].append(stats.pearsonr(true[mask], predicted[mask]).statistic)
        expected["Spearman"].append(stats.spearmanr(true[mask], predicted[mask]).statistic)
    # RMSE and MAE are in the targets' units, which may differ
    means = {name: np.mean(values) for name, values in expected.items() if name not in ("RMSE", "MAE")}
    assert scores.mean == pytest.approx(means)
    assert next(iter(scores.mean)) == scores.primary == "scaled RMSE"
    for index, target in enumerate(scores.targets):
        assert target == pytest.approx({name: values[index] for name, values in expected.items()})


def test_the_unit_of_a_target_does_not_change_a_mean() -> None:
    rng = np.random.default_rng(3)
    y_train, y_true, y_pred = (rng.normal(size=(count, 2)) for count in (15, 9, 9))
    unit = np.array([1.0, 300.0])
    first = score(y_true, y_pred, "regression", NO_THRESHOLDS[:2], y_train)
    second = score(unit * y_true, unit * y_pred, "regression", NO_THRESHOLDS[:2], unit * y_train)
    assert second.mean == pytest.approx(first.mean)
    assert second.targets[1]["RMSE"] == pytest.approx(300 * first.targets[1]["RMSE"])
    # of a target that is constant in train nothing is scaled
    for constant in (4.0, 0.1):  # the standard deviation of fifteen 0.1 is a rounding error
        y_train[:, 1] = constant
        scores = score(y_true, y_pred, "regression", NO_THRESHOLDS[:2], y_train)
        assert scores.targets[1]["scaled RMSE"] is None
        assert scores.mean["scaled RMSE"] == scores.targets[0]["scaled RMSE"]


def test_one_target_has_its_rmse_and_nothing_else_is_added() -> None:
    rng = np.random.default_rng(4)
    y_true, y_pred = rng.normal(size=(9, 1)), rng.normal(size=(9, 1))
    scores = score(y_true, y_pred, "regression", NO_THRESHOLDS[:1])
    assert list(scores.mean) == ["RMSE", "MAE", "R2", "Pearson", "Spearman"]
    assert scores.mean == scores.targets[0]
    assert scores.primary == "RMSE"


def test_classes_are_evaluated_by_probability_and_by_the_threshold() -> None:
    rng = np.random.default_rng(1)
    y_true = (rng.random((60, 2)) < 0.3).astype(float)
    y_pred = np.clip(0.3 * y_true + 0.7 * rng.random((60, 2)), 0, 1)
    y_true[:9, 1] = np.nan
    thresholds = np.array([0.4, 0.6])
    scores = score(y_true, y_pred, "classification", thresholds)
    for index, target in enumerate(scores.targets):
        mask = ~np.isnan(y_true[:, index])
        true, probability = y_true[mask, index], y_pred[mask, index]
        predicted = probability >= thresholds[index]
        assert target == pytest.approx(
            {
                "ROC-AUC": metrics.roc_auc_score(true, probability),
                "PR-AUC": metrics.average_precision_score(true, probability),
                "Brier": ((true - probability) ** 2).mean(),
                "MCC": np.corrcoef(true, predicted)[0, 1],
                "balanced accuracy": (predicted[true == 1].mean() + (~predicted[true == 0]).mean()) / 2,
            }
        )


def test_roc_auc_uses_probabilities_not_rounded_values() -> None:
    y_true = np.array([[0.0], [1.0], [0.0], [1.0]])
    y_pred = np.array([[0.6], [0.9], [0.7], [0.8]])
    means = score(y_true, y_pred, "classification", np.array([0.5])).mean
    assert (means["ROC-AUC"], means["PR-AUC"]) == (1.0, 1.0)
    assert (means["balanced accuracy"], means["MCC"]) == (0.5, 0.0)


def test_a_target_with_one_class_is_left_out_and_no_target_left_gives_none() -> None:
    y_true = np.array([[0.0, 1.0], [1.0, 1.0], [0.0, np.nan]])
    y_pred = np.array([[0.2, 0.1], [0.1, 0.3], [0.3, 0.9]])
    scores = score(y_true, y_pred, "classification", np.full(2, 0.5))
    assert scores.targets[1] is None
    assert scores.mean["ROC-AUC"] == 0.0
    assert set(score(y_true[:, 1:], y_pred[:, 1:], "classification", np.full(1, 0.5)).mean.values()) == {None}


def test_the_threshold_is_the_best_one_between_two_probabilities() -> None:
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


def test_the_threshold_of_a_reversed_ranking_classifies_nothing_as_active() -> None:
    y_true, y_pred = np.array([[1.0], [1.0], [0.0]]), np.array([[0.1], [0.2], [0.9]])
    (threshold,) = choose_thresholds(y_true, y_pred)
    assert not (y_pred >= threshold).any()
    y_pred[2] = 1.0  # a sigmoid of a large logit is exactly 1
    (threshold,) = choose_thresholds(y_true, y_pred)
    assert not (y_pred >= threshold).any()


def test_a_constant_has_no_correlation() -> None:
    assert np.isnan(pearson(np.array([1.0, 2.0]), np.array([3.0, 3.0])))
    means = score(np.array([[1.0], [2.0]]), np.full((2, 1), 3.0), "regression", NO_THRESHOLDS[:1]).mean
    assert means["Pearson"] is None
    assert means["Spearman"] is None
    assert means["RMSE"] == pytest.approx(np.sqrt(2.5))
    means = score(np.full((3, 1), 2.0), np.array([[1.0], [2.0], [4.0]]), "regression", NO_THRESHOLDS[:1]).mean
    assert means["R2"] is means["Pearson"] is None


def test_the_standard_deviation_is_the_samples_and_none_for_a_single_run() -> None:
    assert summarize([1.0, 2.0, 6.0]) == pytest.approx((3.0, np.std([1, 2, 6], ddof=1)))
    assert summarize([2.5]) == (2.5, None)
    assert summarize([None, 4.0]) == (4.0, None)
    assert summarize([None]) == (None, None)
