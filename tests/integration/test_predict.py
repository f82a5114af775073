"""`kflm2 predict` and bundles of trained models: with the real embedded LLM once, else with a graph network."""

import base64
import csv
import functools
import io
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from commands import KFLM2, status_of
from pyarrow import parquet
from safetensors.numpy import load_file, save_file
from scipy.special import expit, logit
from sklearn.metrics import log_loss

from kflm2.cli import stages
from kflm2.config.predict import PredictConfig
from kflm2.errors import DataError, KFLM2Error
from kflm2.featurize import xtb
from kflm2.featurize.descriptors import rdkit_names
from kflm2.files import sha256_file, write_json
from kflm2.predictor import chunks as predict_chunks
from kflm2.predictor import formats
from kflm2.predictor.bundle import FORMAT, _digest
from kflm2.predictor.bundle_reader import load_bundle
from kflm2.predictor.chunks import ChunkReader
from kflm2.predictor.featurizer import ReadMolecules
from kflm2.predictor.manifest import BundleError
from kflm2.predictor.predictor import Predictor
from kflm2.predictor.rdkit_values import rdkit_release
from kflm2.predictor.readers import MoleculeReader
from kflm2.resources import CATALOGUE, packaged
from kflm2.stages.predict import stage as predict_stage
from kflm2.stages.predict.table import ChunkPredictor
from kflm2.stages.predict.table import table as prediction_table
from kflm2.trainers.jobs import run_stream

ROOT = Path(__file__).parents[2]
SMILES = pd.read_csv(ROOT / "dataset" / "SAMPL.csv")["smiles"].tolist()


