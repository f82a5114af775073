"""Stage 1: order of the training data, losses, states as stage 2 reads them, and exact resuming."""

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
from accelerate import FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from safetensors.torch import load_file, save_file
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    TrainerCallback,
    TrainerState,
)

from kflm2.config.finetune import FinetuneConfig
from kflm2.data import datasets
from kflm2.data.corpus import CorpusFilter
from kflm2.data.reading import read_table
from kflm2.errors import DataError, LLMError, SettingError
from kflm2.featurize.embeddings import Embedder
from kflm2.llm import adapters
from kflm2.llm import decoding as decoder_module
from kflm2.llm import resolve as llms
from kflm2.llm.decoding import IGNORE, hidden_states, load_decoder, mean_pool, tokens_and_labels
from kflm2.llm.loading import cut_layers
from kflm2.llm.prompter import Prompter
from kflm2.llm.resolve import LLMSource
from kflm2.stages.finetune.evaluation import mean_states, perplexity
from kflm2.stages.finetune.stage import run as run_finetune
from kflm2.trainers.lora import dataset as dataset_module
from kflm2.trainers.lora.dataset import Collator, CorpusDataset
from kflm2.trainers.lora.knowledge import KnowledgeTargets
from kflm2.trainers.lora.model import LoRAModel
from kflm2.trainers.lora.trainer import LoRATrainer, finetune, last_checkpoint

CPU = torch.device("cpu")
SMILES = [text for text in read_table(datasets.find("SAMPL")).smiles if len(text) < 20][:60]
SETTINGS = FinetuneConfig(rank=4, alpha=8, batch_size=4, save_steps=3, dropout=0.1)


def _corpus(folder: Path, smiles: list[str] = SMILES) -> Path:
    (folder / "corpus.smi").write_text("\n".join(smiles) + "\n")
    return folder / "corpus.smi"


def _dataset(path: Path, tiny: Path, limit: int | None = None, **changes: int) -> CorpusDataset:
    values = {"epochs": 1, "step": 4, "seed": 0, **changes}
    return CorpusDataset(CorpusFilter(path, limit=limit), AutoTokenizer.from_pretrained(tiny), **values)


@pytest.mark.parametrize("block", [7, 1000])
def test_every_molecule_is_read_once_per_epoch_in_a_seeded_order(
    tiny_decoder: Path, tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_module, "_BLOCK", block)
    smiles = SMILES[:58]  # two more than fourteen steps of four
    path = _corpus(tmp_path, smiles)
    order = [example.smiles for example in _dataset(path, tiny_decoder, epochs=3)]
    assert sorted(order) == sorted(smiles * 3)
    # the molecules left over from an epoch are read in the next one
    assert len(set(order[:56])) == 56
    assert order[:56] != order[58 : 58 + 56]
    assert order == [example.smiles for example in _dataset(path, tiny_decoder, epochs=3)]
    assert order != [example.smiles for example in _dataset(path, tiny_decoder, epochs=3, seed=1)]
    assert order[13:] == [example.smiles for example in _dataset(path, tiny_decoder, epochs=3, start=13)]


@pytest.mark.parametrize("block", [23, 1000])
def test_steps_have_molecules_of_similar_length_in_every_epoch(
    tiny_decoder: Path, tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_module, "_BLOCK", block)
    tokenizer = AutoTokenizer.from_pretrained(tiny_decoder)
    dataset = _dataset(_corpus(tmp_path, SMILES[:58]), tiny_decoder, epochs=4)
    lengths = [len(tokenizer(example.smiles)["input_ids"]) for example in dataset][: 57 * 4]
    step_stds = [np.std(lengths[i : i + 4]) for i in range(0, len(lengths), 4)]
    assert np.mean(step_stds) < 0.4 * np.std(lengths)
    assert np.mean(step_stds[29:]) < 0.4 * np.std(lengths)
    assert np.corrcoef(np.arange(len(lengths)), lengths)[0, 1] < 0.5  # and steps are not in order of length


