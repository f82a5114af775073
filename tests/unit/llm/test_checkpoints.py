"""The LLM registry, loading, and adapters."""

import dataclasses
import json
import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from kflm2.errors import LLMError
from kflm2.featurize.embeddings import Embedder
from kflm2.llm import adapters, checkpoints, registry, resolve
from kflm2.llm.loading import load
from kflm2.llm.resolve import LLMSource

CPU = torch.device("cpu")
SMILES = ["CCO", "c1ccccc1", "N"]


def _adapter(base: Path, folder: Path, fresh: bool, name: str | None = None) -> Path:
    """A LoRA adapter of a checkpoint: fresh, or with weights as after training."""
    torch.manual_seed(7)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    if not fresh:
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


def test_auto_is_the_embedded_llm_where_nothing_larger_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve.find("auto") == registry.LLMS[registry.EMBEDDED]
    assert "CUDA" in resolve.auto()[1]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "/nonexistent")
    llm, why = resolve.auto()
    assert llm.name == registry.EMBEDDED
    assert "DeepSeek-R1-Distill-Qwen-1.5B cannot be had" in why


def test_every_hub_id_is_pinned_to_a_commit() -> None:
    for row in registry.LLMS.values():
        assert bool(row.hub_id) != bool(row.gguf)
        assert not row.hub_id or (len(row.revision) == 40 and int(row.revision, 16))


@pytest.mark.parametrize("name", ["nonsense", "no/such/folder", "./missing", "missing.gguf", "a/missing.gguf", ""])
def test_an_unknown_llm_is_named_with_the_choices(name: str) -> None:
    with pytest.raises(LLMError, match=r"DS_1\.5B, DS_7B, DS_8B, ChemDFM, SmolLM2_135M"):
        resolve.find(name)


def test_a_hub_id_a_folder_and_a_gguf_file_are_told_apart(tmp_path: Path) -> None:
    assert resolve.find("owner/name").hub_id == "owner/name"
    assert resolve.find(str(tmp_path)).folder == tmp_path
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    assert resolve.find(str(tmp_path / "x.gguf")).gguf == tmp_path / "x.gguf"


def test_what_cannot_be_loaded_names_the_embedded_llm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(LLMError, match=registry.EMBEDDED):
        checkpoints.checkpoint_folder(resolve.find(str(empty)))
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"not a GGUF file")
    with pytest.raises(LLMError, match=f"broken.gguf.*{registry.EMBEDDED}"):
        checkpoints.checkpoint_folder(resolve.find(str(broken)))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(LLMError, match=f"owner/name.*{registry.EMBEDDED}"):
        checkpoints.checkpoint_folder(resolve.find("owner/name"))


def test_a_half_checkpoint_is_one_clear_error(tiny_decoder: Path, tmp_path: Path) -> None:
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).write_bytes((tiny_decoder / file).read_bytes())
    with pytest.raises(LLMError, match="no safetensors weights"):
        LLMSource.of(resolve.find(str(tmp_path)), None, "last")
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(LLMError, match=registry.EMBEDDED):
        load(tmp_path, None, CPU)
    weights = load_file(tiny_decoder / "model.safetensors")
    save_file({key: value for key, value in weights.items() if ".1." not in key}, tmp_path / "model.safetensors")
    with pytest.raises(LLMError, match="lack"):
        load(tmp_path, None, CPU)


