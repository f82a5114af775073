"""Hidden states compared with a simple reference: one string per forward pass, no padding."""

import functools
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CONTEXT
from safetensors.numpy import load_file
from transformers import AutoModel, AutoTokenizer

from kflm2 import resources
from kflm2.device import choose_precision
from kflm2.featurize.embeddings import Embedder
from kflm2.llm import adapters, registry, resolve
from kflm2.llm.loading import MixedLinear, load
from kflm2.llm.resolve import LLMSource

SMILES = ["CCO", "c1ccccc1C(=O)O", "C", "CC(C)(C)Br", "CCO", "N#Cc1ccncc1", "O"]
CPU = torch.device("cpu")


@functools.cache
def _loaded(folder: Path) -> tuple:
    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, dtype=torch.float32).eval()


def _reference_states(folder: Path, smiles: str, layers: tuple[int, ...]) -> np.ndarray:
    """(T, D * layers) states of a single string."""
    tokenizer, model = _loaded(folder)
    with torch.no_grad():
        out = model(**tokenizer(smiles, return_tensors="pt"), output_hidden_states=True)
    return torch.cat([out.hidden_states[layer][0] for layer in layers], dim=-1).numpy()


def _embedder(folder: Path, layers: str = "last", budget: int | None = None) -> Embedder:
    return Embedder(LLMSource.of(resolve.find(str(folder)), None, layers), CPU, budget)


