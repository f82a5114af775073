"""Uncertainty of predictions: conformal intervals and calibrated probabilities.

Everything here is fitted on the validation part. The intervals then contain the true value at the requested confidence
(G. Shafer, V. Vovk, J. Mach. Learn. Res. 2008, 9, 371), provided that molecules come from the same distribution as the
validation part. The same part is also used to choose the epoch, which may reduce the coverage; so every run measures
the coverage on test. For other molecules the guarantee is void, which is why there is an applicability domain.

With inner folds it is fitted on the out-of-fold predictions of all molecules that are not test. Then there is no exact
guarantee: a new molecule is predicted by the mean of the folds' networks, not by one of them, and by voters that have
learnt from all folds, and so usually a little better
(for intervals that have one see R. F. Barber et al., Ann. Stat. 2021, 49, 486).

The confidence is the mean over models; the intervals of one model cover more or less than that, see coverage_range.
"""

import math
import warnings
from dataclasses import dataclass, replace

import numpy as np
from crepes import ConformalClassifier, ConformalRegressor
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.model_selection import StratifiedKFold

from kflm2.data.datasets import Task

CONFIDENCE = 0.9
"""Default probability that an interval contains the true value."""
_RANGE = 0.95
"""Probability that the coverage of one model lies in its range."""
_TINY = 1e-7
_FOLDS = 10


def coverage_range(count: int, confidence: float) -> tuple[float, float]:
    """The range that holds, in 95 % of the cases, the coverage of intervals calibrated on some molecules.

    Over draws of the calibration molecules the coverage is distributed as Beta(k, count + 1 - k) with
    k = ceil((count + 1) * confidence) (V. Vovk, ACML 2012; A. N. Angelopoulos, S. Bates, arXiv:2107.07511, 2021).

    Args:
        count: calibration molecules.
        confidence: in (0, 1).

    Returns:
        Lower and upper bound; (1, 1) where there are too few molecules, and the intervals are infinite.
    """
    # a rounding error must not take the next rank where the rank is a whole number
    rank = math.ceil((count + 1) * (confidence - 1e-9))
    if rank > count:
        return 1.0, 1.0
    low, high = stats.beta.interval(_RANGE, rank, count + 1 - rank)
    return float(low), float(high)


