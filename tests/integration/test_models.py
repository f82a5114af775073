"""Models that come with the package, and models that are packed to be given away."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import kflm2
from safetensors.numpy import load_file, save_file

from kflm2 import api
from kflm2.data.structures import structure_digests
from kflm2.files import sha256_file
from kflm2.llm import adapters
from kflm2.llm.registry import LLMS
from kflm2.predictor.bundle import FORMAT, _digest
from kflm2.resources import CATALOGUE, packaged

SMALL = ("--limit", 80, "--epochs", 2, "--ensemble", 2)
SMILES = ["CCO", "CC(=O)Oc1ccccc1C(=O)O", "c1ccccc1", "not a molecule"]
FILES = {"README.md", "bundle.json", "weights.safetensors"}
"""Of a packed model."""
MEASURED = {
    # kcal/mol: Mobley and Guthrie 2014, doi 10.1007/s10822-014-9747-x
    "hydration": {"CCO": -5.00, "c1ccccc1": -0.90, "CC(=O)N": -9.71, "CCCCCC": 2.48},
    # log mol/L: Delaney 2004, doi 10.1021/ci034243x
    "solubility": {"CCO": 1.10, "c1ccc2ccccc2c1": -3.60, "c1ccc2cc3ccccc3cc2c1": -6.35, "CC(=O)Nc1ccc(O)cc1": -1.02},
    # log units; of a neutral molecule logD is logP (Sangster 1989, doi 10.1063/1.555833)
    "logd": {"Cc1ccccc1": 2.73, "CC(=O)Nc1ccc(O)cc1": 0.46, "c1ccc2ccccc2c1": 3.30},
}
"""Some measured values, which the models learnt or nearly so: these show that a model is of its property and unit."""
MEANINGS = {
    "hydration": "hydration free energy, kcal/mol",
    "solubility": "solubility in water, log mol/L",
    "logd": "log D at pH 7.4",
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, embedded: Path) -> Path:
    """A folder with a model of the default pipeline, and the same model packed."""
    folder = tmp_path_factory.mktemp("models")
    for command in (("train", "SAMPL", *SMALL, "--save", "model"), ("models", "pack", "model", "--save", "given")):
        completed = kflm2(*command, cwd=folder)
        assert completed.returncode == 0, completed.stderr
    return folder


def _predicted(folder: Path, model: str, *options: object) -> pd.DataFrame:
    completed = kflm2("predict", model, *SMILES, *options, cwd=folder)
    assert completed.returncode == 3, completed.stderr  # one is not a molecule
    return pd.read_csv(io.StringIO(completed.stdout))


def test_a_packed_model_predicts_the_same(saved: Path) -> None:
    whole, packed = _predicted(saved, "model"), _predicted(saved, "given")
    assert list(whole) == list(packed) and packed["nearest"].isna().all() and whole["nearest"].notna().sum() == 3
    for column in ("similarity", "in_domain", "status"):
        assert whole[column].equals(packed[column])
    for column in ("expt", "expt_low", "expt_high", "distance"):
        np.testing.assert_allclose(whole[column], packed[column], rtol=0.01, atol=0.01)
    assert not whole["expt"].equals(packed["expt"]), "nothing was rounded"


def test_a_packed_model_holds_no_smiles_of_its_molecules(saved: Path) -> None:
    learnt = pd.read_csv(saved / "model" / "training.csv")["smiles"]
    assert {path.name for path in (saved / "given").iterdir()} == FILES
    content = b"".join(path.read_bytes() for path in (saved / "given").iterdir())
    long = [smiles for smiles in learnt if len(smiles) > 12]
    assert len(long) > 20 and not any(smiles.encode() in content for smiles in long)
    whole, packed = (sum(path.stat().st_size for path in (saved / name).rglob("*")) for name in ("model", "given"))
    assert packed < 0.4 * whole
    labels = load_file(saved / "given" / "weights.safetensors")["calibration.y_true"]
    known = pd.read_csv(packaged("").parents[1] / "dataset" / "SAMPL.csv")["expt"]
    assert not np.isin(labels.round(6), known.round(6)).any(), "a label is in it"
    card = (saved / "given" / "README.md").read_text()
    assert "not in this folder" in card and "comes with kflm2" in card and "training.csv" not in card


def test_a_packed_model_can_be_used_as_any_other(saved: Path) -> None:
    explained = ("explain", "given", "CCO", "--out", "explained")
    vectors = ("embed", "given", "CCO", "--out", "vectors.parquet")
    again = ("models", "pack", "given", "--save", "twice")
    student = ("train", "SAMPL", *SMALL, "--runs", 1, "--from", "given", "--name", "next", "--save", "next")
    for command in (explained, vectors, again, student):
        completed = kflm2(*command, cwd=saved)
        assert completed.returncode == 0, completed.stderr
    (record,) = json.loads((saved / "explained" / "explained.json").read_text())["molecules"]
    assert record["complete"]
    once, twice = (saved / name / "weights.safetensors" for name in ("given", "twice"))
    assert once.read_bytes() == twice.read_bytes()
    # all that was learnt from is known by its digest
    learnt = pd.read_csv(saved / "model" / "training.csv")["smiles"]
    made = json.loads((saved / "given" / "bundle.json").read_text())["made"]
    assert made["learnt_before"] == sorted(set(structure_digests(learnt.tolist())))
    origin = json.loads((saved / "next" / "bundle.json").read_text())["made"]["origin"]
    assert origin["known"] == 0 and origin["known_others"] == len(learnt)  # the same limit and seed: the same split


def test_an_adapter_of_the_users_stays_in_the_folder(
    saved: Path, tiny_writer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KFLM2_DATASETS", raising=False)  # stage 1 would read the structures of all eleven datasets
    (tmp_path / "own.smi").write_text("\n".join(f"{'C' * n}OC" for n in range(1, 60)))
    llm = ("--llm", tiny_writer)
    teach = ("finetune", *llm, "--corpus", "own.smi", "--batch-size", 4, "--rank", 2, "--no-evaluate")
    train = ("train", "SAMPL", *llm, "--adapter", "models/tiny_writer/own", *SMALL, "--save", "model")
    for command in (teach, train, ("models", "pack", "model", *llm, "--save", "given")):
        completed = kflm2(*command, cwd=tmp_path)
        assert completed.returncode == 0, completed.stderr
    assert (tmp_path / "given" / "adapter" / "adapter_model.safetensors").is_file()
    whole, packed = (_predicted(tmp_path, name, *llm) for name in ("model", "given"))
    np.testing.assert_allclose(whole["expt"], packed["expt"], rtol=0.01, atol=0.01)


def test_what_cannot_be_packed_is_refused_in_a_line(saved: Path, tmp_path: Path) -> None:
    def error(*words: object) -> str:
        completed = kflm2("models", "pack", *words, cwd=saved)
        assert completed.returncode == 2 and completed.stderr.count("\n") == 1
        return completed.stderr

    assert "give --save" in error("model")
    assert "the model itself" in error("model", "--save", "model")
    assert "the model itself" in error("model", "--save", "model/given")
    assert "--again" in error("model", "--save", "given")
    assert "no bundle.json" in error("nothing", "--save", tmp_path / "given")
    # what a folder says of its making can be anything
    for number, made in enumerate(({}, [], {"learnt_before": 3})):
        shutil.copytree(saved / "model", tmp_path / f"{number}")
        _change(tmp_path / f"{number}", made=made)
        assert "does not say rightly how it was made" in error(tmp_path / f"{number}", "--save", tmp_path / "given")
    assert not (tmp_path / "given").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adapter": "0" * 64}, "does not bring"),  # of another version of kflm2
        ({"adapter": "0" * 64, "name": "../models"}, "does not bring"),
    ],
)
def test_an_adapter_that_is_not_here_is_refused(
    saved: Path, tmp_path: Path, change: dict[str, str], message: str
) -> None:
    other = tmp_path / "other"
    shutil.copytree(saved / "given", other)
    llm = json.loads((other / "bundle.json").read_text())["llm"]
    _change(other, llm={**llm, **change})
    completed = kflm2("predict", other, "CCO", "--llm", "SmolLM2_135M", cwd=saved)
    assert completed.returncode == 2 and message in completed.stderr and completed.stderr.count("\n") == 1


def test_a_packaged_adapter_is_of_the_registry_only(tmp_path: Path) -> None:
    # the name of an LLM comes from an untrusted file, and would be part of a path
    shutil.copytree(adapters.default_adapter(LLMS["SmolLM2_135M"]), tmp_path / "models" / "own")
    digest = adapters.digest(tmp_path / "models" / "own")
    assert adapters.packaged("SmolLM2_135M", digest) is not None
    assert adapters.packaged(str(tmp_path / "models"), digest) is None


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("domain.prints", lambda array: array[:, :-1]),
        ("domain.prints", lambda array: array[:-1]),
        ("average.atom", lambda array: array * np.nan),
        ("probe", lambda array: -array),
        ("voter.svm.numbers", lambda array: np.zeros((6001, 0), np.float32)),
    ],
)
def test_a_damaged_packed_model_is_refused_in_a_line(
    saved: Path, tmp_path: Path, name: str, damage: Callable[[np.ndarray], np.ndarray]
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(saved / "given", folder)
    arrays = load_file(folder / "weights.safetensors")
    save_file({**arrays, name: np.ascontiguousarray(damage(arrays[name]))}, folder / "weights.safetensors")
    _change(folder, files={"weights.safetensors": sha256_file(folder / "weights.safetensors")})
    completed = kflm2("predict", folder, "CCO", cwd=saved)
    assert completed.returncode == 2 and completed.stderr.count("\n") == 1, completed.stderr


def _change(folder: Path, **changes: Any) -> None:
    """Change bundle.json, and its digest with it."""
    metadata = {**json.loads((folder / "bundle.json").read_text()), **changes}
    metadata.pop("digest")
    (folder / "bundle.json").write_text(json.dumps({**metadata, "digest": _digest(metadata)}))


@pytest.mark.parametrize("inner", ["folds", "holdout"])
def test_a_packed_classifier_of_two_targets_predicts_the_same(inner: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = pd.read_csv(packaged("").parents[1] / "dataset" / "SAMPL.csv")[["smiles"]].head(90)
    for name in ("a", "b"):
        table[name] = np.where(rng.random(90) < 0.2, np.nan, rng.integers(0, 2, 90))
    table["pH"] = rng.integers(4, 9, 90)
    table.to_csv(tmp_path / "table.csv", index=False)
    graph = ("--model", "gcn_indepent", "--inner", inner, "--feature-columns", "pH", "--epochs", 1, "--ensemble", 2)
    train = ("train", "--csv", "table.csv", "--target-columns", "a", "b", "--task", "classification", *graph)
    for command in ((*train, "--save", "model"), ("models", "pack", "model", "--save", "given")):
        completed = kflm2(*command, cwd=tmp_path)
        assert completed.returncode == 0, completed.stderr
    for name in ("model", "given"):
        assert kflm2("predict", name, "table.csv", "--out", f"{name}.csv", cwd=tmp_path).returncode == 0
    whole, packed = (pd.read_csv(tmp_path / f"{name}.csv", keep_default_na=False) for name in ("model", "given"))
    np.testing.assert_allclose(whole[["a", "b"]], packed[["a", "b"]], atol=2e-3)
    assert (whole["a_possible"] == packed["a_possible"]).mean() > 0.95
    labels = load_file(tmp_path / "given" / "weights.safetensors")["calibration.y_true"]
    assert not np.array_equal(labels, load_file(tmp_path / "model" / "weights.safetensors")["calibration.y_true"])


def test_the_table_names_every_model_that_comes_along(tmp_path: Path) -> None:
    completed = kflm2("models", cwd=tmp_path)
    assert completed.returncode == 0, completed.stderr
    lines = {line.split()[0]: line for line in completed.stdout.splitlines() if line.strip()}
    for name in MEASURED:
        metadata = json.loads((packaged(CATALOGUE) / name / "bundle.json").read_text())
        assert metadata["unit"] in lines[name] and metadata["format"] <= FORMAT


@pytest.mark.parametrize("name", MEASURED)
@pytest.mark.usefixtures("embedded")
def test_a_model_that_comes_along_predicts_its_property(name: str, tmp_path: Path) -> None:
    folder = packaged(CATALOGUE) / name
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert set(files) == FILES and sum(files.values()) < 20e6
    completed = kflm2("predict", name, *MEASURED[name], cwd=tmp_path)
    assert completed.returncode == 0, completed.stderr
    assert f"model: {name}, which comes with kflm2" in completed.stderr
    table = pd.read_csv(io.StringIO(completed.stdout))
    (target,) = json.loads((folder / "bundle.json").read_text())["targets"]
    assert f"\n{target}: {MEANINGS[name]}\n" in completed.stderr
    np.testing.assert_allclose(table[target], list(MEASURED[name].values()), atol=1.0)
    assert (table[f"{target}_low"] < table[target]).all() and (table["in_domain"] == "yes").any()


@pytest.mark.usefixtures("embedded")
def test_a_model_that_comes_along_is_found_by_its_name(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    y_pred = api.load("hydration").predict(["CCO"])["expt"].iloc[0]
    assert -6 < y_pred < -4
    # a folder of the user's goes first
    shutil.copytree(saved / "model", "hydration")
    assert api.load("hydration").predict(["CCO"])["expt"].iloc[0] != y_pred
    shutil.rmtree("hydration")
    # of the same name, but no model
    for command, out in (("explain", "hydration"), ("predict", "hydration/out.csv")):
        completed = kflm2(command, "hydration", "CCO", "--out", out, cwd=tmp_path)
        assert completed.returncode == 0, completed.stderr
    assert pd.read_csv("hydration/out.csv")["expt"].iloc[0] == pytest.approx(y_pred, rel=1e-4)
    assert kflm2("predict", tmp_path / "hydration", "CCO", cwd=tmp_path).returncode == 2
