"""The ridge before the other models: scikit-learn's, one for each fold, of what that fold learns from."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

from kflm2.config.train import TrainConfig
from kflm2.data.splits import Split, with_folds
from kflm2.errors import SettingError
from kflm2.featurize.descriptors import descriptor_names
from kflm2.featurize.features import Features
from kflm2.trainers.baseline import PENALTIES, RidgeBaseline, baseline_columns, fit_baseline
from kflm2.trainers.voters import fit_voter

RNG = np.random.default_rng(1)
N, P = 60, 4
VALUES = (RNG.normal(size=(N, P)) * [1, 10, 0.1, 1] + [0, 100, 0, 0]).astype(np.float32)
Y = np.stack([VALUES[:, 1] * 0.3 - 5 * VALUES[:, 2] + RNG.normal(size=N) * 0.1, RNG.normal(size=N)], axis=1)
Y[::7, 1] = np.nan
SPLIT = with_folds(Split("random", np.arange(5, 50), np.arange(50, N), np.arange(5)), 3, 0)
FOLDS = [SPLIT.of_member(number).train for number in range(3)]


def test_it_is_scikit_learns_of_each_fold_and_target() -> None:
    predicted = fit_baseline(VALUES, Y, FOLDS).predict(VALUES)
    assert predicted.shape == (3, N, 2)
    for number, rows in enumerate(FOLDS):
        scaler = StandardScaler().fit(VALUES[rows].astype(float))
        for k in range(2):
            there = rows[~np.isnan(Y[rows, k])]
            ridge = RidgeCV(PENALTIES).fit(scaler.transform(VALUES[there].astype(float)), Y[there, k])
            expected = ridge.predict(scaler.transform(VALUES.astype(float)))
            np.testing.assert_allclose(predicted[number, :, k], expected, atol=1e-6)


def test_weights_are_scikit_learns() -> None:
    weights = np.where(np.arange(N) % 5 == 0, 0.0, 1.0 + np.arange(N) % 3)
    predicted = fit_baseline(VALUES, Y, FOLDS, weights).predict(VALUES)
    for number, rows in enumerate(FOLDS):
        counted = rows[weights[rows] > 0]
        scaler = StandardScaler().fit(VALUES[counted].astype(float))
        for k in range(2):
            there = counted[~np.isnan(Y[counted, k])]
            x = scaler.transform(VALUES.astype(float))
            ridge = RidgeCV(PENALTIES).fit(x[there], Y[there, k], weights[there])
            np.testing.assert_allclose(predicted[number, :, k], ridge.predict(x), atol=1e-6)


def test_values_of_weight_zero_decide_nothing() -> None:
    weights = np.where(np.arange(N) % 5 == 0, 0.0, 1.0)
    far = np.where(weights[:, None] > 0, VALUES, 1e4)
    first, second = (fit_baseline(values, Y, FOLDS, weights) for values in (VALUES, far))
    for values in (VALUES, 100 * VALUES):  # also where a prediction goes on
        np.testing.assert_array_equal(first.predict(values), second.predict(values))


def test_a_fold_sees_no_label_of_its_own_and_a_missing_value_is_the_median() -> None:
    changed = Y.copy()
    changed[SPLIT.folds[1]] += 100
    before, after = (fit_baseline(VALUES, y, FOLDS).predict(VALUES) for y in (Y, changed))
    np.testing.assert_array_equal(before[1], after[1])
    assert np.abs(before[0] - after[0]).max() > 1
    missing = VALUES[:1].copy()
    missing[0, 1] = np.nan
    baseline = fit_baseline(VALUES, Y, FOLDS)
    missing_filled = missing.copy()
    missing_filled[0, 1] = np.median(VALUES[SPLIT.learned, 1])
    np.testing.assert_allclose(baseline.predict(missing), baseline.predict(missing_filled), rtol=1e-6)


def test_a_column_that_is_missing_everywhere_or_constant_does_no_harm() -> None:
    values = VALUES.copy()
    values[:, 0], values[:, 3] = np.nan, 2.0
    baseline = fit_baseline(values, Y, FOLDS)
    assert np.isfinite(baseline.predict(values)).all() and not baseline.coefficients[:, [0, 3]].any()


def test_far_beyond_the_training_molecules_a_value_goes_no_further() -> None:
    baseline = fit_baseline(VALUES, Y, FOLDS)
    inside = VALUES[SPLIT.learned]
    width = np.ptp(inside, axis=0)
    far, further = inside.max(axis=0) + width, inside.max(axis=0) + 50 * width
    np.testing.assert_allclose(baseline.predict(further[None]), baseline.predict(far[None]), rtol=1e-6)
    half = inside.max(axis=0) + width / 2  # within, it goes on linearly
    assert np.abs(baseline.predict(half[None]) - baseline.predict(far[None])).max() > 0.1
    np.testing.assert_allclose(baseline.filled(half[None]), half[None], rtol=1e-6)


@pytest.mark.parametrize("damage", [{"median": np.zeros(3)}, {"intercepts": np.full((3, 2), np.nan)}])
def test_damaged_arrays_are_refused(damage: dict[str, np.ndarray]) -> None:
    arrays = fit_baseline(VALUES, Y, FOLDS).arrays()
    assert np.array_equal(
        RidgeBaseline.from_arrays(arrays, 3, P, 2).predict(VALUES), fit_baseline(VALUES, Y, FOLDS).predict(VALUES)
    )
    with pytest.raises(ValueError, match="damaged"):
        RidgeBaseline.from_arrays({**arrays, **damage}, 3, P, 2)


def test_a_voter_behind_it_learns_what_it_leaves_in_each_fold() -> None:
    """Each machine is that of its own fold's residuals alone."""
    scaled = Features(descriptors=RNG.normal(size=(N, 5)).astype(np.float32), counts=np.ones((N, 3), dtype=np.float32))
    y = Y[:, :1]
    base = fit_baseline(VALUES, y, FOLDS).predict(VALUES)
    own = np.empty_like(y)
    own[SPLIT.learned] = base[SPLIT.fold_of, SPLIT.learned]
    together = fit_voter("svm", scaled, y, SPLIT, "regression", 0, base)[0].predict(scaled)
    for number in range(3):
        # with the residuals of one fold for all, this fold's machine is the same, up to the choice of its penalty
        alone = fit_voter("svm", scaled, y - base[number], SPLIT, "regression", 0)[0].predict(scaled)
        penalties_agree = np.allclose(together[number], alone[number], atol=1e-6)
        assert penalties_agree or np.corrcoef(together[number, :, 0], alone[number, :, 0])[0, 1] > 0.5
    assert (((y - own - together[SPLIT.fold_of[0]]) ** 2)[SPLIT.learned]).mean() < np.var(Y[:, 0])


