"""Stage 1's parts: lessons in order, a loss that is what it says, states that stage 2 reads, resuming bit by bit."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import rdMolDescriptors
from transformers import AutoModelForCausalLM, AutoTokenizer

from kflm2.data import datasets
from kflm2.data.corpus import Selection
from kflm2.data.molecules import read_table
from kflm2.errors import LLMError, SettingError
from kflm2.featurize import llm as llms
from kflm2.featurize.descriptors import rdkit_names
from kflm2.featurize.embeddings import Embedder, Source
from kflm2.finetune_settings import FinetuneSettings
from kflm2.trainers import lessons as lessons_module
from kflm2.trainers.lessons import IGNORE, Collator, DescriptorTargets, Lessons, tokens_and_labels
from kflm2.trainers.lora import TaughtLLM, load_llm, perplexity, pooled, train

CPU = torch.device("cpu")
SMILES = [text for text in read_table(datasets.find("SAMPL")).smiles if len(text) < 20][:60]
SETTINGS = FinetuneSettings(rank=4, alpha=8, batch_size=4, save_steps=3, dropout=0.1)


def _corpus(folder: Path, smiles: list[str] = SMILES) -> Path:
    (folder / "own.smi").write_text("\n".join(smiles) + "\n")
    return folder / "own.smi"


def _lessons(path: Path, limit: int | None = None, **more: int) -> Lessons:
    values = {"epochs": 1, "step": 4, "seed": 0, **more}
    return Lessons(Selection(path, limit=limit), **values)


@pytest.mark.parametrize("block", [7, 1000])
def test_an_epoch_has_every_molecule_once_in_a_seeded_order(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lessons_module, "_BLOCK", block)
    path = _corpus(tmp_path)
    order = [own.smiles for own in _lessons(path, epochs=2)]
    for epoch in (order[: len(SMILES)], order[len(SMILES) :]):
        assert sorted(epoch) == sorted(SMILES)
    assert order[: len(SMILES)] != order[len(SMILES) :]
    assert order == [own.smiles for own in _lessons(path, epochs=2)]
    assert order != [own.smiles for own in _lessons(path, epochs=2, seed=1)]
    assert order[13:] == [own.smiles for own in _lessons(path, epochs=2, start=13)]


def test_steps_are_of_near_equal_length(tmp_path: Path) -> None:
    order = [len(own.smiles) for own in _lessons(_corpus(tmp_path))]
    within = np.mean([np.std(order[i : i + 4]) for i in range(0, len(order), 4)])
    assert within < 0.4 * np.std(order)
    assert np.corrcoef(np.arange(len(order)), order)[0, 1] < 0.5  # and steps are not in order of length


def test_the_end_is_learnt_and_padding_never(tiny_decoder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_decoder)
    batch = tokens_and_labels(tokenizer, ["CCO", "C"], 24)
    end = tokenizer.eos_token_id
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in "CO"]
    assert batch["input_ids"].tolist() == [[letters[0]] * 2 + [letters[1], end], [letters[0], end, end, end]]
    assert batch["labels"].tolist() == [
        [letters[0]] * 2 + [letters[1], end],
        [letters[0], end, IGNORE, IGNORE],
    ]


def test_targets_are_rdkits_descriptors_ranked_and_standardized() -> None:
    targets = DescriptorTargets(SMILES)
    values = targets(SMILES)
    assert values.shape == (len(SMILES), len(targets.columns))
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=0.3)
    weight = [rdMolDescriptors.CalcExactMolWt(Chem.MolFromSmiles(text)) for text in SMILES]
    column = targets.columns.tolist().index(rdkit_names().index("ExactMolWt"))
    assert np.argsort(values[:, column], kind="stable")[-1] == np.argmax(weight)
    assert np.corrcoef(np.argsort(np.argsort(values[:, column])), np.argsort(np.argsort(weight)))[0, 1] > 0.99


def _taught(folder: Path, settings: FinetuneSettings = SETTINGS, descriptors: int = 0) -> TaughtLLM:
    torch.manual_seed(0)
    base, _ = load_llm(folder, settings.layers, CPU)
    return TaughtLLM(base, settings, descriptors)


def test_a_fresh_adapter_changes_nothing_and_the_loss_is_transformers_own(tiny_decoder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_decoder)
    plain = AutoModelForCausalLM.from_pretrained(tiny_decoder).eval()
    model = _taught(tiny_decoder).eval()
    texts = ["CCO", "C1CCCCC1N", "O"]
    total, count = 0.0, 0
    for text in texts:  # one at a time, so that there is no padding at all
        ids = torch.tensor([[*tokenizer(text)["input_ids"], tokenizer.eos_token_id]])
        own = ids.shape[1] - 1
        total += plain(input_ids=ids, labels=ids).loss.item() * own
        count += own
    loss = model(**tokens_and_labels(tokenizer, texts, 24))["loss"].item()
    assert loss == pytest.approx(total / count, rel=1e-5)
    assert perplexity(model, tokenizer, texts, 24, batch=2) == pytest.approx(np.exp(total / count), rel=1e-4)


def test_a_step_in_pieces_is_the_step_in_one(tiny_decoder: Path) -> None:
    """Accumulation and processes: the pieces' losses add up to the whole step's, for both losses."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_decoder)
    model = _taught(tiny_decoder, descriptors=3).eval()
    model.molecules = 5
    texts = ["CCO", "C1CCCCC1N", "O", "CC", "CCCCCCCC"]
    wanted = torch.randn(5, 3)
    whole = model(**tokens_and_labels(tokenizer, texts, 24), descriptors=wanted)["loss"]
    count = sum(len(tokenizer(text)["input_ids"]) for text in texts)
    pieces = []
    for own in (slice(0, 2), slice(2, 5)):
        batch = tokens_and_labels(tokenizer, texts[own], 24)
        pieces.append(model(**batch, descriptors=wanted[own], num_items_in_batch=torch.tensor(count))["loss"])
    torch.testing.assert_close(sum(pieces), whole)


