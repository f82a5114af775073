"""xTB's numbers and a ridge baseline, from training over the bundle to prediction, explanation and stage 1."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from commands import status_of
from safetensors.numpy import load_file, save_file

from kflm2.cli import stages
from kflm2.config.train import TrainConfig
from kflm2.data.splits import make_splits
from kflm2.errors import KFLM2Error
from kflm2.featurize.xtb import XTB_COLUMNS, xtb_of
from kflm2.files import sha256_file, write_json
from kflm2.predictor.bundle import _digest
from kflm2.predictor.bundle_reader import load_bundle
from kflm2.predictor.predictor import Predictor
from kflm2.stages.explain.stage import Explainer
from kflm2.stages.train.members import scaled_features
from kflm2.stages.train.prepared import prepare
from kflm2.trainers.voters import fit_voter

FOLDS = 3
XTB = ("--descriptors", "rdkit+xtb")


@pytest.fixture(scope="module")
def own_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 rows of SAMPL, two salts and a radical among them."""
    table = pd.read_csv("dataset/SAMPL.csv").head(40)[["smiles", "expt"]]
    table.loc[[3, 7], "smiles"] += ".Cl"
    table.loc[11, "smiles"] = "C[CH2]"
    path = tmp_path_factory.mktemp("physics") / "own.csv"
    table.to_csv(path, index=False)
    return path


def _arguments(csv: Path, *more: object) -> list[str]:
    settings = ("--epochs", 3, "--ensemble", FOLDS, "--seed", 0, "--views", "graph", "descriptors")
    common = ("--csv", csv, "--target-columns", "expt", "--fractions", "0.6", "0.2", "0.2", *settings, *XTB)
    return [str(word) for word in (*common, *more)]


@pytest.fixture(scope="module", params=["ridge", "auto"])
def work(request: pytest.FixtureRequest, own_csv: Path) -> Path:
    """A folder with a bundle `model` that has a baseline, and the results of its run."""
    folder = own_csv.parent / request.param
    more = ("--baseline-model", request.param, "--save", folder / "model", "--out", folder)
    stages.train.from_command_line(_arguments(own_csv, *more))
    return folder


def _run(work: Path) -> Path:
    return work / "own" / "crossAtt-saved" / "random-0"