def _train(folder: Path, *arguments: object, csv: Path | None = None) -> Path:
    """Train a small model and save it in `folder`."""
    table = ["--csv", str(csv)] if csv else ["--dataset", "SAMPL", "--limit", "60"]
    out = folder.with_name(f"{folder.name}-results")
    stages.train.from_command_line(
        [
            *table,
            "--fractions",
            "0.6",
            "0.2",
            "0.2",
            "--epochs",
            "3",
            "--ensemble",
            "2",
            "--save",
            str(folder),
            "--out",
            str(out),
            *map(str, arguments),
        ]
    )
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph network: quick to train and to load."""
    return _train(tmp_path_factory.mktemp("bundle") / "model", "--model", "gcn_indepent")


def _predict(*arguments: object) -> int:
    """Exit status."""
    return status_of(stages.predict, *arguments)


@pytest.mark.usefixtures("embedded")
@pytest.mark.parametrize("pipeline", [["crossAtt"], ["combined_base"], ["combinedSepAtt", "--descriptors", "morgan"]])
def test_a_bundle_gives_the_predictions_of_its_run(tmp_path: Path, pipeline: list[str]) -> None:
    folder = _train(tmp_path / "model", "--model", *pipeline)
    (run,) = (tmp_path / "model-results").glob("*/*/random-0")
    expected = pd.read_csv(run / "predictions.csv")
    assert (folder / "adapter").is_dir() == (pipeline[0] != "combined_base")
    # in another folder, and without the results of its run
    moved = tmp_path / "moved"
    folder.rename(moved)
    shutil.rmtree(tmp_path / "model-results")
    result = Predictor(load_bundle(moved)).predict(expected["smiles"].tolist())
    # in other batches the padding differs, which changes the last digits of the LLM's float16 states
    # with inner folds those of train and valid are out-of-fold predictions, which no saved ensemble makes
    own = expected["part"] == "test" if pipeline[0] == "crossAtt" else np.ones(len(expected), dtype=bool)
    np.testing.assert_allclose(result.y_pred[own, 0], expected["y_pred_expt"][own], atol=0.01)
    assert result.status == ["ok"] * len(expected)
    train = expected["part"] == "train"
    assert (result.domain.similarity[train] == 1).all()
    assert result.intervals is not None
    assert (result.intervals[:, 0, 0] < result.y_pred[:, 0]).all()
    assert np.array_equal(result.intervals[:, 0].mean(axis=1).round(6), result.y_pred[:, 0].round(6))


def test_a_table_is_predicted_with_its_columns_and_words_of_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = np.where(np.arange(60) % 3 == 0, "active", "inactive")
    table = pd.DataFrame({"Mol_SMILES": SMILES[:60], "outcome": words, "batch": np.arange(60)})
    table.to_csv(tmp_path / "t.csv", index=False, sep=";")
    folder = _train(
        tmp_path / "model", "--model", "gcn_indepent", "--target-columns", "outcome", csv=tmp_path / "t.csv"
    )
    (tmp_path / "new.csv").write_text("Mol_SMILES,outcome,batch,status,smiles_2\nCCO,active,5,a,C\nC(,,6,b,C\n1,2\n")
    assert _predict(folder, tmp_path / "new.csv", "-o", tmp_path / "out.csv") == 3
    predicted = pd.read_csv(tmp_path / "out.csv", dtype=str, keep_default_na=False)
    assert list(predicted.columns)[:8] == (
        ["row", "smiles", "outcome_given", "batch", "status_given", "smiles_2", "outcome", "outcome_class"]
    )
    assert predicted["smiles"].tolist() == ["CCO", "C(", ""]
    assert predicted["outcome_given"].tolist() == ["active", "", ""] and predicted["batch"].tolist() == ["5", "6", ""]
    assert predicted["outcome_class"].isin(["active", "inactive", ""]).all() and predicted["outcome_class"][1] == ""
    assert predicted["outcome_possible"][0] in ("none", "active", "inactive", "inactive or active")
    assert _predict(folder, tmp_path / "new.csv", "--no-keep-columns", "-o", tmp_path / "few.csv") == 3
    few = pd.read_csv(tmp_path / "few.csv", dtype=str, keep_default_na=False)
    pd.testing.assert_frame_equal(few, predicted[few.columns])
    assert "batch" not in few
    assert "outcome: probability of active\n" in capsys.readouterr().err
    assert "| probability of outcome | of active |" in (folder / "README.md").read_text()


@pytest.mark.parametrize("inner", ["folds", "holdout"])
def test_a_refitted_model_has_learnt_from_the_test_part_too_and_states_the_metrics_of_before(
    tmp_path: Path, inner: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--views", "graph", "descriptors", "--inner", inner)
    plain = _train(tmp_path / "plain", *options)
    refit = _train(tmp_path / "refit", *options, "--refit")
    first, second = (json.loads((folder / "bundle.json").read_text())["made"] for folder in (plain, refit))
    count = 60 if inner == "folds" else 48
    assert second.pop("refit") == count and second == first
    assert f"on {count} molecules, those of test among them" in (refit / "README.md").read_text()
    seen = [set(pd.read_csv(folder / "training.csv")["smiles"]) for folder in (plain, refit)]
    # with a holdout the validation part stays what it was
    assert len(seen[0]) == (48 if inner == "folds" else 36) and len(seen[1]) == (60 if inner == "folds" else 48)
    y_pred = [Predictor(load_bundle(folder)).predict(SMILES[:60]).y_pred for folder in (plain, refit)]
    assert not np.allclose(*y_pred)
    with pytest.raises(SystemExit):
        stages.distill.from_command_line([str(refit), "--save", str(tmp_path / "student")])
    assert "the teacher learnt from all molecules (--refit)" in capsys.readouterr().err


def test_classification_with_missing_labels_and_its_model_card(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, size=(80, 2)).astype(object)
    labels[::7, 1] = ""
    table = pd.DataFrame({"smiles": SMILES[:80], "status": labels[:, 0], "b": labels[:, 1]})
    table.to_csv(tmp_path / "t.csv", index=False)
    arguments = ("--model", "gcn_indepent", "--kind", "classification", "--target-columns", "status", "b")
    folder = _train(tmp_path / "model", *arguments, csv=tmp_path / "t.csv")
    assert _predict(folder, "CCO", "C((", "c1ccccc1", "-o", tmp_path / "out.csv") == 3
    predictions = pd.read_csv(tmp_path / "out.csv", dtype={"b_class": "Int64"})
    # a target with the name of a column of the output is renamed
    names = [f"status_predicted{end}" for end in ("", "_class", "_threshold", "_possible")]
    assert list(predictions.columns[2:6]) == names
    bundle = load_bundle(folder)
    threshold = bundle.calibration.calibrated(bundle.thresholds[None])[0, 0]
    np.testing.assert_allclose(predictions[names[2]], [threshold, np.nan, threshold], rtol=1e-5)
    assert predictions["status"].str.startswith("ok").tolist() == [True, False, True]
    assert predictions["b"].dropna().between(0, 1).all() and predictions["b"].isna().tolist() == [False, True, False]
    assert set(predictions["b_possible"].dropna()) <= {"none", "0", "1", "0 or 1"}
    card = (folder / "README.md").read_text()
    assert "status, b (classification)" in card and "| Brier |" in card and "sets of classes hold" in card


def test_a_model_keeps_its_temperature_and_one_of_an_earlier_version_scales_as_it_did(tmp_path: Path) -> None:
    labels = np.random.default_rng(1).integers(0, 2, size=80)
    pd.DataFrame({"smiles": SMILES[:80], "y": labels}).to_csv(tmp_path / "t.csv", index=False)
    arguments = ("--model", "gcn_indepent", "--kind", "classification", "--target-columns", "y")
    folder = _train(tmp_path / "model", *arguments, csv=tmp_path / "t.csv")
    arrays = load_file(folder / "weights.safetensors")
    arrays["calibration.temperature"] = np.array([2.5])
    save_file(arrays, folder / "weights.safetensors")
    now = load_bundle(_changed_copy(folder, tmp_path / "now")).calibration
    assert now.temperature.tolist() == [2.5]
    # probability and threshold are on the same scale, and the classes those of the raw probabilities
    model = Predictor(load_bundle(tmp_path / "now"))
    rows = prediction_table(model.bundle, SMILES[:80], predicted := model.predict(SMILES[:80]))
    assert ((rows["y"] >= rows["y_threshold"]).astype(int) == rows["y_class"]).all() and rows["y_class"].nunique() == 2
    assert abs(rows["y_threshold"][0] - 0.5) < abs(model.bundle.thresholds[0] - 0.5)
    np.testing.assert_array_equal(rows["y"], predicted.y_pred[:, 0])
    del arrays["calibration.temperature"]
    save_file(arrays, folder / "weights.safetensors")
    earlier = load_bundle(_changed_copy(folder, tmp_path / "earlier")).calibration
    # random labels: the temperature of least cross-entropy, found here by trying all
    logits = logit(earlier.y_pred[:, 0])
    grid = np.exp(np.linspace(-3, 3, 1201))
    losses = [log_loss(earlier.y_true[:, 0], expit(logits / temperature)) for temperature in grid]
    assert earlier.temperature[0] == pytest.approx(grid[int(np.argmin(losses))], rel=0.01)


def test_standard_output_has_the_bytes_of_the_file(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.smi").write_text("CCO \u4e59\u9187\n", encoding="utf-8")
    assert _predict(model, tmp_path / "a.smi", "-o", tmp_path / "a.csv") == 0
    # of a terminal that lacks these letters
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer := io.BytesIO(), encoding="latin-1"))
    assert _predict(model, tmp_path / "a.smi") == 0
    assert buffer.getvalue() == (tmp_path / "a.csv").read_bytes()


def test_every_input_row_has_one_output_row(model: Path, tmp_path: Path) -> None:
    table = tmp_path / "in.csv"
    smiles = ["CCO", "", "C1CC", "C" * 10_000, "c1ccccc1", "[Na+].[Cl-]", "C C", "CCO"]
    pd.DataFrame({"id": range(len(smiles)), "SMILES": smiles}).to_csv(table, index=False)
    assert _predict(model, table, "--smiles-column", "SMILES", "--name-column", "id", "-o", tmp_path / "o.csv") == 3
    predictions = pd.read_csv(tmp_path / "o.csv", keep_default_na=False)
    assert predictions["row"].tolist() == list(range(1, 9)) and predictions["name"].tolist() == list(range(8))
    assert predictions["smiles"].tolist() == smiles
    assert (predictions["status"] == "ok").tolist() == [True, False, False, False, True, True, False, True]
    assert predictions["status"][1] == "no SMILES" and "10000 characters" in predictions["status"][3]
    assert (predictions["expt"] == "").tolist() == (predictions["status"] != "ok").tolist()
    assert predictions.loc[0, "expt"] == predictions.loc[7, "expt"]
    assert not list(tmp_path.glob("o.csv.*"))


def test_hostile_smiles_get_a_status_and_their_neighbours_a_prediction(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hostile = ["C[#119]", "*" + "(C)" * 260, "*" + "([H])" * 260, "[Fe+20]", "C" * 601]
    lines = [text for smiles in hostile for text in (smiles, "CCO")]
    (tmp_path / "a.smi").write_text("".join(f"{text}\n" for text in lines))
    assert _predict(model, tmp_path / "a.smi", "-o", tmp_path / "o.csv") == 3
    statuses = pd.read_csv(tmp_path / "o.csv")["status"].tolist()
    assert statuses[1::2] == ["ok"] * 5 and "ok" not in statuses[::2]
    assert statuses[8] == "too large: 601 atoms; 600 are read at most"
    assert "Traceback" not in capfd.readouterr().err


def test_the_limits_on_atoms_and_tokens_are_settings(tiny_decoder: Path, tmp_path: Path) -> None:
    folder = _train(tmp_path / "model", "--model", "crossAtt", "--llm", tiny_decoder, "--layers", "last")
    arguments = (folder, "CCO", "CCCC", "C(C)(C)C", "--llm", tiny_decoder, "-o", tmp_path / "o.csv")

    def statuses(*limits: object) -> list[str]:
        _predict(*arguments, *limits)
        return [status.partition(";")[0] for status in pd.read_csv(tmp_path / "o.csv")["status"]]

    assert statuses() == ["ok"] * 3
    assert statuses("--max-atoms", 3) == ["ok", "too large: 4 atoms", "too large: 4 atoms"]
    # the LLM reads canonical SMILES, here a token a character: CC(C)C
    assert statuses("--max-tokens", 4) == ["ok", "ok", "too large: 6 tokens"]
    large = statuses("--max-atoms", 700, "--max-tokens", 1)
    assert large == ["too large: 3 tokens", "too large: 4 tokens", "too large: 6 tokens"]


def test_more_atoms_than_by_default_can_be_allowed(tmp_path: Path) -> None:
    folder = _train(tmp_path / "model", "--model", "gcn_indepent", "--descriptors", "rdkit")
    assert _predict(folder, "C" * 610, "-o", tmp_path / "o.csv") == 3
    assert _predict(folder, "C" * 610, "-o", tmp_path / "o.csv", "--max-atoms", 610) == 0


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_line_breaks_in_cells_stay_in_their_cells(model: Path, tmp_path: Path, suffix: str) -> None:
    smiles, names = ["C\rO", "CC\nO", "CCO", "CCC"], ["a\rb", 'a"b', "a\r\nb", "a,b"]
    table, out = tmp_path / "t.csv", tmp_path / f"o.{suffix}"
    with open(table, "w", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["smiles", "id"], *zip(smiles, names, strict=True)])
    assert _predict(model, table, "--name-column", "id", "-o", out) == 3
    if suffix == "csv":
        with open(out, newline="") as file:
            rows = list(csv.DictReader(file))
    else:
        rows = pd.read_parquet(out).to_dict("records")
    assert [(row["smiles"], row["name"]) for row in rows] == list(zip(smiles, names, strict=True))
    assert [row["status"] for row in rows] == ["a blank inside the SMILES"] * 2 + ["ok"] * 2


def test_all_formats_give_the_same_predictions(model: Path, tmp_path: Path) -> None:
    molecules = SMILES[:20]
    (tmp_path / "a.smi").write_text("".join(f"{smiles} m{i}\n" for i, smiles in enumerate(molecules)))
    pd.DataFrame({"smiles": molecules, "name": [f"m{i}" for i in range(20)]}).to_parquet(tmp_path / "a.parquet")
    assert _predict(model, tmp_path / "a.smi", "-o", tmp_path / "1.csv") == 0
    assert _predict(model, tmp_path / "a.parquet", "--name-column", "name", "-o", tmp_path / "2.parquet") == 0
    from_smi, from_parquet = pd.read_csv(tmp_path / "1.csv"), pd.read_parquet(tmp_path / "2.parquet")
    pd.testing.assert_frame_equal(from_smi, from_parquet, check_dtype=False)
    completed = subprocess.run(
        [KFLM2, "predict", model, "-"],
        input="\n".join(molecules),
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    (tmp_path / "3.csv").write_text(completed.stdout)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "3.csv").drop(columns="name"), from_smi.drop(columns="name"))
    assert "20 of 20 molecules predicted" in completed.stderr


@pytest.fixture
def molecules_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of molecules that is predicted in many small chunks."""
    monkeypatch.setattr(predict_chunks, "CHUNK", 16)
    path = tmp_path / "many.smi"
    path.write_text("".join(f"{smiles}\n" for smiles in [*SMILES[:150], "C((", *SMILES[150:200]]))
    return path


