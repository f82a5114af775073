"""Explanations as people ask for them: a model trained and kept, then molecules of a file."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kflm2.cli import stages
from kflm2.predictor.predictor import TOO_LONG

GIVEN = (
    "OCC <script>alert('ethanol')</script>\nC1CC broken\nCC(=O)Nc1ccccc1 acetanilide\n"
    + "C" * 40
    + " long\nC methane\n"
)


def _train(tmp_path: Path, *words: object) -> Path:
    smiles = ["C" * n + end for n in range(1, 9) for end in ("O", "N", "c1ccccc1", "(=O)O")]
    table = pd.DataFrame(
        {"smiles": smiles, "y": np.arange(32) % 7 * 0.5 - 3, "a": np.arange(32) % 2, "b": np.arange(32) % 3 < 1}
    )
    table.astype({"b": int}).to_csv(tmp_path / "own.csv", index=False)
    (tmp_path / "given.smi").write_text(GIVEN)
    model = tmp_path / "model"
    own = ("--csv", tmp_path / "own.csv", "--epochs", 3, "--ensemble", 2, "--adapter", "none")
    words = (*own, "--save", model, "--out", tmp_path / "results", *words)
    stages.train.from_command_line([str(word) for word in words])
    return model


def _run(stage: stages.Stage, *words: object) -> int:
    try:
        stage.from_command_line([str(word) for word in words])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.mark.parametrize("name", ["crossAtt", "combined", "gcn_indepent"])
def test_a_file_is_explained_and_what_cannot_be_says_why(
    name: str, tmp_path: Path, tiny_decoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    llm = ("--llm", tiny_decoder) if name != "gcn_indepent" else ()
    model = _train(tmp_path, "--model", name, "--target-columns", "y", "--descriptors", "rdkit", *llm)
    given, out = tmp_path / "given.smi", tmp_path / "out"
    capsys.readouterr()
    assert _run(stages.explain, model, given, "-o", out, *llm) == 3
    lines = capsys.readouterr().out.splitlines()
    assert "no prediction: RDKit cannot read" in lines[1]
    assert len(lines) == 6

    assert _run(stages.predict, model, given, "-o", tmp_path / "predicted.csv", *llm) == 3
    predicted = pd.read_csv(tmp_path / "predicted.csv")
    about = json.loads((out / "explained.json").read_text())
    assert (about["target"], about["members"]) == ("y", 2)
    assert [own["status"] for own in about["molecules"]] == predicted["status"].tolist()
    if llm:
        assert about["molecules"][3]["status"] == TOO_LONG
    table = pd.read_csv(out / "attributions.csv", keep_default_na=False)
    assert list(table) == ["row", "smiles", "name", "kind", "index", "label", "attribution"]
    files = {"attributions.csv", "explained.json"}
    for own, value in zip(about["molecules"], predicted["y"], strict=True):
        if own["status"] != "ok":
            assert own["row"] not in set(table["row"])
            continue
        assert own["prediction"] == pytest.approx(value, rel=1e-4)
        assert own["complete"]
        rows = table[table["row"] == own["row"]]
        assert rows["attribution"].sum() == pytest.approx(own["sum"])
        assert own["difference"] - own["sum"] == pytest.approx(own["gap"])
        assert (own["shares"]["tokens"] == 0) == (not llm)
        assert "".join(rows[rows["kind"] == "token"]["label"]) == (own["smiles"] if llm else "")
        assert len(own["files"]) == (3 if name == "crossAtt" else 2)
        files |= set(own["files"])
    assert {path.name for path in out.iterdir()} == files
    assert "<script" not in (out / "001.svg").read_text()
    assert table[(table["row"] == 1) & (table["kind"] == "atom")]["label"].tolist() == ["O0", "C1", "C2"]

    # a later run's pictures are its own alone
    assert _run(stages.explain, model, "CCO", "-o", out, *llm) == 0
    assert {path.name for path in out.iterdir() if path.suffix == ".svg"} == {"001.svg"}


def test_of_classes_the_log_odds_of_the_asked_target_are_explained(tmp_path: Path, tiny_decoder: Path) -> None:
    llm = ("--llm", tiny_decoder)
    words = ("--model", "combined_base", "--target-columns", "a", "b", "--kind", "classification")
    model = _train(tmp_path, *words, *llm)
    out = tmp_path / "out"
    assert _run(stages.explain, model, "CCO", "-o", out, "--target", "b", *llm) == 0
    assert _run(stages.predict, model, "CCO", "-o", tmp_path / "predicted.csv", *llm) == 0
    about = json.loads((out / "explained.json").read_text())
    assert (about["target"], about["unit"]) == ("b", "log-odds")
    assert about["molecules"][0]["probability"] == pytest.approx(
        pd.read_csv(tmp_path / "predicted.csv")["b"][0], rel=1e-4
    )
    assert _run(stages.explain, model, "CCO", "-o", out, "--target", "c", *llm) == 2


def test_of_a_file_no_more_than_the_limit_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = _train(tmp_path, "--model", "gcn_indepent", "--target-columns", "y")
    (tmp_path / "given.smi").write_text("CCO\nCCN\nCCC\n")
    assert _run(stages.explain, model, tmp_path / "given.smi", "-o", tmp_path / "out", "--limit", 2) == 0
    assert len(json.loads((tmp_path / "out" / "explained.json").read_text())["molecules"]) == 2
    assert "only the first 2" in capsys.readouterr().out
    # molecules of the command line are few, and meant
    assert _run(stages.explain, model, "CCO", "CCN", "CCC", "-o", tmp_path / "out", "--limit", 2) == 0
    assert len(json.loads((tmp_path / "out" / "explained.json").read_text())["molecules"]) == 3
    assert "only the first" not in capsys.readouterr().out


def test_settings_that_cannot_work_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    for words, told in (
        (("model",), "give molecules"),
        (("model", "CCO", "--steps", 0), "steps is 0"),
        (("model", "CCO", "--limit", 0), "limit is 0"),
        (("model", "CCO", "-o", tmp_path / "file"), "is a file"),
        ((tmp_path / "nothing", "CCO"), "no bundle"),
    ):
        assert _run(stages.explain, *words) == 2
        assert told in capsys.readouterr().err
