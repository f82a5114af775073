"""The forest: scikit-learn's predictions, from arrays alone; nothing of a fold's labels in its trees."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load, save
from sklearn.ensemble import RandomForestClassifier

from kflm2.data.splits import Split, with_folds
from kflm2.featurize.features import Features
from kflm2.trainers import forest, voters
from kflm2.trainers.forest import ForestVoter, fit_forest

N, P, C, FOLDS, TREES = 60, 5, 7, 3, 20
RNG = np.random.default_rng(0)
# few values each, so that thresholds lie between neighbours, and some are met
FEATURES = Features(
    descriptors=RNG.normal(size=(N, P)).round(1).astype(np.float32),
    counts=RNG.poisson(1, size=(N, C)).astype(np.float32),
)
Y = np.stack([FEATURES.descriptors[:, 0] + RNG.normal(size=N) > 0, FEATURES.counts[:, 1] > 0], axis=1).astype(float)
Y[::5, 1] = np.nan
SPLIT = with_folds(Split("random", np.arange(4, 46), np.arange(46, N), np.arange(4)), FOLDS, 0)
NONE = np.array([], dtype=int)
X = np.concatenate([FEATURES.descriptors, FEATURES.counts], axis=1)
WIDTHS = P, C, 0


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quick forests."""
    monkeypatch.setattr(forest, "TREES", TREES)


@pytest.mark.parametrize("weights", [None, np.where(np.arange(N) % 4, 1.5, 0.0)], ids=["alike", "weighted"])
def test_predictions_are_scikit_learns_of_each_fold_and_of_all(weights: np.ndarray | None) -> None:
    of_folds, of_all = fit_forest(FEATURES, Y, SPLIT, 3, weights)
    predicted = np.concatenate([of_folds.predict(FEATURES), of_all.predict(FEATURES)])
    assert predicted.shape == (FOLDS + 1, N, 2)
    for number, fold in enumerate((*SPLIT.folds, NONE)):
        for k in range(2):
            rows = np.setdiff1d(SPLIT.learned, fold)
            rows = rows[~np.isnan(Y[rows, k]) & (True if weights is None else weights[rows] > 0)]
            trees = RandomForestClassifier(TREES, random_state=3)
            trees.fit(X[rows], Y[rows, k], None if weights is None else weights[rows])
            np.testing.assert_allclose(predicted[number, :, k], trees.predict_proba(X)[:, 1], atol=1e-6)


def test_labels_of_a_fold_do_not_reach_its_forest() -> None:
    changed = Y.copy()
    changed[SPLIT.folds[1]] = 1 - changed[SPLIT.folds[1]]
    changed[SPLIT.test] = np.nan
    before, after = (fit_forest(FEATURES, y, SPLIT, 0)[0].predict(FEATURES) for y in (Y, changed))
    assert np.array_equal(before[1], after[1])
    assert not np.allclose(before[0], after[0]) and not np.allclose(before[2], after[2])


def test_threads_change_nothing() -> None:
    one, two = (fit_forest(FEATURES, Y, SPLIT, 0, threads=threads)[1].arrays() for threads in (1, 2))
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_arrays_restore_the_same_bits() -> None:
    _, voter = fit_forest(FEATURES, Y, SPLIT, 0)
    restored = ForestVoter.from_arrays(load(save(voter.arrays())), 2, WIDTHS)
    assert np.array_equal(restored.predict(FEATURES), voter.predict(FEATURES))
    assert np.array_equal(restored.baseline(), voter.baseline())
    average = np.concatenate([np.zeros(P), FEATURES.counts[SPLIT.learned].mean(axis=0)], dtype=np.float32)
    known = SPLIT.learned[~np.isnan(Y[SPLIT.learned, 1])]
    trees = RandomForestClassifier(TREES, random_state=0).fit(X[known], Y[known, 1])
    assert voter.baseline()[0, 1] == pytest.approx(trees.predict_proba(average[None])[0, 1], abs=1e-6)


