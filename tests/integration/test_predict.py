"""A trained model kept, given away, and used: the real embedded LLM once, a graph network for all else."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file, save_file

from kflm2.cli import stages
from kflm2.config.predict import PredictConfig
from kflm2.errors import DataError, KFLM2Error
from kflm2.files import sha256_file, write_json
from kflm2.predictor.bundle import BundleError, _digest
from kflm2.predictor.bundle_reader import load_bundle
from kflm2.predictor.predictor import Predictor
from kflm2.stages import predict as predicting

ROOT = Path(__file__).parents[2]
SMILES = pd.read_csv(ROOT / "dataset" / "SAMPL.csv")["smiles"].tolist()
KFLM2 = str(Path(sys.executable).parent / "kflm2")


def _train(folder: Path, *words: object, csv: Path | None = None) -> Path:
    """A small model, kept in `folder`."""
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
            *map(str, words),
        ]
    )
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph network: quick to train and to load."""
    return _train(tmp_path_factory.mktemp("bundle") / "model", "--model", "gcn_indepent")


def _predict(*words: object) -> int:
    """Exit status."""
    try:
        stages.predict.from_command_line(list(map(str, words)))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.usefixtures("embedded")
@pytest.mark.parametrize("pipeline", [["crossAtt"], ["combined_base"], ["combinedSepAtt", "--descriptors", "morgan"]])
def test_a_bundle_predicts_what_its_run_predicted(tmp_path: Path, pipeline: list[str]) -> None:
    folder = _train(tmp_path / "model", "--model", *pipeline)
    (run,) = (tmp_path / "model-results").glob("*/*/random-0")
    known = pd.read_csv(run / "predictions.csv")
    assert (folder / "adapter").is_dir() == (pipeline[0] != "combined_base")
    # elsewhere, and without what it was made from
    moved = tmp_path / "moved"
    folder.rename(moved)
    shutil.rmtree(tmp_path / "model-results")
    found = Predictor(load_bundle(moved)).predict(known["smiles"].tolist())
    # other batches pad otherwise, which moves the last digits of the LLM's float16 states
    np.testing.assert_allclose(found.y_pred[:, 0], known["y_pred_expt"], atol=0.01)
    assert found.status == ["ok"] * len(known)
    train = known["part"] == "train"
    assert (found.domain.similarity[train] == 1).all()
    assert found.intervals is not None
    assert (found.intervals[:, 0, 0] < found.y_pred[:, 0]).all()
    assert np.array_equal(found.intervals[:, 0].mean(axis=1).round(6), found.y_pred[:, 0].round(6))


def test_classes_with_gaps_and_their_card(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, size=(80, 2)).astype(object)
    labels[::7, 1] = ""
    table = pd.DataFrame({"smiles": SMILES[:80], "status": labels[:, 0], "b": labels[:, 1]})
    table.to_csv(tmp_path / "t.csv", index=False)
    words = ("--model", "gcn_indepent", "--kind", "classification", "--target-columns", "status", "b")
    folder = _train(tmp_path / "model", *words, csv=tmp_path / "t.csv")
    assert _predict(folder, "CCO", "C((", "c1ccccc1", "-o", tmp_path / "out.csv") == 3
    found = pd.read_csv(tmp_path / "out.csv", dtype={"b_class": "Int64"})
    # a target that is named as a column of ours gives way
    assert list(found.columns[2:5]) == ["status_predicted", "status_predicted_class", "status_predicted_possible"]
    assert found["status"].str.startswith("ok").tolist() == [True, False, True]
    assert found["b"].dropna().between(0, 1).all() and found["b"].isna().tolist() == [False, True, False]
    assert set(found["b_possible"].dropna()) <= {"none", "0", "1", "0 or 1"}
    card = (folder / "README.md").read_text()
    assert "status, b (classification)" in card and "| Brier |" in card and "sets of classes hold" in card


