"""`kflm2 distill`: a student of a saved model is a model as any other, and was trained on what it says."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CONTEXT

from kflm2.cli import stages
from kflm2.config.distill import DistillConfig
from kflm2.data.structures import identity
from kflm2.errors import DataError, KFLM2Error, SettingError
from kflm2.featurize.features import Features
from kflm2.featurize.graphs import build_graphs
from kflm2.files import write_json
from kflm2.predictor.bundle import _digest
from kflm2.predictor.bundle_reader import load_bundle
from kflm2.predictor.predictor import Predictor
from kflm2.stages import distill
from kflm2.stages.train.prepared import Prepared

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]
SAMPL = pd.read_csv(ROOT / "dataset" / "SAMPL.csv")
UNLABELLED = (ROOT / "dataset" / "zinc_sample.smi").read_text().split()[:60]


def _train(folder: Path, *arguments: object) -> Path:
    """Train a small model and save it in `folder`."""
    common = ["--epochs", "3", "--ensemble", "2", "--save", folder, "--out", folder.with_name("results")]
    stages.train.from_command_line([*map(str, common), *map(str, arguments)])
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Molecules without labels, some of which are in SAMPL, and one that cannot be read."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.smi"
    path.write_text("\n".join([*UNLABELLED, "C((", *SAMPL["smiles"][:120]]) + "\n")
    return path


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, tiny_decoder: Path) -> Path:
    """A model that reads an LLM, a graph and descriptors."""
    folder = tmp_path_factory.mktemp("teacher") / "model"
    return _train(folder, "--dataset", "SAMPL", "--limit", "120", "--llm", tiny_decoder, "--layers", "last")


def _config(teacher: Path, corpus: Path, tiny_decoder: Path, **values: object) -> DistillConfig:
    common: dict = {"model": teacher, "corpus": str(corpus), "save": teacher.with_name("student"), "epochs": 2}
    return DistillConfig(**{**common, "llm": str(tiny_decoder), "graph_width": 16, "graph_depth": 2, **values})


def test_a_student_of_a_teacher_that_knew_test_molecules_says_so(
    corpus: Path, tiny_decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    own = SAMPL[["smiles", "expt", "calc"]].head(60)
    own.to_csv(tmp_path / "own.csv", index=False)
    arguments = ("--csv", tmp_path / "own.csv", "--views", "graph", "descriptors", "--epochs", 1, "--target-columns")
    first = _train(tmp_path / "first", *arguments, "calc", "--name", "first", "--seed", 5)
    teacher = _train(tmp_path / "second", *arguments, "expt", "--from", first, "--name", "second")
    capsys.readouterr()
    save = tmp_path / "student"
    distill.run(_config(teacher, corpus, tiny_decoder, save=save, csv=tmp_path / "own.csv", ensemble=1))
    known = load_bundle(teacher).provenance["origin"]["known"]
    assert known and f"had learnt from {known} of the test molecules: test metrics" in capsys.readouterr().out
    assert f"its teacher goes on from | first of own, which had learnt from {known}" in (save / "README.md").read_text()


def test_a_student_is_a_model_as_any_other(
    teacher: Path, corpus: Path, tiny_decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    save = tmp_path / "student"
    config = _config(teacher, corpus, tiny_decoder, save=save, ensemble=2)
    distill.run(config)
    printed = capsys.readouterr().out
    bundle, taught_by = load_bundle(save), load_bundle(teacher, str(tiny_decoder))
    assert bundle.source is None and bundle.config.read_views == ("graph",)
    assert len(bundle.ensemble.members) == 2
    assert bundle.provenance["teacher"]["model"] == "crossAtt"
    assert "distilled from | crossAtt: its predictions of" in (save / "README.md").read_text()
    assert "its teacher learnt from | train and valid" in (save / "README.md").read_text()
    assert "the teacher's models learnt from it" in printed and "went on from" not in printed
    # it is tested on the molecules that the teacher was tested on, and its metric is that of its predictions
    assert bundle.provenance["split"] == taught_by.provenance["split"]
    student = distill.student_config(taught_by, config)
    molecules = distill.labelled(taught_by, student, CPU)
    split = distill.same_split(taught_by, student, molecules)
    y_pred = Predictor(bundle).predict([molecules.smiles[i] for i in split.test]).y_pred
    rmse = np.sqrt(np.mean((y_pred - molecules.y_true[split.test]) ** 2))
    assert bundle.provenance["metrics"]["test"]["RMSE"] == pytest.approx(rmse, rel=1e-4)
    assert f"{rmse:.3f}" in printed
    assert f"{taught_by.provenance['metrics']['test']['RMSE']:.3f}" in printed
    # the domain is that of the molecules with a label
    assert bundle.domain.smiles == [molecules.smiles[i] for i in split.train]
    with pytest.raises(SettingError, match="--again"):
        distill.run(config)
    distill.run(replace(config, again=True, ensemble=1))
    assert len(load_bundle(save).ensemble.members) == 1


def test_it_learns_labels_and_the_teachers_predictions_and_nothing_of_the_test_part(
    teacher: Path, corpus: Path, tiny_decoder: Path
) -> None:
    config = _config(teacher, corpus, tiny_decoder)
    bundle = load_bundle(teacher, str(tiny_decoder))
    student = distill.student_config(bundle, config)
    molecules = distill.labelled(bundle, student, CPU)
    split = distill.same_split(bundle, student, molecules)
    smiles = distill.unlabelled(config, student, molecules, split)
    structures = {identity(text) for text in smiles}
    held_out = [identity(molecules.smiles[i]) for part in (split.valid, split.test) for i in part]
    assert structures.isdisjoint(held_out)
    assert {identity(text) for text in UNLABELLED} - set(held_out) <= structures
    assert len(smiles) > len(UNLABELLED) + len(split.train) / 2  # fragments, and what has a label here
    kept, y_teacher = distill.taught(Predictor(bundle), smiles, jobs=1)
    assert kept == [text for text in smiles if len(text) <= CONTEXT] != smiles
    parallel = distill.taught(Predictor(bundle), smiles, jobs=2)
    np.testing.assert_array_equal(parallel[1], y_teacher)
    np.testing.assert_allclose(y_teacher[:9], Predictor(bundle).predict(kept[:9]).y_pred, rtol=1e-3, atol=1e-3)
    prepared = Prepared(molecules, Features(graphs=build_graphs(molecules.smiles)), None, {})
    extended, extended_split = distill.with_unlabelled(prepared, split, kept, y_teacher)
    old, new = np.split(extended_split.train, [-len(kept)])
    np.testing.assert_array_equal(np.unique(old, return_counts=True), [split.train, [5] * len(split.train)])
    assert [extended.molecules.smiles[i] for i in new] == kept
    np.testing.assert_array_equal(extended.molecules.y_true[new], y_teacher)
    np.testing.assert_array_equal(extended.molecules.y_true[split.train], molecules.y_true[split.train])
    np.testing.assert_array_equal(extended_split.valid, split.valid)
    np.testing.assert_array_equal(extended_split.test, split.test)
    assert len(extended.features.graphs or ()) == len(molecules.smiles) + len(kept)


def test_more_unlabelled_molecules_bring_a_student_nearer_to_its_teacher(tmp_path: Path) -> None:
    arguments = ("--dataset", "SAMPL", "--model", "gcn_indepent", "--limit", 100, "--epochs", 40, "--ensemble", 1)
    teacher = _train(tmp_path / "model", *arguments)
    bundle = load_bundle(teacher)
    config = DistillConfig(model=teacher, save=tmp_path / "s", epochs=40, graph_width=32, graph_depth=2)
    student = distill.student_config(bundle, config)
    molecules = distill.labelled(bundle, student, CPU)
    split = distill.same_split(bundle, student, molecules)
    prepared = Prepared(molecules, Features(graphs=build_graphs(molecules.smiles)), None, {})
    others = [text for text in SAMPL["smiles"][200:] if len(text) > 4]
    smiles, y_teacher = distill.taught(Predictor(bundle), others, jobs=1)
    # of one draw the ratio differs from machine to machine by more than what is to be shown
    distance = np.zeros((2, 2))
    for draw in range(2):
        order = np.random.default_rng(draw).permutation(len(smiles))
        unseen = order[200:]
        for i, count in enumerate((5, 200)):
            rows = order[:count]
            extended = distill.with_unlabelled(prepared, split, [smiles[row] for row in rows], y_teacher[rows])
            (model,) = distill._fit(student, *extended, CPU)
            y_pred = model.predict(Features(graphs=build_graphs([smiles[row] for row in unseen])))
            distance[draw, i] = np.sqrt(np.mean((y_pred - y_teacher[unseen]) ** 2))
    few, many = distance.mean(axis=0)
    assert many < 0.8 * few


def test_classes_are_learnt_from_probabilities(tmp_path: Path, corpus: Path) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"smiles": SAMPL["smiles"][:90]})
    for target in ("a", "b"):
        labels = table["smiles"].str.contains("O").astype(float)
        table[target] = labels.where(rng.random(90) > 0.2)
    table.to_csv(tmp_path / "t.csv", index=False)
    options = ["--csv", tmp_path / "t.csv", "--target-columns", "a", "b", "--task", "classification"]
    teacher = _train(tmp_path / "model", *options, "--model", "gcn_indepent")
    arguments = ["--save", tmp_path / "student", "--corpus", corpus, "--epochs", 2, "--csv", tmp_path / "t.csv"]
    stages.distill.from_command_line(list(map(str, [teacher, *arguments])))
    assert Predictor(load_bundle(tmp_path / "student")).predict(["CCO", "c1ccccc1"]).status == ["ok", "ok"]
    bundle = load_bundle(teacher)
    config = DistillConfig(model=teacher, save=tmp_path / "s", corpus=str(corpus), csv=tmp_path / "t.csv")
    student = distill.student_config(bundle, config)
    molecules = distill.labelled(bundle, student, CPU)
    split = distill.same_split(bundle, student, molecules)
    kept, y_teacher = distill.taught(Predictor(bundle), UNLABELLED, jobs=1)
    assert len(kept) == len(UNLABELLED) and len(np.unique(y_teacher)) > 50
    prepared = Prepared(molecules, Features(graphs=build_graphs(molecules.smiles)), None, {})
    y_true = distill.with_unlabelled(prepared, split, kept, y_teacher)[0].molecules.y_true
    np.testing.assert_array_equal(y_true[-len(kept) :], y_teacher)  # neither rounded to classes nor missing
    labels = table[["a", "b"]].to_numpy()[molecules.rows - 1]
    np.testing.assert_array_equal(y_true[: -len(kept)], labels)  # missing labels stay missing
    assert np.isnan(labels).any()
    with pytest.raises(SettingError, match="--csv"):
        distill.run(DistillConfig(model=teacher, save=tmp_path / "other", corpus=str(corpus)))
    table.iloc[::-1].to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(DataError, match="not the table"):
        distill.run(DistillConfig(model=teacher, save=tmp_path / "x", corpus=str(corpus), csv=tmp_path / "t.csv"))


def test_what_cannot_be_distilled_is_refused_in_one_line(
    teacher: Path, corpus: Path, tiny_decoder: Path, tmp_path: Path
) -> None:
    config = _config(teacher, corpus, tiny_decoder)
    with pytest.raises(SettingError, match="is the teacher"):
        distill.run(replace(config, save=teacher, again=True))
    with pytest.raises(SettingError, match="is the teacher or lies in it"):
        distill.run(replace(config, save=teacher / "student"))
    with pytest.raises(SettingError, match="--csv cannot replace"):
        distill.run(replace(config, csv=tmp_path / "t.csv"))


@pytest.mark.parametrize(
    "change",
    [
        {"split": {}},
        {"dataset": 3},
        {"config": []},
        {"config": {"dataset": "SAMPL", "limit": 1.5}},
        {"config": {"dataset": "SAMPL", "smiles_column": 5}},
        {"config": {"dataset": "SAMPL", "fractions": "x"}},
        {"config": {"dataset": "SAMPL", "class_weight": "balanced"}},
        {"config": {"dataset": "Delaney"}},
        {"seed": "x"},
        {"metrics": {"test": 7}},
    ],
)
def test_a_hostile_teacher_is_refused_before_anything_is_trained(
    teacher: Path, corpus: Path, tiny_decoder: Path, tmp_path: Path, change: dict
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(teacher, folder)
    record = json.loads((folder / "bundle.json").read_text())
    record["made"] |= change
    del record["digest"]
    write_json(folder / "bundle.json", {**record, "digest": _digest(record)})
    with pytest.raises(KFLM2Error) as caught:
        distill.run(_config(folder, corpus, tiny_decoder, save=tmp_path / "student"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "student").exists()
