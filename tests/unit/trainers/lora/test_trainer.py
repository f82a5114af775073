"""Stage 1's parts: lessons in order, a loss that is what it says, states that stage 2 reads, resuming bit by bit."""

import csv
import dataclasses
import resource
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import rdMolDescriptors
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, TrainerState

from kflm2.config.finetune import FinetuneConfig
from kflm2.data import datasets
from kflm2.data.corpus import CorpusFilter
from kflm2.data.molecules import read_table
from kflm2.errors import DataError, LLMError, SettingError
from kflm2.featurize.descriptors import rdkit_names
from kflm2.featurize.embeddings import Embedder
from kflm2.llm import adapters
from kflm2.llm import decoding as decoder_module
from kflm2.llm import resolve as llms
from kflm2.llm.decoding import IGNORE, cut, hidden_states, load_decoder, mean_pool, tokens_and_labels
from kflm2.llm.resolve import LLMSource
from kflm2.stages.finetune.evaluation import mean_states, perplexity
from kflm2.trainers.lora import dataset as dataset_module
from kflm2.trainers.lora.dataset import Collator, CorpusDataset, DescriptorTargets
from kflm2.trainers.lora.model import LoRAModel
from kflm2.trainers.lora.trainer import last_checkpoint, train

CPU = torch.device("cpu")
SMILES = [text for text in read_table(datasets.find("SAMPL")).smiles if len(text) < 20][:60]
SETTINGS = FinetuneConfig(rank=4, alpha=8, batch_size=4, save_steps=3, dropout=0.1)


def _corpus(folder: Path, smiles: list[str] = SMILES) -> Path:
    (folder / "own.smi").write_text("\n".join(smiles) + "\n")
    return folder / "own.smi"


def _lessons(path: Path, tiny: Path, limit: int | None = None, **more: int) -> CorpusDataset:
    values = {"epochs": 1, "step": 4, "seed": 0, **more}
    return CorpusDataset(CorpusFilter(path, limit=limit), AutoTokenizer.from_pretrained(tiny), **values)


@pytest.mark.parametrize("block", [7, 1000])
def test_every_molecule_is_read_once_an_epoch_in_a_seeded_order(
    tiny_decoder: Path, tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_module, "_BLOCK", block)
    smiles = SMILES[:58]  # two more than fourteen steps of four
    path = _corpus(tmp_path, smiles)
    order = [own.smiles for own in _lessons(path, tiny_decoder, epochs=3)]
    assert sorted(order) == sorted(smiles * 3)
    # what is left over of an epoch is read in the next one
    assert len(set(order[:56])) == 56
    assert order[:56] != order[58 : 58 + 56]
    assert order == [own.smiles for own in _lessons(path, tiny_decoder, epochs=3)]
    assert order != [own.smiles for own in _lessons(path, tiny_decoder, epochs=3, seed=1)]
    assert order[13:] == [own.smiles for own in _lessons(path, tiny_decoder, epochs=3, start=13)]


@pytest.mark.parametrize("block", [23, 1000])
def test_steps_are_of_near_equal_length_in_every_epoch(
    tiny_decoder: Path, tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_module, "_BLOCK", block)
    tokenizer = AutoTokenizer.from_pretrained(tiny_decoder)
    dataset = _lessons(_corpus(tmp_path, SMILES[:58]), tiny_decoder, epochs=4)
    order = [len(tokenizer(own.smiles)["input_ids"]) for own in dataset][: 57 * 4]
    within = [np.std(order[i : i + 4]) for i in range(0, len(order), 4)]
    assert np.mean(within) < 0.4 * np.std(order)
    assert np.mean(within[29:]) < 0.4 * np.std(order)
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


def _taught(folder: Path, config: FinetuneConfig = SETTINGS, descriptors: int = 0) -> LoRAModel:
    torch.manual_seed(0)
    base, _ = load_decoder(folder, CPU)
    cut(base, config.layers)
    return LoRAModel(base, config, descriptors)


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
    assert perplexity(model.llm, tokenizer, texts, 24) == pytest.approx(np.exp(total / count), rel=1e-4)


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
    torch.testing.assert_close(mean_pool(states, labels), expected)


