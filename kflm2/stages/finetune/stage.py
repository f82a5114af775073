"""Stage 1 from a corpus to an adapter with its card: what was read, what was learnt, how it was judged."""

import contextlib
import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from kflm2.config.finetune import FinetuneConfig
from kflm2.data.corpus import Corpus, CorpusFilter, CorpusStats, ExcludedStructures, find_corpus, structures_of_datasets
from kflm2.device import choose_device, only_device
from kflm2.errors import DataError, LLMError, SettingError
from kflm2.files import sha256_file, write_json, write_text
from kflm2.llm import adapters, checkpoints, registry, resolve
from kflm2.llm.decoding import cut, load_decoder
from kflm2.llm.memory import Machine
from kflm2.results.provenance import commit, versions
from kflm2.results.runs import plain
from kflm2.stages.finetune.card import card, draw_losses, summary
from kflm2.stages.finetune.evaluation import LLMEvaluation, mean_states
from kflm2.trainers.lora import trainer
from kflm2.trainers.lora.dataset import Collator, CorpusDataset, DescriptorTargets
from kflm2.trainers.lora.model import LoRAModel

HELD_OUT = 0.02
"""Share of the corpus that is not taught, for the perplexity."""
_BYTES_OF_4_BIT = 0.53
"""A weight in 4 bit, with its share of the scales."""
_TOKENS = 40
"""Of a drug-like SMILES with its end, for the estimate of memory."""
_SCALED_BY = 256
"""Molecules from which the states' scale is learnt."""


@dataclass(frozen=True)
class PreparedCorpus:
    """A corpus after one pass over it."""

    corpus: Corpus
    corpus_filter: CorpusFilter
    stats: CorpusStats


def run(config: FinetuneConfig) -> Path:
    """Teach an LLM, and write the adapter and how it was made.

    Args:
        config: checked.

    Returns:
        The adapter's folder.

    Raises:
        KFLM2Error: LLM or corpus cannot be used, or the checkpoint to go on from is of other settings.
    """
    # torchrun and accelerate say so before anything is started
    processes, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    with contextlib.ExitStack() as stack:
        if rank:  # one of the processes speaks for all
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        return _run(config, processes, rank)


def _run(config: FinetuneConfig, processes: int, rank: int) -> Path:
    device = choose_device(config.device)
    if device.type == "cuda" and processes > 1:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    else:
        only_device(device)
    if config.llm == registry.AUTO:
        llm, why = resolve.auto()
        print(f"LLM: auto takes {llm.name} ({why})", flush=True)
    else:
        llm = resolve.find(config.llm)
    check_memory(llm, config)
    checkpoint = checkpoints.checkpoint_folder(llm)
    depth = checkpoints.folder_depth(checkpoint)
    if (config.layers or 0) > depth:
        raise SettingError(f"layers is {config.layers}, and {llm.name} has {depth}")
    if config.layers == depth:
        config = replace(config, layers=None)  # nothing is cut
    context = checkpoints.folder_context(checkpoint)
    prepared = read(config, context)
    step = config.batch_size * config.accumulation * processes
    count = prepared.stats.taught
    if count * config.epochs < step:
        raise SettingError(f"a step takes {step} molecules and {count} are to be taught; lower --batch-size")
    folder = config.out / llm.name / prepared.corpus.name
    made = _made(config, llm, checkpoint, prepared, processes)
    if rank == 0 and config.resume:
        _check_resume(folder, made)

    sample, held_out = prepared.stats.some_taught.texts, prepared.stats.some_held_out.texts
    base, tokenizer = load_decoder(checkpoint, device, config.load_4bit, config.unsloth)
    evaluation = LLMEvaluation(prepared.corpus_filter, held_out, sample, tokenizer, context, config.seed)
    before = evaluation.written(base) if rank == 0 else {}
    cut(base, config.layers)
    if rank == 0:
        before |= evaluation.probed(base)
    targets = DescriptorTargets(sample) if config.knowledge == "descriptors" else None
    if targets is not None:
        made["knowledge"] = targets.names
    torch.manual_seed(config.seed)
    model = LoRAModel(base, config, len(targets.columns) if targets else 0)
    if targets is not None:
        model.fit_head(mean_states(base, tokenizer, sample[:_SCALED_BY], context))
    if rank == 0 and not config.resume:
        _begin(folder, made)

    start = time.perf_counter()
    dataset = CorpusDataset(prepared.corpus_filter, tokenizer, config.epochs, step, config.seed)
    trainer.train(model, dataset, Collator(tokenizer, context, config.randomize, targets), count, config, folder)
    made["seconds"] = round(time.perf_counter() - start, 1)
    if rank == 0:
        if config.float16:
            model.round_to_half()
        after = evaluation.written(model.llm) | evaluation.probed(model.llm)
        made["judged"] = evaluation.compare(before, after)
        _write(folder, model, tokenizer, made, evaluation)
        print(summary(made, folder))
    return folder


def check_memory(llm: registry.LLM, config: FinetuneConfig, machine: Machine | None = None) -> None:
    """Refuse an LLM that this machine cannot train, before gigabytes are downloaded.

    Raises:
        LLMError: it takes more memory than there is; both are named.
    """
    if llm.shape is None:
        return
    machine = machine or Machine.here(config.device)
    shape = llm.shape
    layers = min(config.layers or shape.layers, shape.layers)
    needed = shape.lora_bytes(config.batch_size, _TOKENS, machine.number, config.rank, layers)
    whole = float(machine.number * shape.parameters())  # it is loaded and judged before it is cut
    if config.load_4bit and machine.number == 2:
        # embeddings and vocabulary head are brought to float32
        tables = 2 * (1 if shape.tied else 2) * shape.vocabulary * shape.width
        needed += tables - (2 - _BYTES_OF_4_BIT) * shape.linear_weights(layers)
        whole += tables - (2 - _BYTES_OF_4_BIT) * shape.linear_weights()
    needed = max(needed, whole)
    if needed > machine.memory:
        raise LLMError(
            f"LLM {llm.name} takes about {needed / 1e9:.0f} GB to be taught with {config.batch_size} molecules at a"
            f" time, and there are {machine.memory / 1e9:.0f} GB of {machine.name}; --batch-size and --layers lower it,"
            " `kflm2 llms` shows what fits"
        )