def test_pooling_leaves_out_end_and_padding() -> None:
    states = torch.arange(2 * 4 * 3).reshape(2, 4, 3).float()
    labels = torch.tensor([[5, 6, 7, 0], [5, 0, IGNORE, IGNORE]])
    expected = torch.stack([states[0, :3].mean(dim=0), states[1, 0]])
    torch.testing.assert_close(pooled(states, labels), expected)


@pytest.mark.parametrize("targets", ["all-linear", "paper"])
def test_the_papers_targets_leave_a_tied_head_alone(tiny_decoder: Path, tmp_path: Path, targets: str) -> None:
    tied = AutoModelForCausalLM.from_pretrained(tiny_decoder)
    tied.config.tie_word_embeddings = True
    tied.tie_weights()
    tied.save_pretrained(tmp_path / "tied")
    AutoTokenizer.from_pretrained(tiny_decoder).save_pretrained(tmp_path / "tied")
    settings = dataclasses.replace(SETTINGS, targets=targets)
    for folder, has_head in ((tiny_decoder, True), (tmp_path / "tied", False)):
        weights = [name for name, _ in _taught(folder, settings).named_parameters() if ".lora_" in name]
        names = {name.partition(".lora_")[0].rpartition(".")[2] for name in weights}
        if targets == "paper":
            assert names == {"q_proj", "k_proj", "v_proj", "o_proj"} | ({"lm_head"} if has_head else set())
        else:
            assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def _train(folder: Path, tiny: Path, path: Path, settings: FinetuneSettings, molecules: int = 40) -> TaughtLLM:
    targets = DescriptorTargets(SMILES)
    model = _taught(tiny, settings, len(targets.columns))
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    model.fit_head(tokens_and_labels(tokenizer, SMILES, 24))
    folder.mkdir(exist_ok=True)
    train(model, _lessons(path, limit=molecules), Collator(tokenizer, 24, 0.5, targets), molecules, settings, folder)
    model.save(folder)
    return model


def test_it_learns_and_stage_2_reads_what_it_learnt(tiny_decoder: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, layers=2, learning_rate=0.02, knowledge="descriptors", save_steps=100)
    path = _corpus(tmp_path, SMILES * 6)
    tokenizer = AutoTokenizer.from_pretrained(tiny_decoder)
    before = perplexity(_taught(tiny_decoder, settings), tokenizer, SMILES, 24)
    model = _train(tmp_path / "adapter", tiny_decoder, path, settings, molecules=360)
    assert perplexity(model, tokenizer, SMILES, 24) < 0.7 * before  # the head of random weights stays as it is
    rows = np.loadtxt(tmp_path / "adapter" / "losses.csv", delimiter=",", skiprows=1)
    assert (rows[-20:, 1:].mean(axis=0) < rows[:5, 1:].mean(axis=0)).all()
    # as stage 1 saw them: mean state of the last kept layer, before the norm
    (tmp_path / "adapter" / llms.ADAPTER_CARD).write_text('{"layers": 2}')
    for layers in ("middle", "last", "2"):
        source = Source.of(llms.find(str(tiny_decoder)), tmp_path / "adapter", layers)
        assert source.layers == (2,)
        values = Embedder(source, CPU).embed(SMILES[:9], "mean", progress=False).take(np.arange(9)).values
        batch = tokens_and_labels(tokenizer, SMILES[:9], 24)
        with torch.inference_mode():
            expected = pooled(model.eval().states(batch["input_ids"]), batch["labels"])
        np.testing.assert_allclose(values, expected.numpy(), rtol=1e-3, atol=1e-3)
    with pytest.raises(SettingError, match="each must be one of 0 to 2"):
        Source.of(llms.find(str(tiny_decoder)), tmp_path / "adapter", "3")


def test_stopped_and_resumed_it_gives_the_same_bits(tiny_decoder: Path, tmp_path: Path) -> None:
    path = _corpus(tmp_path)
    settings = dataclasses.replace(SETTINGS, knowledge="descriptors")
    _train(tmp_path / "whole", tiny_decoder, path, settings)
    _train(tmp_path / "parts", tiny_decoder, path, settings)
    # as if it had been killed before the last checkpoint was written
    found = (tmp_path / "parts" / "checkpoints").glob("checkpoint-*")
    earlier, last = sorted(found, key=lambda own: int(own.name.partition("-")[2]))
    shutil.rmtree(last)
    assert 0 < int(earlier.name.partition("-")[2]) < 10
    _train(tmp_path / "parts", tiny_decoder, path, dataclasses.replace(settings, resume=True))
    for name in ("adapter_model.safetensors", "knowledge_head.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_llm_that_cannot_be_taught_says_why(tiny_decoder: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="layers is 9, and the LLM has 3"):
        load_llm(tiny_decoder, 9, CPU)
    with pytest.raises(LLMError):
        load_llm(tiny_encoder, None, CPU)
    AutoModelForCausalLM.from_pretrained(tiny_decoder).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_decoder)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(LLMError, match="no end-of-sequence token"):
        load_llm(tmp_path, None, CPU)
