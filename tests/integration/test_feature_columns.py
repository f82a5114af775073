"""Columns beside the structure, from the table to a prediction: pH and assay decide much of the target."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import kflm2
from kflm2.cli import stages
from kflm2.config.serve import ServeConfig
from kflm2.errors import DataError
from kflm2.estimators import KFLM2Regressor

COLUMNS = ["--feature-columns", "pH", "assay"]
SMALL = "--target-columns y --split scaffold --ensemble 3 --runs 1 --graph-width 16 --graph-depth 1".split()
# few, large steps, in which the network learns enough to have a weight beside the support vector machine
SMALL += "--epochs 6 --learning-rate 0.02 --batch-size 12".split()
NEW = """id;pH;smiles;assay
1;4,5;CCO;A
2;7;c1ccccc1O; b
3;;CCN;A
4;acid;CCN;A
5;7;CCN;C
6;99;CCN;A
7;7;CC(;A
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with own.csv, 40 molecules of SAMPL at three values of the pH each, a model and results without it."""
    folder = tmp_path_factory.mktemp("features")
    rng = np.random.default_rng(0)
    sampl = pd.read_csv(Path(__file__).parents[2] / "dataset" / "SAMPL.csv").sample(40, random_state=0)
    table = pd.DataFrame({"smiles": np.repeat(sampl["smiles"].to_numpy(), 3)})
    table["pH"] = rng.uniform(2, 10, 120).round(2)
    table["assay"] = rng.choice(["A", "B"], 120)
    table["y"] = np.repeat(0.2 * sampl["expt"].to_numpy(), 3) + table["pH"] + np.where(table["assay"] == "A", 0, 4)
    table.to_csv(folder / "own.csv", index=False)
    (folder / "new.csv").write_text(NEW)
    views = ["--csv", "own.csv", "--views", "graph", "descriptors"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KFLM2_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.chdir(folder)
        stages.train.from_command_line([*views, *SMALL, "--name", "without"])
        stages.train.from_command_line([*views, "covariates", *COLUMNS, *SMALL, "--name", "with", "--save", "model"])
        yield folder


def _failed(stage: stages.Stage, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which a command ends."""
    with pytest.raises(SystemExit) as stop:
        stage.from_command_line(list(arguments))
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def _predict(*arguments: str) -> pd.DataFrame:
    with contextlib.suppress(SystemExit):  # as it ends where a row has no prediction
        stages.predict.from_command_line([*arguments, "--out", "out.csv"])
    return pd.read_csv("out.csv")


def test_columns_explain_what_structures_cannot_and_are_recorded(folder: Path) -> None:
    results = {}
    for name in ("without", "with"):
        run = folder / "results" / "own" / name / "scaffold-0"
        results[name] = json.loads((run / "result.json").read_text())
    rmse = {name: result["metrics"]["test"]["RMSE"] for name, result in results.items()}
    assert rmse["with"] < 0.4 * rmse["without"], rmse
    assert results["with"]["dataset"]["features"] == {"pH": [], "assay": ["A", "B"]}
    assert results["with"]["config"]["feature_columns"] == ["pH", "assay"]
    card = (folder / "model" / "README.md").read_text()
    assert "of a molecule from its SMILES and the columns pH, assay." in card
    assert "| feature columns | pH (" in card and "assay (A, B) |" in card


def test_a_saved_model_predicts_as_its_run_did_and_every_row_has_its_status(folder: Path) -> None:
    own = _predict("model", "own.csv")
    run = pd.read_csv(folder / "results" / "own" / "with" / "scaffold-0" / "predictions.csv")
    test = run["part"] == "test"
    np.testing.assert_allclose(own.loc[test, "y"], run.loc[test, "y_pred_y"], rtol=1e-4, atol=1e-4)
    assert set(own.loc[run["part"] == "train", "features"]) == {"ok"}
    new = _predict("model", "new.csv")
    assert new["status"].tolist() == [
        "ok",
        "ok",
        "pH is blank",
        "pH is 'acid', not a number",
        "assay is 'C', which the model does not know",
        "ok",
        "RDKit cannot read it: not a SMILES",
    ]
    good = new["status"] == "ok"
    assert new["y"].notna().tolist() == good.tolist()
    assert new["features"].fillna("").tolist()[:5] == ["ok", "ok", "", "", ""]
    assert new["features"][5].startswith("pH 99 is outside ")
    assert new["pH"].fillna("").tolist()[:3] == ["4,5", "7", ""]


def test_an_input_without_the_columns_is_refused_with_their_names(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("few.csv").write_text("smiles,ph\nCCO,7\n")
    Path("a.smi").write_text("CCO\n")
    capsys.readouterr()
    asked = "the model also needs the columns pH, assay"
    assert f"few.csv: {asked}; it has: 'smiles', 'ph'" in _failed(stages.predict, capsys, "model", "few.csv")
    for stage in (stages.predict, stages.embed, stages.explain):
        assert f"{asked}, which a.smi does not have: give a table" in _failed(stage, capsys, "model", "a.smi")
    assert "it cannot teach a student" in _failed(stages.distill, capsys, "model", "--csv", "own.csv", "--save", "s")
    shutil.copytree("model", "copy")
    with pytest.raises(ValueError, match=f"{asked}, and X is SMILES alone"):
        KFLM2Regressor.load("copy")


def test_vectors_and_explanations_are_of_the_row_with_its_columns(folder: Path) -> None:
    Path("pair.csv").write_text("smiles,pH,assay\nCCO,3,A\nCCO,9,A\n")
    stages.embed.from_command_line(["model", "pair.csv", "--out", "fused.parquet"])
    first, second = pd.read_parquet("fused.parquet")["vector"]
    assert not np.allclose(first, second)
    Path("a.smi").write_text("CCO\n")
    stages.embed.from_command_line(["model", "a.smi", "--vectors", "graph", "--out", "graph.parquet"])
    stages.explain.from_command_line(["model", "pair.csv", "--out", "explained"])
    low, high = json.loads(Path("explained/explained.json").read_text())["molecules"]
    predicted = _predict("model", "pair.csv")["y"].to_numpy()
    np.testing.assert_allclose([low["prediction"], high["prediction"]], predicted, rtol=1e-4)
    assert low["complete"] and high["complete"]
    # the conditions are those of the row in the baseline too, so the structure alone is explained
    assert high["baseline"] - low["baseline"] > 0.5 * (predicted[1] - predicted[0])
    assert {view for view, share in low["shares"].items() if abs(share) > 1e-6} == {"graph", "descriptors", "SVM"}
    assert "y at pH 3, assay A: predicted" in Path("explained/001.svg").read_text()


def test_in_python_a_table_carries_the_columns(folder: Path) -> None:
    model = kflm2.load("model")
    assert model.features == ("pH", "assay")
    table = pd.DataFrame({"smiles": ["CCO", "CCO"], "pH": [4.5, None], "assay": ["A", "A"]}, index=[7, 9])
    predicted = model.predict(table)
    assert predicted.index.tolist() == [7, 9]
    assert predicted["status"].tolist() == ["ok", "pH is blank"]
    assert predicted["y"][7] == pytest.approx(_predict("model", "new.csv")["y"][0], rel=1e-5)
    for wrong, message in (("CCO", "columns pH, assay beside the SMILES"), (table[["smiles", "pH"]], "column assay;")):
        with pytest.raises(DataError, match=message):
            model.predict(wrong)
    own = pd.read_csv("own.csv")
    # a buffer that is blank in some rows of training may be blank
    own["buffer"] = [None, "Tris", "PBS", "Tris"] * 30
    settings = {"model": "gcn_indepent", "epochs": 1, "ensemble": 1}
    result = kflm2.train(own, targets="y", features=["pH", "buffer"], **settings)
    one = pd.DataFrame({"smiles": ["CCO", "CCO"], "pH": [7, 7], "buffer": ["", "pbs"]})
    values = result.model.predict(one)
    assert values["status"].tolist() == ["ok", "ok"] and values["y"].nunique() == 2


def test_the_page_takes_tables_and_rows_and_refuses_smiles_alone(folder: Path) -> None:
    pytest.importorskip("fastapi")
    from kflm2.stages.serve.answers import Answers
    from kflm2.stages.serve.questions import PredictQuestion

    answers = Answers(ServeConfig(model=Path("model")))

    def predict(**question: object) -> list[dict[str, Any]]:
        source = PredictQuestion.model_validate(question).source()
        rows: list[dict[str, Any]] = answers.predict(source, drawings=True)["rows"]
        return rows

    assert answers.about()["features"] == ["pH", "assay"]
    good, bad = predict(rows=[{"smiles": "CCO", "pH": 4.5, "assay": "A"}, {"smiles": "CCN", "pH": None, "assay": "A"}])
    assert good["y"] == pytest.approx(_predict("model", "new.csv")["y"][0], rel=1e-5)
    assert bad["status"] == "pH is blank"
    assert good["given"] == {"pH": "4.5", "assay": "A"}
    assert predict(text=NEW, format="csv")[0]["y"] == good["y"]
    for alone in ({"smiles": ["CCO"]}, {"text": "CCO", "format": "smi"}):
        with pytest.raises(DataError, match="also needs the columns pH, assay, which SMILES alone do not have"):
            predict(**alone)
    explained = answers.explain("CCO", "", None, good["given"])
    assert explained["prediction"] == pytest.approx(good["y"], rel=1e-4)
    with pytest.raises(DataError, match="also needs the column assay: give them as features"):
        answers.explain("CCO", "", None, {"pH": 7})


def test_what_cannot_be_a_feature_column_is_refused_before_anything_is_computed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = ["--csv", "own.csv", "--target-columns", "y", "--feature-columns"]
    for stage, arguments, message in (
        (stages.train, [*table, "pHH"], "no column 'pHH' (did you mean 'pH'?)"),
        (stages.train, [*table, "pH", "y"], "--feature-columns: 'y' holds a target"),
        (stages.train, [*table, "smiles"], "--feature-columns: 'smiles' holds the SMILES"),
        (stages.train, ["--dataset", "SAMPL", "--feature-columns", "x"], "are columns of a table of your own"),
        (stages.prompt, [*table, "pH"], "--feature-columns are of stage 2"),
    ):
        assert message in _failed(stage, capsys, *arguments)
