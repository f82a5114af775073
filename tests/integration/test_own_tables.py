"""A user's own table from the command line to results: bounds, weights, words, spreadsheets."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import status_of

from kflm2.cli import stages
from kflm2.stages.train import stage

SMALL = ["--views", "graph", "descriptors", "--epochs", "2", "--ensemble", "2", "--runs", "1"]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """60 molecules of SAMPL; of the most soluble ones it is only known that they are below -6 kcal/mol."""
    sampl = pd.read_csv(Path(__file__).parents[2] / "dataset" / "SAMPL.csv").sample(60, random_state=0)
    values = sampl["expt"].astype(float).to_numpy()
    monkeypatch.chdir(tmp_path)
    return pd.DataFrame(
        {
            "Canonical_SMILES": sampl["smiles"].to_numpy(),
            "dG": np.where(values < -6, -6.0, values),
            "relation": np.where(values < -6, "<", "="),
            "reliability": np.where(np.arange(60) % 3 == 0, 0.5, 1.0),
            "polar": np.where(values < -4, "Yes", "no"),
        }
    )


def _train(*arguments: str) -> Path:
    stages.train.from_command_line([*arguments, *SMALL])
    return Path("results/own/crossAtt/random-0")


def test_a_spreadsheet_with_bounds_and_weights_is_trained_on(
    table: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    table.to_excel("own.xlsx", index=False)
    folder = _train(
        *("--csv", "own.xlsx", "--target-columns", "dG"),
        *("--qualifier-column", "relation", "--weight-column", "reliability"),
    )
    out = capsys.readouterr().out
    count = int((table["relation"] == "<").sum())
    assert "SMILES: column 'Canonical_SMILES'" in out
    assert f"0 labels are lower bounds (>), {count} upper bounds (<)" in out
    assert "weights   0.5 to 1 in training" in out
    predictions = pd.read_csv(folder / "predictions.csv")
    bounded = (table["relation"] == "<").to_numpy()
    assert predictions["y_true_dG"].isna().to_numpy().tolist() == bounded.tolist()
    assert set(predictions.loc[bounded, "bound_dG"]) == {"<-6"}
    result = json.loads((folder / "result.json").read_text())
    test = (predictions["part"] == "test").to_numpy()
    kept = (predictions["y_pred_dG"] <= -6).to_numpy()
    assert result["bounds"]["test"] == {
        "labels": int((test & bounded).sum()),
        "kept": int((test & bounded & kept).sum()),
    }
    exact = predictions[test & ~bounded]
    rmse = float(np.sqrt(np.mean((exact["y_true_dG"] - exact["y_pred_dG"]) ** 2)))
    assert result["metrics"]["test"]["RMSE"] == pytest.approx(rmse)
    assert result["config"]["smiles_column"] == "Canonical_SMILES"


def test_bounds_and_weights_change_the_predictions(table: pd.DataFrame) -> None:
    table["cell"] = [f"{sign.strip('=')}{value}" for sign, value in zip(table["relation"], table["dG"], strict=True)]
    table["reliability"] = np.floor(table["reliability"])  # of a few molecules other weights may do nothing to an SVM
    table.to_csv("own.csv", sep=";", index=False)
    arrays = []
    for target, *options in (["dG"], ["cell"], ["cell", "--weight-column", "reliability"]):
        folder = _train("--csv", "own.csv", "--target-columns", target, *options, "--again")
        arrays.append(pd.read_csv(folder / "predictions.csv")[f"y_pred_{target}"].to_numpy())
    assert all(not np.allclose(first, second) for i, first in enumerate(arrays) for second in arrays[:i])


def test_a_table_with_bounds_and_weights_is_audited_distilled_and_prompted_for(
    table: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    table["cell"] = [f"{sign.strip('=')}{value}" for sign, value in zip(table["relation"], table["dG"], strict=True)]
    table.to_csv("own.csv", index=False)
    columns = ["--csv", "own.csv", "--target-columns", "cell"]
    stages.datasets_audit.from_command_line(columns)
    weighted = [*columns, "--weight-column", "reliability"]
    stages.train.from_command_line([*weighted, "--model", "gcn_indepent", "--epochs", "1", "--save", "teacher"])
    Path("more.smi").write_text("\n".join(["CCCCCl", "CCCCBr", "CCCCO", "CCOCC"]))
    stages.distill.from_command_line(
        ["teacher", "--csv", "own.csv", "--corpus", "more.smi", "--epochs", "1", "--save", "student"]
    )
    assert Path("student/bundle.json").is_file()
    with pytest.raises(SystemExit):
        stages.prompt.from_command_line(weighted)
    assert "--weight-column is of stage 2" in capsys.readouterr().err


def test_a_part_whose_weights_are_all_zero_is_refused(table: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    table["part"] = np.where(np.arange(60) < 40, "train", np.where(np.arange(60) < 50, "valid", "test"))
    table["reliability"] = (table["part"] == "train").astype(float)
    table.to_csv("own.csv", index=False)
    with pytest.raises(SystemExit):
        _train(
            *("--csv", "own.csv", "--target-columns", "dG", "--weight-column", "reliability"),
            *("--split-column", "part", "--inner", "holdout"),
        )
    assert "by which the epoch is chosen, has molecules of weight 0 only" in capsys.readouterr().err


def test_words_become_classes_and_are_kept(table: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    table.to_csv("own.csv", index=False)
    folder = _train("--csv", "own.csv", "--target-columns", "polar")
    out = capsys.readouterr().out
    assert "polar: two values (Yes and no), so classes" in out
    assert "polar: Yes is class 1, no is class 0" in out
    result = json.loads((folder / "result.json").read_text())
    assert (result["dataset"]["kind"], result["dataset"]["classes"]) == ("classification", [["no", "Yes"]])
    assert "ROC-AUC" in result["metrics"]["test"]
    stages.train.from_command_line(["--csv", "own.csv", "--target-columns", "polar", *SMALL])
    assert "kept: 1 of 1 runs" in capsys.readouterr().out
    # an explanation says of which word the log-odds are
    stages.train.from_command_line(["--csv", "own.csv", "--target-columns", "polar", *SMALL, "--save", "model"])
    capsys.readouterr()
    assert status_of(stages.explain, "model", "CCO", "--out", "explained") == 0
    assert "polar, log-odds of Yes" in capsys.readouterr().out
    assert json.loads(Path("explained/explained.json").read_text())["class_1"] == "Yes"
    assert "(probability of Yes 0." in Path("explained/001.svg").read_text()


def test_runs_of_another_column_of_smiles_are_not_kept(table: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--csv", "own.csv", "--target-columns", "dG", "--model", "gcn_indepent", "--epochs", "1", "--runs", "1")
    table.assign(other_smiles=table["Canonical_SMILES"].to_numpy()[::-1]).to_csv("own.csv", index=False)
    assert status_of(stages.train, *few, "--smiles-column", "Canonical_SMILES") == 0
    assert status_of(stages.train, *few, "--smiles-column", "other_smiles") == 2
    said = "column of SMILES Canonical_SMILES, not other_smiles"
    assert said in capsys.readouterr().err
    assert status_of(stages.train, *few, "--smiles-column", "Canonical_SMILES") == 0
    assert "kept: 1 of 1 runs" in capsys.readouterr().out


def test_a_run_that_another_process_has_replaced_meanwhile_is_not_removed(
    table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.to_csv("own.csv", index=False)
    few = ["--csv", "own.csv", "--target-columns", "dG", "--model", "gcn_indepent"]
    assert status_of(stages.train, *few, "--epochs", "1", "--runs", "2") == 0
    others = [*few, "--epochs", "2", "--runs", "1"]
    assert status_of(stages.train, *others, "--seed", "1", "--out", "elsewhere") == 0
    new, folder = Path("elsewhere/own/gcn_indepent/random-1"), Path("results/own/gcn_indepent")
    runs = stage._runs

    def slow(*arguments: Any) -> Iterator[Any]:
        shutil.rmtree(folder / "random-1")
        shutil.copytree(new, folder / "random-1")
        yield from runs(*arguments)

    monkeypatch.setattr(stage, "_runs", slow)
    assert status_of(stages.train, *others, "--seed", "0", "--again") == 0
    results = [json.loads((folder / f"random-{seed}" / "result.json").read_text()) for seed in (0, 1)]
    assert [result["config"]["epochs"] for result in results] == [2, 2]


def test_an_unclear_table_ends_with_one_line(table: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    table.to_csv("own.csv", index=False)
    for arguments, message in (
        (["--target-columns", "dGG"], "no column 'dGG' (did you mean 'dG'?)"),
        (
            [],
            "--csv needs --target-columns, the columns to predict; own.csv has: 'dG', 'relation',",
        ),
        (["--target-columns", "polar", "dG"], "'polar' looks like classes and 'dG' does not"),
        (["--target-columns", "dG", "--weight-column", "weight"], "no column 'weight'"),
        (["--target-columns", "dG", "--task", "classification"], "a class is 0 or 1, or one of two words"),
        (["--target-columns", "polar", "--task", "regression"], "column 'polar' is 'Yes', not a number"),
        (["--target-columns", "dG", "--qualifier-columns", "relation", "polar"], "names 2 columns, and there are 1"),
    ):
        with pytest.raises(SystemExit) as stop:
            stages.train.from_command_line(["--csv", "own.csv", *arguments])
        error = capsys.readouterr().err.splitlines()
        assert stop.value.code == 2
        assert len(error) == 1 and message in error[0], (arguments, error)
