"""Support vector machines that predict beside the neural network, from other inputs.

Out-of-fold predictions are those of one machine for each inner fold; other molecules are predicted by one that has
learnt from all folds: it knows more than the mean of machines that lack a fold each.

They are fitted by scikit-learn. Only arrays are kept of them: a prediction is a kernel between molecules, times
coefficients, so that a bundle needs no pickle.
"""

import itertools
import math
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.svm import SVC, SVR

from kflm2.config.train import COUNT_VOTERS, VoterName
from kflm2.data.datasets import Task
from kflm2.data.splits import Split
from kflm2.featurize.descriptors import MORGAN_BITS
from kflm2.featurize.features import Features
from kflm2.featurize.minimol import WIDTH

PENALTIES = (1.0, 10.0, 100.0)
"""C of the support vector machine; chosen for each target on out-of-fold predictions."""
WIDTHS = (1.0, 0.3, 3.0)
"""Gamma of the kernel, in multiples of 1 / (columns times their variance); chosen for all targets at once, likewise."""
_MOST_TUNED = 2000
"""Molecules on which gamma is chosen at most."""
_MOST = 6000
"""Molecules of which a voter learns at most: a machine's memory and time grow with their square."""
_SIGMAS = {"svm": 5.0, "llm": 5.0, "minimol": 1000.0}
"""Inputs are clipped at so many standard deviations; mean hidden states as the network clips them, fingerprints so that
no damaged scale makes them infinite."""
_ROWS = 2048
"""Molecules that are predicted at once."""
_Machines = tuple[np.ndarray, np.ndarray, np.ndarray]
"""(m, F + 1) coefficients, (F + 1,) intercepts and (2,) Platt scaling of one target; the last is of all folds."""