def test_the_end_token_has_a_label_and_padding_has_none(tiny_decoder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_decoder)
    batch = tokens_and_labels(tokenizer, ["CCO", "C"], 24)
    end = tokenizer.eos_token_id
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in "CO"]
    assert batch["input_ids"].tolist() == [[letters[0]] * 2 + [letters[1], end], [letters[0], end, end, end]]
    assert batch["labels"].tolist() == [
        [letters[0]] * 2 + [letters[1], end],
        [letters[0], end, IGNORE, IGNORE],
    ]


def _model(folder: Path, config: FinetuneConfig = SETTINGS, knowledge: KnowledgeTargets | None = None) -> LoRAModel:
    torch.manual_seed(0)
    base, _ = load_decoder(folder, CPU)
    cut_layers(base.model, config.layers, keep_norm=True)
    return LoRAModel(base, config, knowledge)


_SMALL = {
    "hidden_size": 8,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.5,
}


@pytest.mark.parametrize(
    "config",
    [
        Qwen2Config(**_SMALL),
        GraniteConfig(**_SMALL, logits_scaling=3.0),
        Gemma2Config(**_SMALL, head_dim=4, final_logit_softcapping=0.7),
        CohereConfig(**_SMALL, logit_scale=0.25),
    ],
    ids=lambda config: config.model_type,
)
def test_with_a_new_adapter_the_loss_equals_that_of_transformers(
    config: PreTrainedConfig, tiny_decoder: Path, tmp_path: Path
) -> None:
    """Also of the LLMs that scale or cap the output of their vocabulary head."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_decoder)
    config.vocab_size, config.pad_token_id, config.tie_word_embeddings = len(tokenizer), None, False
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config).eval()
    base.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = _model(tmp_path).eval()
    texts = ["CCO", "C1CCCCC1N", "O"]
    total, count = 0.0, 0
    for text in texts:  # one at a time, so that there is no padding at all
        ids = torch.tensor([[*tokenizer(text)["input_ids"], tokenizer.eos_token_id]])
        labels = ids.shape[1] - 1
        total += base(input_ids=ids, labels=ids).loss.item() * labels
        count += labels
    loss = model(**tokens_and_labels(tokenizer, texts, 24))["loss"].item()
    assert loss == pytest.approx(total / count, rel=1e-5)
    assert perplexity(model.llm, tokenizer, texts, 24).per_token == pytest.approx(np.exp(total / count), rel=1e-4)
    prompter = Prompter(model.llm, tokenizer)
    rows = prompter.rows(["", "", ""], texts, whole_text=True)
    np.testing.assert_allclose(prompter.log_likelihoods(rows).sum(), -total, rtol=1e-4)


def test_the_loss_of_a_step_is_the_mean_over_its_predicted_tokens_and_what_is_recorded(
    tiny_decoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minimised: list[float] = []
    step = LoRATrainer.training_step

    def recorded(self: LoRATrainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        minimised.append((loss := step(self, *args, **kwargs)).item())
        return loss

    monkeypatch.setattr(LoRATrainer, "training_step", recorded)
    _train(
        tmp_path,
        tiny_decoder,
        _corpus(tmp_path),
        dataclasses.replace(SETTINGS, accumulation=2, batch_size=2),
        molecules=12,
    )
    with (tmp_path / "losses.csv").open() as file:
        recorded_losses = [float(row["next token"]) + float(row["descriptors"]) for row in csv.DictReader(file)]
    assert len(recorded_losses) == 3
    np.testing.assert_allclose(np.reshape(minimised, (3, 2)).sum(axis=1), recorded_losses, rtol=1e-4)


def test_losses_of_parts_of_a_step_add_up_to_the_whole(tiny_decoder: Path, tmp_path: Path) -> None:
    """With accumulation or several processes, the losses of the parts add up, for all losses."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_decoder)
    table = "".join(f"{text},{n},{n * n % 7}\n" for n, text in enumerate(SMILES))
    (tmp_path / "own.csv").write_text(f"smiles,a,b\n{table}")
    targets = KnowledgeTargets(("descriptors", str(tmp_path / "own.csv")), (1.0, 0.5), SMILES)
    own = targets.sources[1].columns.start
    model = _model(tiny_decoder, knowledge=targets).eval()
    model.molecules = 5
    texts = ["CCO", "C1CCCCC1N", "O", "CC", "CCCCCCCC"]
    knowledge = torch.randn(5, targets.size)
    knowledge[1, own:] = torch.nan  # nothing is known of this one
    knowledge[3, own + 1] = torch.nan
    whole = model(**tokens_and_labels(tokenizer, texts, 24), knowledge=knowledge)["loss"]
    count = sum(len(tokenizer(text)["input_ids"]) for text in texts)
    parts = []
    for rows in (slice(0, 2), slice(2, 5)):
        batch = tokens_and_labels(tokenizer, texts[rows], 24)
        parts.append(model(**batch, knowledge=knowledge[rows], num_items_in_batch=torch.tensor(count))["loss"])
    torch.testing.assert_close(sum(parts), whole)
    # the head is still zero: a mean over what is known of a molecule, then over molecules
    squares = knowledge**2
    expected = (
        squares[:, :own].mean(dim=1).sum() / 5 + 0.5 * torch.nanmean(squares[[0, 2, 3, 4], own:], dim=1).sum() / 5
    )
    model.next_token_weight = 0
    torch.testing.assert_close(model(**tokens_and_labels(tokenizer, texts, 24), knowledge=knowledge)["loss"], expected)


