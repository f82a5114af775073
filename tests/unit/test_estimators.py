"""The scikit-learn estimators in scikit-learn's checks, cross-validation, grid search and pipelines."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.compose import ColumnTransformer
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from kflm2.config.train import TrainConfig
from kflm2.data.molecules import Molecules
from kflm2.data.splits import Split
from kflm2.estimators import KFLM2Classifier, KFLM2Regressor
from kflm2.predictor.bundle_reader import load_bundle
from kflm2.results.runs import Run
from kflm2.stages.train import experiment

TABLE = pd.read_csv(Path(__file__).parents[2] / "dataset" / "SAMPL.csv").head(60)
SMILES, Y = TABLE["smiles"], TABLE["expt"]
QUICK: dict[str, Any] = {"model": "gcn_indepent", "epochs": 4, "valid_fraction": 0.2}


@parametrize_with_checks([KFLM2Regressor(**QUICK), KFLM2Classifier(**QUICK)])
def test_scikit_learns_estimator_checks(estimator: BaseEstimator, check: Any) -> None:
    check(estimator)


def test_cross_validation_grid_search_and_pipelines() -> None:
    model = KFLM2Regressor(**QUICK)
    scores = cross_val_score(model, SMILES, Y, cv=3)
    assert scores.shape == (3,) and np.isfinite(scores).all()
    assert not hasattr(model, "bundle_")
    grid = GridSearchCV(
        clone(model).set_params(epochs=40), {"learning_rate": [1e-6, 1e-2]}, cv=KFold(2, shuffle=True, random_state=0)
    )
    grid.fit(list(SMILES), list(Y))
    assert grid.best_params_ == {"learning_rate": 1e-2}
    pipeline = Pipeline([("pick", ColumnTransformer([("smiles", "passthrough", ["smiles"])])), ("kflm2", clone(model))])
    assert pipeline.fit(TABLE, Y).predict(TABLE.head(5)).shape == (5,)


def test_predictions_are_the_same_for_the_same_seed_only() -> None:
    first, same_seed, other_seed = (
        KFLM2Regressor(**QUICK, random_state=seed).fit(SMILES, Y).predict(SMILES) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, same_seed) and not np.array_equal(first, other_seed)


def test_several_targets_with_missing_labels_and_intervals() -> None:
    targets = np.stack([Y, -Y], axis=1)
    targets[::3, 1] = np.nan
    model = KFLM2Regressor(**{**QUICK, "epochs": 40}).fit(SMILES, targets)
    predicted = model.predict(SMILES)
    assert predicted.shape == (60, 2) and np.corrcoef(predicted.T)[0, 1] < -0.5
    narrow, wide = (model.predict_interval(SMILES, confidence) for confidence in (0.5, 0.85))
    assert narrow.shape == (60, 2, 2)
    assert (wide[:, 0, 0] <= narrow[:, 0, 0]).all() and (narrow[:, 0, 1] <= wide[:, 0, 1]).all()
    one_target = KFLM2Regressor(**QUICK).fit(SMILES, Y)
    assert one_target.predict_interval(SMILES[:4], 0.8).shape == (4, 2)


def test_what_has_no_label_is_neither_learnt_nor_held_out() -> None:
    """Else validation could be without labels, and choose no epoch."""
    some = np.where(np.arange(60) % 3 > 0, Y, np.nan)
    known = ~np.isnan(some)
    model, expected = (
        KFLM2Regressor(**QUICK).fit(smiles, y) for smiles, y in ((SMILES, some), (SMILES[known], some[known]))
    )
    assert np.array_equal(model.predict(SMILES), expected.predict(SMILES))
    with pytest.raises(ValueError, match="0 molecules with labels are too few"):
        KFLM2Regressor(**QUICK).fit(SMILES, np.full(60, np.nan))


@pytest.mark.parametrize("inner", [{}, {"inner": "folds", "ensemble": 3}])
def test_replicates_are_held_out_together(inner: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Split] = []
    fit_once = experiment.fit_once

    def spied(config: TrainConfig, molecules: Molecules, split: Split) -> Run:
        found.append(split)
        return fit_once(config, molecules, split)

    monkeypatch.setattr(experiment, "fit_once", spied)
    smiles = [text for text in SMILES[:20] for _ in range(3)]
    KFLM2Regressor(**QUICK, **inner).fit(smiles, np.repeat(Y[:20], 3))
    (split,) = found
    for rows in split.folds or (split.valid,):
        assert len(rows) % 3 == 0 and np.isin(3 * (rows // 3) + 1, rows).all()


@pytest.mark.parametrize("confidence", [0, 1, 90, -0.5])
def test_a_confidence_is_a_share(confidence: float) -> None:
    model = KFLM2Regressor(**QUICK).fit(SMILES[:20], Y[:20])
    with pytest.raises(ValueError, match="must be between 0 and 1"):
        model.predict_interval(SMILES, confidence)


def test_classes_with_text_labels() -> None:
    labels = np.where(Y.median() < Y, "high", "low")
    model = KFLM2Classifier(**{**QUICK, "epochs": 60}).fit(SMILES, labels)
    assert model.classes_.tolist() == ["high", "low"]
    probabilities = model.predict_proba(SMILES)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert np.array_equal(model.predict(SMILES), model.classes_[probabilities.argmax(axis=1)])
    assert model.score(SMILES, labels) > 0.7
    assert model.predict_set(SMILES, 0.8).shape == (60, 2)
    assert np.array_equal(model.predict_set(SMILES[:1], 0.8), model.predict_set(SMILES, 0.8)[:1])


def test_a_loaded_model_predicts_the_same(tmp_path: Path) -> None:
    model = KFLM2Regressor(**QUICK, ensemble=2, graph_encoder="gine").fit(SMILES, Y).save(tmp_path / "model")
    loaded = KFLM2Regressor.load(tmp_path / "model")
    assert np.array_equal(model.predict(SMILES), loaded.predict(SMILES))
    assert (loaded.model, loaded.graph_encoder, loaded.epochs, loaded.ensemble) == ("gcn_indepent", "gine", 4, 2)
    assert load_bundle(tmp_path / "model").targets == ("y",)
    with pytest.raises(ValueError, match="is of regression"):
        KFLM2Classifier.load(tmp_path / "model")


def test_a_clone_of_a_loaded_model_learns_as_the_saved_one_did(tmp_path: Path, tiny_decoder: Path) -> None:
    parameters = {**QUICK, "model": "combined_base", "llm": str(tiny_decoder), "layers": "last", "precision": "float32"}
    model = KFLM2Regressor(**parameters, random_state=np.int64(7)).fit(SMILES[:20], Y[:20]).save(tmp_path / "model")
    loaded = clone(KFLM2Regressor.load(tmp_path / "model", llm=str(tiny_decoder)))
    assert (loaded.random_state, loaded.valid_fraction, loaded.precision) == (7, 0.2, "float32")
    assert np.array_equal(loaded.fit(SMILES[:20], Y[:20]).predict(SMILES[:20]), model.predict(SMILES[:20]))


def test_a_setting_that_cannot_work_is_a_value_error() -> None:
    for wrong in ({"epochs": 0}, {"model": "foo"}, {"graph_encoder": "gat"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            KFLM2Regressor(**{**QUICK, **wrong}).fit(SMILES, Y)


def test_labels_of_classes_may_be_a_column_and_must_be_there() -> None:
    labels = np.where(Y.median() < Y, "high", "low").astype(object)
    column, flat = (KFLM2Classifier(**QUICK).fit(SMILES, y) for y in (labels[:, None], labels))
    assert np.array_equal(column.predict_proba(SMILES), flat.predict_proba(SMILES))
    labels[3] = None
    with pytest.raises(ValueError, match="y has missing labels"):
        KFLM2Classifier(**QUICK).fit(SMILES, labels)
    with pytest.raises(ValueError, match=r"y is of shape \(60, 2\)"):
        KFLM2Classifier(**QUICK).fit(SMILES, np.zeros((60, 2)))


@pytest.mark.parametrize("classes", [("active", "inactive"), (-1, 1), (False, True)])
def test_class_labels_are_saved(tmp_path: Path, classes: tuple[Any, Any]) -> None:
    labels = np.where(Y.median() < Y, *classes)
    model = KFLM2Classifier(**QUICK).fit(SMILES, labels).save(tmp_path / "model")
    loaded = KFLM2Classifier.load(tmp_path / "model")
    assert loaded.classes_.tolist() == sorted(classes)
    assert load_bundle(tmp_path / "model").classes == (tuple(map(str, sorted(classes))),)  # words of `kflm2 predict`
    assert loaded.score(SMILES, labels) == model.score(SMILES, labels)


@pytest.mark.parametrize(
    ("smiles", "y", "message"),
    [
        (["CCO", "C((", "CC"], [1, 2, 3], r"X\[1\] 'C\(\('"),
        (["CCO", 3, "CC"], [1, 2, 3], r"X\[1\] is 3, not a SMILES"),
        (["CCO", "CC"], [1, 2, 3], "X has 2 molecules, y 3"),
        ([["CCO", "CC"]], [1], r"shape \(1, 2\)"),
        ([], [], "no molecule"),
        (["CCO", "CC"], [1, 2], "too few"),
        (["CCO", "CC", "C"], [1, 2, np.inf], "infinity"),
        (list(SMILES[:20]), np.stack([Y[:20], np.full(20, np.nan)], axis=1), "target 2 has no label"),
    ],
)
def test_the_error_of_unusable_data_has_the_reason(smiles: list[Any], y: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KFLM2Regressor(**QUICK).fit(smiles, y)


def test_a_missing_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="random_state is None"):
        KFLM2Regressor().set_params(random_state=None).fit(SMILES, Y)


def test_three_classes_and_an_invalid_smiles_are_refused() -> None:
    with pytest.raises(ValueError, match="3 classes"):
        KFLM2Classifier(**QUICK).fit(list(SMILES[:3]), [1, 2, 3])
    with pytest.raises(ValueError, match=r"X\[1\] 'C1CC'"):
        KFLM2Regressor(**QUICK).fit(SMILES, Y).predict(["C", "C1CC"])


def test_inner_folds_are_the_default_of_crossatt_and_a_choice_of_the_others(tmp_path: Path) -> None:
    config = KFLM2Regressor()._config()
    assert (config.folds, config.read_voters, KFLM2Regressor(ensemble=1)._config().folds) == (5, ("svm",), 0)
    model = KFLM2Regressor(**QUICK, descriptors="rdkit", inner="folds", ensemble=2, voters=("svm",)).fit(SMILES, Y)
    ensemble = model.bundle_.ensemble
    assert ensemble.folds and len(ensemble.members) == 2 and [voter.name for voter in ensemble.voters] == ["svm"]
    assert len(model.bundle_.domain.smiles) == len(SMILES) == len(model.bundle_.calibration.y_true)
    loaded = KFLM2Regressor.load(model.save(tmp_path / "model") and tmp_path / "model")
    assert (loaded.inner, loaded.ensemble, loaded.voters) == ("folds", 2, ("svm",))
    np.testing.assert_array_equal(loaded.predict(SMILES[:9]), model.predict(SMILES[:9]))
    assert model.fit(SMILES, Y).predict(SMILES).shape == (60,)


def test_a_ridge_on_xtb_can_predict_first() -> None:
    settings = {"descriptors": "rdkit+xtb", "inner": "folds", "ensemble": 2, "baseline_model": "auto"}
    model = KFLM2Regressor(**QUICK, **settings).fit(SMILES[:20], Y[:20])
    assert model.bundle_.ensemble.delta is not None and model.predict(SMILES[:2]).shape == (2,)