@pytest.mark.parametrize("shares", [3, 7])
def test_shards_are_equal_and_joined_they_are_the_whole_output(
    model: Path, molecules_file: Path, tmp_path: Path, shares: int
) -> None:
    _predict(model, molecules_file, "-o", tmp_path / "whole.csv")
    parts = []
    for number in range(1, shares + 1):
        _predict(model, molecules_file, "-o", tmp_path / f"{number}.csv", "--shard", f"{number}/{shares}")
        parts.append((tmp_path / f"{number}.csv").read_bytes().splitlines(keepends=True))
    assert {len(part) - 1 for part in parts} <= {201 // shares, 201 // shares + 1}
    whole = (tmp_path / "whole.csv").read_bytes()
    assert b"".join([parts[0][0], *(line for part in parts for line in part[1:])]) == whole


def test_shards_keep_the_bits_of_an_llm_whose_batches_depend_on_the_chunk(
    tiny_decoder: Path, molecules_file: Path, tmp_path: Path
) -> None:
    folder = _train(tmp_path / "model", "--model", "crossAtt", "--llm", tiny_decoder, "--layers", "last")
    common = (folder, molecules_file, "--llm", tiny_decoder, "-o")
    _predict(*common, tmp_path / "whole.csv")
    lines = []
    for number in range(1, 4):
        _predict(*common, tmp_path / f"{number}.csv", "--shard", f"{number}/3")
        lines += (tmp_path / f"{number}.csv").read_text().splitlines()[1:]
    assert lines == (tmp_path / "whole.csv").read_text().splitlines()[1:]


@pytest.mark.parametrize("llm", [True, False])
def test_any_number_of_processes_writes_the_same_bytes(
    model: Path, tiny_decoder: Path, molecules_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, llm: bool
) -> None:
    common: list[object] = [model, molecules_file]
    if llm:
        folder = _train(tmp_path / "model", "--model", "crossAtt", "--llm", tiny_decoder, "--layers", "last")
        common = [folder, molecules_file, "--llm", tiny_decoder]
    for jobs in (1, 3):
        _predict(*common, "-o", tmp_path / f"{jobs}.csv", "--jobs", jobs)
    one = (tmp_path / "1.csv").read_bytes()
    assert one.count(b"\n") == 202
    assert one == (tmp_path / "3.csv").read_bytes()
    if not llm:  # what follows differs by the LLM only, and each process takes seconds to start
        return
    # as on a system that cannot fork: models go to the processes, and each loads the LLM
    unforked = functools.partial(run_stream, forked=False)
    monkeypatch.setattr(
        "kflm2.trainers.jobs.run_stream", lambda work, chunks, jobs, forked: unforked(work, chunks, jobs)
    )
    _predict(*common, "-o", tmp_path / "2.csv", "--jobs", 2)
    assert one == (tmp_path / "2.csv").read_bytes()


def test_a_gpus_processes_read_molecules_and_the_first_one_predicts(model: Path, molecules_file: Path) -> None:
    predictor = Predictor(load_bundle(model))
    reader = MoleculeReader.of((str(molecules_file),), None, None)
    predict = ChunkPredictor(ChunkReader(reader, predictor.featurizer), predictor, 0.9)
    chunks = list(predict_chunks.chunks(reader, 0, None, predict.chunk_size))
    expected = pd.concat([table for _, table in predict.stream(chunks, 1)])
    predictor.device = torch.device("cuda")  # decides who does what; the models stay where they are
    split_work = pd.concat([table for _, table in predict.stream(chunks, 2)])
    pd.testing.assert_frame_equal(split_work, expected)
    assert len(expected) == 201


def test_a_model_keeps_its_precision_and_components_and_earlier_models_had_neither(
    tiny_decoder: Path, tmp_path: Path
) -> None:
    options = ["--model", "crossAtt", "--llm", tiny_decoder, "--layers", "last", "--inner", "holdout"]
    folder = _train(tmp_path / "model", *options, "--precision", "mixed", "--states-components", "4")
    bundle = load_bundle(folder, str(tiny_decoder))
    assert bundle.source is not None and bundle.source.precision == "mixed"
    encoder = bundle.ensemble.members[0].model.states_encoder
    assert encoder is not None and encoder.components is not None
    mixed = Predictor(bundle).predict(SMILES[:9]).y_pred
    record = json.loads((folder / "bundle.json").read_text())["llm"]
    other = _changed_copy(folder, tmp_path / "float32", llm={**record, "precision": "float32"})
    exact = Predictor(load_bundle(other, str(tiny_decoder))).predict(SMILES[:9]).y_pred
    assert 0 < np.abs(mixed - exact).max() < 0.1
    message = _refusal(_changed_copy(folder, tmp_path / "x", llm={**record, "precision": "x"}), llm=str(tiny_decoder))
    assert "unknown precision 'x'" in message
    # an earlier model read all columns of float32 states, with the components' weights multiplied in
    arrays = load_file(folder / "weights.safetensors")
    for number in range(2):
        prefix = f"member.{number}.encoders.states."
        directions = arrays.pop(f"{prefix}components.directions")
        arrays[f"{prefix}inner.0.weight"] = np.ascontiguousarray(arrays[f"{prefix}inner.0.weight"] @ directions.T)
    save_file(arrays, folder / "weights.safetensors")
    del record["precision"]
    earlier = load_bundle(_changed_copy(folder, tmp_path / "earlier", format=1, llm=record), str(tiny_decoder))
    assert earlier.source is not None and earlier.source.precision == "float32"
    np.testing.assert_allclose(Predictor(earlier).predict(SMILES[:9]).y_pred, exact, rtol=1e-4, atol=1e-4)


def test_a_small_file_is_shared_too(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.smi").write_text("".join(f"{smiles}\n" for smiles in SMILES[:40]))
    counts = []
    for number in (1, 2, 3):
        _predict(model, tmp_path / "a.smi", "-o", tmp_path / "o.csv", "--shard", f"{number}/3")
        counts.append(len(pd.read_csv(tmp_path / "o.csv")))
    assert counts == [13, 13, 14]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("shard", [None, "2/2"])
def test_an_interrupted_run_resumes_to_the_same_bytes(
    model: Path, molecules_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, shard: str | None
) -> None:
    whole, out = tmp_path / f"whole.{suffix}", tmp_path / f"out.{suffix}"
    _predict(model, molecules_file, "-o", whole, *(["--shard", shard] if shard else []))
    config = PredictConfig(model=model, molecules=(str(molecules_file),), out=out, shard=shard, jobs=1)
    chunks: list[ReadMolecules] = []
    predict = Predictor.predict_read

    def interrupted(self: Predictor, read: ReadMolecules, confidence: float) -> Any:
        if len(chunks) == 5:
            raise KeyboardInterrupt
        chunks.append(read)
        return predict(self, read, confidence)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "predict_read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            predict_stage.run(config)
    assert not out.exists()
    with open(f"{out}.part", "a") as file:
        file.write("half a li")  # as after a kill in the middle of a write
    assert predict_stage.run(config) == 1
    assert out.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("out.*.*"))


def test_parquet_has_whole_row_groups(
    model: Path, molecules_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "_ROW_GROUP", 64)
    _predict(model, molecules_file, "-o", tmp_path / "o.parquet")
    metadata = parquet.ParquetFile(tmp_path / "o.parquet").metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [64, 64, 64, 9]
    _predict(model, molecules_file, "-o", tmp_path / "o.csv")
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "o.parquet"),
        pd.read_csv(
            tmp_path / "o.csv",
            keep_default_na=False,
            na_values={"expt": "", "expt_low": "", "expt_high": ""} | {"similarity": "", "distance": ""},
        ),
        check_dtype=False,
        rtol=0,
    )