@pytest.mark.parametrize("targets", ["all-linear", "paper"])
def test_the_papers_targets_leave_a_tied_head_alone(tiny_decoder: Path, tmp_path: Path, targets: str) -> None:
    tied = AutoModelForCausalLM.from_pretrained(tiny_decoder)
    tied.config.tie_word_embeddings = True
    tied.tie_weights()
    tied.save_pretrained(tmp_path / "tied")
    AutoTokenizer.from_pretrained(tiny_decoder).save_pretrained(tmp_path / "tied")
    config = dataclasses.replace(SETTINGS, targets=targets)
    for folder, has_head in ((tiny_decoder, True), (tmp_path / "tied", False)):
        weights = [name for name, _ in _taught(folder, config).named_parameters() if ".lora_" in name]
        names = {name.partition(".lora_")[0].rpartition(".")[2] for name in weights}
        if targets == "paper":
            assert names == {"q_proj", "k_proj", "v_proj", "o_proj"} | ({"lm_head"} if has_head else set())
        else:
            assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def _train(
    folder: Path,
    tiny: Path,
    path: Path,
    config: FinetuneConfig,
    molecules: int = 40,
    callbacks: Sequence[TrainerCallback] = (),
    step: int = 4,
) -> LoRAModel:
    targets = DescriptorTargets(SMILES)
    model = _taught(tiny, config, len(targets.columns))
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    model.fit_head(mean_states(model.llm, tokenizer, SMILES, 24))
    folder.mkdir(exist_ok=True)
    collator = Collator(tokenizer, 24, 0.5, targets)
    train(model, _lessons(path, tiny, limit=molecules, step=step), collator, molecules, config, folder, callbacks)
    model.save(folder)
    return model


