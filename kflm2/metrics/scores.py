"""Metrics, computed by scikit-learn and scipy; missing labels are left out."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats
from sklearn import metrics

from kflm2.data.datasets import Task

Metrics = dict[str, float | None]


def pearson(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Pearson correlation; NaN when either side is constant."""
    if np.ptp(y_true) == 0 or np.ptp(y_pred) == 0:
        return math.nan
    return float(np.corrcoef(y_true, y_pred)[0, 1])


def spearman(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Spearman rank correlation; NaN when either side is constant."""
    return pearson(stats.rankdata(y_true), stats.rankdata(y_pred))


def r2(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Coefficient of determination; NaN when the labels are constant, where scikit-learn gives 0 or 1."""
    return math.nan if np.ptp(y_true) == 0 else float(metrics.r2_score(y_true, y_pred))


_REGRESSION: dict[str, Callable] = {
    "RMSE": metrics.root_mean_squared_error,
    "MAE": metrics.mean_absolute_error,
    "R2": r2,
    "Pearson": pearson,
    "Spearman": spearman,
}
_PROBABILITIES: dict[str, Callable] = {
    "ROC-AUC": metrics.roc_auc_score,
    "PR-AUC": metrics.average_precision_score,
    "Brier": metrics.brier_score_loss,
}
_DECISIONS: dict[str, Callable] = {
    "MCC": metrics.matthews_corrcoef,
    "balanced accuracy": metrics.balanced_accuracy_score,
}

METRIC_NAMES: dict[Task, tuple[str, ...]] = {
    "regression": tuple(_REGRESSION),
    "classification": (*_PROBABILITIES, *_DECISIONS),
}
PRIMARY_METRIC: dict[Task, str] = {"regression": "RMSE", "classification": "ROC-AUC"}
"""The metric of one target that tables show first."""
SCALED_RMSE = "scaled RMSE"
"""RMSE over the standard deviation of the target's labels that are not tested; it has no unit, so it has a mean."""
IN_UNITS = ("RMSE", "MAE")
"""Metrics in the target's unit; the mean over targets of several units would mean nothing."""
SMALLER_IS_BETTER = (SCALED_RMSE, "RMSE", "MAE", "Brier")


def target_metrics(task: Task, targets: int) -> tuple[str, ...]:
    """Metrics that each of some targets has."""
    return ((SCALED_RMSE,) if task == "regression" and targets > 1 else ()) + METRIC_NAMES[task]


def mean_metrics(task: Task, targets: int) -> tuple[str, ...]:
    """Metrics that have a mean over some targets: of several, those without a unit; the primary one first."""
    return tuple(name for name in target_metrics(task, targets) if targets <= 1 or name not in IN_UNITS)


def primary_metric(task: Task, targets: int) -> str:
    """The metric that tables of some targets show first, and by which methods are compared."""
    return mean_metrics(task, targets)[0]


def choose_thresholds(y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
    """The probability from which a molecule is classified as active, for each target; to be chosen on validation.

    It is the threshold with the largest balanced accuracy (of several, the middle of the first gap between
    probabilities that has it); 0.5 for a target with one class only.

    Args:
        y_true: (n, K) classes, NaN where the label is missing.
        y_pred: (n, K) probabilities of class 1.

    Returns:
        (K,)
    """
    return np.array([_threshold(*_labelled(*pair)) for pair in zip(y_true.T, y_pred.T, strict=True)])


def _threshold(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    if not len(y_true) or np.ptp(y_true) == 0:
        return 0.5
    false_rate, true_rate, thresholds = metrics.roc_curve(y_true, y_pred, drop_intermediate=False)
    best = int(np.argmax(true_rate - false_rate))
    if best == 0:  # the curve's first point classifies nothing as active, and its threshold is infinite
        return math.nextafter(1.0, 2.0)
    below = y_pred[y_pred < thresholds[best]]
    return float(thresholds[best] + below.max()) / 2 if len(below) else float(thresholds[best])


def _labelled(y_true: np.ndarray, y_pred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labelled = ~np.isnan(y_true)
    return y_true[labelled], y_pred[labelled]


@dataclass(frozen=True)
class Scores:
    """Metrics of one part of a split."""

    targets: list[Metrics | None]
    """Metrics of each target; None for a target with fewer than two labels or with one class only."""
    task: Task

    @property
    def mean(self) -> Metrics:
        """Mean of each metric of mean_metrics over the targets that have it; None if no target has it."""
        evaluated = [target for target in self.targets if target]
        names = mean_metrics(self.task, len(self.targets))
        return {name: summarize([target[name] for target in evaluated])[0] for name in names}

    @property
    def primary(self) -> str:
        """Name of the metric to look at first."""
        return primary_metric(self.task, len(self.targets))


def score(
    y_true: np.ndarray, y_pred: np.ndarray, task: Task, thresholds: np.ndarray, y_others: np.ndarray | None = None
) -> Scores:
    """Evaluate the predictions of one part of a split; an undefined metric is None.

    Args:
        y_true: (n, K), NaN where the label is missing.
        y_pred: (n, K) predictions, for classes the probability of class 1: ROC-AUC of rounded predictions would be
            balanced accuracy.
        task: task of the targets.
        thresholds: (K,) for MCC and balanced accuracy; see choose_thresholds. Not used for regression.
        y_others: (m, K) labels of all that is not tested, whatever of it a model learns from, so that methods can be
            compared; NaN where missing. Only several targets of regression need them.
    """
    columns = zip(y_true.T, y_pred.T, thresholds, strict=True)
    targets = [_metrics(*_labelled(true, pred), task, threshold) for true, pred, threshold in columns]
    if SCALED_RMSE in target_metrics(task, len(targets)):
        assert y_others is not None
        targets = [_with_scaled(metrics, labels) for metrics, labels in zip(targets, y_others.T, strict=True)]
    return Scores(targets, task)


def _with_scaled(metrics: Metrics | None, y_others: np.ndarray) -> Metrics | None:
    if metrics is None:
        return None
    labels = y_others[~np.isnan(y_others)]
    # the standard deviation of equal numbers may be a rounding error
    scale = float(np.std(labels)) if len(labels) and np.ptp(labels) else 0.0
    rmse = metrics["RMSE"]
    return {SCALED_RMSE: rmse / scale if scale and rmse is not None else None, **metrics}


def _metrics(y_true: np.ndarray, y_pred: np.ndarray, task: Task, threshold: float) -> Metrics | None:
    if len(y_true) < 2 or (task == "classification" and np.ptp(y_true) == 0):
        return None
    if task == "regression":
        values = {name: function(y_true, y_pred) for name, function in _REGRESSION.items()}
    else:
        values = {name: function(y_true, y_pred) for name, function in _PROBABILITIES.items()}
        classes = y_pred >= threshold
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # all predictions may be of one class
            values |= {name: function(y_true, classes) for name, function in _DECISIONS.items()}
    return {name: float(value) if math.isfinite(value) else None for name, value in values.items()}


def summarize(values: list[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation over runs; the standard deviation of a single run is None, not 0."""
    present = [value for value in values if value is not None]
    mean = float(np.mean(present)) if present else None
    return mean, float(np.std(present, ddof=1)) if len(present) > 1 else None