def test_a_broken_off_download_is_not_taken_for_a_checkpoint(tiny_decoder: Path, tmp_path: Path) -> None:
    assert checkpoints.is_complete(tiny_decoder)
    AutoModelForCausalLM.from_pretrained(tiny_decoder).save_pretrained(tmp_path, max_shard_size="2KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 1
    assert not checkpoints.is_complete(tmp_path)  # no tokenizer yet
    (tmp_path / "tokenizer.json").write_bytes((tiny_decoder / "tokenizer.json").read_bytes())
    assert checkpoints.is_complete(tmp_path)
    shards[-1].unlink()
    assert not checkpoints.is_complete(tmp_path)


def test_a_hub_checkpoint_on_this_machine_needs_no_network(
    tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's own cache layout, made by hand: models--owner--name/snapshots/<commit>."""
    commit = "0" * 40
    snapshot = tmp_path / "models--owner--name" / "snapshots" / commit
    shutil.copytree(tiny_decoder, snapshot)
    (tmp_path / "models--owner--name" / "refs").mkdir()
    (tmp_path / "models--owner--name" / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert checkpoints.checkpoint_folder(resolve.find("owner/name")) == snapshot
    pinned = dataclasses.replace(resolve.find("owner/name"), revision=commit)
    assert checkpoints.checkpoint_folder(pinned) == snapshot
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(LLMError, match=registry.EMBEDDED):
        checkpoints.checkpoint_folder(pinned)


def test_a_cut_llm_gives_the_states_of_the_whole_one(tiny_decoder: Path) -> None:
    ids = torch.tensor([[5, 9, 11, 4]])
    whole = load(tiny_decoder, None, CPU).model(ids, output_hidden_states=True).hidden_states
    for keep in (1, 2, 3):
        cut = load(tiny_decoder, None, CPU, keep).model
        assert len(cut.layers) == keep
        states = cut(ids, output_hidden_states=True).hidden_states
        for layer in range(keep + 1):
            torch.testing.assert_close(states[layer], whole[layer])


def test_a_fresh_adapter_changes_nothing_and_a_trained_one_does(tiny_decoder: Path, tmp_path: Path) -> None:
    base = _states(tiny_decoder, None)
    np.testing.assert_allclose(
        _states(tiny_decoder, _adapter(tiny_decoder, tmp_path / "a", fresh=True)), base, atol=1e-5
    )
    assert np.abs(_states(tiny_decoder, _adapter(tiny_decoder, tmp_path / "b", fresh=False)) - base).max() > 0.1


def test_two_adapters_do_not_share_cached_states(tiny_decoder: Path, tmp_path: Path) -> None:
    trained = _states(tiny_decoder, _adapter(tiny_decoder, tmp_path / "a", fresh=False))
    fresh = _states(tiny_decoder, _adapter(tiny_decoder, tmp_path / "b", fresh=True))
    assert np.abs(trained - fresh).max() > 0.1


@pytest.mark.usefixtures("no_llms")
def test_a_placebo_has_all_but_the_weights(tiny_decoder: Path) -> None:
    llm = resolve.find(f"random:{tiny_decoder}")
    assert llm.name == "tiny_decoder_random"
    folder = checkpoints.checkpoint_folder(llm)
    first, base = checkpoints.checkpoint_digest(folder), checkpoints.checkpoint_digest(tiny_decoder)
    assert first["weights"] != base["weights"]
    for text in ("CCO", "c1ccccc1N"):
        ids = [AutoTokenizer.from_pretrained(own)(text)["input_ids"] for own in (folder, tiny_decoder)]
        assert ids[0] == ids[1]
    placebo, real = (load(own, None, CPU).model.state_dict() for own in (folder, tiny_decoder))
    assert {name: weight.shape for name, weight in placebo.items()} == {
        name: weight.shape for name, weight in real.items()
    }
    # everybody draws the same one, whatever was drawn before
    shutil.rmtree(folder)
    torch.manual_seed(77)
    state = torch.get_rng_state()
    assert checkpoints.checkpoint_digest(checkpoints.checkpoint_folder(llm))["weights"] == first["weights"]
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(LLMError, match="unknown LLM 'nothing'"):
        resolve.find("random:nothing")


def test_merged_equals_unmerged(tiny_decoder: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    folder = _adapter(tiny_decoder, tmp_path / "a", fresh=False)
    ids = torch.tensor([[5, 9, 11, 4]])
    unmerged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_decoder), folder).eval()
    with torch.no_grad():
        expected = unmerged(ids, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(load(tiny_decoder, folder, CPU).model(ids).last_hidden_state, expected)


def test_an_adapter_of_another_llm_is_refused(tiny_decoder: Path, tmp_path: Path) -> None:
    named = _adapter(tiny_decoder, tmp_path / "named", fresh=True, name="deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B")
    with pytest.raises(LLMError, match=r"made for the LLM DS_1\.5B, not for tiny_decoder"):
        LLMSource.of(resolve.find(str(tiny_decoder)), named, "last")
    wider = tmp_path / "wider_llm"
    Qwen2ForCausalLM(
        Qwen2Config(vocab_size=38, hidden_size=12, intermediate_size=20, num_hidden_layers=3, num_attention_heads=2)
    ).save_pretrained(wider)
    other = _adapter(wider, tmp_path / "other", fresh=True)
    with pytest.raises(LLMError, match="another LLM"):
        LLMSource.of(resolve.find(str(tiny_decoder)), other, "last")
    with pytest.raises(LLMError, match=r"no adapter_config\.json"):
        LLMSource.of(resolve.find(str(tiny_decoder)), tmp_path, "last")


def test_the_default_adapter_is_the_llms_that_was_taught_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "project_folder", lambda: tmp_path)
    llm = registry.LLMS[registry.EMBEDDED]
    assert adapters.default_adapter(llm) is None
    folder = tmp_path / "models" / llm.name
    for corpus, taught, epochs in (("zinc", 500, 3), ("chembl", 2000, 1), ("a", 0, 0)):
        (folder / corpus).mkdir(parents=True)
        (folder / corpus / "adapter_config.json").write_text("{}")
        if taught:
            card = {"corpus": {"taught": taught}, "config": {"epochs": epochs}}
            (folder / corpus / adapters.CARD).write_text(json.dumps(card))
    assert adapters.default_adapter(llm) == folder / "chembl"
    assert adapters.default_adapter(registry.LLMS["DS_1.5B"]) is None


def test_the_embedded_llm_is_a_plain_checkpoint(embedded: Path) -> None:
    config = json.loads((embedded / "config.json").read_text())
    assert "quantization_config" not in config
    assert (config["num_hidden_layers"], config["hidden_size"]) == (30, 576)
    assert checkpoints.checkpoint_digest(embedded) == checkpoints.checkpoint_digest(embedded)
    assert not list(embedded.parent.glob(".making-*"))
