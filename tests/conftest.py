"""Shared fixtures: a separate cache for every test, tiny random LLMs, the real embedded LLM, and a browser."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from kflm2.data.datasets import locate
from kflm2.files import cache_folder
from kflm2.llm import checkpoints, registry

# the converted embedded LLM is shared by all tests, and with the user's runs
_REAL_CACHE = cache_folder()

# for tiny tensors a second thread makes the tests slower
torch.set_num_threads(1)

ALPHABET = "#()+-/123456789=@BCFHINOPS[\\]clnorsi"
CONTEXT = 24
"""Context length of the tiny LLMs, in tokens."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that contains only the converted LLMs."""
    folder = tmp_path / "cache"
    folder.mkdir()
    (_REAL_CACHE / "llms").mkdir(parents=True, exist_ok=True)
    os.symlink(_REAL_CACHE / "llms", folder / "llms")
    monkeypatch.setenv("KFLM2_CACHE", str(folder))
    return folder


@pytest.fixture
def no_llms(cache: Path) -> None:
    """A cache without converted LLMs; LLMs that a test converts are deleted with it."""
    (cache / "llms").unlink()
    (cache / "llms").mkdir()


def _tokenizer(alphabet: str = ALPHABET) -> PreTrainedTokenizerFast:
    """A tokenizer with one token per character."""
    vocabulary = {"<pad>": 0, "<unk>": 1, **{letter: i + 2 for i, letter in enumerate(alphabet)}}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("(?m)."), "isolated")
    backend.decoder = decoders.Fuse()  # no spaces between tokens
    # the end token is also the padding token, as in the embedded LLM
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", eos_token="<pad>")


def _random(model: PreTrainedModel, seed: int, folder: Path, alphabet: str = ALPHABET) -> Path:
    """Save a model with random weights and the tokenizer."""
    torch.manual_seed(seed)
    for weight in model.parameters():
        # with the usual small initial weights all layers would be nearly equal, which would hide a wrong layer
        torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(folder)
    _tokenizer(alphabet).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 with random weights, three layers of width 8, as a checkpoint folder."""
    config = Qwen2Config(
        vocab_size=len(ALPHABET) + 2,
        hidden_size=8,
        intermediate_size=20,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
    )
    return _random(Qwen2ForCausalLM(config), 0, tmp_path_factory.mktemp("llm") / "tiny_decoder")


@pytest.fixture(scope="session")
def tiny_writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with random weights and one token per ASCII character."""
    alphabet = "\n" + "".join(map(chr, range(32, 127)))
    config = LlamaConfig(
        vocab_size=len(alphabet) + 2,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=400,
        tie_word_embeddings=True,
    )
    return _random(LlamaForCausalLM(config), 2, tmp_path_factory.mktemp("llm") / "tiny_writer", alphabet)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with random weights, two layers of width 6, as a checkpoint folder."""
    config = BertConfig(
        vocab_size=len(ALPHABET) + 2,
        hidden_size=6,
        intermediate_size=10,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
    )
    return _random(BertModel(config), 1, tmp_path_factory.mktemp("llm") / "tiny_encoder")


@pytest.fixture(scope="session")
def embedded() -> Path:
    """The checkpoint folder of the real embedded LLM, converted if it is missing."""
    return checkpoints.checkpoint_folder(registry.LLMS[registry.EMBEDDED])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium; without one the test is skipped."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def dataset_files(request: pytest.FixtureRequest) -> None:
    """Skip the test if the files of its dataset are missing from $KFLM2_DATASETS and dataset/."""
    name = request.getfixturevalue("name")
    _, missing = locate(name)
    if missing:
        pytest.skip(f"{missing[0]} is not here: kflm2 datasets get {name}")
