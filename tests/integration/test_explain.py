"""`kflm2 explain` on molecules of a file, with a model that was trained and saved."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import status_of

from kflm2.cli import stages
from kflm2.predictor.predictor import TOO_LONG

MOLECULES = (
    "OCC <script>alert('ethanol')</script>\nC1CC broken\nCC(=O)Nc1ccccc1 acetanilide\n"
    + "C" * 40
    + " long\nC methane\n"
)


def _train(tmp_path: Path, *arguments: object) -> Path:
    smiles = ["C" * n + end for n in range(1, 9) for end in ("O", "N", "c1ccccc1", "(=O)O")]
    table = pd.DataFrame(
        {"smiles": smiles, "y": np.arange(32) % 7 * 0.5 - 3, "a": np.arange(32) % 2, "b": np.arange(32) % 3 < 1}
    )
    table.astype({"b": int}).to_csv(tmp_path / "own.csv", index=False)
    (tmp_path / "given.smi").write_text(MOLECULES)
    model = tmp_path / "model"
    common = ("--csv", tmp_path / "own.csv", "--epochs", 3, "--ensemble", 2, "--adapter", "none")
    arguments = (*common, "--save", model, "--out", tmp_path / "results", *arguments)
    stages.train.from_command_line([str(argument) for argument in arguments])
    return model


@pytest.mark.parametrize("name", ["crossAtt", "combined", "gcn_indepent"])
def test_every_molecule_of_a_file_has_an_explanation_or_a_reason(
    name: str, tmp_path: Path, tiny_decoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    llm = ("--llm", tiny_decoder) if name != "gcn_indepent" else ()
    model = _train(tmp_path, "--model", name, "--target-columns", "y", "--descriptors", "rdkit", *llm)
    molecules, out = tmp_path / "given.smi", tmp_path / "out"
    capsys.readouterr()
    assert status_of(stages.explain, model, molecules, "-o", out, *llm) == 3
    lines = capsys.readouterr().out.splitlines()
    assert "no prediction: RDKit cannot read" in lines[1]
    assert len(lines) == 6

    assert status_of(stages.predict, model, molecules, "-o", tmp_path / "predicted.csv", *llm) == 3
    predicted = pd.read_csv(tmp_path / "predicted.csv")
    explained = json.loads((out / "explained.json").read_text())
    assert (explained["target"], explained["members"]) == ("y", 2)
    assert [entry["status"] for entry in explained["molecules"]] == predicted["status"].tolist()
    if llm:
        assert explained["molecules"][3]["status"] == TOO_LONG
    table = pd.read_csv(out / "attributions.csv", keep_default_na=False)
    assert list(table) == ["row", "smiles", "name", "kind", "index", "label", "attribution", "meaning"]
    files = {"attributions.csv", "explained.json"}
    for entry, value in zip(explained["molecules"], predicted["y"], strict=True):
        if entry["status"] != "ok":
            assert entry["row"] not in set(table["row"])
            continue
        assert entry["prediction"] == pytest.approx(value, rel=1e-4)
        assert entry["complete"]
        rows = table[table["row"] == entry["row"]]
        assert rows["attribution"].sum() == pytest.approx(entry["sum"])
        assert entry["difference"] - entry["sum"] == pytest.approx(entry["gap"])
        assert (entry["shares"]["tokens"] == 0) == (not llm)
        assert "".join(rows[rows["kind"] == "token"]["label"]) == (entry["smiles"] if llm else "")
        assert len(entry["files"]) == (3 if name == "crossAtt" else 2)
        files |= set(entry["files"])
    assert {path.name for path in out.iterdir()} == files
    assert "<script" not in (out / "001.svg").read_text()
    assert table[(table["row"] == 1) & (table["kind"] == "atom")]["label"].tolist() == ["C0", "C1", "O2"]

    # a later run deletes the pictures of an earlier one
    assert status_of(stages.explain, model, "CCO", "-o", out, *llm) == 0
    assert {path.name for path in out.iterdir() if path.suffix == ".svg"} == {"001.svg"}


def test_the_log_odds_of_the_given_target_are_explained_for_classification(tmp_path: Path, tiny_decoder: Path) -> None:
    llm = ("--llm", tiny_decoder)
    arguments = ("--model", "combined_base", "--target-columns", "a", "b", "--kind", "classification")
    model = _train(tmp_path, *arguments, *llm)
    out = tmp_path / "out"
    assert status_of(stages.explain, model, "CCO", "-o", out, "--target", "b", *llm) == 0
    assert status_of(stages.predict, model, "CCO", "-o", tmp_path / "predicted.csv", *llm) == 0
    explained = json.loads((out / "explained.json").read_text())
    assert (explained["target"], explained["unit"]) == ("b", "log-odds")
    assert explained["molecules"][0]["probability"] == pytest.approx(
        pd.read_csv(tmp_path / "predicted.csv")["b"][0], rel=1e-4
    )
    assert status_of(stages.explain, model, "CCO", "-o", out, "--target", "c", *llm) == 2


def test_the_limit_applies_to_molecules_of_a_file_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = _train(tmp_path, "--model", "gcn_indepent", "--target-columns", "y")
    (tmp_path / "given.smi").write_text("CCO\nCCN\nCCC\n")
    assert status_of(stages.explain, model, tmp_path / "given.smi", "-o", tmp_path / "out", "--limit", 2) == 0
    assert len(json.loads((tmp_path / "out" / "explained.json").read_text())["molecules"]) == 2
    assert "only the first 2" in capsys.readouterr().out
    # molecules on the command line are not limited
    assert status_of(stages.explain, model, "CCO", "CCN", "CCC", "-o", tmp_path / "out", "--limit", 2) == 0
    assert len(json.loads((tmp_path / "out" / "explained.json").read_text())["molecules"]) == 3
    assert "only the first" not in capsys.readouterr().out


def test_an_invalid_setting_ends_with_status_2_and_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    for arguments, message in (
        (("model",), "give molecules"),
        (("model", "CCO", "--steps", 0), "steps is 0"),
        (("model", "CCO", "--limit", 0), "limit is 0"),
        (("model", "CCO", "-o", tmp_path / "file"), "is a file"),
        ((tmp_path / "nothing", "CCO"), "no bundle"),
    ):
        assert status_of(stages.explain, *arguments) == 2
        assert message in capsys.readouterr().err
