"""Compressed files and files at an address give the bytes that the plain local file gives."""

import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest

from kflm2.cli import stages
from kflm2.config.predict import PredictConfig
from kflm2.predictor.predictor import Predictor
from kflm2.stages.predict import stage as predict_stage

SAMPL = pd.read_csv(Path(__file__).parents[2] / "dataset" / "SAMPL.csv")


def _train(csv: str, folder: Path) -> Path:
    """Train on a table; returns the folder of the run."""
    stages.train.from_command_line(
        [
            *("--csv", csv, "--target-columns", "expt", "--views", "graph", "--epochs", "1"),
            *("--runs", "1", "--ensemble", "1", "--save", str(folder / "model"), "--out", str(folder / "results")),
        ]
    )
    return folder / "results" / "own" / "crossAtt-saved" / "random-0"


def _predict(model: Path, molecules: object, out: Path) -> bytes:
    with pytest.raises(SystemExit, match="3"):  # some rows cannot be read
        stages.predict.from_command_line([str(model), str(molecules), "-o", str(out), "--jobs", "1"])
    return out.read_bytes()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with own.csv, a model trained on it, and 700 molecules, some of which cannot be read."""
    folder = tmp_path_factory.mktemp("plain")
    SAMPL.head(60).assign(smiles=lambda table: table["smiles"].where(table.index != 7, "C((")).to_csv(
        folder / "own.csv", index=False
    )
    lines = [f"{smiles} m{i}\n" for i, smiles in enumerate(SAMPL["smiles"].iloc[:640])]
    (folder / "a.smi").write_text("".join([*lines[:300], "\n", "C(( torn\n", *lines]), encoding="utf-8")
    _train(str(folder / "own.csv"), folder)
    return folder


@pytest.mark.parametrize("where", ["file", "address"])
def test_a_compressed_table_trains_the_same_model(plain: Path, tmp_path: Path, where: str) -> None:
    data = gzip.compress((plain / "own.csv").read_bytes())
    if where == "file":
        (tmp_path / "own.csv.gz").write_bytes(data)
    else:
        fsspec.filesystem("memory").pipe("/lab/own.csv.gz", data)
    run = _train(str(tmp_path / "own.csv.gz") if where == "file" else "memory://lab/own.csv.gz", tmp_path)
    expected = plain / "results" / "own" / "crossAtt-saved" / "random-0"
    for name in ("predictions.csv", "rejected.csv"):
        assert (run / name).read_bytes() == (expected / name).read_bytes()
    results = [json.loads((folder / "result.json").read_text()) for folder in (run, expected)]
    assert results[0]["dataset"] == results[1]["dataset"] and results[0]["metrics"] == results[1]["metrics"]
    molecules = plain / "a.smi"
    assert _predict(tmp_path / "model", molecules, tmp_path / "o.csv") == _predict(
        plain / "model", molecules, tmp_path / "expected.csv"
    )


def test_compressed_and_remote_molecules_have_the_same_predictions(plain: Path, tmp_path: Path) -> None:
    data = (plain / "a.smi").read_bytes()
    (tmp_path / "a.smi.gz").write_bytes(gzip.compress(data))
    fsspec.filesystem("memory").pipe("/lab/a.smi.xz", lzma.compress(data))
    expected = _predict(plain / "model", plain / "a.smi", tmp_path / "expected.csv")
    assert len(expected.splitlines()) == 942
    for molecules in (tmp_path / "a.smi.gz", "memory://lab/a.smi.xz"):
        assert _predict(plain / "model", molecules, tmp_path / "o.csv") == expected


def test_an_interrupted_prediction_of_a_compressed_file_goes_on_unless_the_file_has_changed(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = (plain / "a.smi").read_bytes()
    expected = _predict(plain / "model", plain / "a.smi", tmp_path / "expected.csv")
    packed, out = tmp_path / "a.smi.gz", tmp_path / "o.csv"
    predict = Predictor.predict_read
    for changed in (False, True):
        packed.write_bytes(gzip.compress(data))
        calls: list[int] = []

        def interrupted(self: Predictor, *arguments: Any, calls: list[int] = calls) -> Any:
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return predict(self, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(Predictor, "predict_read", interrupted)
            with pytest.raises(KeyboardInterrupt):
                predict_stage.run(PredictConfig(model=plain / "model", molecules=(str(packed),), out=out, jobs=1))
        assert not out.exists()
        if changed:
            packed.write_bytes(gzip.compress(data.replace(b" m0\n", b" x0\n")))
        capsys.readouterr()
        again = _predict(plain / "model", packed, out)
        assert again == (expected.replace(b",m0,", b",x0,") if changed else expected)
        assert ("going on after row" in capsys.readouterr().err) == (not changed)
        out.unlink()
