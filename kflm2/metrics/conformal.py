"""Uncertainty of predictions: conformal intervals and calibrated probabilities.

Everything here is fitted on the validation part. The intervals then contain the true value at the requested confidence
(G. Shafer, V. Vovk, J. Mach. Learn. Res. 2008, 9, 371), provided that molecules come from the same distribution as the
validation part. The same part is also used to choose the epoch, which may reduce the coverage; so every run measures
the coverage on test. For other molecules the guarantee is void, which is why there is an applicability domain.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from crepes import ConformalClassifier, ConformalRegressor
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from kflm2.data.datasets import Task

CONFIDENCE = 0.9
"""Default probability that an interval contains the true value."""
_TINY = 1e-7


@dataclass(frozen=True)
class Calibration:
    """Labels and predictions of the validation part, for intervals and calibrated probabilities of each target."""

    task: Task
    y_true: np.ndarray
    """(n, K) labels of the validation part, NaN where the label is missing."""
    y_pred: np.ndarray
    """(n, K) predictions; for classes probabilities before calibration."""
    std: np.ndarray
    """(n, K) standard deviation of the ensemble's members; 0 for a single member."""

    def __post_init__(self) -> None:
        """Fit the temperatures."""
        temperature = [1.0] * self.y_true.shape[1]
        if self.task == "classification":
            temperature = [_temperature(*pair) for pair in zip(self.y_true.T, self.y_pred.T, strict=True)]
        object.__setattr__(self, "temperature", np.array(temperature))

    temperature: np.ndarray = None  # type: ignore[assignment]
    """(K,) divisors of the logits; 1 for regression."""

    def calibrated(self, y_pred: np.ndarray) -> np.ndarray:
        """(n, K) probabilities scaled by temperature (Guo et al. 2017); regression values are unchanged."""
        if self.task == "regression":
            return y_pred
        return expit(logit(y_pred.clip(_TINY, 1 - _TINY)) / self.temperature)

    def intervals(self, y_pred: np.ndarray, std: np.ndarray, confidence: float) -> np.ndarray:
        """Intervals that contain the true value at a given confidence, wider where the ensemble's std is larger.

        Args:
            y_pred: (n, K) predictions.
            std: (n, K) standard deviation of the members.
            confidence: in (0, 1).

        Returns:
            (n, K, 2) lower and upper bounds; infinite where the validation part is too small for that confidence.
        """
        bounds = np.empty((*y_pred.shape, 2))
        for k in range(y_pred.shape[1]):
            labelled = ~np.isnan(self.y_true[:, k])
            # members that agree by chance must not give an interval of zero width
            floor = float(np.median(self.std[labelled, k])) if labelled.any() else 0.0
            sigmas_valid, sigmas = (self.std[labelled, k] + floor, std[:, k] + floor) if floor else (None, None)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # too few rows for the confidence: infinite, see Returns
                model = ConformalRegressor().fit((self.y_true - self.y_pred)[labelled, k], sigmas_valid)
                # 1 - 0.9 is slightly less than 0.1, and crepes takes the next rank where the rank is a whole number
                bounds[:, k] = model.predict_int(y_pred[:, k], sigmas, confidence=confidence - 1e-9)
        return bounds

    def sets(self, y_pred: np.ndarray, confidence: float) -> np.ndarray:
        """Classes that cannot be excluded at a given confidence, which holds for each class separately.

        Args:
            y_pred: (n, K) probabilities of class 1, before calibration.
            confidence: in (0, 1).

        Returns:
            (n, K, 2) whether class 0 and whether class 1 is in the set.
        """
        sets = np.ones((*y_pred.shape, 2), dtype=bool)
        for k in range(y_pred.shape[1]):
            for label in (0, 1):
                mask = self.y_true[:, k] == label
                if not mask.any():
                    continue
                errors_valid, errors = (np.abs(label - p) for p in (self.y_pred[mask, k], y_pred[:, k]))
                model = ConformalClassifier().fit(errors_valid)
                sets[:, k, label] = model.predict_set(errors[:, None], confidence=confidence, smoothing=False)[:, 0]
        return sets

    def coverage(self, y_true: np.ndarray, y_pred: np.ndarray, std: np.ndarray, confidence: float) -> "Coverage":
        """Measured coverage, on molecules that are not in the validation part; see Coverage."""
        labelled = ~np.isnan(y_true)
        if not labelled.any():
            return Coverage(confidence, None, None)
        if self.task == "classification":
            sets = self.sets(y_pred, confidence)
            covered = np.where(y_true == 1, sets[..., 1], sets[..., 0])
            size = sets.sum(axis=-1).astype(float)
        else:
            low, high = np.moveaxis(self.intervals(y_pred, std, confidence), -1, 0)
            covered, size = (low <= y_true) & (y_true <= high), high - low
        mean_size = float(size[labelled].mean())
        return Coverage(confidence, float(covered[labelled].mean()), mean_size if np.isfinite(mean_size) else None)

    def arrays(self) -> dict[str, np.ndarray]:
        """Name -> array, of the arrays to save."""
        return {"y_true": self.y_true, "y_pred": self.y_pred, "spread": self.std}


@dataclass(frozen=True)
class Coverage:
    """Measured coverage of intervals, or of sets of classes, on a test part."""

    confidence: float
    """The requested coverage."""
    share: float | None
    """Share of labels that lie in their interval or set, over all targets; None without a label."""
    size: float | None
    """Mean width in the targets' unit, None if any is infinite; for classes the mean number of classes in a set."""


def _temperature(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """The temperature of minimal cross-entropy; 1 if a class is missing."""
    labelled = ~np.isnan(y_true)
    labels, logits = y_true[labelled], logit(y_pred[labelled].clip(_TINY, 1 - _TINY))
    if not len(labels) or np.ptp(labels) == 0:
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, scaled) - labels * scaled))

    # above e^3 all probabilities are near 0.5, below e^-3 all are near 0 or 1
    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))