def test_pooling_excludes_end_token_and_padding() -> None:
    states = torch.arange(2 * 4 * 3).reshape(2, 4, 3).float()
    labels = torch.tensor([[5, 6, 7, 0], [5, 0, IGNORE, IGNORE]])
    expected = torch.stack([states[0, :3].mean(dim=0), states[1, 0]])
    torch.testing.assert_close(mean_pool(states, labels), expected)


def test_the_papers_target_modules_must_all_be_there(tiny_decoder: Path) -> None:
    fused = AutoModelForCausalLM.from_config(
        Phi3Config(**_SMALL, vocab_size=20, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    )
    with pytest.raises(SettingError, match="the LLM has no q_proj, k_proj, v_proj; take --targets all-linear"):
        LoRAModel(fused, dataclasses.replace(SETTINGS, targets="paper"))
    names = [name for name, _ in LoRAModel(fused, SETTINGS).named_parameters()]
    assert any("qkv_proj.lora_" in name for name in names)


@pytest.mark.parametrize("targets", ["all-linear", "paper"])
def test_the_papers_target_modules_exclude_a_tied_head(tiny_decoder: Path, tmp_path: Path, targets: str) -> None:
    tied = AutoModelForCausalLM.from_pretrained(tiny_decoder)
    tied.config.tie_word_embeddings = True
    tied.tie_weights()
    tied.save_pretrained(tmp_path / "tied")
    AutoTokenizer.from_pretrained(tiny_decoder).save_pretrained(tmp_path / "tied")
    config = dataclasses.replace(SETTINGS, targets=targets)
    for folder, has_head in ((tiny_decoder, True), (tmp_path / "tied", False)):
        weights = [name for name, _ in _model(folder, config).named_parameters() if ".lora_" in name]
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
    targets = KnowledgeTargets(("descriptors",), (1.0,), SMILES)
    model = _model(tiny, config, targets)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    model.fit_head(mean_states(model.llm, tokenizer, SMILES, 24))
    folder.mkdir(exist_ok=True)
    collator = Collator(tokenizer, 24, 0.5, targets)
    finetune(model, _dataset(path, tiny, limit=molecules, step=step), collator, molecules, config, folder, callbacks)
    model.save(folder)
    return model


@pytest.mark.filterwarnings("error::UserWarning", "error::FutureWarning")  # peft's warnings must not reach the user
def test_training_lowers_the_losses_and_stage_2_reads_the_trained_states(tiny_decoder: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(SETTINGS, layers=2, learning_rate=0.02, knowledge=("descriptors",), save_steps=100)
    path = _corpus(tmp_path, SMILES * 6)
    tokenizer = AutoTokenizer.from_pretrained(tiny_decoder)
    before = perplexity(_model(tiny_decoder, config).llm, tokenizer, SMILES, 24).per_token
    model = _train(tmp_path / "adapter", tiny_decoder, path, config, molecules=360)
    assert (
        perplexity(model.llm, tokenizer, SMILES, 24).per_token < 0.7 * before
    )  # the vocabulary head with random weights is not trained
    rows = np.loadtxt(tmp_path / "adapter" / "losses.csv", delimiter=",", skiprows=1)
    assert (rows[-20:, 1:].mean(axis=0) < rows[:5, 1:].mean(axis=0)).all()
    # the states of stage 1: mean state of the last remaining layer, before the norm
    (tmp_path / "adapter" / adapters.CARD).write_text('{"layers": 2}')
    for layers in ("middle", "last", "2"):
        source = LLMSource.of(llms.find(str(tiny_decoder)), tmp_path / "adapter", layers)
        assert source.layers == (2,)
        values = Embedder(source, CPU).embed(SMILES[:9], "mean", progress=False).take(np.arange(9)).values
        expected = mean_states(model.llm, tokenizer, SMILES[:9], 24)
        np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(SettingError, match="each must be one of 0 to 2"):
        LLMSource.of(llms.find(str(tiny_decoder)), tmp_path / "adapter", "3")


def test_a_resumed_training_gives_the_same_bits(tiny_decoder: Path, tmp_path: Path) -> None:
    path = _corpus(tmp_path)
    config = dataclasses.replace(SETTINGS, knowledge=("descriptors",))
    _train(tmp_path / "whole", tiny_decoder, path, config)
    _train(tmp_path / "parts", tiny_decoder, path, config)
    # as if the process had been killed before the last checkpoint was written
    checkpoints = (tmp_path / "parts" / "checkpoints").glob("checkpoint-*")
    earlier, last = sorted(checkpoints, key=lambda path: int(path.name.partition("-")[2]))
    shutil.rmtree(last)
    assert 0 < int(earlier.name.partition("-")[2]) < 10
    _train(tmp_path / "parts", tiny_decoder, path, dataclasses.replace(config, resume=True))
    for name in ("adapter_model.safetensors", "knowledge_head.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_llm_that_cannot_be_fine_tuned_is_an_error_with_the_reason(
    tiny_decoder: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    with pytest.raises(LLMError):
        load_decoder(tiny_encoder, CPU)
    AutoModelForCausalLM.from_pretrained(tiny_decoder).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_decoder)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(LLMError, match="no end-of-sequence token"):
        load_decoder(tmp_path, CPU)


def test_packed_states_equal_padded_states(tiny_decoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The input of FlashAttention on CUDA; here another attention separates molecules by the same position ids."""
    llm, tokenizer = load_decoder(tiny_decoder, CPU)
    batch = tokens_and_labels(tokenizer, ["CCO", "C1CCCCC1N", "O", "CC"], 24)
    mask = batch["labels"] != IGNORE
    with torch.inference_mode():
        padded = hidden_states(llm.eval(), batch["input_ids"], mask)
        monkeypatch.setattr(decoder_module, "_FLASH", llm.config._attn_implementation)
        packed = hidden_states(llm, batch["input_ids"], mask)
    torch.testing.assert_close(packed[mask], padded[mask])
    assert not packed[~mask].any()


def test_resuming_a_finished_training_changes_nothing(tiny_decoder: Path, tmp_path: Path) -> None:
    path = _corpus(tmp_path)
    config = dataclasses.replace(SETTINGS, accumulation=2)
    first = _train(tmp_path / "adapter", tiny_decoder, path, config, step=8)
    assert last_checkpoint(tmp_path / "adapter") == tmp_path / "adapter" / "checkpoints" / "checkpoint-5"
    losses = (tmp_path / "adapter" / "losses.csv").read_bytes()
    resumed = _train(tmp_path / "adapter", tiny_decoder, path, dataclasses.replace(config, resume=True), step=8)
    for (name, weight), (_, resumed_weight) in zip(first.named_parameters(), resumed.named_parameters(), strict=True):
        assert torch.equal(weight, resumed_weight), name
    assert (tmp_path / "adapter" / "losses.csv").read_bytes() == losses


def test_a_damaged_checkpoint_is_passed_over(
    tiny_decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, folder = _corpus(tmp_path), tmp_path / "adapter"
    whole = _train(folder, tiny_decoder, path, SETTINGS)
    last, before = (folder / "checkpoints" / f"checkpoint-{step}" for step in (10, 9))
    optimizer = (last / "optimizer.pt").read_bytes()
    (last / "optimizer.pt").write_bytes(optimizer[: len(optimizer) // 2])
    resumed = _train(folder, tiny_decoder, path, dataclasses.replace(SETTINGS, resume=True))
    assert f"damaged checkpoint {last}: optimizer.pt cannot be read" in capsys.readouterr().out
    for (name, weight), (_, other) in zip(whole.named_parameters(), resumed.named_parameters(), strict=True):
        assert torch.equal(weight, other), name
    for checkpoint in (last, before):
        (checkpoint / "adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(DataError, match=r"no checkpoint in .* can be read; start anew, without --resume"):
        _train(folder, tiny_decoder, path, dataclasses.replace(SETTINGS, resume=True))


def test_training_that_diverges_keeps_the_last_good_checkpoint(tiny_decoder: Path, tmp_path: Path) -> None:
    class Diverge(TrainerCallback):
        def on_step_begin(self, args: object, state: TrainerState, control: object, **kwargs: Any) -> None:
            if state.global_step == 4:
                with torch.no_grad():
                    next(weight for weight in kwargs["model"].parameters() if weight.requires_grad).fill_(float("nan"))

    (tmp_path / "adapter").mkdir()
    with pytest.raises(LLMError, match=r"not a number at step 5; lower --learning-rate \(.*checkpoint-3\)"):
        _train(tmp_path / "adapter", tiny_decoder, _corpus(tmp_path), SETTINGS, callbacks=[Diverge()])
    assert [path.name for path in (tmp_path / "adapter" / "checkpoints").glob("checkpoint-*")] == ["checkpoint-3"]


def test_a_checkpoint_with_missing_weights_is_an_error(tiny_decoder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_decoder, tmp_path / "llm")
    weights = load_file(tiny_decoder / "model.safetensors")
    save_file(
        {name: weight for name, weight in weights.items() if "lm_head" not in name},
        tmp_path / "llm" / "model.safetensors",
    )
    with pytest.raises(LLMError, match=r"its files lack 1 weights, lm_head\.weight"):
        load_decoder(tmp_path / "llm", CPU)
    (tmp_path / "llm" / "model.safetensors").write_bytes((tiny_decoder / "model.safetensors").read_bytes()[:900])
    with pytest.raises(LLMError, match="cannot be loaded as a decoder"):
        load_decoder(tmp_path / "llm", CPU)


def test_options_that_need_cuda_print_the_fallback(tiny_decoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_decoder(tiny_decoder, CPU, load_4bit=True, unsloth=True)
    assert capsys.readouterr().out.splitlines() == [
        "4 bit: there is no CUDA; float32 is used instead",
        "unsloth: there is no CUDA; peft is used instead",
    ]


def test_the_next_token_loss_is_computed_in_every_third_step_only(tiny_decoder: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(SETTINGS, knowledge=("descriptors",), next_token_every=3)
    _train(tmp_path / "adapter", tiny_decoder, _corpus(tmp_path), config)
    with (tmp_path / "adapter" / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["next token"]) for row in rows] == [step % 3 == 0 for step in range(10)]
    assert all(row["descriptors"] for row in rows)


def test_after_rounding_a_float16_file_restores_the_same_states(tiny_decoder: Path, tmp_path: Path) -> None:
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
    restored = _model(tiny_decoder)
    restored.restore(tmp_path / "half")
    np.testing.assert_array_equal(mean_states(restored.llm, tokenizer, SMILES, 24), rounded)


def test_after_a_full_disk_the_last_good_checkpoint_can_be_resumed(tiny_decoder: Path, tmp_path: Path) -> None:
    class Full(TrainerCallback):
        """From the fifth step on, no file can be larger than 1500 bytes."""

        def on_step_begin(self, args: object, state: TrainerState, control: object, **_: object) -> None:
            if state.global_step == 4:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limit[1]))

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "adapter").mkdir()
    path = _corpus(tmp_path)
    try:
        with pytest.raises(DataError, match=r"checkpoint-6 cannot be written: .*--resume goes on from .*checkpoint-3$"):
            _train(tmp_path / "adapter", tiny_decoder, path, SETTINGS, callbacks=[Full()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    checkpoints = tmp_path / "adapter" / "checkpoints"
    assert [path.name for path in checkpoints.glob("checkpoint-*")] == ["checkpoint-3"]
    _train(tmp_path / "adapter", tiny_decoder, path, dataclasses.replace(SETTINGS, resume=True))
    _train(tmp_path / "whole", tiny_decoder, path, SETTINGS)
    for name in ("adapter_model.safetensors", "losses.csv"):
        assert (tmp_path / "adapter" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    # a process killed while writing a checkpoint: its last file is incomplete
    (checkpoints / "checkpoint-10" / "trainer_state.json").write_text('{"epoch": 1.0,')
    assert last_checkpoint(tmp_path / "adapter") == checkpoints / "checkpoint-9"


def test_the_parts_of_a_model_shared_by_fsdp2_give_the_same_loss_and_are_gathered_and_saved(
    tiny_decoder: Path, tmp_path: Path
) -> None:
    batch = tokens_and_labels(AutoTokenizer.from_pretrained(tiny_decoder), ["CCO", "C1CCCCC1N"], 24)
    targets = KnowledgeTargets(("descriptors",), (1.0,), SMILES)
    batch["knowledge"] = torch.randn(2, targets.size)
    # not new, so that each weight has an effect
    model = _model(tiny_decoder, dataclasses.replace(SETTINGS, dropout=0.0), targets)
    for weight in model.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.1)
    model.save(tmp_path / "whole")
    loss = model(**batch)["loss"].item()
    # one process, which has a part of everything: torch's FSDP2 has no other needs on a CPU
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        for layer in model.llm.model.layers:
            fully_shard(layer)
        fully_shard(model)
        assert all(isinstance(weight, DTensor) for weight in model.parameters())
        shared = model(**batch)["loss"]
        shared.backward()
        model.gather()
    finally:
        torch.distributed.destroy_process_group()
    assert shared.item() == pytest.approx(loss, rel=1e-6)
    model.save(tmp_path / "gathered")
    for name in ("adapter_model.safetensors", adapters.HEAD):
        whole, gathered = load_file(tmp_path / "whole" / name), load_file(tmp_path / "gathered" / name)
        assert whole.keys() == gathered.keys() and all(torch.equal(whole[key], gathered[key]) for key in whole)


def test_the_configuration_of_fsdp2_is_read_by_accelerate_and_makes_a_part_of_each_layer(
    monkeypatch: pytest.MonkeyPatch, tiny_decoder: Path
) -> None:
    path = Path(__file__).parents[4] / "fine_tune" / "fsdp2.yaml"
    config = load_config_from_file(str(path))
    assert (str(config.distributed_type), config.mixed_precision, config.fsdp_config["fsdp_version"]) == (
        "DistributedType.FSDP",
        "bf16",
        2,
    )
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    for name, value in config.fsdp_config.items():
        monkeypatch.setenv(name.upper(), str(value))
    model = _model(tiny_decoder)
    is_a_part = fsdp2_prepare_auto_wrap_policy(FullyShardedDataParallelPlugin(), model)
    assert [module for module in model.modules() if is_a_part(module)] == list(model.llm.model.layers)
    with pytest.raises(SettingError, match="give --no-evaluate"):
        run_finetune(FinetuneConfig(llm=str(tiny_decoder)))
    with pytest.raises(SettingError, match="no checkpoints"):
        run_finetune(FinetuneConfig(llm=str(tiny_decoder), evaluate=False, resume=True))
