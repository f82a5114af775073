"""The functions for notebooks: they give what the command line gives."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem

import kflm2
from kflm2.api import PredictionTable, TrainingResult
from kflm2.cli import stages
from kflm2.errors import DataError, KFLM2Error

ROOT = Path(__file__).parents[2]
SMALL = {"model": "gcn_indepent", "epochs": 2, "ensemble": 2}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    sampl = pd.read_csv(ROOT / "dataset" / "SAMPL.csv").iloc[:60]
    return pd.DataFrame({"Mol_SMILES": sampl["smiles"], "dG": sampl["expt"]}).set_index(np.arange(100, 160))


@pytest.fixture(scope="module")
def result(table: pd.DataFrame) -> TrainingResult:
    return kflm2.train(table, targets="dG", runs=2, **SMALL)


def test_a_table_trains_as_its_file_does(table: pd.DataFrame, result: TrainingResult, tmp_path: Path) -> None:
    table.to_csv(tmp_path / "table.csv", index=False)
    arguments = ["--csv", str(tmp_path / "table.csv"), "--target-columns", "dG", "--save", str(tmp_path / "model")]
    options = ["--model", "gcn_indepent", "--epochs", "2", "--ensemble", "2", "--runs", "2", "--out", str(tmp_path)]
    stages.train.from_command_line([*arguments, *options])
    folder = tmp_path / "table" / "gcn_indepent-saved" / "random-0"
    pd.testing.assert_frame_equal(result.predictions, pd.read_csv(folder / "predictions.csv"))


def test_metrics_are_of_all_runs(result: TrainingResult) -> None:
    values = [run.result.metrics["test"]["RMSE"] for run in result.runs]
    assert result.metrics.loc[("test", "RMSE"), "mean"] == pytest.approx(np.mean(values))
    assert result.metrics.loc[("test", "RMSE"), "sd"] == pytest.approx(np.std(values, ddof=1))
    assert list(result.metrics.index.get_level_values("part").unique()) == ["train", "valid", "test"]
    page = result._repr_html_()
    assert "gcn_indepent on dG, mean of 2 runs" in page and f"{np.mean(values):.3f}" in page
    assert result.plot()._repr_png_()[:4] == b"\x89PNG"


def test_predictions_are_those_of_the_command_line(table: pd.DataFrame, result: TrainingResult, tmp_path: Path) -> None:
    folder = result.save(tmp_path / "model")
    table.to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(SystemExit):  # one of the molecules cannot be read
        stages.predict.from_command_line([str(folder), "CCO", "C1CC", "-o", str(tmp_path / "few.csv")])
    few = pd.read_csv(tmp_path / "few.csv").drop(columns="row")
    model = kflm2.load(folder)
    predicted = model.predict(["CCO", "C1CC"])
    assert list(predicted) == list(few) and predicted["status"].tolist() == few["status"].tolist()
    np.testing.assert_allclose(predicted["dG"], few["dG"], rtol=1e-5)
    stages.predict.from_command_line([str(folder), str(tmp_path / "new.csv"), "-o", str(tmp_path / "many.csv")])
    many = model.predict(table)
    assert many.index.tolist() == table.index.tolist()
    np.testing.assert_allclose(many["dG"], pd.read_csv(tmp_path / "many.csv")["dG"], rtol=1e-5)
    assert (model.targets, model.task) == (("dG",), "regression") and "kflm2 predict" in model.card


def test_a_confidence_is_between_0_and_1(result: TrainingResult) -> None:
    with pytest.raises(KFLM2Error, match="confidence is 90"):
        result.model.predict("CCO", confidence=90)


def test_a_model_that_is_replaced_leaves_nothing_behind(result: TrainingResult, tmp_path: Path) -> None:
    folder = result.save(tmp_path / "model")
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text("{}")  # as of a model that reads an LLM
    assert result.save(folder) == folder and not (folder / "adapter").exists()
    assert kflm2.load(folder).predict("CCO")["status"].tolist() == ["ok"]
    assert [path.name for path in tmp_path.iterdir() if "making" in path.name] == []


@pytest.mark.parametrize("task", ["regression", "classification"])
@pytest.mark.parametrize("inner", [{}, {"inner": "folds", "descriptors": "rdkit", "voters": ("svm",)}])
def test_labels_of_weight_zero_decide_nothing(table: pd.DataFrame, task: str, inner: dict[str, object]) -> None:
    """Not the intervals, weights, thresholds and domain of the model either."""
    good = np.arange(len(table)) % 3 > 0
    labels = table["dG"] if task == "regression" else (table["dG"] > -3).astype(int)
    wrong = labels.where(good, 999.0 if task == "regression" else 1 - labels)
    new = [*table["Mol_SMILES"].iloc[:4], "CCO"]
    predicted = []
    for y in (labels, wrong):
        frame = pd.DataFrame({"smiles": table["Mol_SMILES"], "y": y, "w": np.where(good, "1", "")})
        trained = kflm2.train(frame, targets="y", weight_column="w", task=task, **SMALL, **inner)
        predicted.append(trained.model.predict(new))
    pd.testing.assert_frame_equal(*predicted)
    # a molecule that was left out is none of those that the model knows
    nearest = predicted[0]["nearest"]
    assert nearest[0] != new[0] and nearest[1] == new[1]


def test_names_of_columns_have_no_blanks_around_them(table: pd.DataFrame) -> None:
    spaced = pd.DataFrame({"smiles ": table["Mol_SMILES"], " y": table["dG"], " pH ": np.linspace(2, 9, len(table))})
    trained = kflm2.train(spaced, targets=" y", features="pH ", **SMALL)
    assert (trained.model.predict(spaced)["status"] == "ok").all()
    for name in ("smiles", "pH"):
        twice = pd.concat([spaced, spaced.filter(like=name).set_axis([name], axis=1)], axis=1)
        with pytest.raises(DataError, match=f"2 columns are named '{name}'"):
            trained.model.predict(twice)


def test_molecules_may_be_of_rdkit_and_missing(result: TrainingResult, table: pd.DataFrame) -> None:
    mols = [Chem.MolFromSmiles("OCC"), None, Chem.MolFromSmiles("c1ccccc1")]
    predicted = result.model.predict(mols)
    np.testing.assert_array_equal(predicted["dG"][[0, 2]], result.model.predict(["CCO", "c1ccccc1"])["dG"])
    assert predicted["status"].tolist() == ["ok", "no SMILES", "ok"]
    assert len(result.model.predict(mols[0])) == 1 and len(result.model.predict([])) == 0
    of_mols = table.assign(Mol_SMILES=[Chem.MolFromSmiles(text) for text in table["Mol_SMILES"]])
    again = kflm2.train(of_mols, targets=["dG"], smiles="Mol_SMILES", **SMALL)
    np.testing.assert_allclose(again.predictions["y_pred_dG"], result.predictions["y_pred_dG"])


def test_a_table_of_predictions_is_shown_with_drawings_and_without_script(result: TrainingResult) -> None:
    predicted = result.model.predict(["CCO"] * 25 + ["<script>alert(1)</script>"])
    page = predicted._repr_html_()
    assert isinstance(predicted.head(), PredictionTable)
    assert page.count("<svg") == 20 and "and 6 more rows" in page
    assert "<script" not in predicted.tail(3)._repr_html_() and "&lt;script&gt;" in predicted.tail(3)._repr_html_()
    assert "<svg" not in predicted[["dG"]]._repr_html_()


def test_a_result_without_a_folder_leaves_nothing(table: pd.DataFrame) -> None:
    short = kflm2.train(table, targets="dG", **{**SMALL, "epochs": 1})
    folder = short.folder
    assert (folder / "bundle.json").is_file()
    model, card = short.model, (folder / "README.md").read_text(encoding="utf-8")
    del short
    assert not folder.exists()
    assert model.card == model._repr_markdown_() == card


def test_what_cannot_be_used_is_said(table: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 'x'"):
        kflm2.train(table, targets="dG", smiles="x")
    with pytest.raises(DataError, match=r"no column 'dg' \(did you mean 'dG'\?\)"):
        kflm2.train(table, targets="dg")
    with pytest.raises(KFLM2Error, match="which column holds the SMILES"):
        kflm2.train(table.assign(smiles_2="C"), targets="dG")
    with pytest.raises(TypeError, match="epoch"):
        kflm2.train(table, targets="dG", epoch=3)
    with pytest.raises(KFLM2Error, match="schedule is 'cosine'; it must be one of"):
        kflm2.train(table, targets="dG", schedule="cosine")
    with pytest.raises(KFLM2Error, match="a file of settings, is of the command line"):
        kflm2.train(table, targets="dG", config="best.json")
    with pytest.raises(KFLM2Error):
        kflm2.load(tmp_path)
    table.to_csv(tmp_path / "table.csv", index=False)
    before = (tmp_path / "table.csv").read_bytes()
    with pytest.raises(DataError):
        kflm2.train(table.iloc[:2], targets="dg", out=tmp_path)
    assert (tmp_path / "table.csv").read_bytes() == before
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        kflm2.trian  # noqa: B018