def read(config: FinetuneConfig, context: int) -> PreparedCorpus:
    """Pass over the corpus once: count, and take out what is not taught.

    Args:
        config: see FinetuneConfig.
        context: tokens that the LLM reads at once.

    Raises:
        DataError: nothing is left to be taught.
    """
    corpus = find_corpus(config.corpus)
    exclude = ExcludedStructures() if config.keep_tested else structures_of_datasets()
    # a token is a character at least; begin and end are tokens too
    corpus_filter = CorpusFilter(corpus.path, exclude, config.limit, HELD_OUT, config.fragments, context - 2)
    stats = CorpusStats()
    for _ in corpus_filter.taught(stats):
        pass
    taught = stats.taught
    left_out = (
        f"{stats.tested} left out because {', '.join(exclude.names)} hold them"
        if exclude.names
        else "none left out as tested on"
    )
    print(
        f"corpus: {corpus.name}, {stats.read:,} read, {stats.unreadable:,} unreadable, {left_out},"
        f" {taught:,} to be taught"
        + (f" ({stats.fragments:,} fragments among them)" if config.fragments else "")
        + f", {stats.held_out:,} held out",
        flush=True,
    )
    for own in stats.shown:
        print(f"  SMILES {own.row}: {own.smiles[:60]!r}: {own.reason}")
    if not taught:
        raise DataError(f"corpus {corpus.path}: none of {stats.read} SMILES can be taught")
    return PreparedCorpus(corpus, corpus_filter, stats)


def _made(
    config: FinetuneConfig, llm: registry.LLM, checkpoint: Path, prepared: PreparedCorpus, processes: int
) -> dict[str, Any]:
    """What identifies the adapter: from the same the same comes out."""
    stats = prepared.stats
    stated = {name: value for name, value in plain(config).items() if name not in ("resume", "out", "device")}
    return {
        "llm": {"name": llm.name, "hub_id": llm.hub_id, "digest": checkpoints.checkpoint_digest(checkpoint)["weights"]},
        "layers": config.layers,
        "corpus": {
            "name": prepared.corpus.name,
            "sha256": sha256_file(prepared.corpus.path),
            "read": stats.read,
            "unreadable": stats.unreadable,
            "left_out_as_tested": stats.tested,
            "tested": list(prepared.corpus_filter.exclude.names),
            "fragments": stats.fragments,
            "taught": stats.taught,
            "held_out": stats.held_out,
        },
        "config": stated,
        "processes": processes,
        "versions": versions(),
        "commit": commit(),
    }


def _identity(made: dict[str, Any]) -> dict[str, Any]:
    return {name: made[name] for name in ("llm", "corpus", "config", "processes")}


def _check_resume(folder: Path, made: dict[str, Any]) -> None:
    """Refuse to go on with what was made from something else.

    Raises:
        SettingError: there is no checkpoint, or it is of another LLM, corpus, setting or number of processes.
    """
    if trainer.last_checkpoint(folder) is None:
        raise SettingError(f"--resume: there is no checkpoint in {folder}")
    before = json.loads((folder / "checkpoints" / "made.json").read_text(encoding="utf-8"))
    for name, value in _identity(made).items():
        was = before.get(name)
        if was != value:
            other = [f"{was} {name}, and this is {value}"]
            if isinstance(value, dict) and isinstance(was, dict):
                other = sorted(key for key in {*value, *was} if was.get(key) != value.get(key))
            raise SettingError(f"--resume: {folder} was begun with another {name}: {', '.join(other)}")


def _begin(folder: Path, made: dict[str, Any]) -> None:
    """A fresh folder of checkpoints."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    (folder / "losses.csv").unlink(missing_ok=True)
    write_json(folder / "checkpoints" / "made.json", _identity(made))


def _write(folder: Path, model: LoRAModel, tokenizer: Any, made: dict[str, Any], evaluation: LLMEvaluation) -> None:
    """All of an adapter's files, that take the place of an earlier one's together.

    Raises:
        DataError: they cannot be written; checkpoints stay.
    """
    # the name by which stage 2 and others know the LLM, not this machine's path
    model.peft.peft_config["default"].base_model_name_or_path = made["llm"]["hub_id"] or made["llm"]["name"]
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as name:
            new = Path(name)
            model.save(new, half=made["config"]["float16"])
            tokenizer.save_pretrained(new)
            draw_losses(folder / "losses.csv", new / "losses.png")
            write_text(new / "README.md", card(made))
            evaluation.write_samples(new / "samples.csv")
            write_json(new / adapters.CARD, made)
            # without this file a folder is no adapter: half an old one and half a new one must not be taken for one
            config = "adapter_config.json"
            (folder / config).unlink(missing_ok=True)
            for path in sorted(new.iterdir(), key=lambda path: path.name == config):
                os.replace(path, folder / path.name)
    except (OSError, SafetensorError) as error:
        raise DataError(f"adapter {folder} cannot be written: {error}; --resume finishes it") from None
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
