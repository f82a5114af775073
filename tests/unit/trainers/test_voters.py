"""Voters: scikit-learn's predictions, from arrays alone; nothing of a fold's labels in its machine."""

from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save
from scipy.special import expit
from sklearn.metrics import log_loss
from sklearn.svm import SVC, SVR

from kflm2.data.datasets import Task
from kflm2.data.splits import Split, with_folds
from kflm2.featurize.features import Features
from kflm2.featurize.ragged import Ragged
from kflm2.trainers import voters
from kflm2.trainers.voters import PENALTIES, SVMVoter, fit_voter

N, P, C, FOLDS = 46, 5, 7, 3
RNG = np.random.default_rng(0)
FEATURES = Features(
    states=Ragged(RNG.normal(size=(2 * N, 4)).astype(np.float32), np.arange(0, 2 * N + 1, 2)),
    descriptors=RNG.normal(size=(N, P)).astype(np.float32),
    counts=RNG.poisson(1, size=(N, C)).astype(np.float32),
    minimol=(3 + 2 * RNG.normal(size=(N, 6)) * np.arange(1, 7)).astype(np.float32),
)
Y = np.stack([FEATURES.descriptors[:, 0] * 3 + 5, np.sin(FEATURES.descriptors[:, 1])], axis=1)
Y[::5, 1] = np.nan
SPLIT = with_folds(Split("random", np.arange(4, 36), np.arange(36, N), np.arange(4)), FOLDS, 0)
NONE = np.array([], dtype=int)
X = np.concatenate([FEATURES.descriptors, np.log1p(FEATURES.counts)], axis=1).astype(float)


def _of_folds(*args: Any, **settings: Any) -> SVMVoter:
    """The machines of the folds."""
    return fit_voter(*args, **settings)[0]


def _gamma() -> float:
    inside = X[SPLIT.learned]
    return float(1 / (inside.shape[1] * inside.var()))


@pytest.fixture
def one_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gamma is not chosen."""
    monkeypatch.setattr(voters, "WIDTHS", (1.0,))


@pytest.mark.usefixtures("one_width")
def test_regression_is_scikit_learns_with_the_penalty_of_the_smallest_out_of_fold_error() -> None:
    of_folds, of_all = fit_voter("svm", FEATURES, Y, SPLIT, "regression", 0)
    predicted = of_folds.predict(FEATURES)
    assert predicted.shape == (FOLDS, N, 2)
    for k in range(2):
        candidates = {}
        for penalty in PENALTIES:
            values = []
            for fold in (*SPLIT.folds, NONE):
                rows = np.setdiff1d(SPLIT.learned, fold)
                rows = rows[~np.isnan(Y[rows, k])]
                mean, std = Y[rows, k].mean(), Y[rows, k].std()
                machine = SVR(C=penalty, gamma=_gamma(), tol=1e-3).fit(X[rows], (Y[rows, k] - mean) / std)
                values.append(machine.predict(X) * std + mean)
            own = np.array(values)[SPLIT.fold_of, SPLIT.learned]
            candidates[float(np.nanmean((own - Y[SPLIT.learned, k]) ** 2))] = np.array(values)
        both = np.concatenate([predicted, of_all.predict(FEATURES)])[:, :, k]
        np.testing.assert_allclose(both, candidates[min(candidates)], atol=1e-6)


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_machines_are_the_same_however_many_are_fitted_at_a_time(task: Task) -> None:
    y = Y if task == "regression" else np.where(np.isnan(Y), np.nan, (Y - np.nanmedian(Y, axis=0)) > 0)
    one, three = (fit_voter("svm", FEATURES, y, SPLIT, task, 0, threads=threads) for threads in (1, 3))
    for alone, beside in zip(one, three, strict=True):
        for name, values in alone.arrays().items():
            np.testing.assert_array_equal(beside.arrays()[name], values)


@pytest.mark.usefixtures("one_width")
def test_weights_are_scikit_learns_and_a_molecule_of_weight_zero_teaches_nothing() -> None:
    weights = np.where(np.arange(N) % 7 == 3, 0.0, 1.0 + np.arange(N) % 3)
    y = Y[:, :1]

    def predictions(labels: np.ndarray) -> np.ndarray:
        """Of the machines of the folds, and of the one of all."""
        pair = fit_voter("svm", FEATURES, labels, SPLIT, "regression", 0, weights=weights)
        return np.concatenate([voter.predict(FEATURES)[:, :, 0] for voter in pair])

    predicted = predictions(y)
    candidates = {}
    for penalty in PENALTIES:
        values = []
        for fold in (*SPLIT.folds, NONE):
            rows = np.setdiff1d(SPLIT.learned, fold)
            rows = rows[weights[rows] > 0]
            mean, std = y[rows, 0].mean(), y[rows, 0].std()
            machine = SVR(C=penalty, gamma=_gamma()).fit(X[rows], (y[rows, 0] - mean) / std, weights[rows])
            values.append(machine.predict(X) * std + mean)
        counted = weights[SPLIT.learned] > 0
        own = np.array(values)[SPLIT.fold_of, SPLIT.learned]
        candidates[float(np.mean((own - y[SPLIT.learned, 0])[counted] ** 2))] = np.array(values)
    np.testing.assert_allclose(predicted, candidates[min(candidates)], atol=1e-6)
    wrong = np.where(weights[:, None] > 0, y, 1e6)
    np.testing.assert_array_equal(predictions(wrong), predicted)


def _out_of_fold_error(gamma: float, k: int) -> float:
    """The smallest of scikit-learn's machines with any penalty, of a target in multiples of its standard deviation."""
    errors = []
    for penalty in PENALTIES:
        squares = []
        for fold in SPLIT.folds:
            rows = np.setdiff1d(SPLIT.learned, fold)
            rows, own = rows[~np.isnan(Y[rows, k])], fold[~np.isnan(Y[fold, k])]
            mean, std = Y[rows, k].mean(), Y[rows, k].std()
            machine = SVR(C=penalty, gamma=gamma).fit(X[rows], (Y[rows, k] - mean) / std)
            squares.append((machine.predict(X[own]) * std + mean - Y[own, k]) ** 2)
        errors.append(float(np.mean(np.concatenate(squares))))
    return min(errors)