@dataclass(frozen=True)
class SVMVoter:
    """F support vector machines with an RBF kernel for each of K targets, which share the kernel.

    Each has learnt from all inner folds but one; or there is one, F is 1, which has learnt from all.
    """

    name: VoterName
    task: Task
    numbers: np.ndarray
    """(m, P) float32 inputs of the molecules that they learnt from: scaled descriptors, mean states or fingerprints."""
    counts: np.ndarray
    """(m, C) uint8 Morgan counts of these; C is 0 but for descriptors. The kernel reads log(1 + count)."""
    centre: np.ndarray
    """(P,) subtracted from mean states and fingerprints; 0 for descriptors, which are scaled already."""
    scale: np.ndarray
    """(P,) by which they are then divided; the same for all columns of fingerprints, 1 for descriptors."""
    gamma: float
    """Of the kernel, exp(-gamma |x - x'|^2)."""
    coefficients: np.ndarray
    """(m, F, K) in the targets' units, or of margins; 0 for a molecule that is no support vector."""
    intercepts: np.ndarray
    """(F, K)"""
    platt: np.ndarray
    """(2, K) slope and offset that turn margins into logits (Platt 1999); 1 and 0 for regression."""
    covariates: np.ndarray
    """(m, W) float32 scaled covariates of these molecules; W is 0 for none."""
    covariate_weight: float
    """By which they are multiplied: as few columns they would not count in the kernel, see fit_voter."""
    least: ClassVar[float] = 1e-7
    """Probability below which it cannot tell."""

    def predict(self, scaled: Features) -> np.ndarray:
        """(F, n, K) predictions; the probability of class 1 for classification."""
        numbers, counts = inputs(self.name, scaled)
        _, folds, targets = self.coefficients.shape
        flat = self.coefficients.reshape(len(self.coefficients), -1)
        out = np.empty((folds, len(numbers), targets))
        for start in range(0, len(numbers), _ROWS):
            rows = slice(start, start + _ROWS)
            x = _joined(_standardized(self.name, numbers[rows], self.centre, self.scale), counts[rows])
            x = self._beside(x, None if scaled.covariates is None else scaled.covariates[rows])
            values = rbf_kernel(x, self._references, gamma=self.gamma) @ flat
            out[:, rows] = values.reshape(len(x), folds, targets).transpose(1, 0, 2) + self.intercepts[:, None]
        return out if self.task == "regression" else expit(self.platt[0] * out + self.platt[1])

    def baseline(self, covariates: np.ndarray | None = None) -> np.ndarray:
        """(F, K) predictions of average inputs: median descriptors and mean counts, mean states, mean fingerprints.

        Args:
            covariates: (1, W) that are read beside them; None for none.
        """
        # counts enter as their logarithm
        average = np.concatenate([np.zeros(self.numbers.shape[1]), np.log1p(self.counts.astype(float)).mean(axis=0)])
        _, folds, targets = self.coefficients.shape
        x = self._beside(average[None], covariates)
        values = rbf_kernel(x, self._references, gamma=self.gamma) @ self.coefficients.reshape(
            len(self.coefficients), -1
        )
        out = values.reshape(folds, targets) + self.intercepts
        return out if self.task == "regression" else expit(self.platt[0] * out + self.platt[1])

    @cached_property
    def _references(self) -> np.ndarray:
        return self._beside(_joined(self.numbers, self.counts), self.covariates)

    def _beside(self, x: np.ndarray, covariates: np.ndarray | None) -> np.ndarray:
        """(n, P + C) inputs with (n, W) scaled covariates beside them."""
        if covariates is None:
            return x
        return np.concatenate([x, self.covariate_weight * covariates.astype(np.float64)], axis=1)

    def arrays(self) -> dict[str, np.ndarray]:
        """Name -> array, from which `from_arrays` restores the voter."""
        names = ("numbers", "centre", "scale", "coefficients", "intercepts", "platt", "covariates")
        values = {name: np.array([getattr(self, name)]) for name in ("gamma", "covariate_weight")}
        # of the counts of a molecule about 1 in 50 is not 0
        rows, columns = np.nonzero(self.counts)
        sparse = {
            "counts.number": np.bincount(rows, minlength=len(self.counts)).astype(np.uint16),
            "counts.column": columns.astype(np.uint16),
            "counts.value": self.counts[rows, columns],
            "counts.width": np.array([self.counts.shape[1]]),
        }
        return {**{name: getattr(self, name) for name in names}, **values, **(sparse if self.counts.size else {})}

    @classmethod
    def from_arrays(
        cls, name: VoterName, task: Task, arrays: dict[str, np.ndarray], folds: int, targets: int
    ) -> "SVMVoter":
        """Restore a voter.

        Args:
            name: of the voter.
            task: of the targets.
            arrays: of `arrays`.
            folds: inner folds of the model; earlier versions kept a machine of each.
            targets: K.

        Raises:
            ValueError: the arrays do not go together, or hold a number that is not finite.
            IndexError, KeyError, TypeError: one is missing, or names a column that is not there.
        """
        if len(arrays["numbers"]) > _MOST:  # so that an untrusted file cannot take much memory
            raise ValueError(f"the voter {name} has more molecules than any")
        # models of earlier versions have no covariates
        none: dict[str, np.ndarray] = {
            "covariates": np.zeros((len(arrays["numbers"]), 0), np.float32),
            "covariate_weight": np.ones(1),
        }
        arrays = none | arrays
        if "counts" not in arrays:  # models of earlier versions have them in full
            arrays["counts"] = _dense_counts(len(arrays["numbers"]), arrays)
        (gamma,), (weight,) = arrays.pop("gamma").tolist(), arrays.pop("covariate_weight").tolist()
        voter = cls(name, task, gamma=gamma, covariate_weight=weight, **arrays)
        count, width = voter.numbers.shape
        machines = 1 if voter.intercepts.shape[:1] == (1,) else folds
        shapes = {
            "counts": (count, voter.counts.shape[1]),
            "centre": (width,),
            "scale": (width,),
            "coefficients": (count, machines, targets),
            "intercepts": (machines, targets),
            "platt": (2, targets),
            "covariates": (count, voter.covariates.shape[1]),
        }
        sound = all(getattr(voter, part).shape == shape for part, shape in shapes.items())
        finite = sound and all(np.isfinite(array).all() for array in [*arrays.values(), gamma, weight])
        if not (finite and count and gamma > 0 and voter.counts.dtype == np.uint8 and voter.scale.all()):
            raise ValueError(f"the voter {name} is damaged")
        return voter


