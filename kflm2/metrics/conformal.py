"""How far a prediction can be trusted: conformal intervals and calibrated probabilities.

Everything here is learnt on the validation part. The intervals then hold the true value as often as was asked for (G.
Shafer, V. Vovk, J. Mach. Learn. Res. 2008, 9, 371), as long as molecules come from where the validation part came from,
and but for what the same part lent to the choice of the epoch; so every run measures it on test. For molecules of
another kind the promise is void, which is what the applicability domain is for.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from crepes import ConformalClassifier, ConformalRegressor
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from kflm2.data.datasets import Task

CONFIDENCE = 0.9
"""How often an interval is to hold the true value, where nothing else is asked for."""
_TINY = 1e-7


@dataclass(frozen=True)
class Calibration:
    """What the validation part says of a model's errors, target by target."""

    task: Task
    y_true: np.ndarray
    """(n, K) of the validation part, NaN where the label is missing."""
    y_pred: np.ndarray
    """(n, K) predictions there; for classes probabilities before calibration."""
    std: np.ndarray
    """(n, K) standard deviation of the ensemble's members; 0 where there is one member."""

    def __post_init__(self) -> None:
        """Fit temperatures once."""
        temperature = [1.0] * self.y_true.shape[1]
        if self.task == "classification":
            temperature = [_temperature(*pair) for pair in zip(self.y_true.T, self.y_pred.T, strict=True)]
        object.__setattr__(self, "temperature", np.array(temperature))

    temperature: np.ndarray = None  # type: ignore[assignment]
    """(K,) by which logits are divided; 1 for regression."""

    def calibrated(self, y_pred: np.ndarray) -> np.ndarray:
        """(n, K) probabilities scaled by temperature (Guo et al. 2017); values of a regression stay as they are."""
        if self.task == "regression":
            return y_pred
        return expit(logit(y_pred.clip(_TINY, 1 - _TINY)) / self.temperature)

    def intervals(self, y_pred: np.ndarray, std: np.ndarray, confidence: float) -> np.ndarray:
        """Intervals that hold the true value with a given confidence, wider where the members differ more.

        Args:
            y_pred: (n, K) predictions.
            std: (n, K) standard deviation of the members.
            confidence: in (0, 1).

        Returns:
            (n, K, 2) low and high; infinite where the validation part is too small for that confidence.
        """
        out = np.empty((*y_pred.shape, 2))
        for k in range(y_pred.shape[1]):
            known = ~np.isnan(self.y_true[:, k])
            # members that agree by chance must not promise an interval of no width
            floor = float(np.median(self.std[known, k])) if known.any() else 0.0
            own, new = (self.std[known, k] + floor, std[:, k] + floor) if floor else (None, None)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # too few for the confidence: infinite, as is said above
                model = ConformalRegressor().fit((self.y_true - self.y_pred)[known, k], own)
                # 1 - 0.9 is a little less than 0.1, and the library takes the next rank where that is exact
                out[:, k] = model.predict_int(y_pred[:, k], new, confidence=confidence - 1e-9)
        return out

    def sets(self, y_pred: np.ndarray, confidence: float) -> np.ndarray:
        """Classes that cannot be ruled out with a given confidence, which holds for each class by itself.

        Args:
            y_pred: (n, K) probabilities of class 1, before calibration.
            confidence: in (0, 1).

        Returns:
            (n, K, 2) whether class 0, and whether class 1 is possible.
        """
        out = np.ones((*y_pred.shape, 2), dtype=bool)
        for k in range(y_pred.shape[1]):
            for label in (0, 1):
                rows = self.y_true[:, k] == label
                if not rows.any():
                    continue
                own, new = (np.abs(label - values) for values in (self.y_pred[rows, k], y_pred[:, k]))
                model = ConformalClassifier().fit(own)
                out[:, k, label] = model.predict_set(new[:, None], confidence=confidence, smoothing=False)[:, 0]
        return out

    def coverage(self, y_true: np.ndarray, y_pred: np.ndarray, std: np.ndarray, confidence: float) -> "Coverage":
        """How often the true value is held, on molecules that were not used here; see Coverage."""
        known = ~np.isnan(y_true)
        if not known.any():
            return Coverage(confidence, None, None)
        if self.task == "classification":
            sets = self.sets(y_pred, confidence)
            held = np.where(y_true == 1, sets[..., 1], sets[..., 0])
            size = sets.sum(axis=-1).astype(float)
        else:
            low, high = np.moveaxis(self.intervals(y_pred, std, confidence), -1, 0)
            held, size = (low <= y_true) & (y_true <= high), high - low
        mean = float(size[known].mean())
        return Coverage(confidence, float(held[known].mean()), mean if np.isfinite(mean) else None)

    def arrays(self) -> dict[str, np.ndarray]:
        """What must be kept of it."""
        return {"y_true": self.y_true, "y_pred": self.y_pred, "spread": self.std}


@dataclass(frozen=True)
class Coverage:
    """Whether intervals, or sets of classes, keep their promise on a test part."""

    confidence: float
    """What was promised."""
    share: float | None
    """Labels that lie in their interval or set; over all targets. None without a label."""
    size: float | None
    """Mean width in the targets' unit, None where some are infinite; for classes the mean number of classes in a set.
    """


def _temperature(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    """The temperature of least cross-entropy; 1 where one class is missing."""
    known = ~np.isnan(y_true)
    true, logits = y_true[known], logit(y_pred[known].clip(_TINY, 1 - _TINY))
    if not len(true) or np.ptp(true) == 0:
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, scaled) - true * scaled))

    # beyond e^3 all probabilities are a half, below e^-3 all are 0 or 1
    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))
