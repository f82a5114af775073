"""Figures of merit; scikit-learn computes them, missing labels are left out."""

import math
from collections.abc import Callable

import numpy as np
from sklearn import metrics

from kflm2.data.datasets import Kind

Figures = dict[str, float | None]


def pearson(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """Pearson correlation; NaN when either side is constant."""
    if np.ptp(y_true) == 0 or np.ptp(y_pred) == 0:
        return math.nan
    return float(np.corrcoef(y_true, y_pred)[0, 1])


_REGRESSION: dict[str, Callable] = {
    "RMSE": metrics.root_mean_squared_error,
    "MAE": metrics.mean_absolute_error,
    "R2": metrics.r2_score,
    "Pearson": pearson,
}
_CLASSIFICATION: dict[str, Callable] = {
    "ROC-AUC": metrics.roc_auc_score,
    "PR-AUC": metrics.average_precision_score,
}

MAIN: dict[Kind, str] = {"regression": "RMSE", "classification": "ROC-AUC"}
"""The figure of each kind that tables show first."""


def evaluate(y_true: np.ndarray, y_pred: np.ndarray, kind: Kind) -> Figures:
    """Figures of one part of a split, each the mean over the targets it exists for.

    Args:
        y_true: (n, K), NaN where the label is missing.
        y_pred: (n, K) predictions, for classes the probability of class 1: ROC-AUC on rounded predictions would be
            balanced accuracy.
        kind: of the targets.

    Returns:
        Figure -> value; None where no target has one (one class only, fewer than two labels).
    """
    table = _REGRESSION if kind == "regression" else _CLASSIFICATION
    values: dict[str, list[float]] = {name: [] for name in table}
    for true, predicted in zip(y_true.T, y_pred.T, strict=True):
        present = ~np.isnan(true)
        true, predicted = true[present], predicted[present]
        if len(true) < 2 or (kind == "classification" and np.ptp(true) == 0):
            continue
        for name, figure in table.items():
            if math.isfinite(value := float(figure(true, predicted))):
                values[name].append(value)
    return {name: float(np.mean(own)) if own else None for name, own in values.items()}


def summarize(values: list[float | None]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation over runs; the deviation of one run is None, not 0."""
    known = [value for value in values if value is not None]
    mean = float(np.mean(known)) if known else None
    return mean, float(np.std(known, ddof=1)) if len(known) > 1 else None