def test_columns_are_found_by_name() -> None:
    config = TrainConfig.of(descriptors="rdkit+xtb", baseline_model="ridge", dataset="SAMPL")
    names = descriptor_names("rdkit+xtb")
    assert [names[i] for i in baseline_columns(config, names)] == [name for name in names if name.startswith("xtb_")]
    some = replace(config, baseline_columns=("TPSA", "xtb_dG_water", "TPSA"))
    assert [names[i] for i in baseline_columns(some, names)] == ["TPSA", "xtb_dG_water"]
    with pytest.raises(SettingError, match="tpsa is no descriptor of rdkit\\+xtb"):
        baseline_columns(replace(config, baseline_columns=("tpsa",)), names)
    assert baseline_columns(replace(config, baseline_model="none", baseline_columns=("tpsa",)), names) == []
    assert baseline_columns(config, ("TPSA", "taught_xtb_gap", "taught_own")) == [1]
    taught = replace(config, baseline_columns=("taught",))
    assert baseline_columns(taught, ("TPSA", "taught_xtb_gap", "taught_own")) == [1, 2]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": "BACE", "descriptors": "rdkit+xtb"}, "is for regression"),
        ({"dataset": "SAMPL"}, "these are rdkit; --descriptors rdkit\\+xtb"),
        ({"dataset": "SAMPL", "descriptors": "none"}, "these are none"),
        ({"dataset": "SAMPL", "descriptors": "rdkit+xtb", "views": ("graph",)}, "these are none"),
        ({"dataset": "SAMPL", "descriptors": "rdkit+taught", "views": ("descriptors",)}, "read by the LLM"),
        ({"dataset": "SAMPL", "descriptors": "rdkit+xtb", "inner": "holdout", "baseline_model": "auto"}, "inner folds"),
    ],
)
def test_settings_that_cannot_work_are_refused(values: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        TrainConfig.of(**{"baseline_model": "ridge", **values}).check()