def test_every_model_of_a_fold_adds_its_baseline_and_weights_are_kept(work: Path, own_csv: Path) -> None:
    kind = work.name
    config = TrainConfig.of(
        csv=own_csv, target_columns=("expt",), fractions=(0.6, 0.2, 0.2), ensemble=FOLDS,
        views=("graph", "descriptors"), descriptors="rdkit+xtb", baseline_model=kind,
    ).resolved()  # fmt: skip
    prepared = prepare(config, torch.device("cpu"))
    assert prepared.without_xtb == {"several components": 2, "radical": 1}
    (split,) = make_splits("random", prepared.molecules.smiles, [0], config.fractions, folds=FOLDS)
    features, _ = scaled_features(config, prepared, split)
    assert features.unscaled is not None and features.unscaled.shape[1] == len(XTB_COLUMNS)
    ensemble = load_bundle(work / "model").ensemble
    behind = ensemble if kind == "ridge" else ensemble.delta
    assert behind is not None and behind.baseline is not None and ensemble.weights is not None
    base = behind.baseline.predict(features.unscaled)
    of_folds = [np.stack([member.predict(features) for member in behind.members]) + base]
    # a voter that has learnt from all folds is the same in each
    of_all = [*of_folds, *(voter.predict(features) + base for voter in behind.voters)]
    y_true = prepared.molecules.y_true
    of_folds.append(fit_voter("svm", features, y_true, split, "regression", 0, base)[0].predict(features) + base)
    if kind == "auto":
        direct = np.stack([member.predict(features) for member in ensemble.members])
        beside = [voter.predict(features).repeat(FOLDS, axis=0) for voter in ensemble.voters]
        of_all = [direct, *beside, *of_all]
        of_folds = [direct, fit_voter("svm", features, y_true, split, "regression", 0)[0].predict(features), *of_folds]
    record = json.loads((_run(work) / "result.json").read_text())
    names = ["ridge+crossAtt", "ridge+svm"] if kind == "ridge" else ["crossAtt", "svm", "ridge+crossAtt", "ridge+svm"]
    assert list(record["weights"]["expt"]) == names == list(ensemble.names("crossAtt"))
    assert record["without_xtb"] == prepared.without_xtb
    own, whole = (np.tensordot(ensemble.weights[:, 0], np.stack(models)[..., 0], 1) for models in (of_folds, of_all))
    y_pred = pd.read_csv(_run(work) / "predictions.csv")["y_pred_expt"]
    for number, fold in enumerate(split.folds):
        np.testing.assert_allclose(y_pred[fold], own[number, fold], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(y_pred[split.test], whole[:, split.test].mean(axis=0), rtol=1e-3, atol=1e-3)


def test_a_bundle_predicts_with_xtb_and_says_where_it_is_missing(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = pd.read_csv(_run(work) / "predictions.csv")
    test = expected["part"] == "test"
    bundle = load_bundle(work / "model")
    result = Predictor(bundle).predict(expected["smiles"][test].tolist())
    np.testing.assert_allclose(result.y_pred[:, 0], expected["y_pred_expt"][test], rtol=1e-3, atol=1e-3)
    bundle.save(tmp_path / "again", "card")
    again = Predictor(load_bundle(tmp_path / "again")).predict(expected["smiles"][test].tolist())
    assert np.array_equal(again.y_pred, result.y_pred) and np.array_equal(again.std, result.std)
    (tmp_path / "a.smi").write_text("CCO\n[CH3]\nnonsense\n" + "CCC\n" * 30)
    for jobs in (1, 2):
        arguments = (work / "model", tmp_path / "a.smi", "-o", tmp_path / f"{jobs}.csv", "--jobs", jobs)
        assert status_of(stages.predict, *arguments) == 3  # a row has no prediction
    table = pd.read_csv(tmp_path / "1.csv", keep_default_na=False)
    assert table["xtb"][:4].tolist() == ["ok", "radical", "", "ok"] and table["status"][1] == "ok"
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "2.csv").read_bytes()


def test_an_explanation_gives_the_ridges_share_to_its_columns_and_adds_up(work: Path, tmp_path: Path) -> None:
    assert status_of(stages.explain, work / "model", "CC(=O)Nc1ccccc1", "-o", tmp_path) == 0
    (record,) = json.loads((tmp_path / "explained.json").read_text())["molecules"]
    assert status_of(stages.explain, work / "model", "CCO.Cl", "-o", tmp_path / "salt") == 0
    (salt,) = json.loads((tmp_path / "salt" / "explained.json").read_text())["molecules"]
    assert salt["xtb"] == "several components" and "xtb" not in record
    assert list(record["shares"]) == ["graph", "tokens", "descriptors", "SVM"]
    assert record["complete"] and sum(record["shares"].values()) == pytest.approx(record["difference"], abs=0.05)
    predicted = Predictor(load_bundle(work / "model")).predict(["CC(=O)Nc1ccccc1"])
    assert record["prediction"] == pytest.approx(predicted.y_pred[0, 0], rel=1e-4)
    table = pd.read_csv(tmp_path / "attributions.csv").set_index("label")
    assert table["meaning"]["xtb_dG_water"].startswith("free energy of solvation in water")


def test_of_networks_that_say_nothing_the_explanation_is_the_ridges(work: Path) -> None:
    bundle = load_bundle(work / "model")
    with torch.no_grad():
        for member in bundle.ensemble.all_members:
            for weight in member.model.parameters():
                weight.zero_()
    explanation, _ = Explainer(bundle, None, 8, torch.device("cpu")).explain("CC(=O)Nc1ccccc1", "")
    behind, weights = bundle.ensemble, bundle.ensemble.weights[:, 0]
    if behind.delta is not None:
        behind, weights = behind.delta, weights[2:]
    values = xtb_of("CC(=O)Nc1ccccc1").values
    shares = (
        weights.sum()
        * behind.baseline.coefficients[:, :, 0].mean(axis=0)
        * (behind.baseline.filled(values[None])[0] - behind.baseline.median)
    )
    expected = dict(zip(XTB_COLUMNS, shares, strict=True))
    for name, value in zip(explanation.descriptors, explanation.attribution.descriptors, strict=True):
        assert value == pytest.approx(expected.get(name, 0.0), abs=1e-6)


@pytest.mark.parametrize("damage", ["baseline.coefficients", "ensemble.weights"])
def test_a_damaged_baseline_is_refused(work: Path, damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    load_bundle(work / "model").save(folder, "card")
    arrays = load_file(folder / "weights.safetensors")
    arrays[damage] = arrays[damage][..., :-1] if damage.endswith("weights") else arrays[damage] * np.nan
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / "weights.safetensors")
    metadata = json.loads((folder / "bundle.json").read_text())
    metadata["files"]["weights.safetensors"] = sha256_file(folder / "weights.safetensors")
    metadata.pop("digest")
    write_json(folder / "bundle.json", {**metadata, "digest": _digest(metadata)})
    with pytest.raises(KFLM2Error, match="cannot be used"):
        load_bundle(folder)


@pytest.fixture(scope="module")
def taught(tiny_decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `known.parquet`, xTB of small molecules, an adapter that learnt it, and the cache of both."""
    folder = tmp_path_factory.mktemp("taught")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KFLM2_CACHE", str(folder / "cache"))
        patch.delenv("KFLM2_DATASETS", raising=False)  # stage 1 would read the structures of all eleven datasets
        _teach(folder, tiny_decoder)
    return folder


def _teach(folder: Path, llm: Path) -> None:
    (folder / "own.smi").write_text("".join(f"{'C' * n}{end}\n" for n in range(1, 9) for end in ("O", "N", "C(=O)O")))
    corpus = ("--corpus", folder / "own.smi", "--keep-tested", "--small", 4, "--out", folder / "known.parquet")
    assert status_of(stages.knowledge, *corpus) == 0
    settings = ("--batch-size", 4, "--layers", 2, "--samples", 0, "--out", folder / "models", "--epochs", 20)
    table = folder / "known.parquet"
    known = ("--knowledge", "descriptors", table, "--knowledge-weight", 1, 0.5, "--learning-rate", 0.01)
    assert status_of(stages.finetune, "--llm", llm, "--corpus", table, *known, *settings) == 0


def test_knowledge_is_computed_once_and_taught(taught: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table = pd.read_parquet(taught / "known.parquet")
    assert list(table) == ["smiles", *XTB_COLUMNS] and table["smiles"].is_unique
    assert len(table) > 24 and table["xtb_dG_water"].notna().all()
    assert "dipole" in (taught / "known.md").read_text()
    # once more: nothing is computed again, in this process or in others
    monkeypatch.setenv("KFLM2_CACHE", str(taught / "cache"))
    monkeypatch.setattr("kflm2.featurize.xtb.xtb_groups", lambda *_: pytest.fail("computed again"))
    corpus = ("--corpus", taught / "own.smi", "--keep-tested", "--small", 4, "--out", tmp_path / "again.parquet")
    assert status_of(stages.knowledge, *corpus) == 0
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "again.parquet"), table)
    folder = _adapter(taught)
    record = json.loads((folder / "kflm2.json").read_text())
    assert list(record["knowledge_r2"]) == ["descriptors", "known"]
    assert set(record["knowledge"]["known"]) <= set(XTB_COLUMNS)
    assert record["tables"]["known"]["molecules"] == len(table)
    losses = pd.read_csv(folder / "losses.csv")
    assert list(losses) == ["step", "next token", "descriptors", "known"]
    assert losses["known"][-15:].mean() < losses["known"][:15].mean()


def test_a_corpus_without_values_replaces_no_table(
    taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KFLM2_CACHE", str(taught / "cache"))
    monkeypatch.delenv("KFLM2_DATASETS", raising=False)
    options = ("--keep-tested", "--out", tmp_path / "known.parquet")
    (tmp_path / "own.smi").write_text("CCO\nOCC\n[CH3:1][OH:2]\nCO\n")
    assert status_of(stages.knowledge, "--corpus", tmp_path / "own.smi", *options) == 0
    # a row a molecule
    before = (tmp_path / "known.parquet").read_bytes()
    assert len(pd.read_parquet(tmp_path / "known.parquet")) == 2
    (tmp_path / "own.smi").write_text("[CH3]\n[Na+].[Cl-]\n")
    assert status_of(stages.knowledge, "--corpus", tmp_path / "own.smi", *options) == 2
    assert "no xTB values (1 radical, 1 several components); no table is written" in capsys.readouterr().err
    assert (tmp_path / "known.parquet").read_bytes() == before


def _adapter(taught: Path) -> Path:
    (folder,) = (path.parent for path in (taught / "models").glob("*/known/kflm2.json"))
    return folder


def test_what_the_llm_was_taught_is_read_without_computing_it(
    taught: Path, own_csv: Path, tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kflm2.featurize.xtb.xtb_of", lambda *_: pytest.fail("computed"))
    settings = ("--epochs", 2, "--ensemble", FOLDS, "--fractions", "0.6", "0.2", "0.2", "--target-columns", "expt")
    read = ("--llm", tiny_decoder, "--adapter", _adapter(taught), "--descriptors", "rdkit+taught")
    common = ("--csv", own_csv, *settings, *read, "--baseline-model", "ridge", "--out", tmp_path)
    assert status_of(stages.train, *common, "--save", tmp_path / "model") == 0
    expected = pd.read_csv(tmp_path / "own" / "crossAtt-saved" / "random-0" / "predictions.csv")
    test = expected["part"] == "test"
    bundle = load_bundle(tmp_path / "model", str(tiny_decoder))
    assert bundle.descriptor_names[-1].startswith("taught_xtb_")
    predictor = Predictor(bundle)
    result = predictor.predict(expected["smiles"][test].tolist())
    np.testing.assert_allclose(result.y_pred[:, 0], expected["y_pred_expt"][test], rtol=1e-3, atol=1e-3)
    assert result.xtb is None
    # several writings are read several times
    several = Predictor(bundle, writings=3).predict(expected["smiles"][test].tolist())
    assert several.writings_std is not None and several.writings_std.max() > 0
    arguments = (tmp_path / "model", "CC(=O)Nc1ccccc1", "-o", tmp_path / "explained", "--llm", tiny_decoder)
    assert status_of(stages.explain, *arguments) == 0
    table = pd.read_csv(tmp_path / "explained" / "attributions.csv").set_index("label")
    assert table["meaning"]["taught_xtb_dG_water"].startswith("read off the SMILES by the LLM: free energy")
    (record,) = json.loads((tmp_path / "explained" / "explained.json").read_text())["molecules"]
    assert record["prediction"] == pytest.approx(predictor.predict(["CC(=O)Nc1ccccc1"]).y_pred[0, 0], rel=1e-3)
    # without the head, which the bundle must hold, nothing is predicted
    (tmp_path / "model" / "adapter" / "knowledge_head.safetensors").unlink()
    with pytest.raises(KFLM2Error, match=r"knowledge_head.safetensors is missing"):
        load_bundle(tmp_path / "model", str(tiny_decoder))


def test_an_adapter_that_learnt_no_table_cannot_be_read_for_one(
    own_csv: Path, tiny_decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--csv", own_csv, "--target-columns", "expt", "--llm", tiny_decoder, "--out", tmp_path)
    assert status_of(stages.train, *common, "--adapter", "none", "--descriptors", "rdkit+taught") == 2
    assert "no such adapter" in capsys.readouterr().err