@pytest.mark.parametrize("budget", [1, 20, 1000])
@pytest.mark.parametrize("layers", ["last", "2", "3,0,1"])
@pytest.mark.parametrize("fixture", ["tiny_decoder", "tiny_encoder"])
def test_states_equal_those_of_a_single_string(
    fixture: str, layers: str, budget: int, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(fixture)
    if fixture == "tiny_encoder":
        layers = layers.replace("3", "-1")
    embedder = _embedder(folder, layers, budget)
    tokens = embedder.embed(SMILES, "tokens", progress=False)
    pooled = embedder.embed(SMILES, "mean", progress=False)
    assert pooled.lengths.tolist() == [1] * len(SMILES)
    for i, smiles in enumerate(SMILES):
        expected = _reference_states(folder, smiles, embedder.source.layers)
        states = tokens.take(np.array([i])).values
        assert states.shape == expected.shape
        np.testing.assert_allclose(states.astype(np.float32), expected, rtol=2e-3, atol=2e-3)  # float16
        np.testing.assert_allclose(pooled.values[i], expected.mean(axis=0), rtol=1e-4, atol=1e-5)


def test_encoders_and_decoders_are_distinguished(tiny_decoder: Path, tiny_encoder: Path) -> None:
    assert load(tiny_decoder, None, CPU).causal
    assert not load(tiny_encoder, None, CPU).causal


def test_repeats_are_computed_once_and_a_second_run_loads_no_llm(tiny_decoder: Path) -> None:
    first = _embedder(tiny_decoder)
    groups = list(first._compute(["CC", "N"], "mean", False))
    assert [text for group, _ in groups for text in group] == ["CC", "N"]
    rows = first.embed(SMILES, "mean", progress=False)
    np.testing.assert_array_equal(rows.values[0], rows.values[4])
    second = _embedder(tiny_decoder)
    np.testing.assert_array_equal(second.embed(SMILES[::-1], "mean", progress=False).values, rows.values[::-1])
    assert second.loaded is None


def test_the_cache_keeps_layers_and_pooling_apart(tiny_decoder: Path) -> None:
    layer_1, layer_2 = (
        _embedder(tiny_decoder, layers).embed(["CCO"], "mean", progress=False).values for layers in ("1", "2")
    )
    assert not np.allclose(layer_1, layer_2, atol=0.1)
    assert _embedder(tiny_decoder, "1").embed(["CCO"], "tokens", progress=False).lengths.tolist() == [3]


def test_other_weights_in_the_same_folder_are_not_read_from_the_cache(tiny_decoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "llm"
    model = AutoModel.from_pretrained(tiny_decoder)
    AutoTokenizer.from_pretrained(tiny_decoder).save_pretrained(folder)
    values = []
    for scale in (1.0, 1.5):
        model.layers[0].mlp.up_proj.weight.data *= scale
        model.save_pretrained(folder)
        values.append(_embedder(folder).embed(["CCO"], "mean", progress=False).values)
    assert not np.allclose(values[0], values[1], atol=1e-3)


def test_a_smiles_longer_than_the_context_has_no_states(tiny_decoder: Path) -> None:
    fits, too_long = "C" * CONTEXT, "C" * (CONTEXT + 1)
    embedder = _embedder(tiny_decoder)
    assert embedder.embed([too_long, "CC", fits], "tokens", progress=False).lengths.tolist() == [0, 2, CONTEXT]
    again = _embedder(tiny_decoder)
    assert again.embed([too_long], "tokens", progress=False).lengths.tolist() == [0]
    assert again.loaded is None


def test_states_beyond_float16_stay_finite(tiny_decoder: Path, tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(tiny_decoder)
    model.embed_tokens.weight.data *= 1e6
    model.save_pretrained(tmp_path / "llm")
    AutoTokenizer.from_pretrained(tiny_decoder).save_pretrained(tmp_path / "llm")
    tokens = _embedder(tmp_path / "llm", "0").embed(["CCO"], "tokens", progress=False).take(np.array([0])).values
    assert np.abs(tokens).max() == np.finfo(np.float16).max


@pytest.mark.parametrize("budget", [1, 7, 30, 10_000])
def test_batches_contain_every_row_once_within_the_budget(tiny_decoder: Path, budget: int) -> None:
    lengths = [3, 9, 1, 4, 4, 12, 2]
    batches = list(_embedder(tiny_decoder, budget=budget).batches(lengths))
    assert sorted(row for batch in batches for row in batch) == list(range(7))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget
    longest = [lengths[batch[0]] for batch in batches]
    assert longest == sorted(longest, reverse=True)


def test_a_batch_that_does_not_fit_into_memory_is_split(tiny_decoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = _embedder(tiny_decoder).embed(SMILES, "mean", progress=False).values
    original = Embedder._forward

    def limited_forward(self: Embedder, ids: list[list[int]]) -> list[np.ndarray]:
        if len(ids) > 2:
            raise torch.OutOfMemoryError
        return original(self, ids)

    monkeypatch.setattr(Embedder, "_forward", limited_forward)
    embedder = _embedder(tiny_decoder, budget=1000)
    groups = list(embedder._compute(list(dict.fromkeys(SMILES)), "mean", False))
    states = {text: row for group, rows in groups for text, row in zip(group, rows.values, strict=True)}
    np.testing.assert_allclose([states[smiles] for smiles in SMILES], expected, rtol=1e-4, atol=1e-5)
    assert embedder.token_budget < 1000


def test_the_embedded_llm_gives_the_recorded_states(embedded: Path) -> None:
    """Golden: tests/golden/embedded_llm.json, made by tests/golden/make_embedded_llm.py."""
    golden = json.loads((Path(__file__).parents[2] / "golden" / "embedded_llm.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(embedded)
    for text, ids in golden["token_ids"].items():
        assert tokenizer(text)["input_ids"] == ids
        assert tokenizer.decode(ids) == text
    source = LLMSource.of(registry.LLMS[registry.EMBEDDED], None, "12,-1")
    smiles = list(golden["states"])
    rows = Embedder(source, CPU).embed(smiles, "mean", progress=False).values
    assert rows.shape == (len(smiles), 2 * 576)
    for text, row in zip(smiles, rows, strict=True):
        np.testing.assert_allclose(row[:: golden["every"]], golden["states"][text], rtol=2e-3, atol=2e-3)


def test_the_embedded_llm_with_its_adapter_gives_the_recorded_states(embedded: Path) -> None:
    """Golden: tests/golden/kept_adapter.json, made by tests/golden/make_kept_adapter.py with plain peft."""
    golden = json.loads((Path(__file__).parents[2] / "golden" / "kept_adapter.json").read_text())
    llm = registry.LLMS[registry.EMBEDDED]
    adapter = resources.packaged("models") / llm.name / "leads_and_drugs"
    assert adapters.digest(adapter) == golden["adapter"]
    weights = load_file(adapter / "adapter_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {np.dtype("float16")}
    assert (adapter / "adapter_model.safetensors").stat().st_size < 15e6
    source = LLMSource.of(llm, adapter, "middle")
    assert source.layers == (12,)
    smiles = list(golden["states"])
    rows = Embedder(source, CPU).embed(smiles, "mean", progress=False).values
    base = Embedder(LLMSource.of(llm, None, "12"), CPU).embed(smiles, "mean", progress=False).values
    for text, row, base_row in zip(smiles, rows, base, strict=True):
        np.testing.assert_allclose(row[:: golden["every"]], golden["states"][text], rtol=2e-3, atol=2e-3)
        assert np.abs(row - base_row).max() > 1


@pytest.mark.parametrize(("precision", "most"), [("mixed", 0.03), ("bfloat16", 0.1)])
def test_states_of_less_precision_are_near_those_of_float32(embedded: Path, precision: str, most: float) -> None:
    adapter = adapters.default_adapter(registry.LLMS[registry.EMBEDDED])
    states = {
        name: Embedder(LLMSource.of(registry.LLMS[registry.EMBEDDED], adapter, "middle", name), CPU)
        .embed(SMILES, "tokens", progress=False)
        .take(np.arange(len(SMILES)))
        .values.astype(np.float32)
        for name in ("float32", precision)
    }
    error = states[precision] - states["float32"]
    relative = np.sqrt((error**2).mean(axis=0)) / states["float32"].std(axis=0)
    # the cache has not given the one for the other, and the error is small beside the differences between molecules
    assert 0 < np.median(relative) < most


def test_an_embedder_goes_to_another_process_without_its_llm(tiny_decoder: Path) -> None:
    embedder = _embedder(tiny_decoder)
    expected = embedder.embed_uncached(SMILES, "mean").values
    sent = pickle.loads(pickle.dumps(embedder))  # noqa: S301, our own bytes
    assert embedder.loaded is not None and sent.loaded is None
    np.testing.assert_array_equal(sent.embed_uncached(SMILES, "mean").values, expected)


def test_precision_is_chosen_by_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True}, raising=False)
    assert choose_precision("auto", CPU) == "float32"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert choose_precision("auto", CPU) == "mixed"
    assert choose_precision("float32", CPU) == "float32"
    assert choose_precision("auto", torch.device("cuda")) == "bfloat16"


@pytest.mark.parametrize("bias", [True, False])
def test_mixed_precision_is_the_same_without_instructions_for_it(bias: bool) -> None:
    torch.manual_seed(0)
    linear, rows = torch.nn.Linear(64, 32, bias=bias), torch.randn(50, 64)
    native, emulated = (MixedLinear(linear, native=native)(rows) for native in (True, False))
    exact = linear(rows)
    assert native.dtype == emulated.dtype == torch.float32
    assert (native == emulated).float().mean() > 0.9  # a sum on the edge of two rounded numbers may fall either way
    torch.testing.assert_close(native, emulated, rtol=1e-2, atol=1e-2)
    assert 1e-4 < (emulated - exact).abs().max() < 0.05