def test_nothing_is_left_of_an_input_that_is_damaged_in_the_middle(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    writer = parquet.ParquetWriter(path, pa.schema([("smiles", pa.string())]))
    for smiles in (SMILES[:300] * 8, SMILES[300:600] * 8):
        writer.write_table(pa.table({"smiles": smiles}))
    writer.close()
    data = bytearray(path.read_bytes())
    second = parquet.ParquetFile(path).metadata.row_group(1).column(0)
    start = second.dictionary_page_offset or second.data_page_offset
    data[start + 20 : start + second.total_compressed_size] = bytes(second.total_compressed_size - 20)
    path.write_bytes(data)
    config = PredictConfig(model=model, molecules=(str(path),), out=tmp_path / "o.csv")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        predict_stage.run(config)
    assert not list(tmp_path.glob("o.csv*"))


def test_rows_written_before_the_disk_was_full_are_not_lost(model: Path, molecules_file: Path, tmp_path: Path) -> None:
    _predict(model, molecules_file, "-o", tmp_path / "whole.csv")
    whole, out = (tmp_path / "whole.csv").read_bytes(), tmp_path / "out.csv"
    config = PredictConfig(model=model, molecules=(str(molecules_file),), out=out)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # a limit on the size of files acts as a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) // 2, hard))
    try:
        with pytest.raises(DataError, match=rf"File too large; \d+ rows are safe in {out}\.part") as caught:
            predict_stage.run(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    safe = int(str(caught.value).split("; ")[1].split()[0])
    assert 64 <= safe < 200 and not safe % 16
    assert predict_stage.run(config) == 1
    assert out.read_bytes() == whole


def test_the_input_is_not_overwritten(model: Path, molecules_file: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("smiles\nCCO\n")
    os.symlink(table, tmp_path / "link.csv")
    for out in (table, tmp_path / "link.csv", model / "out.csv", tmp_path):
        config = PredictConfig(model=model, molecules=(str(table),), out=out)
        with pytest.raises(DataError, match="out "):
            predict_stage.run(config)
    assert table.read_text() == "smiles\nCCO\n"


def test_column_names_are_unique(tmp_path: Path) -> None:
    table = pd.DataFrame({"smiles": SMILES[:60], **{name: range(60) for name in ("y", "y_low", "name", "row")}})
    table.to_csv(tmp_path / "t.csv", index=False)
    arguments = ("--model", "gcn_indepent", "--target-columns", "y", "y_low", "name", "row")
    folder = _train(tmp_path / "model", *arguments, csv=tmp_path / "t.csv")
    (tmp_path / "in.smi").write_text("CCO ethanol\n")
    assert _predict(folder, tmp_path / "in.smi", "-o", tmp_path / "o.csv") == 0
    predictions = pd.read_csv(tmp_path / "o.csv")
    assert predictions.columns.is_unique and len(predictions.columns) == 3 + 4 * 3 + 5
    row = predictions.iloc[0]
    for name in ("y", "y_low_predicted", "name_predicted", "row_predicted"):
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
    assert (row["row"], row["name"]) == (1, "ethanol")


def test_parquet_holds_names_with_line_breaks_and_of_any_length(
    model: Path, molecules_file: Path, tmp_path: Path
) -> None:
    names = ["two\nlines", "x" * 3_000_000, 'a "quote"', "", "ä"] * 10
    pd.DataFrame({"smiles": SMILES[:50], "id": names}).to_csv(tmp_path / "t.csv", index=False)
    assert _predict(model, tmp_path / "t.csv", "--name-column", "id", "-o", tmp_path / "o.parquet") == 0
    assert pd.read_parquet(tmp_path / "o.parquet")["name"].tolist() == names


def test_invalid_bytes_on_standard_input_and_a_closed_output_pipe(model: Path) -> None:
    lines = b"\xef\xbb\xbfCCO a\xff\n" + b"CC b\n" * 3
    command = [KFLM2, "predict", str(model), "-"]
    completed = subprocess.run(command, input=lines, capture_output=True, timeout=200, check=True)
    assert [line.split(b",")[2] for line in completed.stdout.splitlines()[1:]] == [b"CCO", b"CC", b"CC", b"CC"]
    piped = subprocess.run(
        f"{' '.join(command)} | head -n 1", shell=True, input=b"CCO\n" * 3000, capture_output=True, timeout=200
    )
    assert piped.stdout.startswith(b"row,") and b"error" not in piped.stderr and b"Traceback" not in piped.stderr


def test_the_part_file_of_another_command_is_not_resumed(model: Path, molecules_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    _predict(model, molecules_file, "-o", out)
    whole = out.read_bytes()
    (tmp_path / "out.csv.part").write_bytes(b"of something else\n" * 100)
    write_json(tmp_path / "out.csv.part.json", {"of": "else", "rows": 64, "bytes": 900, "statuses": {}})
    _predict(model, molecules_file, "-o", out)
    assert out.read_bytes() == whole


def test_a_killed_run_completes_when_it_is_repeated(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = tmp_path / "many.smi", tmp_path / "out.csv"
    table.write_text("".join(f"{smiles}\n" for smiles in (SMILES * 8)[:5000]))
    command = [KFLM2, "predict", str(model), str(table), "-o", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    journal = tmp_path / "out.csv.part.json"
    deadline = time.monotonic() + 100
    while not journal.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert journal.exists() and not out.exists()
    assert json.loads(journal.read_text())["rows"] < 5000
    assert _predict(*command[2:]) == 0
    assert "going on after row " in capsys.readouterr().err
    _predict(model, table, "-o", tmp_path / "whole.csv")
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--confidence", "1"], "confidence is 1.0"),
        (["-o", "a.xlsx"], "written as .csv or .parquet"),
        (["--shard", "3/2", "-o", "a.csv"], "shard '3/2'"),
        (["--shard", "1/2"], "--shard needs a file"),
    ],
)
def test_the_error_of_an_invalid_setting_is_one_line(
    model: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _predict(model, "CCO", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_settings_can_be_given_in_a_config_file(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "c.json", {"model": str(model), "molecules": ["CCO", "CC"], "confidence": 0.6})
    assert _predict("--config", tmp_path / "c.json") == 0
    printed = capsys.readouterr().out
    assert _predict(model, "CCO", "CC", "--confidence", "0.6") == 0
    assert capsys.readouterr().out == printed and printed.count("\n") == 3


def _changed_copy(model: Path, folder: Path, **changes: Any) -> Path:
    """A copy whose bundle.json has changed values and correct digests."""
    shutil.copytree(model, folder)
    record = {**json.loads((folder / "bundle.json").read_text()), **changes}
    record["files"] = {name: sha256_file(folder / name) for name in record["files"] if (folder / name).is_file()}
    del record["digest"]
    write_json(folder / "bundle.json", {**record, "digest": _digest(record)})
    return folder


def _refusal(folder: Path, *, llm: str | None = None) -> str:
    with pytest.raises(KFLM2Error) as caught:
        load_bundle(folder, llm)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("file", ["bundle.json", "weights.safetensors", "training.csv"])
def test_a_changed_or_missing_file_is_refused(model: Path, tmp_path: Path, file: str) -> None:
    folder = tmp_path / "b"
    shutil.copytree(model, folder)
    data = (folder / file).read_bytes()
    (folder / file).write_bytes(data.replace(b"kcal", b"kJ  ") if file == "bundle.json" else data[:-2] + b"x\n")
    assert f"{file} was changed" in _refusal(folder)
    (folder / file).unlink()
    assert "missing" in _refusal(folder) or "no bundle" in _refusal(folder)


def test_a_manipulated_bundle_is_refused(model: Path, tmp_path: Path) -> None:
    assert "update it" in _refusal(_changed_copy(model, tmp_path / "newer", format=FORMAT + 1))
    config = json.loads((model / "bundle.json").read_text())["config"]
    # sizes are used only if they fit the weights in the file
    message = _refusal(_changed_copy(model, tmp_path / "huge", config={**config, "hidden": 1 << 40, "heads": 1}))
    assert "cannot be used" in message
    assert "setting model is 3" in _refusal(_changed_copy(model, tmp_path / "odd", config={**config, "model": 3}))
    assert "cannot be used" in _refusal(_changed_copy(model, tmp_path / "none", config={**config, "model": "x"}))
    folder = tmp_path / "link"
    shutil.copytree(model, folder)
    (folder / "training.csv").unlink()
    os.symlink(model / "training.csv", folder / "training.csv")
    assert "training.csv is a link" in _refusal(folder)
    # a path in bundle.json is never opened
    message = _refusal(_changed_copy(model, tmp_path / "llm", llm={"name": "/etc", "layers": [1], "weights": "0"}))
    assert "'/etc', which is not here" in message
    # nothing is downloaded, and text of the bundle is not printed unchanged
    hub = {"name": "DS_7B", "hub_id": "a/b\n\x1b[31mrm -rf", "layers": [1], "weights": "0"}
    assert _refusal(_changed_copy(model, tmp_path / "hub", llm=hub)).endswith("say --llm DS_7B")
    several_lines = {**hub, "name": "x\ny"}
    assert "rm" not in _refusal(_changed_copy(model, tmp_path / "own", llm=several_lines))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": True},
        {"format": -1},
        {"members": []},
        {"targets": []},
        {"kind": "classification"},
        {"kind": "x"},
        {"scalers": [{"mean": ["a"], "std": [1]}] * 2},
        {"scalers": [{"mean": [1, 2], "std": [1, 2]}] * 2},
        {"scalers": [{"mean": [1], "std": [1]}]},
        {"domain": {"least_similarity": "x", "most_distance": 1}},
        {"files": None},
        {"sizes": {"atoms": "x"}},
    ],
)
def test_the_error_of_a_damaged_bundle_is_one_line(model: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = tmp_path / "b"
    shutil.copytree(model, folder)
    record = {**json.loads((folder / "bundle.json").read_text()), **changes}
    del record["digest"]
    write_json(folder / "bundle.json", {**record, "digest": _digest(record)})
    assert str(folder) in _refusal(folder)


@pytest.mark.parametrize("setting", [{"standardize": "x"}, {"descriptors": "x"}, {"model": "x"}, {"hidden": True}])
def test_an_invalid_setting_of_a_bundle_is_refused(model: Path, tmp_path: Path, setting: dict[str, Any]) -> None:
    config = json.loads((model / "bundle.json").read_text())["config"]
    message = _refusal(_changed_copy(model, tmp_path / "b", config={**config, **setting}))
    assert str(tmp_path) in message or f"setting {next(iter(setting))}" in message


@pytest.mark.parametrize("name", ["calibration.y_pred", "domain.vectors"])
def test_nan_in_the_weights_is_refused(model: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "a"
    shutil.copytree(model, folder)
    arrays = load_file(folder / "weights.safetensors")
    arrays[name] = arrays[name] * np.nan
    save_file(arrays, folder / "weights.safetensors")
    assert "damaged" in _refusal(_changed_copy(folder, tmp_path / "b"))


def test_a_bundle_with_other_features_is_refused(model: Path, tmp_path: Path) -> None:
    features = json.loads((model / "bundle.json").read_text())["features"]
    changed = {**features, "atoms": [*features["atoms"], "mass"]}
    assert "other features" in _refusal(_changed_copy(model, tmp_path / "b", features=changed))
    older = {name: value for name, value in features.items() if name != "graph_version"}
    assert "by an earlier kflm2: train it again" in _refusal(_changed_copy(model, tmp_path / "c", features=older))


def test_another_rdkit_is_accepted_if_it_computes_the_same(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads((model / "bundle.json").read_text())
    values = {**record["rdkit"], "release": "2025.9.6"}
    same = _changed_copy(model, tmp_path / "a", rdkit=values)
    expected = Predictor(load_bundle(model)).predict(["CCO"]).y_pred
    assert "RDKit" not in capsys.readouterr().err
    bundle = load_bundle(same)
    assert "made with RDKit 2025.9.6; this is" in capsys.readouterr().err
    np.testing.assert_array_equal(Predictor(bundle).predict(["CCO"]).y_pred, expected)
    # a copy says what it was trained with; packed, it also keeps what its fingerprints were made with
    bundle.pack().save(tmp_path / "packed", "")
    copied = json.loads((tmp_path / "packed" / "bundle.json").read_text())["rdkit"]
    assert copied == {**values, "counts": copied["counts"]}
    other = {**values, "graphs": "0" * 64, "structures": "0" * 64}
    # models without descriptors that cannot be compared are used, as those of earlier versions
    unlike = load_bundle(_changed_copy(model, tmp_path / "b", rdkit={**other, "molecules": "0"}))
    assert unlike.targets == bundle.targets
    assert "computes the same" not in capsys.readouterr().err
    text = _refusal(_changed_copy(model, tmp_path / "c", rdkit=other))
    assert f"RDKit 2025.9.6, and this is {rdkit_release()}, which computes other features (standard forms, feat" in text
    assert text.endswith("`pip install rdkit==2025.9.6`")
    damaged: tuple[object, ...] = ([], "x", {"release": None}, {**values, "release": "9; rm"})
    for number, record in enumerate(damaged):
        _refusal(_changed_copy(model, tmp_path / f"{number}", rdkit=record))


def test_another_rdkit_of_a_model_with_descriptors(tmp_path: Path) -> None:
    ready = packaged(CATALOGUE) / "hydration"
    record = json.loads((ready / "bundle.json").read_text())
    features, values = {**record["features"], "rdkit": "2025.9.6"}, {**record["rdkit"], "release": "2025.9.6"}
    assert load_bundle(_changed_copy(ready, tmp_path / "a", features=features, rdkit=values)).packed
    array = np.frombuffer(base64.b64decode(values["descriptors"]), "<f4").reshape(-1, len(rdkit_names())) + 1
    changed = {**values, "descriptors": base64.b64encode(array.tobytes()).decode()}
    text = _refusal(_changed_copy(ready, tmp_path / "b", features=features, rdkit=changed))
    assert f"({', '.join(rdkit_names()[:3])}, ...)" in text
    # models of earlier versions kept the release alone, and those that read xTB's numbers need it
    text = _refusal(_changed_copy(ready, tmp_path / "c", features=features, rdkit=None))
    assert "which may compute other features: train it again" in text
    with_xtb = {**features, "xtb": list(xtb.XTB_COLUMNS), "xtb_version": xtb.VERSION}
    config = {**record["config"], "descriptors": "rdkit+xtb"}
    text = _refusal(_changed_copy(ready, tmp_path / "d", features=with_xtb, rdkit=values, config=config))
    assert text.endswith("`pip install rdkit==2025.9.6`")
    # what another kflm2 changed is not RDKit's fault
    older = {**features, "graph_version": -1}
    assert "by an earlier kflm2" in _refusal(_changed_copy(ready, tmp_path / "e", features=older, rdkit=values))


def test_a_users_llm_must_be_given_and_is_checked(tiny_decoder: Path, tiny_writer: Path, tmp_path: Path) -> None:
    folder = _train(tmp_path / "model", "--model", "combined", "--llm", tiny_decoder, "--layers", "last")
    assert "say --llm" in _refusal(folder)
    assert "which is not here" in _refusal(folder, llm=str(tiny_writer))
    other = shutil.copytree(tiny_decoder, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    flipped = {name: array[::-1].copy() if "embed" in name else array for name, array in weights.items()}
    save_file(flipped, other / "model.safetensors", metadata={"format": "pt"})
    assert "is not the one the bundle was made with" in _refusal(folder, llm=str(other))
    result = Predictor(load_bundle(folder, str(tiny_decoder))).predict(["CCO", "C" * 30])
    assert result.status == ["ok", "longer than the LLM's context"]
    assert np.isfinite(result.y_pred[0]).all() and np.isnan(result.y_pred[1]).all()


def _train_with_adapter(tiny_decoder: Path, folder: Path) -> Path:
    """The bundle of a model that reads the tiny LLM with an adapter of random weights."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_decoder)
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")).save_pretrained(
        folder / "adapter"
    )
    arguments = ("--model", "combined", "--llm", tiny_decoder, "--layers", "last", "--adapter", folder / "adapter")
    return _train(folder / "model", *arguments)


def test_an_adapter_with_unsafe_settings_is_refused(
    tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _train_with_adapter(tiny_decoder, tmp_path)
    load_bundle(folder, str(tiny_decoder))
    path = folder / "adapter" / "adapter_config.json"
    config = json.loads(path.read_text())
    unsafe: list[dict[str, Any]] = [
        {"megatron_config": {"x": 1}, "megatron_core": "antigravity"},
        {"r": 5_000_000},
        {"target_modules": "(a+)+$"},
        {"init_lora_weights": "pissa"},
    ]
    for number, changes in enumerate(unsafe):
        write_json(path, {**config, **changes})
        message = _refusal(_changed_copy(folder, tmp_path / str(number)), llm=str(tiny_decoder))
        assert "asks for megatron_" in message or "otherwise than its weights" in message


def test_a_folder_with_other_files_is_not_overwritten(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years")
    bundle = load_bundle(model)
    with pytest.raises(BundleError, match=r"holds thesis\.txt"):
        bundle.save(folder, "")
    write_json(folder / "bundle.json", {})
    with pytest.raises(BundleError, match=r"holds thesis\.txt"):
        bundle.save(folder, "")
    assert (folder / "thesis.txt").read_text() == "years"
    with pytest.raises(BundleError, match="is a file"):
        bundle.save(folder / "thesis.txt", "")
    bundle.save(tmp_path / "new", "card")
    bundle.save(tmp_path / "new", "another card")
    assert (tmp_path / "new" / "README.md").read_text() == "another card"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "mine", "new"]
    reloaded = load_bundle(tmp_path / "new", device=torch.device("cpu"))
    first, second = (Predictor(loaded).predict(SMILES[:9]) for loaded in (bundle, reloaded))
    assert np.array_equal(first.y_pred, second.y_pred) and np.array_equal(first.domain.distance, second.domain.distance)


def test_no_generated_file_is_left_in_the_folder_for_temporary_files(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    environment = {**os.environ, "TMPDIR": str(folder)}
    subprocess.run([KFLM2, "predict", model, "CCO"], env=environment, capture_output=True, timeout=200, check=True)
    # torch keeps a cache of its own, of a fixed name
    assert [path.name for path in folder.rglob("*") if not path.name.startswith("torchinductor")] == []


def test_a_bundle_whose_adapter_names_a_model_of_the_hub_causes_no_request(
    tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _train_with_adapter(tiny_decoder, tmp_path)
    path = folder / "adapter" / "adapter_config.json"
    write_json(path, {**json.loads(path.read_text()), "base_model_name_or_path": "someone/elsewhere"})
    requests: list[object] = []

    def request(*address: object, **options: object) -> None:
        requests.append(address)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", request)
    monkeypatch.setattr(socket, "getaddrinfo", request)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    bundle = load_bundle(_changed_copy(folder, tmp_path / "copy"), str(tiny_decoder))
    assert Predictor(bundle).predict(["CCO"]).status == ["ok"]
    assert requests == []
