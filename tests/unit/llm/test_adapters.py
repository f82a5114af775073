"""Adapters: which one is taken, whether it fits, and what it does to the states."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from kflm2 import resources
from kflm2.errors import LLMError
from kflm2.featurize.embeddings import Embedder
from kflm2.llm import adapters, registry, resolve
from kflm2.llm.loading import load
from kflm2.llm.resolve import LLMSource

CPU = torch.device("cpu")
SMILES = ["CCO", "c1ccccc1", "N"]


def _adapter(base: Path, folder: Path, new: bool, name: str | None = None) -> Path:
    """A LoRA adapter of a checkpoint: new, or with weights as after training."""
    torch.manual_seed(7)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    if not new:
        for key, weight in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    if name is not None:
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": name}))
    return folder


def _states(base: Path, adapter: Path | None, layers: str = "1,-1") -> np.ndarray:
    source = LLMSource.of(resolve.find(str(base)), adapter, layers)
    return Embedder(source, CPU).embed(SMILES, "mean", progress=False).values


def test_a_new_adapter_does_not_change_the_states_and_a_trained_one_does(tiny_decoder: Path, tmp_path: Path) -> None:
    base = _states(tiny_decoder, None)
    np.testing.assert_allclose(_states(tiny_decoder, _adapter(tiny_decoder, tmp_path / "a", new=True)), base, atol=1e-5)
    assert np.abs(_states(tiny_decoder, _adapter(tiny_decoder, tmp_path / "b", new=False)) - base).max() > 0.1


def test_two_adapters_do_not_share_cached_states(tiny_decoder: Path, tmp_path: Path) -> None:
    trained = _states(tiny_decoder, _adapter(tiny_decoder, tmp_path / "a", new=False))
    new = _states(tiny_decoder, _adapter(tiny_decoder, tmp_path / "b", new=True))
    assert np.abs(trained - new).max() > 0.1


def test_a_merged_adapter_gives_the_same_states(tiny_decoder: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    folder = _adapter(tiny_decoder, tmp_path / "a", new=False)
    ids = torch.tensor([[5, 9, 11, 4]])
    unmerged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_decoder), folder).eval()
    with torch.no_grad():
        expected = unmerged(ids, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(load(tiny_decoder, folder, CPU).model(ids).last_hidden_state, expected)


def test_an_adapter_of_another_llm_is_an_error(tiny_decoder: Path, tmp_path: Path) -> None:
    named = _adapter(tiny_decoder, tmp_path / "named", new=True, name="deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B")
    with pytest.raises(LLMError, match=r"made for the LLM DS_1\.5B, not for tiny_decoder"):
        LLMSource.of(resolve.find(str(tiny_decoder)), named, "last")
    wider = tmp_path / "wider_llm"
    Qwen2ForCausalLM(
        Qwen2Config(vocab_size=38, hidden_size=12, intermediate_size=20, num_hidden_layers=3, num_attention_heads=2)
    ).save_pretrained(wider)
    other = _adapter(wider, tmp_path / "other", new=True)
    with pytest.raises(LLMError, match="another LLM"):
        LLMSource.of(resolve.find(str(tiny_decoder)), other, "last")
    with pytest.raises(LLMError, match=r"no adapter_config\.json"):
        LLMSource.of(resolve.find(str(tiny_decoder)), tmp_path, "last")


def test_the_default_adapter_is_the_users_trained_on_most_smiles_else_the_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "project_folder", lambda: tmp_path)
    llm = registry.LLMS[registry.EMBEDDED]
    packaged = adapters.default_adapter(llm)
    assert packaged == resources.packaged("models") / llm.name / "leads_and_drugs"
    assert packaged.is_dir()
    folder = tmp_path / "models" / llm.name
    for corpus, smiles, epochs in (("zinc", 500, 3), ("chembl", 2000, 1), ("a", 0, 0)):
        (folder / corpus).mkdir(parents=True)
        (folder / corpus / "adapter_config.json").write_text("{}")
        if smiles:
            card = {"corpus": {"taught": smiles}, "config": {"epochs": epochs}}
            (folder / corpus / adapters.CARD).write_text(json.dumps(card))
    assert adapters.default_adapter(llm) == folder / "chembl"
    assert adapters.default_adapter(registry.LLMS["DS_1.5B"]) is None
