"""Every stage, small, on a GPU, held against the CPU where both compute the same: `pytest -m cuda`.

Skipped where there is no GPU. What needs no GPU - that these tests themselves work - is run on the CPU as well.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from commands import kflm2
from safetensors.torch import load_file

from kflm2.featurize.embeddings import Embedder
from kflm2.llm import resolve
from kflm2.llm.decoding import hidden_states, load_decoder
from kflm2.llm.resolve import LLMSource
from kflm2.predictor.bundle_reader import load_bundle
from kflm2.predictor.predictor import Predictor

CPU = torch.device("cpu")
# of unequal length, so that batches are padded or packed
SMILES = ["C", "CCO", "CC(=O)Nc1ccccc1", "CC(C)Cc1ccc(cc1)C(C)C(=O)O", "OCC(O)C(O)C(O)C(O)CO", "Clc1ccccc1"]
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
"""Largest root mean square of a difference, as a share of the values': a bfloat16 has 8 bits of mantissa."""
_gpu = (
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that torch can use"),
)
with_gpu = pytest.mark.parametrize("name", [pytest.param("cuda", marks=_gpu)])
with_gpu_and_cpu = pytest.mark.parametrize("name", ["cpu", pytest.param("cuda", marks=_gpu)])


@pytest.fixture(autouse=True)
def checkout_datasets_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stage 1 leaves out what is tested: with all eleven datasets a minute goes into their structures."""
    monkeypatch.delenv("KFLM2_DATASETS", raising=False)


def _assert_near(values: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    assert values.shape == expected.shape and np.isfinite(values).all()
    assert np.sqrt(np.mean((values - expected) ** 2)) < tolerance * np.sqrt(np.mean(expected**2))


@with_gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.usefixtures("embedded")
def test_embeddings_are_those_of_the_cpu(name: str, precision: str) -> None:
    llm = resolve.find("SmolLM2_135M")

    def embeddings(device: torch.device, precision: str) -> np.ndarray:
        source = LLMSource.of(llm, None, "middle", precision)
        return Embedder(source, device).embed_uncached(SMILES, "mean").values

    _assert_near(embeddings(torch.device(name), precision), embeddings(CPU, "float32"), TOLERANCE[precision])


@with_gpu
def test_states_of_a_packed_or_padded_batch_are_those_of_each_molecule_alone(name: str, embedded: Path) -> None:
    device = torch.device(name)
    llm, tokenizer = load_decoder(embedded, device)
    if device.type == "cuda" and importlib.util.find_spec("flash_attn"):
        assert llm.config._attn_implementation == "flash_attention_2"
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "right"
    batch = tokenizer(SMILES, return_tensors="pt", padding=True).to(device)
    mask = batch["attention_mask"].bool()
    with torch.inference_mode():
        together = hidden_states(llm, batch["input_ids"], mask)
        for i, smiles in enumerate(SMILES):
            ids = tokenizer(smiles, return_tensors="pt")["input_ids"].to(device)
            alone = hidden_states(llm, ids, torch.ones_like(ids, dtype=torch.bool))
            _assert_near(together[i, mask[i]].float().cpu().numpy(), alone[0].float().cpu().numpy(), 5e-2)


def _fine_tuned(folder: Path, llm: Path | str, device: str, *options: object) -> tuple[list[float], Path]:
    """Losses of the steps, and the folder of the adapter."""
    folder.mkdir()
    (folder / "own.smi").write_text("\n".join(f"{'C' * a}C(F){'C' * b}Br" for a in range(5) for b in range(8)))
    arguments = ("--llm", llm, "--corpus", "own.smi", "--batch-size", 4, "--rank", 4, "--alpha", 8, "--dropout", 0)
    completed = kflm2("finetune", *arguments, "--samples", 0, "--device", device, *options, cwd=folder)
    assert completed.returncode == 0, completed.stderr
    (adapter,) = (folder / "models").glob("*/own")
    assert "4 bit:" not in completed.stdout, "bitsandbytes is here and was not used"
    return pd.read_csv(adapter / "losses.csv").iloc[:, 1].tolist(), adapter


@with_gpu_and_cpu
def test_stage_1_in_bfloat16_learns_as_on_the_cpu(name: str, tiny_writer: Path, tmp_path: Path) -> None:
    losses, adapter = _fine_tuned(tmp_path / "own", tiny_writer, name)
    expected, _ = _fine_tuned(tmp_path / "cpu", tiny_writer, "cpu", "--precision", "float32")
    assert len(losses) == len(expected) > 5
    np.testing.assert_allclose(losses, expected, rtol=0.1)
    weights = load_file(adapter / "adapter_model.safetensors")
    assert max(weight.abs().max() for key, weight in weights.items() if "lora_B" in key) > 1e-4


@with_gpu
@pytest.mark.usefixtures("embedded")
def test_stage_1_with_weights_in_4_bit_learns(name: str, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    small = ("--layers", 4, "--epochs", 4)
    losses, adapter = _fine_tuned(tmp_path / "own", "SmolLM2_135M", name, "--load-4bit", *small)
    assert np.isfinite(losses).all() and np.mean(losses[-5:]) < np.mean(losses[:5])
    arguments = ("--llm", "SmolLM2_135M", "--adapter", adapter, "--limit", 40, "--epochs", 1, "--runs", 1)
    completed = kflm2("train", "SAMPL", *arguments, "--ensemble", 1, "--device", name, cwd=tmp_path)
    assert completed.returncode == 0, completed.stderr


@with_gpu_and_cpu
def test_a_model_is_trained_and_predicts_as_on_the_cpu(name: str, tiny_writer: Path, tmp_path: Path) -> None:
    llm = ("--llm", tiny_writer)
    train = ("train", "SAMPL", *llm, "--adapter", "none", "--limit", 60, "--epochs", 5, "--ensemble", 2)
    completed = kflm2(*train, "--precision", "float32", "--device", name, "--save", "model", cwd=tmp_path)
    assert completed.returncode == 0, completed.stderr
    (run,) = (tmp_path / "results" / "SAMPL").glob("*/random-0")
    assert json.loads((run / "result.json").read_text())["config"]["device"] == name
    predicted = {}
    for device in (name, "cpu"):
        bundle = load_bundle(tmp_path / "model", str(tiny_writer), torch.device(device))
        predicted[device] = Predictor(bundle).predict(SMILES).y_pred[:, 0]
    np.testing.assert_allclose(predicted[name], predicted["cpu"], atol=0.02)  # kcal/mol


@with_gpu
def test_the_other_stages_run(name: str, tiny_writer: Path, tmp_path: Path) -> None:
    llm = ("--llm", tiny_writer)
    small = ("--limit", 60, "--epochs", 1)
    (tmp_path / "more.smi").write_text("\n".join(SMILES) + "\n")
    student = ("--corpus", "more.smi", "--epochs", 1, "--save", "student")
    for command in (
        ("train", "SAMPL", *llm, "--adapter", "none", *small, "--ensemble", 2, "--save", "model"),
        ("predict", "model", "more.smi", *llm, "--out", "predicted.csv"),
        ("explain", "model", "CC(=O)Nc1ccccc1", *llm, "--out", "explained"),
        ("embed", "model", "more.smi", *llm, "--out", "vectors.parquet"),
        ("distill", "model", *llm, *student),
        ("tune", "SAMPL", "--model", "gcn_indepent", *small, "--trials", 1, "--inner-splits", 1),
        ("prompt", "SAMPL", *llm, "--adapter", "none", *small, "--smiles-variants", 0, "--compare", "none"),
    ):
        completed = kflm2(*command, "--device", name, cwd=tmp_path)
        assert completed.returncode == 0, f"{command[0]}: {completed.stderr}"
    assert (pd.read_csv(tmp_path / "predicted.csv")["status"] == "ok").all()
    assert np.isfinite(np.stack(pd.read_parquet(tmp_path / "vectors.parquet")["vector"])).all()
    (record,) = json.loads((tmp_path / "explained" / "explained.json").read_text())["molecules"]
    assert record["complete"]