@pytest.mark.filterwarnings("error::UserWarning", "error::FutureWarning")  # a user sees no wall of peft's
def test_it_learns_and_stage_2_reads_what_it_learnt(tiny_decoder: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(SETTINGS, layers=2, learning_rate=0.02, knowledge="descriptors", save_steps=100)
    path = _corpus(tmp_path, SMILES * 6)
    tokenizer = AutoTokenizer.from_pretrained(tiny_decoder)
    before = perplexity(_taught(tiny_decoder, config).llm, tokenizer, SMILES, 24)
    model = _train(tmp_path / "adapter", tiny_decoder, path, config, molecules=360)
    assert perplexity(model.llm, tokenizer, SMILES, 24) < 0.7 * before  # the head of random weights stays as it is
    rows = np.loadtxt(tmp_path / "adapter" / "losses.csv", delimiter=",", skiprows=1)
    assert (rows[-20:, 1:].mean(axis=0) < rows[:5, 1:].mean(axis=0)).all()
    # as stage 1 saw them: mean state of the last kept layer, before the norm
    (tmp_path / "adapter" / adapters.CARD).write_text('{"layers": 2}')
    for layers in ("middle", "last", "2"):
        source = LLMSource.of(llms.find(str(tiny_decoder)), tmp_path / "adapter", layers)
        assert source.layers == (2,)
        values = Embedder(source, CPU).embed(SMILES[:9], "mean", progress=False).take(np.arange(9)).values
        expected = mean_states(model.llm, tokenizer, SMILES[:9], 24)
        np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(SettingError, match="each must be one of 0 to 2"):
        LLMSource.of(llms.find(str(tiny_decoder)), tmp_path / "adapter", "3")


def test_stopped_and_resumed_it_gives_the_same_bits(tiny_decoder: Path, tmp_path: Path) -> None:
    path = _corpus(tmp_path)
    config = dataclasses.replace(SETTINGS, knowledge="descriptors")
    _train(tmp_path / "whole", tiny_decoder, path, config)
    _train(tmp_path / "parts", tiny_decoder, path, config)
    # as if it had been killed before the last checkpoint was written
    found = (tmp_path / "parts" / "checkpoints").glob("checkpoint-*")
    earlier, last = sorted(found, key=lambda own: int(own.name.partition("-")[2]))
    shutil.rmtree(last)
    assert 0 < int(earlier.name.partition("-")[2]) < 10
    _train(tmp_path / "parts", tiny_decoder, path, dataclasses.replace(config, resume=True))
    for name in ("adapter_model.safetensors", "knowledge_head.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_llm_that_cannot_be_taught_says_why(tiny_decoder: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(LLMError):
        load_decoder(tiny_encoder, CPU)
    AutoModelForCausalLM.from_pretrained(tiny_decoder).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_decoder)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(LLMError, match="no end-of-sequence token"):
        load_decoder(tmp_path, CPU)


def test_packed_in_one_row_the_states_are_the_same(tiny_decoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How CUDA with FlashAttention is fed; here another attention tells molecules apart by the same positions."""
    llm, tokenizer = load_decoder(tiny_decoder, CPU)
    batch = tokens_and_labels(tokenizer, ["CCO", "C1CCCCC1N", "O", "CC"], 24)
    real = batch["labels"] != IGNORE
    with torch.inference_mode():
        padded = hidden_states(llm.eval(), batch["input_ids"], real)
        monkeypatch.setattr(decoder_module, "_FLASH", llm.config._attn_implementation)
        packed = hidden_states(llm, batch["input_ids"], real)
    torch.testing.assert_close(packed[real], padded[real])
    assert not packed[~real].any()


def test_resumed_at_its_end_it_is_what_it_was(tiny_decoder: Path, tmp_path: Path) -> None:
    path = _corpus(tmp_path)
    config = dataclasses.replace(SETTINGS, accumulation=2)
    whole = _train(tmp_path / "own", tiny_decoder, path, config, step=8)
    assert last_checkpoint(tmp_path / "own") == tmp_path / "own" / "checkpoints" / "checkpoint-5"
    losses = (tmp_path / "own" / "losses.csv").read_bytes()
    again = _train(tmp_path / "own", tiny_decoder, path, dataclasses.replace(config, resume=True), step=8)
    for (name, one), (_, other) in zip(whole.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    assert (tmp_path / "own" / "losses.csv").read_bytes() == losses


def test_training_that_diverges_keeps_the_last_good_checkpoint(tiny_decoder: Path, tmp_path: Path) -> None:
    class Poison(TrainerCallback):
        def on_step_begin(self, args: object, state: TrainerState, control: object, **kwargs: Any) -> None:
            if state.global_step == 4:
                with torch.no_grad():
                    next(weight for weight in kwargs["model"].parameters() if weight.requires_grad).fill_(float("nan"))

    (tmp_path / "own").mkdir()
    with pytest.raises(LLMError, match=r"not a number at step 5; lower --learning-rate \(.*checkpoint-3\)"):
        _train(tmp_path / "own", tiny_decoder, _corpus(tmp_path), SETTINGS, callbacks=[Poison()])
    assert [own.name for own in (tmp_path / "own" / "checkpoints").glob("checkpoint-*")] == ["checkpoint-3"]


def test_a_checkpoint_that_lacks_weights_is_refused(tiny_decoder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_decoder, tmp_path / "llm")
    weights = load_file(tiny_decoder / "model.safetensors")
    save_file(
        {name: own for name, own in weights.items() if "lm_head" not in name}, tmp_path / "llm" / "model.safetensors"
    )
    with pytest.raises(LLMError, match=r"its files lack 1 weights, lm_head\.weight"):
        load_decoder(tmp_path / "llm", CPU)
    (tmp_path / "llm" / "model.safetensors").write_bytes((tiny_decoder / "model.safetensors").read_bytes()[:900])
    with pytest.raises(LLMError, match="cannot be taught"):
        load_decoder(tmp_path / "llm", CPU)


def test_what_needs_cuda_says_what_is_used_instead(tiny_decoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_decoder(tiny_decoder, CPU, load_4bit=True, unsloth=True)
    assert capsys.readouterr().out.splitlines() == [
        "4 bit: there is no CUDA; float32 is used instead",
        "unsloth: there is no CUDA; peft is used instead",
    ]


def test_the_next_token_is_learnt_in_every_third_step_only(tiny_decoder: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(SETTINGS, knowledge="descriptors", next_token_every=3)
    _train(tmp_path / "adapter", tiny_decoder, _corpus(tmp_path), config)
    with (tmp_path / "adapter" / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["next token"]) for row in rows] == [step % 3 == 0 for step in range(10)]
    assert all(row["descriptors"] for row in rows)


def test_rounded_to_half_the_file_is_what_was_judged(tiny_decoder: Path, tmp_path: Path) -> None:
    model = _train(tmp_path / "adapter", tiny_decoder, _corpus(tmp_path), SETTINGS)
    tokenizer = AutoTokenizer.from_pretrained(tiny_decoder)
    full = mean_states(model.llm, tokenizer, SMILES, 24)
    model.round_to_half()
    rounded = mean_states(model.llm, tokenizer, SMILES, 24)
    assert (rounded != full).any()
    np.testing.assert_allclose(rounded, full, rtol=0.02, atol=0.02)
    model.save(tmp_path / "half", half=True)
    weights = load_file(tmp_path / "half" / "adapter_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    assert set(weights) == set(load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    again = _taught(tiny_decoder)
    again.restore(tmp_path / "half")
    np.testing.assert_array_equal(mean_states(again.llm, tokenizer, SMILES, 24), rounded)


def test_a_full_disk_is_one_line_and_the_last_good_checkpoint_stays(tiny_decoder: Path, tmp_path: Path) -> None:
    class Full(TrainerCallback):
        """From the fifth step on no file can grow beyond some bytes."""

        def on_step_begin(self, args: object, state: TrainerState, control: object, **_: object) -> None:
            if state.global_step == 4:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1500, before[1]))

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "own").mkdir()
    path = _corpus(tmp_path)
    try:
        with pytest.raises(DataError, match=r"checkpoint-6 cannot be written: .*--resume goes on from .*checkpoint-3$"):
            _train(tmp_path / "own", tiny_decoder, path, SETTINGS, callbacks=[Full()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    checkpoints = tmp_path / "own" / "checkpoints"
    assert [own.name for own in checkpoints.glob("checkpoint-*")] == ["checkpoint-3"]
    _train(tmp_path / "own", tiny_decoder, path, dataclasses.replace(SETTINGS, resume=True))
    _train(tmp_path / "whole", tiny_decoder, path, SETTINGS)
    for name in ("adapter_model.safetensors", "losses.csv"):
        assert (tmp_path / "own" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    # killed while it was written: the file that comes last is not whole
    (checkpoints / "checkpoint-10" / "trainer_state.json").write_text('{"epoch": 1.0,')
    assert last_checkpoint(tmp_path / "own") == checkpoints / "checkpoint-9"