def promise(count: int, task: Task, confidence: float, folds: bool = False) -> str:
    """What a confidence is worth for one model, in words.

    Args:
        count: molecules that calibrate its intervals or sets; see Calibration.fewest.
        task: of the targets.
        confidence: in (0, 1).
        folds: whether they have out-of-fold predictions, rather than those of a validation part.
    """
    kind, labels = ("intervals", "labels") if task == "regression" else ("sets", "labels of the rarest class")
    low, high = coverage_range(count, confidence)
    where = "the inner folds" if folds else "validation"
    if low == 1:
        effect = "some intervals are infinitely wide" if task == "regression" else "sets do not rule that class out"
        return f"{where} {'have' if folds else 'has'} {count} {labels}, too few for {100 * confidence:g} %: {effect}"
    if folds:
        return (
            f"calibrated on out-of-fold predictions of {count} {labels}, the {kind} of one ensemble hold about"
            f" {100 * low:.0f} to {100 * high:.0f} %, or a little more, of molecules like those; this is not guaranteed"
        )
    return (
        f"calibrated on {count} {labels} of validation, the {kind} of one model hold {100 * low:.0f} to"
        f" {100 * high:.0f} % of molecules like those (95 % range)"
    )


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

    temperature: np.ndarray
    """(K,) divisors of the logits; 1 for regression."""

    @classmethod
    def fit(
        cls, task: Task, y_true: np.ndarray, y_pred: np.ndarray, std: np.ndarray, always_scale: bool = False
    ) -> "Calibration":
        """The calibration of predictions; see the fields.

        Args:
            task: of the targets.
            y_true: (n, K)
            y_pred: (n, K)
            std: (n, K)
            always_scale: scale probabilities even where that does not help, as models of earlier versions do.
        """
        temperature = np.ones(y_true.shape[1])
        if task == "classification":
            find = best_temperature if always_scale else choose_temperature
            pairs = zip(y_true.T, y_pred.T, strict=True)
            temperature = np.array([find(*_labelled_logits(*pair)) for pair in pairs])
        return cls(task, y_true, y_pred, std, temperature)

    @property
    def fewest(self) -> int:
        """The fewest molecules on which intervals of a target, or sets of a class of a target, are calibrated."""
        labels = self.y_true.T
        if self.task == "regression":
            return min(int((~np.isnan(column)).sum()) for column in labels)
        # of a class without a molecule the sets say nothing: it is never excluded
        counts = [int((column == label).sum()) for column in labels for label in (0, 1)]
        return min(filter(None, counts), default=0)

    def calibrated(self, y_pred: np.ndarray) -> np.ndarray:
        """(n, K) probabilities scaled by temperature (Guo et al. 2017); regression values are unchanged.

        The order is kept, so thresholds may be scaled too; one above 1, which no probability reaches, stays.
        """
        if self.task == "regression":
            return y_pred
        scaled = expit(logit(y_pred.clip(_TINY, 1 - _TINY)) / self.temperature)
        return np.where(y_pred > 1, y_pred, scaled)

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
                # less by a rounding error, as for intervals
                kept = model.predict_set(errors[:, None], confidence=confidence - 1e-9, smoothing=False)
                sets[:, k, label] = kept[:, 0]
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
        has_size = np.isfinite(mean_size) and (self.task == "classification" or y_true.shape[1] == 1)
        return Coverage(confidence, float(covered[labelled].mean()), mean_size if has_size else None)

    def anonymous(self) -> "Calibration":
        """What gives the same intervals or sets, in no order of the molecules.

        Of regression only the residuals stay, since intervals need no more; of classes labels beside predictions.
        """
        residuals = self.y_true - self.y_pred
        if self.task == "classification":
            order = np.argsort(self.y_pred[:, 0])
            y_true, y_pred = self.y_true[order], self.y_pred[order]
        else:
            order = np.argsort(residuals[:, 0])
            y_true, y_pred = residuals[order], np.zeros_like(self.y_pred)
        return replace(self, y_true=y_true, y_pred=y_pred, std=self.std[order])

    def arrays(self) -> dict[str, np.ndarray]:
        """Name -> array, of the arrays to save."""
        arrays = {"y_true": self.y_true, "y_pred": self.y_pred, "spread": self.std}
        return arrays | ({"temperature": self.temperature} if self.task == "classification" else {})


@dataclass(frozen=True)
class Coverage:
    """Measured coverage of intervals, or of sets of classes, on a test part."""

    confidence: float
    """The requested coverage."""
    share: float | None
    """Share of labels that lie in their interval or set, over all targets; None without a label."""
    size: float | None
    """Mean width in the target's unit, None if any is infinite, and of several targets, whose units may differ; for
    classes the mean number of classes in a set."""


def _labelled_logits(y_true: np.ndarray, y_pred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels that are there, and the logits of their predictions."""
    labelled = ~np.isnan(y_true)
    return y_true[labelled], logit(y_pred[labelled].clip(_TINY, 1 - _TINY))


def choose_temperature(labels: np.ndarray, logits: np.ndarray) -> float:
    """The temperature of minimal cross-entropy where cross-validation says that it helps, else 1.

    A temperature fitted on few molecules can make the probabilities of others worse.

    Args:
        labels: (n,) classes.
        logits: (n,) of class 1.
    """
    folds = min(_FOLDS, *(int((labels == label).sum()) for label in (0, 1)))
    if folds < 2:
        return 1.0
    scaled = np.empty(len(labels))
    for fitted, left_out in StratifiedKFold(folds, shuffle=True, random_state=0).split(logits, labels):
        scaled[left_out] = logits[left_out] / best_temperature(labels[fitted], logits[fitted])
    return best_temperature(labels, logits) if cross_entropy(labels, scaled) < cross_entropy(labels, logits) else 1.0


def best_temperature(labels: np.ndarray, logits: np.ndarray) -> float:
    """The temperature of minimal cross-entropy; 1 if a class is missing."""
    if not len(labels) or np.ptp(labels) == 0:
        return 1.0
    # above e^3 all probabilities are near 0.5, below e^-3 all are near 0 or 1
    found = minimize_scalar(
        lambda power: cross_entropy(labels, logits / np.exp(power)), bounds=(-3, 3), method="bounded"
    )
    return float(np.exp(found.x))


def cross_entropy(labels: np.ndarray, logits: np.ndarray) -> float:
    """Mean negative log-likelihood of classes 0 and 1."""
    return float(np.mean(np.logaddexp(0, logits) - labels * logits))
