"""A ridge regression on a few columns that predicts first; the other models then learn what it leaves (delta learning).

A linear map extrapolates where the neural network and the support vector machine, whose inputs are ranks, cannot. Delta
learning: Ramakrishnan et al., J. Chem. Theory Comput. 2015, 11, 2087.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import RidgeCV

from kflm2.config.train import TrainConfig
from kflm2.errors import SettingError

PENALTIES = tuple(10.0 ** (power / 2) for power in range(-4, 9))
"""Of standardized columns; the one of the smallest leave-one-out error is taken, for each fold and target."""


def baseline_columns(config: TrainConfig, names: Sequence[str]) -> list[int]:
    """Columns of the descriptors on which the ridge of these settings regresses; none without a baseline.

    Args:
        config: see TrainConfig.
        names: of the descriptors' columns.

    Raises:
        SettingError: a name is none of them.
    """
    if config.baseline_model == "none":
        return []
    groups = {
        "xtb": [name for name in names if name.startswith(("xtb_", "taught_xtb_"))],
        "taught": [name for name in names if name.startswith("taught_")],
    }
    wanted = [name for word in config.baseline_columns for name in groups.get(word) or [word]]
    if unknown := [name for name in wanted if name not in names]:
        raise SettingError(
            f"baseline_columns: {unknown[0]} is no descriptor of {config.descriptors}; xtb stands for all of xTB, and"
            " taught for all that the LLM was taught"
        )
    return [list(names).index(name) for name in dict.fromkeys(wanted)]


@dataclass(frozen=True)
class RidgeBaseline:
    """F ridge regressions, one for each fold, of K targets on P columns."""

    median: np.ndarray
    """(P,) that a missing value is replaced with."""
    low: np.ndarray
    """(P,) to which a smaller value is raised: as far below the training molecules as these are wide."""
    high: np.ndarray
    """(P,) to which a larger one is lowered: an ion among neutral molecules has ten times their solvation energy."""
    coefficients: np.ndarray
    """(F, P, K) in the targets' units per unit of the column."""
    intercepts: np.ndarray
    """(F, K) in the targets' units."""

    def predict(self, values: np.ndarray) -> np.ndarray:
        """(F, n, K) predictions from (n, P) values, NaN where missing."""
        return np.einsum("np,fpk->fnk", self.filled(values), self.coefficients) + self.intercepts[:, None]

    def filled(self, values: np.ndarray) -> np.ndarray:
        """(n, P) float64 values as the regressions read them."""
        return np.where(np.isnan(values), self.median, values).astype(np.float64).clip(self.low, self.high)

    def arrays(self) -> dict[str, np.ndarray]:
        """Name -> array, from which `from_arrays` restores it."""
        return {name: getattr(self, name) for name in ("median", "low", "high", "coefficients", "intercepts")}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], folds: int, columns: int, targets: int) -> "RidgeBaseline":
        """Restore a baseline.

        Raises:
            ValueError: the arrays do not go together, or hold a number that is not finite.
        """
        baseline = cls(**arrays)
        shapes = ((columns,), (columns,), (columns,), (folds, columns, targets), (folds, targets))
        parts = (baseline.median, baseline.low, baseline.high, baseline.coefficients, baseline.intercepts)
        if any(part.shape != shape for part, shape in zip(parts, shapes, strict=True)) or not all(
            np.isfinite(part).all() for part in parts
        ):
            raise ValueError("the ridge baseline is damaged")
        return baseline


def fit_baseline(
    values: np.ndarray, y_true: np.ndarray, folds: list[np.ndarray], weights: np.ndarray | None = None
) -> RidgeBaseline:
    """Fit the regressions.

    Args:
        values: (n, P) of all molecules, NaN where missing.
        y_true: (n, K), NaN where the label is missing.
        folds: rows that each fold's regression learns from.
        weights: (n,) of the molecules; one of weight 0 is not learnt from. None for 1.
    """
    if weights is not None:
        y_true = np.where(weights[:, None] > 0, y_true, np.nan)
        folds = [rows[weights[rows] > 0] if weights[rows].any() else rows for rows in folds]
    learned = np.unique(np.concatenate(folds))
    # the same for all folds; it sees no label
    with np.errstate(all="ignore"):
        median = np.nan_to_num(np.nanmedian(values[learned].astype(np.float64), axis=0))
    filled = np.where(np.isnan(values), median, values).astype(np.float64)
    low, high = filled[learned].min(axis=0), filled[learned].max(axis=0)
    targets = y_true.shape[1]
    coefficients = np.zeros((len(folds), values.shape[1], targets))
    intercepts = np.zeros((len(folds), targets))
    for number, rows in enumerate(folds):
        mean, std = filled[rows].mean(axis=0), filled[rows].std(axis=0)
        std = np.where(std > 0, std, 1.0)
        for k in range(targets):
            labelled = rows[~np.isnan(y_true[rows, k])]
            if len(labelled) < 2:
                intercepts[number, k] = y_true[labelled, k].sum()
                continue
            importance = None if weights is None else weights[labelled]
            ridge = RidgeCV(PENALTIES).fit((filled[labelled] - mean) / std, y_true[labelled, k], importance)
            coefficients[number, :, k] = ridge.coef_ / std
            intercepts[number, k] = ridge.intercept_ - (ridge.coef_ * mean / std).sum()
    return RidgeBaseline(median, low - (high - low), high + (high - low), coefficients, intercepts)