def _dense_counts(molecules: int, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """(m, C) Morgan counts from the numbers that are not 0, which are taken out of the arrays; C is 0 for none.

    Raises:
        ValueError: they do not go together.
    """
    if "counts.number" not in arrays:
        return np.zeros((molecules, 0), dtype=np.uint8)
    number, column, value, (width,) = (arrays.pop(f"counts.{name}") for name in ("number", "column", "value", "width"))
    whole = all(array.ndim == 1 and array.dtype.kind == "u" for array in (number, column)) and value.dtype == np.uint8
    if not whole or len(number) != molecules or not number.sum() == len(column) == len(value) or width > MORGAN_BITS:
        raise ValueError("the counts are damaged")
    counts = np.zeros((molecules, int(width)), dtype=np.uint8)
    counts[np.repeat(np.arange(molecules), number), column] = value  # IndexError for a column that is not there
    return counts


def inputs(name: VoterName, features: Features) -> tuple[np.ndarray, np.ndarray]:
    """What a voter reads of n molecules: (n, P) scaled descriptors, mean states or fingerprints; (n, C) counts."""
    if name in COUNT_VOTERS:
        assert features.descriptors is not None and features.counts is not None
        return features.descriptors, features.counts
    if name == "minimol":
        assert features.minimol is not None
        return features.minimol, np.zeros((len(features.minimol), 0), dtype=np.uint8)
    assert features.states is not None
    count = len(features.states)
    means = np.empty((count, features.states.width), dtype=np.float32)
    for i in range(count):
        means[i] = features.states.take(np.array([i])).values.mean(axis=0, dtype=np.float32)
    return means, np.zeros((count, 0), dtype=np.uint8)


def input_widths(name: VoterName, descriptors: int, states: int) -> tuple[int, int]:
    """P and C of a voter's inputs.

    Args:
        name: of the voter.
        descriptors: number of scaled descriptors.
        states: D, width of the LLM's states.
    """
    width = {"svm": descriptors, "forest": descriptors, "llm": states, "minimol": WIDTH}[name]
    return width, MORGAN_BITS if name in COUNT_VOTERS else 0


def _standardized(name: VoterName, numbers: np.ndarray, centre: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return ((numbers - centre) / scale).clip(-_SIGMAS[name], _SIGMAS[name]).astype(np.float32)


def _joined(numbers: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.concatenate([numbers, np.log1p(counts.astype(np.float32))], axis=1).astype(np.float64)


def fit_voter(
    name: VoterName,
    scaled: Features,
    y_true: np.ndarray,
    split: Split,
    task: Task,
    seed: int,
    baseline: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    bounds: np.ndarray | None = None,
    threads: int = 1,
) -> tuple[SVMVoter, SVMVoter]:
    """Fit the machines of all inner folds and targets.

    Behind baselines, one for each fold, the machine that learns from all folds learns what their mean leaves.

    Args:
        name: of the voter.
        scaled: of all n molecules, as the models read them.
        y_true: (n, K), NaN where the label is missing.
        split: with inner folds.
        task: of the targets.
        seed: of the molecules that are drawn where there are too many.
        baseline: (F, n, K) predictions of each fold's baseline, what it leaves of y_true is learnt; None for none.
        weights: (n,) of the molecules; one of weight 0 is not learnt from. None for 1.
        bounds: (2, n, K) of labels of which only a bound is known, see _fit; None for none.
        threads: machines that are fitted at a time; they are the same whatever this number.

    Returns:
        The machines that lack a fold each, and the one that learnt from all.
    """
    if weights is not None:
        y_true = np.where(weights[:, None] > 0, y_true, np.nan)
        bounds = None if bounds is None else np.where(weights[:, None] > 0, bounds, np.nan)
    known = ~np.isnan(y_true) if bounds is None else ~(np.isnan(y_true) & np.isnan(bounds).all(axis=0))
    rows = drawn_rows(split, known, seed)
    fold = split.fold_of[np.searchsorted(split.learned, rows)]
    numbers, counts = inputs(name, scaled)
    centre, scale = np.zeros(numbers.shape[1], np.float32), np.ones(numbers.shape[1], np.float32)
    if name != "svm":
        centre, std = numbers[rows].mean(axis=0), numbers[rows].std(axis=0)
        if name == "minimol":  # what varies more among molecules tells more about them
            std = np.full_like(std, np.sqrt((std**2).mean()))
        scale = np.where(std > 0, std, np.float32(1))
    numbers = _standardized(name, numbers[rows], centre, scale)
    counts = counts[rows].clip(0, 255).astype(np.uint8)
    x = _joined(numbers, counts)
    covariates = np.zeros((len(rows), 0), np.float32) if scaled.covariates is None else scaled.covariates[rows]
    weight = covariate_weight(x, covariates)
    x = np.concatenate([x, weight * covariates.astype(np.float64)], axis=1)
    folds = len(split.folds)
    # (3, F + 1, m, K): what the machine of each fold learns, and that of all folds, labels and bounds
    unknown = np.full((2, *y_true.shape), np.nan) if bounds is None else bounds
    labels = np.concatenate([y_true[None], unknown])[:, None, rows].repeat(folds + 1, axis=1)
    if baseline is not None:
        labels = labels - np.concatenate([baseline, baseline.mean(axis=0, keepdims=True)])[:, rows]
    problem = _Problem(x, labels, fold, task, None if weights is None else weights[rows])
    with ThreadPoolExecutor(threads) as pool:  # libsvm works without Python's lock
        gamma, machines = _chosen(problem, seed, pool)
    coefficients, intercepts, platt = (
        np.stack([machine[i] for machine in machines], axis=-1) for i in range(len(machines[0]))
    )

    def voter(kept: slice) -> SVMVoter:
        return SVMVoter(
            name,
            task,
            numbers,
            counts,
            centre,
            scale,
            gamma,
            np.ascontiguousarray(coefficients[:, kept]),
            intercepts[kept],
            platt,
            covariates,
            weight,
        )

    return voter(slice(folds)), voter(slice(folds, None))


@dataclass(frozen=True)
class _Problem:
    """What the machines learn."""

    x: np.ndarray
    """(m, P) inputs."""
    labels: np.ndarray
    """(3, F + 1, m, K) what each machine learns, labels, lower and upper bounds, NaN where missing."""
    fold: np.ndarray
    """(m,) number of the fold of each molecule."""
    task: Task
    weights: np.ndarray | None
    """(m,); None for 1."""

    def of(self, rows: np.ndarray) -> "_Problem":
        """Of some of the molecules."""
        weights = None if self.weights is None else self.weights[rows]
        return _Problem(self.x[rows], self.labels[:, :, rows], self.fold[rows], self.task, weights)

    def solve(self, gamma: float, pool: Executor) -> list[tuple[float, _Machines]]:
        """The out-of-fold error and the machines of each target."""
        kernel = rbf_kernel(self.x, self.x, gamma=gamma)
        targets = range(self.labels.shape[3])
        return [_best(kernel, self.labels[..., k], self.fold, self.task, self.weights, pool) for k in targets]


def _chosen(problem: _Problem, seed: int, pool: Executor) -> tuple[float, list[_Machines]]:
    """The gamma of the smallest out-of-fold errors, in the mean over the targets of their logarithms, and its machines.

    One gamma for all targets: a prediction needs one kernel, not three.
    """
    part, count = problem, len(problem.x)
    if count > _MOST_TUNED:
        known = ~np.isnan(problem.labels).all(axis=(0, 1))
        part = problem.of(np.sort(_drawn(known, _MOST_TUNED, np.random.default_rng([seed, 3]))))
    plain = 1 / (problem.x.shape[1] * problem.x.var()) if problem.x.var() else 1.0
    solved = {width: part.solve(width * plain, pool) for width in WIDTHS}

    def mean(width: float) -> float:
        errors = np.array([[error for error, _ in solved[each]] for each in (width, 1.0)])
        told = (errors > 0).all(axis=0)  # neither without labels nor of one value
        return float(np.log(errors[0, told] / errors[1, told]).mean()) if told.any() else 0.0

    width = min(WIDTHS, key=mean)  # the first of equal ones
    found = solved[width] if part is problem else problem.solve(width * plain, pool)
    return width * plain, [machine for _, machine in found]


def drawn_rows(split: Split, known: np.ndarray, seed: int) -> np.ndarray:
    """The molecules that a voter learns from, ascending: all that are learnt, or as many as it can at most.

    Args:
        split: with inner folds.
        known: (n, K) what has a label or a bound.
        seed: of which are drawn.
    """
    rows = split.learned
    if len(rows) > _MOST:
        rows = np.sort(rows[_drawn(known[rows], _MOST, np.random.default_rng([seed, 2]))])
    return rows


def _drawn(known: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """So many of n molecules, at random; a target with few labels loses none before others.

    Args:
        known: (n, K) what has a label or a bound.
        count: how many.
        rng: draws.
    """
    if known.all():
        return rng.choice(len(known), count, replace=False)
    order = rng.permutation(len(known))
    # the k-th labelled row of each target, for k = 1, 2, ...; a row comes when its first target needs it
    turn = np.where(known[order], known[order].cumsum(axis=0), len(known) + 1).min(axis=1)
    return order[np.argsort(turn, kind="stable")[:count]]


def covariate_weight(x: np.ndarray, covariates: np.ndarray) -> float:
    """A factor of (m, W) covariates with which they have as much variance in all as the (m, P) columns of structures.

    So a kernel, which reads distances, can tell two values of the pH apart as well as two molecules.
    """
    own = float(covariates.var(axis=0).sum()) if covariates.size else 0.0
    structures = float(x.var(axis=0).sum())
    return float(np.sqrt(structures / own)) if own and structures else 1.0  # of one structure they alone tell anything


def _best(
    kernel: np.ndarray,
    learnt: np.ndarray,
    fold: np.ndarray,
    task: Task,
    weights: np.ndarray | None,
    pool: Executor,
) -> tuple[float, _Machines]:
    """The smallest out-of-fold error of all penalties (NaN without labels), and the machines of this penalty.

    Args:
        kernel: (m, m)
        learnt: (3, F + 1, m) what each machine learns, labels, lower and upper bounds, NaN where missing.
        fold: (m,) number of the fold of each molecule.
        task: of the target.
        weights: (m,); None for 1.
        pool: in which the machines are fitted.
    """
    best: tuple[float, float, _Machines] | None = None
    labelled = ~np.isnan(learnt[0, 0])
    machines, count = learnt.shape[1:]
    if not labelled.any():  # of more molecules than can be learnt from, none of these has a label
        return math.nan, (np.zeros((count, machines)), np.zeros(machines), np.array([1.0, 0.0]))
    own = learnt[0, fold, np.arange(count)]

    def fit(number: int, penalty: float) -> tuple[np.ndarray, float]:
        # the last number is no fold's, so that machine sees all
        return _fit(kernel, learnt[:, number], fold != number, penalty, task, weights)

    penalties, numbers = zip(*itertools.product(PENALTIES, range(machines - 1)), strict=True)
    fitted = list(pool.map(fit, numbers, penalties))
    for start, penalty in zip(range(0, len(fitted), machines - 1), PENALTIES, strict=True):
        of_folds = fitted[start : start + machines - 1]
        coefficients = np.stack([values for values, _ in of_folds], axis=1)
        intercepts = np.array([intercept for _, intercept in of_folds])
        out = (np.einsum("ij,ji->i", kernel, coefficients[:, fold]) + intercepts[fold])[labelled]
        labels = own[labelled]
        platt = np.array([1.0, 0.0])
        if task == "regression":
            error = float(np.mean((out - labels) ** 2))
        else:
            if np.ptp(labels) == 0:  # one class: its share, with a molecule of each class more
                platt = np.array([0.0, logit((labels.sum() + 1) / (len(labels) + 2))])
            else:
                logistic = LogisticRegression().fit(out[:, None], labels)
                # abs: for a poor machine the slope may be negative; the ranking by margin is preserved
                platt = np.array([abs(logistic.coef_[0, 0]), logistic.intercept_[0]])
            error = float(log_loss(labels, expit(platt[0] * out + platt[1]), labels=[0, 1]))
        if best is None or error < best[0]:
            best = error, penalty, (coefficients, intercepts, platt)
    assert best is not None
    error, penalty, (coefficients, intercepts, platt) = best
    values, intercept = fit(machines - 1, penalty)
    whole = np.concatenate([coefficients, values[:, None]], axis=1), np.append(intercepts, intercept)
    return error, (*whole, platt)


def _fit(
    kernel: np.ndarray, learnt: np.ndarray, seen: np.ndarray, penalty: float, task: Task, weights: np.ndarray | None
) -> tuple[Any, float]:
    """(m,) coefficients and the intercept of one machine.

    It learns from the labels alone first. Bounds that it breaks are then learnt as values, with the labels, until it
    breaks no further one.

    Args:
        kernel: (m, m)
        learnt: (3, m) labels, lower and upper bounds, NaN where missing.
        seen: (m,) which molecules it may learn from.
        penalty: C.
        task: of the target.
        weights: (m,); None for 1.
    """
    y_true, (lower, upper) = learnt[0].copy(), learnt[1:]
    rows = np.flatnonzero(seen & ~np.isnan(y_true))
    coefficients, labels = np.zeros(len(kernel)), y_true[rows]
    if not len(labels):
        return coefficients, 0.0
    mean, std = labels.mean(), labels.std()
    if std == 0 and task == "regression":  # of equal labels a bound may still tell something
        limits = np.concatenate([lower[seen], upper[seen]])
        std = np.concatenate([labels, limits[~np.isnan(limits)]]).std()
    if std == 0:
        return coefficients, float(mean if task == "regression" else 2 * mean - 1)
    while True:
        labels, importance = y_true[rows], None if weights is None else weights[rows]
        inside = kernel[np.ix_(rows, rows)]
        coefficients = np.zeros(len(kernel))
        if task == "classification":
            machine = SVC(kernel="precomputed", C=penalty).fit(inside, labels, importance)
            coefficients[rows[machine.support_]] = machine.dual_coef_[0]
            return coefficients, float(machine.intercept_[0])
        machine = SVR(kernel="precomputed", C=penalty).fit(inside, (labels - mean) / std, importance)
        coefficients[rows[machine.support_]] = machine.dual_coef_[0] * std
        intercept = float(machine.intercept_[0] * std + mean)
        y_pred = kernel @ coefficients + intercept
        broken = seen & np.isnan(y_true) & ((y_pred < lower) | (y_pred > upper))
        if not broken.any():
            return coefficients, intercept
        y_true[broken] = np.where(y_pred < lower, lower, upper)[broken]
        rows = np.flatnonzero(seen & ~np.isnan(y_true))
