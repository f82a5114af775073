"""What the LLM was taught, read off its states: the head's ranks in the units of the table."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import norm

from kflm2.config.finetune import FinetuneConfig
from kflm2.errors import LLMError, SettingError
from kflm2.featurize.ragged import Ragged
from kflm2.featurize.taught import KnowledgeHead, find_head
from kflm2.llm.decoding import load_decoder
from kflm2.trainers.lora.knowledge import KnowledgeTargets
from kflm2.trainers.lora.model import LoRAModel

SMILES = ["C" * n + end for n in range(1, 30) for end in ("O", "N", "Cl")]


@pytest.fixture
def saved(tiny_decoder: Path, tmp_path: Path) -> tuple[Path, LoRAModel, KnowledgeTargets]:
    """The folder of an adapter whose head has random weights, its model, and what it learns."""
    values = np.random.default_rng(0).normal(size=len(SMILES)) ** 3
    rows = "".join(f"{text},{n},{value}\n" for n, (text, value) in enumerate(zip(SMILES, values, strict=True)))
    (tmp_path / "own.csv").write_text(f"smiles,number,cube\n{rows}")
    targets = KnowledgeTargets(("descriptors", str(tmp_path / "own.csv")), (1.0,), SMILES)
    base, _ = load_decoder(tiny_decoder, torch.device("cpu"))
    model = LoRAModel(base, FinetuneConfig(), targets)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.head[1].weight, std=0.3)
    model.fit_head(np.random.default_rng(1).normal(size=(50, base.config.hidden_size)).astype(np.float32))
    model.save(tmp_path / "adapter")
    return tmp_path / "adapter", model, targets


def test_values_are_the_heads_ranks_in_the_units_of_the_table(
    saved: tuple[Path, LoRAModel, KnowledgeTargets],
) -> None:
    folder, model, targets = saved
    head = KnowledgeHead(folder / "knowledge_head.safetensors")
    assert head.names == ("taught_number", "taught_cube")
    width = model.llm.config.hidden_size
    states = np.random.default_rng(2).normal(size=(5 * 8, width)).astype(np.float32)
    ragged = Ragged(states, np.array([0, 3, 10, 11, 30, 40]))
    means = np.stack([states[start:end].mean(axis=0) for start, end in zip(ragged.ptr, ragged.ptr[1:], strict=False)])
    values = head(ragged)
    # of tokens, or of their means, the same
    np.testing.assert_allclose(head(Ragged(means, np.arange(6))), values, rtol=1e-4, atol=1e-5)
    source = targets.sources[1]
    outputs = model.predict_knowledge(means)[:, source.columns]
    known = np.sort(source.table.values, axis=0)
    for k in range(2):
        share = norm.cdf(outputs[:, k] * source.values.std[k] + source.values.mean[k])
        expected = np.quantile(known[:, k], share)
        np.testing.assert_allclose(values[:, k], expected, rtol=1e-3, atol=1e-3)


def test_ranks_that_are_right_give_the_tables_values(saved: tuple[Path, LoRAModel, KnowledgeTargets]) -> None:
    """With a head that outputs a molecule's own ranks, the values are those of the table."""
    folder, _, targets = saved
    path = folder / "knowledge_head.safetensors"
    ranks = targets(SMILES)[:, targets.sources[1].columns]
    arrays = load_file(path)
    width = arrays["0.mean"].shape[0]
    arrays |= {"0.mean": torch.zeros(width), "0.std": torch.ones(width)}
    arrays["1.weight"], arrays["1.bias"] = torch.zeros(targets.size, width), torch.zeros(targets.size)
    arrays["1.weight"][arrays["table.columns"], [0, 1]] = 1.0
    save_file(arrays, path, {"tables": json.dumps(targets.table_names())})
    states = np.zeros((len(SMILES), width))
    states[:, :2] = ranks
    values = KnowledgeHead(path)(Ragged(states, np.arange(len(SMILES) + 1)))
    inside = (np.abs(ranks) < 1.5).all(axis=1)
    np.testing.assert_allclose(values[inside], targets.sources[1].table.values[inside], rtol=0.05, atol=0.3)


def test_a_head_that_is_missing_damaged_or_learnt_no_table_is_an_error(
    saved: tuple[Path, LoRAModel, KnowledgeTargets],
) -> None:
    path = saved[0] / "knowledge_head.safetensors"
    arrays = load_file(path)
    with pytest.raises(SettingError, match="no LLM is read"):
        find_head(None)
    save_file(arrays, path)
    with pytest.raises(LLMError, match="learnt from no table"):
        KnowledgeHead(path)
    save_file({**arrays, "table.mean": arrays["table.mean"][:1]}, path, {"tables": '["number", "cube"]'})
    with pytest.raises(LLMError, match="damaged"):
        KnowledgeHead(path)
    save_file({**arrays, "1.bias": arrays["1.bias"] * np.nan}, path, {"tables": '["number", "cube"]'})
    with pytest.raises(LLMError, match="not finite"):
        KnowledgeHead(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(LLMError, match="cannot be read"):
        KnowledgeHead(path)