@pytest.mark.parametrize("targets", [[0], [1], [0, 1]])
def test_gamma_is_that_of_the_smallest_out_of_fold_errors_of_all_targets(
    targets: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    widths = (1.0, 0.1, 10.0)
    monkeypatch.setattr(voters, "WIDTHS", widths)
    errors = [np.prod([_out_of_fold_error(width * _gamma(), k) for k in targets]) for width in widths]
    voter = _of_folds("svm", FEATURES, Y[:, targets], SPLIT, "regression", 0)
    assert voter.gamma == pytest.approx(widths[int(np.argmin(errors))] * _gamma())
    # a target in other units, or without a label, changes nothing
    other = np.concatenate([Y[:, targets] * 1000, np.full((N, 1), np.nan)], axis=1)
    assert _of_folds("svm", FEATURES, other, SPLIT, "regression", 0).gamma == pytest.approx(voter.gamma)


def test_of_many_molecules_gamma_is_chosen_on_some_and_all_are_learnt_from(monkeypatch: pytest.MonkeyPatch) -> None:
    solved: list[tuple[int, float]] = []
    solve = voters._Problem.solve

    def counted(problem: voters._Problem, gamma: float, pool: Executor) -> list:
        solved.append((len(problem.x), gamma))
        return solve(problem, gamma, pool)

    monkeypatch.setattr(voters._Problem, "solve", counted)
    monkeypatch.setattr(voters, "_MOST_TUNED", 20)
    voter = _of_folds("svm", FEATURES, Y, SPLIT, "regression", 0)
    assert [count for count, _ in solved] == [20, 20, 20, len(SPLIT.learned)]
    assert len(voter.numbers) == len(SPLIT.learned) and solved[-1][1] == voter.gamma


@pytest.mark.usefixtures("one_width")
def test_a_bound_that_is_broken_is_learnt_and_one_that_is_kept_is_not() -> None:
    y, bounds = Y[:, :1].copy(), np.full((2, N, 1), np.nan)
    hidden = np.arange(0, N, 6)
    y[hidden] = np.nan

    def predictions(labels: np.ndarray, *args: np.ndarray, **settings: np.ndarray) -> np.ndarray:
        """Of the machines of the folds, and of the one of all."""
        pair = fit_voter("svm", FEATURES, labels, SPLIT, "regression", 0, *args, **settings)
        return np.concatenate([voter.predict(FEATURES)[:, :, 0] for voter in pair])

    without = predictions(y)
    bounds[1, hidden, 0] = 1e3
    np.testing.assert_array_equal(predictions(y, bounds=bounds), without)
    bounds[0, hidden, 0] = np.nanmax(Y) + 3
    learnt = predictions(y, bounds=bounds)
    for number, fold in enumerate((*SPLIT.folds, NONE)):
        seen = np.intersect1d(hidden, np.setdiff1d(SPLIT.learned, fold))
        assert (learnt[number, seen] > without[number, seen]).all()
    base = np.full((FOLDS, N, 1), 7.0)
    np.testing.assert_allclose(predictions(y + 7, base, bounds=bounds + 7), learnt, atol=1e-6)


@pytest.mark.usefixtures("one_width")
def test_bounds_are_learnt_beside_equal_labels() -> None:
    y, bounds = np.full((N, 1), 5.0), np.full((2, N, 1), np.nan)
    y[::3], bounds[0, ::3] = np.nan, 8.0
    predicted = fit_voter("svm", FEATURES, y, SPLIT, "regression", 0, bounds=bounds)[1].predict(FEATURES)[0, :, 0]
    bounded = np.isnan(y[SPLIT.learned, 0])
    assert predicted[SPLIT.learned][bounded].mean() > predicted[SPLIT.learned][~bounded].mean() + 1


@pytest.mark.usefixtures("one_width")
def test_classes_are_scikit_learns_margins_scaled_to_probabilities() -> None:
    classes = (Y[:, :1] > 5).astype(float)
    voter = _of_folds("svm", FEATURES, classes, SPLIT, "classification", 0)
    slope, offset = voter.platt[:, 0]
    found = []
    for penalty in PENALTIES:
        margins = []
        for fold in SPLIT.folds:
            rows = np.setdiff1d(SPLIT.learned, fold)
            margins.append(SVC(C=penalty, gamma=_gamma()).fit(X[rows], classes[rows, 0]).decision_function(X))
        found.append(expit(slope * np.array(margins) + offset))
    predicted = voter.predict(FEATURES)[:, :, 0]
    assert min(np.abs(values - predicted).max() for values in found) < 1e-6
    own = predicted[SPLIT.fold_of, SPLIT.learned]
    assert log_loss(classes[SPLIT.learned], own) < log_loss(classes[SPLIT.learned], np.full(len(own), 0.5))


@pytest.mark.parametrize("name", ["svm", "llm", "minimol"])
def test_labels_of_a_fold_do_not_reach_its_machine(name: voters.VoterName, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voters, "PENALTIES", (10.0,))  # these are chosen by all labels
    monkeypatch.setattr(voters, "WIDTHS", (1.0,))
    changed = Y.copy()
    changed[SPLIT.folds[1]] += 100
    changed[SPLIT.test] = np.nan
    before, after = (_of_folds(name, FEATURES, y, SPLIT, "regression", 0).predict(FEATURES) for y in (Y, changed))
    assert np.array_equal(before[1], after[1])
    assert not np.allclose(before[0], after[0]) and not np.allclose(before[2], after[2])


def test_the_voter_of_the_llm_reads_mean_states_only() -> None:
    voter = _of_folds("llm", FEATURES, Y, SPLIT, "regression", 0)
    assert FEATURES.states is not None
    means = FEATURES.states.values.reshape(N, 2, 4).mean(axis=1)
    pooled = Features(states=Ragged(means, np.arange(N + 1)))
    np.testing.assert_allclose(voter.predict(pooled), voter.predict(FEATURES), atol=1e-5)


@pytest.mark.usefixtures("one_width")
def test_the_voter_of_minimol_reads_its_fingerprints_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of their columns is scaled by itself, and none clipped: the kernel is that of the fingerprints."""
    monkeypatch.setattr(voters, "PENALTIES", (10.0,))
    assert FEATURES.minimol is not None
    x, rows = FEATURES.minimol.astype(float), SPLIT.learned
    x[0] *= 1000
    # of the centred columns, as the distances of a kernel do not change with the centre
    gamma = 1 / (x.shape[1] * x[rows].var(axis=0).mean())
    mean, std = Y[rows, 0].mean(), Y[rows, 0].std()
    machine = SVR(C=10.0, gamma=gamma).fit(x[rows], (Y[rows, 0] - mean) / std)
    features = replace(FEATURES, minimol=x.astype(np.float32))
    _, whole = fit_voter("minimol", features, Y, SPLIT, "regression", 0)
    np.testing.assert_allclose(whole.predict(features)[0, :, 0], machine.predict(x) * std + mean, atol=1e-3)


@pytest.mark.usefixtures("one_width")
def test_another_machine_learns_from_all_folds_with_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voters, "PENALTIES", (10.0,))
    learned = SPLIT.learned
    known = learned[~np.isnan(Y[learned, 1])]
    base = RNG.normal(size=(FOLDS, N, 2))
    for baseline in (None, base):
        of_folds, whole = fit_voter("svm", FEATURES, Y, SPLIT, "regression", 0, baseline)
        assert whole.gamma == of_folds.gamma
        left = Y[known, 1] if baseline is None else Y[known, 1] - base.mean(axis=0)[known, 1]
        mean, std = left.mean(), left.std()
        machine = SVR(C=10.0, gamma=_gamma()).fit(X[known], (left - mean) / std)
        predicted = whole.predict(FEATURES)
        assert predicted.shape == (1, N, 2)
        np.testing.assert_allclose(predicted[0, :, 1], machine.predict(X) * std + mean, atol=1e-6)
    classes = (Y[:, :1] > 5).astype(float)
    of_folds, whole = fit_voter("svm", FEATURES, classes, SPLIT, "classification", 0)
    margins = SVC(C=10.0, gamma=_gamma()).fit(X[learned], classes[learned, 0]).decision_function(X)
    slope, offset = of_folds.platt[:, 0]
    np.testing.assert_allclose(whole.predict(FEATURES)[0, :, 0], expit(slope * margins + offset), atol=1e-6)


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_arrays_restore_the_same_bits(task: voters.Task) -> None:
    labels = Y if task == "regression" else (Y > 1).astype(float)
    for voter in fit_voter("svm", FEATURES, labels, SPLIT, task, 0):
        restored = SVMVoter.from_arrays("svm", task, load(save(voter.arrays())), FOLDS, 2)
        assert np.array_equal(restored.predict(FEATURES), voter.predict(FEATURES))
        assert np.array_equal(restored.baseline(), voter.baseline())


@pytest.mark.parametrize("name", ["svm", "llm", "minimol"])
def test_covariates_count_as_much_as_the_structure_and_are_kept(name: voters.VoterName) -> None:
    ph = np.linspace(-1, 1, N, dtype=np.float32)[:, None]
    features = replace(FEATURES, covariates=ph)
    labels = 20 * np.asarray(ph, dtype=float)
    voter = _of_folds(name, features, labels, SPLIT, "regression", 0)
    test = SPLIT.test
    structure = np.concatenate([voter.numbers, np.log1p(voter.counts.astype(float))], axis=1).var(axis=0).sum()
    assert voter.covariate_weight**2 * voter.covariates.var() == pytest.approx(structure, rel=1e-4)
    error = np.abs(voter.predict(features)[:, test] - labels[test]).mean()
    blind = _of_folds(name, FEATURES, labels, SPLIT, "regression", 0)
    assert error < 0.6 * np.abs(blind.predict(FEATURES)[:, test] - labels[test]).mean()
    restored = SVMVoter.from_arrays(name, "regression", load(save(voter.arrays())), FOLDS, 1)
    assert np.array_equal(restored.predict(features), voter.predict(features))
    assert not np.allclose(voter.baseline(ph[:1]), voter.baseline(ph[-1:]))


def test_of_one_structure_covariates_alone_are_read() -> None:
    ph = np.linspace(-1, 1, N, dtype=np.float32)[:, None]
    assert FEATURES.descriptors is not None and FEATURES.counts is not None
    one = replace(
        FEATURES,
        covariates=ph,
        descriptors=np.repeat(FEATURES.descriptors[:1], N, axis=0),
        counts=np.repeat(FEATURES.counts[:1], N, axis=0),
    )
    voter = _of_folds("svm", one, np.asarray(ph, dtype=float), SPLIT, "regression", 0)
    assert np.abs(voter.predict(one)[:, SPLIT.test] - ph[SPLIT.test]).max() < 0.3


def test_arrays_of_earlier_versions_have_no_covariates() -> None:
    voter = _of_folds("svm", FEATURES, Y, SPLIT, "regression", 0)
    arrays = {key: array for key, array in voter.arrays().items() if not key.startswith("covariate")}
    restored = SVMVoter.from_arrays("svm", "regression", arrays, FOLDS, 2)
    assert np.array_equal(restored.predict(FEATURES), voter.predict(FEATURES))


def test_counts_of_earlier_versions_were_in_full() -> None:
    voter = _of_folds("svm", FEATURES, Y, SPLIT, "regression", 0)
    arrays = {key: array for key, array in voter.arrays().items() if not key.startswith("counts.")}
    restored = SVMVoter.from_arrays("svm", "regression", {**arrays, "counts": voter.counts}, FOLDS, 2)
    assert np.array_equal(restored.predict(FEATURES), voter.predict(FEATURES))


@pytest.mark.parametrize(
    "damage",
    [
        {"coefficients": np.zeros((3, FOLDS, 2))},
        {"intercepts": np.full((FOLDS, 2), np.nan)},
        {"intercepts": np.zeros((1, 2))},
        {"gamma": np.array([-1.0])},
        {"gamma": np.array([np.inf])},
        {"scale": np.zeros(P, dtype=np.float32)},
        {"counts": np.zeros((42, C))},
        {"counts.number": np.ones(N, dtype=np.uint16)},
        {"counts.column": np.full(1, 9, dtype=np.uint16)},
        {"counts.width": np.array([10**12])},
        {"counts.width": np.array([1])},
        {"numbers": np.zeros((0, P), dtype=np.float32)},
        {"secret": np.zeros(1)},
    ],
    ids=lambda damage: next(iter(damage)),
)
def test_damaged_arrays_are_refused(damage: dict[str, np.ndarray]) -> None:
    arrays = _of_folds("svm", FEATURES, Y, SPLIT, "regression", 0).arrays()
    with pytest.raises((ValueError, TypeError, IndexError)):
        SVMVoter.from_arrays("svm", "regression", {**arrays, **damage}, FOLDS, 2)


def test_of_too_many_molecules_some_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voters, "_MOST", 20)
    voter = _of_folds("svm", FEATURES, Y, SPLIT, "regression", 0)
    assert len(voter.numbers) == 20 and voter.predict(FEATURES).shape == (FOLDS, N, 2)
    same, other = (_of_folds("svm", FEATURES, Y, SPLIT, "regression", seed) for seed in (0, 1))
    assert np.array_equal(voter.numbers, same.numbers) and not np.array_equal(voter.numbers, other.numbers)


def test_a_target_with_few_labels_keeps_them_when_some_molecules_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    few = np.where(np.isin(np.arange(N), (7, 19, 28, 33, 40)), Y[:, 0], np.nan)
    whole = _of_folds("svm", FEATURES, np.stack([Y[:, 0], few], axis=1), SPLIT, "regression", 0)
    monkeypatch.setattr(voters, "_MOST", 20)
    for seed in range(5):
        voter = _of_folds("svm", FEATURES, np.stack([Y[:, 0], few], axis=1), SPLIT, "regression", seed)
        assert len(voter.numbers) == 20
        wanted = FEATURES.descriptors[np.flatnonzero(~np.isnan(few))]
        assert all((voter.numbers == row).all(axis=1).any() for row in wanted)
        # what the first target, which has all labels, learns from is drawn
        assert not np.allclose(voter.predict(FEATURES)[..., 0], whole.predict(FEATURES)[..., 0])
    # none of those that are drawn may have a label of a target
    monkeypatch.setattr(voters, "_drawn", lambda known, count, rng: np.flatnonzero(~known[:, 1])[:count])
    voter = _of_folds("svm", FEATURES, np.stack([Y[:, 0], few], axis=1), SPLIT, "regression", 0)
    assert np.allclose(voter.predict(FEATURES)[..., 1], 0)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_gives_about_its_share(label: float) -> None:
    predicted = _of_folds("svm", FEATURES, np.full((N, 1), label), SPLIT, "classification", 0).predict(FEATURES)
    share = (label * len(SPLIT.learned) + 1) / (len(SPLIT.learned) + 2)
    np.testing.assert_allclose(predicted, share)


def test_constant_labels_give_a_constant() -> None:
    voter = _of_folds("svm", FEATURES, np.full((N, 1), 2.5), SPLIT, "regression", 0)
    assert np.allclose(voter.predict(FEATURES), 2.5)
    flat = replace(FEATURES, descriptors=np.zeros((N, P), np.float32), counts=np.zeros((N, C), np.float32))
    assert np.isfinite(_of_folds("svm", flat, Y, SPLIT, "regression", 0).predict(flat)).all()
