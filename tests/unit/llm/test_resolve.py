"""From the names that a user gives to an LLM, an adapter and layers."""

from pathlib import Path

import huggingface_hub
import pytest
import torch

from kflm2.errors import LLMError, SettingError
from kflm2.llm import registry, resolve
from kflm2.llm.resolve import parse_layers


def test_auto_is_the_embedded_llm_if_a_larger_one_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve.find("auto") == registry.LLMS[registry.EMBEDDED]
    assert "CUDA" in resolve.auto()[1]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "/nonexistent")
    llm, reason = resolve.auto()
    assert llm.name == registry.EMBEDDED
    assert "DeepSeek-R1-Distill-Qwen-1.5B cannot be downloaded" in reason


@pytest.mark.parametrize("name", ["nonsense", "no/such/folder", "./missing", "missing.gguf", "a/missing.gguf", ""])
def test_the_error_for_an_unknown_llm_lists_the_choices(name: str) -> None:
    with pytest.raises(LLMError, match=r"DS_1\.5B, DS_7B, DS_8B, ChemDFM, SmolLM2_135M"):
        resolve.find(name)


def test_hub_ids_folders_and_gguf_files_are_distinguished(tmp_path: Path) -> None:
    assert resolve.find("owner/name").hub_id == "owner/name"
    assert resolve.find(str(tmp_path)).folder == tmp_path
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    assert resolve.find(str(tmp_path / "x.gguf")).gguf == tmp_path / "x.gguf"


def test_parse_layers() -> None:
    assert parse_layers("last", 30) == (30,)
    assert [parse_layers("middle", depth) for depth in (30, 28, 1)] == [(12,), (11,), (1,)]
    assert parse_layers("fifths", 30) == (6, 12, 18, 24, 30)
    assert parse_layers("fifths", 28) == (6, 11, 17, 22, 28)
    assert parse_layers("fifths", 3) == (1, 2, 3)
    assert parse_layers("6,-1,0", 12) == (6, 12, 0)
    for wrong in ("", "13", "-14", "a", "3,3", "12,-1"):
        with pytest.raises(SettingError, match="layers"):
            parse_layers(wrong, 12)


def test_resolve_prints_what_auto_takes(capsys: pytest.CaptureFixture[str], tiny_decoder: Path) -> None:
    source = resolve.resolve(str(tiny_decoder), "auto", "last")
    assert (source.adapter, source.layers) == (None, (3,))
    assert capsys.readouterr().out == f"adapter: none found for {tiny_decoder.name}, the base LLM is used\n"
    assert resolve.resolve(str(tiny_decoder), "none", "1,2").layers == (1, 2)
    assert capsys.readouterr().out == ""
    # a pipeline that reads the base LLM takes no adapter, and says so where one is asked for
    assert resolve.resolve(str(tiny_decoder), "auto", "last", base_only="combined_base").adapter is None
    assert capsys.readouterr().out == ""
    with pytest.raises(LLMError, match="combined_base reads the base LLM always; --adapter some/folder cannot be used"):
        resolve.resolve(str(tiny_decoder), "some/folder", "last", base_only="combined_base")