def test_one_row_out_for_every_row_in(model: Path, tmp_path: Path) -> None:
    table = tmp_path / "in.csv"
    given = ["CCO", "", "C1CC", "C" * 10_000, "c1ccccc1", "[Na+].[Cl-]", "C C", "CCO"]
    pd.DataFrame({"id": range(len(given)), "SMILES": given}).to_csv(table, index=False)
    assert _predict(model, table, "--smiles-column", "SMILES", "--name-column", "id", "-o", tmp_path / "o.csv") == 3
    found = pd.read_csv(tmp_path / "o.csv", keep_default_na=False)
    assert found["row"].tolist() == list(range(1, 9)) and found["name"].tolist() == list(range(8))
    assert found["smiles"].tolist() == given
    assert (found["status"] == "ok").tolist() == [True, False, False, False, True, True, False, True]
    assert found["status"][1] == "no SMILES" and "10000 characters" in found["status"][3]
    assert (found["expt"] == "").tolist() == (found["status"] != "ok").tolist()
    assert found.loc[0, "expt"] == found.loc[7, "expt"]
    assert not list(tmp_path.glob("o.csv.*"))


def test_all_formats_say_the_same(model: Path, tmp_path: Path) -> None:
    given = SMILES[:20]
    (tmp_path / "a.smi").write_text("".join(f"{smiles} m{i}\n" for i, smiles in enumerate(given)))
    pd.DataFrame({"smiles": given, "name": [f"m{i}" for i in range(20)]}).to_parquet(tmp_path / "a.parquet")
    assert _predict(model, tmp_path / "a.smi", "-o", tmp_path / "1.csv") == 0
    assert _predict(model, tmp_path / "a.parquet", "--name-column", "name", "-o", tmp_path / "2.parquet") == 0
    one, two = pd.read_csv(tmp_path / "1.csv"), pd.read_parquet(tmp_path / "2.parquet")
    pd.testing.assert_frame_equal(one, two, check_dtype=False)
    done = subprocess.run(
        [KFLM2, "predict", model, "-"], input="\n".join(given), capture_output=True, text=True, timeout=200, check=True
    )
    (tmp_path / "3.csv").write_text(done.stdout)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "3.csv").drop(columns="name"), one.drop(columns="name"))
    assert "20 of 20 molecules predicted" in done.stderr


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows for many small chunks."""
    monkeypatch.setattr(predicting, "CHUNK", 16)
    path = tmp_path / "many.smi"
    path.write_text("".join(f"{smiles}\n" for smiles in [*SMILES[:150], "C((", *SMILES[150:200]]))
    return path


def test_shares_put_together_are_the_whole(model: Path, many: Path, tmp_path: Path) -> None:
    _predict(model, many, "-o", tmp_path / "whole.csv")
    parts = []
    for number in (1, 2, 3):
        _predict(model, many, "-o", tmp_path / f"{number}.csv", "--shard", f"{number}/3")
        parts.append((tmp_path / f"{number}.csv").read_text().splitlines())
    whole = (tmp_path / "whole.csv").read_text().splitlines()
    assert [parts[0][0], *(line for part in parts for line in part[1:])] == whole


def test_stopped_in_the_middle_it_goes_on_to_the_same_bytes(
    model: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _predict(model, many, "-o", tmp_path / "whole.csv")
    out = tmp_path / "out.csv"
    config = PredictConfig(model=model, molecules=(str(many),), out=out)
    chunks: list[list[str]] = []
    predict = Predictor.predict

    def stopped(self: Predictor, smiles: list[str], confidence: float) -> Any:
        if len(chunks) == 5:
            raise KeyboardInterrupt
        chunks.append(smiles)
        return predict(self, smiles, confidence)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "predict", stopped)
        with pytest.raises(KeyboardInterrupt):
            predicting.run(config)
    assert not out.exists()
    with open(tmp_path / "out.csv.part", "a") as file:
        file.write("half a li")  # as a kill in the middle of a write leaves it
    assert predicting.run(config) == 1
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not list(tmp_path.glob("out.csv.*"))


def test_on_a_full_disk_what_was_written_is_safe(model: Path, many: Path, tmp_path: Path) -> None:
    _predict(model, many, "-o", tmp_path / "whole.csv")
    whole, out = (tmp_path / "whole.csv").read_bytes(), tmp_path / "out.csv"
    config = PredictConfig(model=model, molecules=(str(many),), out=out)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # files that cannot grow further, as on a disk that is full
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) // 2, hard))
    try:
        with pytest.raises(DataError, match=rf"File too large; \d+ rows are safe in {out}\.part") as caught:
            predicting.run(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    safe = int(str(caught.value).split("; ")[1].split()[0])
    assert 64 <= safe < 200 and not safe % 16
    assert predicting.run(config) == 1
    assert out.read_bytes() == whole


def test_the_input_is_not_written_over(model: Path, many: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("smiles\nCCO\n")
    os.symlink(table, tmp_path / "link.csv")
    for out in (table, tmp_path / "link.csv", model / "out.csv", tmp_path):
        config = PredictConfig(model=model, molecules=(str(table),), out=out)
        with pytest.raises(DataError, match="out "):
            predicting.run(config)
    assert table.read_text() == "smiles\nCCO\n"


def test_no_two_columns_share_a_name(tmp_path: Path) -> None:
    table = pd.DataFrame({"smiles": SMILES[:60], **{name: range(60) for name in ("y", "y_low", "name", "row")}})
    table.to_csv(tmp_path / "t.csv", index=False)
    words = ("--model", "gcn_indepent", "--target-columns", "y", "y_low", "name", "row")
    folder = _train(tmp_path / "model", *words, csv=tmp_path / "t.csv")
    (tmp_path / "in.smi").write_text("CCO ethanol\n")
    assert _predict(folder, tmp_path / "in.smi", "-o", tmp_path / "o.csv") == 0
    found = pd.read_csv(tmp_path / "o.csv")
    assert found.columns.is_unique and len(found.columns) == 3 + 4 * 3 + 5
    row = found.iloc[0]
    for name in ("y", "y_low_predicted", "name_predicted", "row_predicted"):
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
    assert (row["row"], row["name"]) == (1, "ethanol")


def test_parquet_bears_names_of_several_lines_and_any_length(model: Path, many: Path, tmp_path: Path) -> None:
    names = ["two\nlines", "x" * 3_000_000, 'a "quote"', "", "ä"] * 10
    pd.DataFrame({"smiles": SMILES[:50], "id": names}).to_csv(tmp_path / "t.csv", index=False)
    assert _predict(model, tmp_path / "t.csv", "--name-column", "id", "-o", tmp_path / "o.parquet") == 0
    assert pd.read_parquet(tmp_path / "o.parquet")["name"].tolist() == names


def test_standard_input_of_any_bytes_and_a_reader_that_has_seen_enough(model: Path) -> None:
    lines = b"\xef\xbb\xbfCCO a\xff\n" + b"CC b\n" * 3
    command = [KFLM2, "predict", str(model), "-"]
    done = subprocess.run(command, input=lines, capture_output=True, timeout=200, check=True)
    assert [line.split(b",")[2] for line in done.stdout.splitlines()[1:]] == [b"CCO", b"CC", b"CC", b"CC"]
    piped = subprocess.run(
        f"{' '.join(command)} | head -n 1", shell=True, input=b"CCO\n" * 3000, capture_output=True, timeout=200
    )
    assert piped.stdout.startswith(b"row,") and b"error" not in piped.stderr and b"Traceback" not in piped.stderr


def test_another_command_does_not_go_on_where_this_one_was(model: Path, many: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    _predict(model, many, "-o", out)
    whole = out.read_bytes()
    (tmp_path / "out.csv.part").write_bytes(b"of something else\n" * 100)
    write_json(tmp_path / "out.csv.part.json", {"of": "else", "rows": 64, "bytes": 900, "statuses": {}})
    _predict(model, many, "-o", out)
    assert out.read_bytes() == whole


def test_killed_and_run_again_it_completes(model: Path, tmp_path: Path) -> None:
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
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    assert "going on after row " in done.stderr
    _predict(model, table, "-o", tmp_path / "whole.csv")
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--confidence", "1"], "confidence is 1.0"),
        (["-o", "a.xlsx"], "written as .csv or .parquet"),
        (["--shard", "3/2", "-o", "a.csv"], "shard '3/2'"),
        (["--shard", "1/2"], "--shard needs a file"),
    ],
)
def test_a_setting_that_cannot_work_is_one_line(
    model: Path, words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _predict(model, "CCO", *words) == 2
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1


def test_settings_come_from_a_file_too(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "c.json", {"model": str(model), "molecules": ["CCO", "CC"], "confidence": 0.6})
    assert _predict("--config", tmp_path / "c.json") == 0
    one = capsys.readouterr().out
    assert _predict(model, "CCO", "CC", "--confidence", "0.6") == 0
    assert capsys.readouterr().out == one and one.count("\n") == 3


def _rewritten(model: Path, folder: Path, **changes: Any) -> Path:
    """A copy whose bundle.json says something else, with digests that are right."""
    shutil.copytree(model, folder)
    about = {**json.loads((folder / "bundle.json").read_text()), **changes}
    about["files"] = {name: sha256_file(folder / name) for name in about["files"] if (folder / name).is_file()}
    del about["digest"]
    write_json(folder / "bundle.json", {**about, "digest": _digest(about)})
    return folder


def _refused(folder: Path, *, llm: str | None = None) -> str:
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
    assert f"{file} was changed" in _refused(folder)
    (folder / file).unlink()
    assert "missing" in _refused(folder) or "no bundle" in _refused(folder)


def test_a_bundle_from_elsewhere_is_data_and_no_more(model: Path, tmp_path: Path) -> None:
    assert "update it" in _refused(_rewritten(model, tmp_path / "newer", format=2))
    config = json.loads((model / "bundle.json").read_text())["config"]
    # sizes are believed only once the file has the weights for them
    huge = _refused(_rewritten(model, tmp_path / "huge", config={**config, "hidden": 1 << 40, "heads": 1}))
    assert "cannot be used" in huge
    assert "setting model is 3" in _refused(_rewritten(model, tmp_path / "odd", config={**config, "model": 3}))
    assert "cannot be used" in _refused(_rewritten(model, tmp_path / "none", config={**config, "model": "x"}))
    folder = tmp_path / "link"
    shutil.copytree(model, folder)
    (folder / "training.csv").unlink()
    os.symlink(model / "training.csv", folder / "training.csv")
    assert "training.csv is a link" in _refused(folder)
    # a path in it is never opened
    asked = _refused(_rewritten(model, tmp_path / "llm", llm={"name": "/etc", "layers": [1], "weights": "0"}))
    assert "'/etc', which is not here" in asked
    # nor is anything fetched, or printed as it stands
    hub = {"name": "DS_7B", "hub_id": "a/b\n\x1b[31mrm -rf", "layers": [1], "weights": "0"}
    assert _refused(_rewritten(model, tmp_path / "hub", llm=hub)).endswith("say --llm DS_7B")
    own = {**hub, "name": "x\ny"}
    assert "rm" not in _refused(_rewritten(model, tmp_path / "own", llm=own))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": True},
        {"format": -1},
        {"members": []},
        {"targets": []},
        {"kind": "classification"},
        {"kind": "x"},
        {"scaler": {"mean": ["a"], "std": [1]}},
        {"scaler": {"mean": [1, 2], "std": [1, 2]}},
        {"domain": {"least_similarity": "x", "most_distance": 1}},
        {"files": None},
        {"sizes": {"atoms": "x"}},
    ],
)
def test_a_damaged_bundle_is_one_line(model: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = tmp_path / "b"
    shutil.copytree(model, folder)
    about = {**json.loads((folder / "bundle.json").read_text()), **changes}
    del about["digest"]
    write_json(folder / "bundle.json", {**about, "digest": _digest(about)})
    assert str(folder) in _refused(folder)


@pytest.mark.parametrize("setting", [{"standardize": "x"}, {"descriptors": "x"}, {"model": "x"}, {"hidden": True}])
def test_a_setting_that_is_none_is_refused(model: Path, tmp_path: Path, setting: dict[str, Any]) -> None:
    config = json.loads((model / "bundle.json").read_text())["config"]
    assert str(tmp_path) in (said := _refused(_rewritten(model, tmp_path / "b", config={**config, **setting}))) or (
        f"setting {next(iter(setting))}" in said
    )


@pytest.mark.parametrize("name", ["calibration.y_pred", "domain.vectors"])
def test_numbers_that_are_none_are_refused(model: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "a"
    shutil.copytree(model, folder)
    arrays = load_file(folder / "weights.safetensors")
    arrays[name] = arrays[name] * np.nan
    save_file(arrays, folder / "weights.safetensors")
    assert "damaged" in _refused(_rewritten(folder, tmp_path / "b"))


def test_other_features_are_refused(model: Path, tmp_path: Path) -> None:
    features = json.loads((model / "bundle.json").read_text())["features"]
    changed = {**features, "atoms": [*features["atoms"], "mass"]}
    assert "other features" in _refused(_rewritten(model, tmp_path / "b", features=changed))


def test_an_llm_of_ones_own_is_asked_for_and_checked(tiny_decoder: Path, tiny_writer: Path, tmp_path: Path) -> None:
    folder = _train(tmp_path / "model", "--model", "combined", "--llm", tiny_decoder, "--layers", "last")
    assert "say --llm" in _refused(folder)
    assert "which is not here" in _refused(folder, llm=str(tiny_writer))
    other = shutil.copytree(tiny_decoder, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    flipped = {name: array[::-1].copy() if "embed" in name else array for name, array in weights.items()}
    save_file(flipped, other / "model.safetensors", metadata={"format": "pt"})
    assert "is not the one the bundle was made with" in _refused(folder, llm=str(other))
    found = Predictor(load_bundle(folder, str(tiny_decoder))).predict(["CCO", "C" * 30])
    assert found.status == ["ok", "longer than the LLM's context"]
    assert np.isfinite(found.y_pred[0]).all() and np.isnan(found.y_pred[1]).all()


def test_an_adapter_that_asks_for_more_is_refused(
    tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_decoder)
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")).save_pretrained(
        tmp_path / "adapter"
    )
    words = ("--model", "combined", "--llm", tiny_decoder, "--layers", "last", "--adapter", tmp_path / "adapter")
    folder = _train(tmp_path / "model", *words)
    load_bundle(folder, str(tiny_decoder))
    path = folder / "adapter" / "adapter_config.json"
    config = json.loads(path.read_text())
    hostile: list[dict[str, Any]] = [
        {"megatron_config": {"x": 1}, "megatron_core": "antigravity"},
        {"r": 5_000_000},
        {"target_modules": "(a+)+$"},
        {"init_lora_weights": "pissa"},
    ]
    for number, odd in enumerate(hostile):
        write_json(path, {**config, **odd})
        said = _refused(_rewritten(folder, tmp_path / str(number)), llm=str(tiny_decoder))
        assert "asks for megatron_" in said or "otherwise than its weights" in said


def test_a_folder_of_something_else_is_not_overwritten(model: Path, tmp_path: Path) -> None:
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
    again = load_bundle(tmp_path / "new", device=torch.device("cpu"))
    one, two = (Predictor(own).predict(SMILES[:9]) for own in (bundle, again))
    assert np.array_equal(one.y_pred, two.y_pred) and np.array_equal(one.domain.distance, two.domain.distance)