def test_covariates_are_read() -> None:
    ph = np.linspace(-1, 1, N, dtype=np.float32)[:, None]
    features = replace(FEATURES, covariates=ph)
    _, voter = fit_forest(features, (ph > 0).astype(float), SPLIT, 0)
    predicted = voter.predict(features)[0, :, 0]
    assert ((predicted > 0.5) == (ph[:, 0] > 0)).all()
    restored = ForestVoter.from_arrays(load(save(voter.arrays())), 1, (P, C, 1))
    assert np.array_equal(restored.predict(features)[0, :, 0], predicted)
    assert voter.baseline(ph[:1])[0, 0] < 0.5 < voter.baseline(ph[-1:])[0, 0]


def test_a_chain_of_nodes_is_refused_as_too_deep() -> None:
    arrays = fit_forest(FEATURES, Y, SPLIT, 0)[1].arrays()
    nodes = 3000
    chain: dict[str, np.ndarray] = {
        "column": np.append(np.zeros(nodes - 1), 65535).astype(np.uint16),
        "value": np.append(np.full(nodes - 1, 1e30), 0).astype(np.float32),
        "jump": np.append(np.ones(nodes - 1), 0).astype(np.uint16),
        "roots": np.zeros((TREES, 1, 2), dtype=np.int64),
    }
    with pytest.raises(ValueError, match="damaged"):
        ForestVoter.from_arrays({**arrays, **chain}, 2, WIDTHS)
    shorter = {**chain, "roots": np.full((TREES, 1, 2), nodes - 100)}
    assert (ForestVoter.from_arrays({**arrays, **shorter}, 2, WIDTHS).predict(FEATURES) == 0).all()


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_is_predicted_of_all(label: float) -> None:
    assert (fit_forest(FEATURES, np.full((N, 1), label), SPLIT, 0)[1].predict(FEATURES) == label).all()


def test_without_labels_outside_a_fold_its_forest_knows_nothing() -> None:
    labels = np.full((N, 2), np.nan)
    labels[:, 0] = Y[:, 0]
    inside = SPLIT.folds[0]
    labels[inside, 1] = np.arange(len(inside)) < 3
    predicted = fit_forest(FEATURES, labels, SPLIT, 0)[0].predict(FEATURES)
    assert (predicted[0, :, 1] == 0.5).all()
    assert np.ptp(predicted[1, :, 1]) > 0


def test_of_too_many_molecules_some_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole = fit_forest(FEATURES, Y, SPLIT, 0)
    monkeypatch.setattr(voters, "_MOST", 20)
    _, few = fit_forest(FEATURES, Y, SPLIT, 0)
    assert len(few.column) < len(whole.column)
    # none of those that are drawn may have a label of a target
    unlabelled = Y.copy()
    unlabelled[:, 1] = np.nan
    np.testing.assert_allclose(fit_forest(FEATURES, unlabelled, SPLIT, 0)[1].predict(FEATURES)[0, :, 1], 0.5)


@pytest.mark.parametrize(
    "damage",
    [
        {"column": np.full(1, 0, np.uint16)},
        {"column": lambda array: array.astype(np.int64)},
        {"column": lambda array: np.where(array < 99, P + C, array).astype(np.uint16)},
        {"value": lambda array: array * np.float32(np.nan)},
        {"value": lambda array: array + np.float32(2)},
        {"jump": lambda array: array * 0},
        {"jump": lambda array: np.where(array, 60000, array).astype(np.uint16)},
        {"roots": lambda array: array - 1},
        {"roots": lambda array: array + 10**6},
        {"roots": lambda array: array[:, :, :1]},
        {"roots": lambda array: array[:0]},
        {"roots": lambda array: array.repeat(60, axis=0)},
        {"counts": lambda array: array[:-1]},
        {"secret": np.zeros(1)},
    ],
    ids=lambda damage: next(iter(damage)),
)
def test_damaged_arrays_are_refused(damage: dict) -> None:
    arrays = fit_forest(FEATURES, Y, SPLIT, 0)[1].arrays()
    changed = {name: value(arrays[name]) if callable(value) else value for name, value in damage.items()}
    with pytest.raises((ValueError, TypeError)):
        ForestVoter.from_arrays({**arrays, **changed}, 2, WIDTHS)
