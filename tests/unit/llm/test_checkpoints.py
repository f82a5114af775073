"""Checkpoints: downloaded, complete, converted once; and an LLM cut to its first layers."""

import dataclasses
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from kflm2.errors import LLMError
from kflm2.llm import checkpoints, registry, resolve
from kflm2.llm.decoding import load_decoder
from kflm2.llm.loading import load
from kflm2.llm.resolve import LLMSource

CPU = torch.device("cpu")
SMILES = ["CCO", "c1ccccc1", "N"]


def test_an_llm_that_cannot_be_loaded_is_an_error_that_names_the_embedded_llm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(LLMError, match=registry.EMBEDDED):
        checkpoints.checkpoint_folder(resolve.find(str(empty)))
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"not a GGUF file")
    with pytest.raises(LLMError, match=f"broken.gguf.*{registry.EMBEDDED}"):
        checkpoints.checkpoint_folder(resolve.find(str(broken)))
    # predictions may go to standard output
    told = capsys.readouterr()
    assert "converting broken.gguf once" in told.err and not told.out
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(LLMError, match=f"owner/name.*{registry.EMBEDDED}"):
        checkpoints.checkpoint_folder(resolve.find("owner/name"))


def test_an_incomplete_checkpoint_is_an_error(tiny_decoder: Path, tmp_path: Path) -> None:
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


def test_an_interrupted_download_is_not_a_complete_checkpoint(tiny_decoder: Path, tmp_path: Path) -> None:
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
    """The cache layout of the hub's client, created by hand: models--owner--name/snapshots/<commit>."""
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


def test_an_llm_cut_to_its_first_layers_gives_the_same_states(tiny_decoder: Path) -> None:
    ids = torch.tensor([[5, 9, 11, 4]])
    whole = load(tiny_decoder, None, CPU).model(ids, output_hidden_states=True).hidden_states
    for keep in (1, 2, 3):
        cut = load(tiny_decoder, None, CPU, keep).model
        assert len(cut.layers) == keep
        states = cut(ids, output_hidden_states=True).hidden_states
        for layer in range(keep + 1):
            torch.testing.assert_close(states[layer], whole[layer])


@pytest.mark.usefixtures("no_llms")
def test_a_random_llm_has_the_same_architecture_and_tokenizer_but_other_weights(tiny_decoder: Path) -> None:
    llm = resolve.find(f"random:{tiny_decoder}")
    assert llm.name == "tiny_decoder_random"
    folder = checkpoints.checkpoint_folder(llm)
    first, base = checkpoints.checkpoint_digest(folder), checkpoints.checkpoint_digest(tiny_decoder)
    assert first["weights"] != base["weights"]
    for text in ("CCO", "c1ccccc1N"):
        ids = [AutoTokenizer.from_pretrained(path)(text)["input_ids"] for path in (folder, tiny_decoder)]
        assert ids[0] == ids[1]
    placebo, real = (load(path, None, CPU).model.state_dict() for path in (folder, tiny_decoder))
    assert {name: weight.shape for name, weight in placebo.items()} == {
        name: weight.shape for name, weight in real.items()
    }
    # the weights are the same on every machine and for every state of the random generator
    shutil.rmtree(folder)
    torch.manual_seed(77)
    state = torch.get_rng_state()
    assert checkpoints.checkpoint_digest(checkpoints.checkpoint_folder(llm))["weights"] == first["weights"]
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(LLMError, match="unknown LLM 'nothing'"):
        resolve.find("random:nothing")


def test_the_embedded_llm_is_a_plain_checkpoint(embedded: Path) -> None:
    config = json.loads((embedded / "config.json").read_text())
    assert "quantization_config" not in config
    assert (config["num_hidden_layers"], config["hidden_size"]) == (30, 576)
    assert checkpoints.checkpoint_digest(embedded) == checkpoints.checkpoint_digest(embedded)
    assert not list(embedded.parent.glob(".making-*"))


def test_a_config_without_a_depth_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"n_layer": 2}')
    with pytest.raises(LLMError, match=r"its config\.json states no num_hidden_layers"):
        checkpoints.folder_depth(tmp_path)


@pytest.mark.usefixtures("no_llms")
@pytest.mark.parametrize(
    "open_checkpoint",
    [
        lambda folder: load(folder, None, CPU),
        lambda folder: load_decoder(folder, CPU),
        lambda folder: checkpoints.checkpoint_folder(resolve.find(f"random:{folder}")),
    ],
)
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_the_code_of_a_checkpoint_is_not_run_even_where_the_user_would_agree(
    tiny_decoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    open_checkpoint: Callable[[Path], object],
    file: str,
) -> None:
    folder, proof = tmp_path / "llm", tmp_path / "proof"
    shutil.copytree(tiny_decoder, folder)
    code = f"open({str(proof)!r}, 'w').close()\nfrom transformers import *\n"
    code += "class Config(Qwen2Config):\n    model_type = 'own'\nclass Model(Qwen2ForCausalLM): config_class = Config\n"
    (folder / "own.py").write_text(code)
    names = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer")
    classes = {name: "own.Config" if name == "AutoConfig" else "own.Model" for name in names}
    changes: dict[str, object] = {"auto_map": {**classes, "AutoTokenizer": [None, "own.Model"]}}
    changes |= {"model_type": "own"} if file == "config.json" else {"tokenizer_class": "OwnTokenizer"}
    settings = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**settings, **changes}))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    if file == "config.json":
        with pytest.raises(LLMError, match=r"^[^\n]*contains custom code[^\n]*$"):
            open_checkpoint(folder)
    else:
        open_checkpoint(folder)  # transformers reads a tokenizer of an unknown class by its file
    assert not proof.exists()
