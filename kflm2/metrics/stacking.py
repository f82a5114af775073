"""Weights with which the predictions of several models are averaged (stacking: D. H. Wolpert, Neural Netw. 1992, 5).

They are learnt from out-of-fold predictions: of each molecule by models that did not learn from it.
"""

import numpy as np
from scipy.optimize import minimize

from kflm2.data.datasets import Task

_TINY = 1e-7
_LEAST = 1e-6
"""A smaller weight is 0."""


def stacking_weights(y_true: np.ndarray, y_pred: np.ndarray, fold: np.ndarray, task: Task) -> np.ndarray:
    """Weights of models, not negative and adding up to 1; equal where the data cannot tell.

    They are of the smallest squared error, or cross-entropy, where a cross-validation over the folds finds them better
    than equal ones. On SAMPL and Delaney more caution was worse (docs/results.md).

    Args:
        y_true: (n,) labels, NaN where missing.
        y_pred: (V, n) out-of-fold predictions of V models; probabilities for classes.
        fold: (n,) number of the fold.
        task: of the target.

    Returns:
        (V,)
    """
    models = len(y_pred)
    equal = np.full(models, 1 / models)
    labelled = ~np.isnan(y_true)
    labels, values, fold = y_true[labelled], y_pred[:, labelled], fold[labelled]
    if models == 1 or len(labels) < 2:
        return equal
    if task == "regression" and (scale := labels.std()) > 0:
        # the solver's tolerance is of numbers of about 1; the weights, which add up to 1, are those of any unit
        labels, values = (labels - labels.mean()) / scale, (values - labels.mean()) / scale
    improvement = np.zeros(len(labels))
    for number in np.unique(fold):
        inside = fold == number
        if inside.all():
            return equal
        learned = _best_weights(labels[~inside], values[:, ~inside], task)
        losses = [_losses(labels[inside], weights @ values[:, inside], task) for weights in (equal, learned)]
        improvement[inside] = losses[0] - losses[1]
    if improvement.mean() <= 0:
        return equal
    return _best_weights(labels, values, task)


def _losses(labels: np.ndarray, values: np.ndarray, task: Task) -> np.ndarray:
    """(n,) squared errors, or cross-entropies."""
    if task == "regression":
        return (values - labels) ** 2
    values = values.clip(_TINY, 1 - _TINY)
    return -(labels * np.log(values) + (1 - labels) * np.log1p(-values))


def _best_weights(labels: np.ndarray, values: np.ndarray, task: Task) -> np.ndarray:
    """Weights of the smallest mean loss, which is convex in them."""
    models = len(values)
    found = minimize(
        lambda weights: float(_losses(labels, weights @ values, task).mean()),
        np.full(models, 1 / models),
        method="SLSQP",
        bounds=[(0, 1)] * models,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1},
        options={"ftol": 1e-9},
    )
    # the solver leaves 1e-17 where it means 0, and a model of no weight must show nothing in an explanation
    weights = np.where(found.x < _LEAST, 0.0, found.x)
    return weights / weights.sum()
