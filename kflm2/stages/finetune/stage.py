"""Stage 1: fine-tune an LLM on a corpus of SMILES, evaluate it, and write the adapter with its record and card."""

import contextlib
import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from kflm2.config.base import to_json
from kflm2.config.finetune import FinetuneConfig
from kflm2.device import choose_device, choose_precision, only_device
from kflm2.errors import DataError, LLMError, SettingError, one_of
from kflm2.files import read_json, sha256_file, write_json, write_text
from kflm2.llm import adapters, checkpoints, registry
from kflm2.llm.decoding import load_decoder
from kflm2.llm.loading import cut_layers
from kflm2.llm.memory import Machine, Shape
from kflm2.llm.resolve import LLMSource, choose
from kflm2.results.provenance import commit, versions
from kflm2.stages.corpus import PreparedCorpus, read_corpus
from kflm2.stages.finetune.card import card, draw_losses, summary
from kflm2.stages.finetune.evaluation import LLMEvaluation, mean_states
from kflm2.trainers.lora import trainer
from kflm2.trainers.lora.dataset import Collator, CorpusDataset
from kflm2.trainers.lora.knowledge import KnowledgeTargets
from kflm2.trainers.lora.model import LoRAModel

HELD_OUT = 0.02
"""Share of the corpus that is held out of training, for the perplexity."""
_BYTES_OF_4_BIT = 0.53
"""Bytes of a weight in 4 bit, with its share of the scales."""
_OF_CPU = ("float32", "mixed")
"""Precisions of a training without a GPU."""
_TOKENS = 40
"""Tokens of a drug-like SMILES with its end token, for the memory estimate."""
_NOT_OF_ADAPTER = ("save_steps", "corpus")
"""Settings that do not change an adapter; of the corpus it is the content that counts."""
_SCALE_MOLECULES = 256
"""Molecules from which the scale of the hidden states is estimated."""


def run(config: FinetuneConfig) -> Path:
    """Fine-tune an LLM, and write the adapter with a record of how it was trained.

    Args:
        config: checked.

    Returns:
        The adapter's folder.

    Raises:
        KFLM2Error: LLM or corpus cannot be used, or the checkpoint to resume from has other settings.
    """
    # set by torchrun and accelerate
    processes, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    with contextlib.ExitStack() as stack:
        if rank:  # only the first process prints
            null = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(null))
        return _run(config, processes, rank)


def _run(config: FinetuneConfig, processes: int, rank: int) -> Path:
    sharded = _uses_fsdp(config)
    device = choose_device(config.device)
    if device.type == "cuda" and processes > 1:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    else:
        only_device(device)
    config = replace(config, precision=choose_precision(config.precision, device))
    one_of(f"precision with {device.type}", config.precision, ("bfloat16",) if device.type == "cuda" else _OF_CPU)
    llm = choose(config.llm)
    check_memory(llm, config, parts=processes if sharded else 1)
    source = LLMSource.of(llm, None, "last")
    (depth,) = source.layers
    if (config.layers or 0) > depth:
        raise SettingError(f"layers is {config.layers}, and {source.name} has {depth}")
    if config.layers == depth:
        config = replace(config, layers=None)  # no layer is cut
    context = checkpoints.folder_context(source.folder)
    # a token has at least one character; begin and end are tokens too
    prepared = read_corpus(config, HELD_OUT, context - 2)
    step = config.batch_size * config.accumulation * processes
    count = prepared.stats.training
    if count * config.epochs < step:
        raise SettingError(f"a step takes {step} molecules and {count} are for training; lower --batch-size")
    folder = config.out / source.name / prepared.corpus.name
    record = _record(config, source, prepared, processes)
    training_sample, held_out = prepared.stats.training_sample.texts, prepared.stats.held_out_sample.texts
    targets = _knowledge(config, record, training_sample)
    if rank == 0 and config.resume:
        _check_resume(folder, record)

    base, tokenizer = load_decoder(source.folder, device, config.load_4bit, config.unsloth)
    evaluation = None
    if rank == 0 and config.evaluate:
        evaluation = LLMEvaluation(
            prepared.corpus_filter, held_out, training_sample, tokenizer, context, config.seed, config.samples
        )
    before = evaluation.evaluate_text(base) if evaluation else {}
    cut_layers(base.model, config.layers, keep_norm=True)
    if evaluation:
        before |= evaluation.evaluate_probe(base)
    torch.manual_seed(config.seed)
    model = LoRAModel(base, config, targets)
    if targets is not None:
        model.fit_head(mean_states(base, tokenizer, training_sample[:_SCALE_MOLECULES], context))
    if rank == 0 and not config.resume:
        _begin(folder, record)

    start = time.perf_counter()
    dataset = CorpusDataset(prepared.corpus_filter, tokenizer, config.epochs, step, config.seed)
    trainer.finetune(model, dataset, Collator(tokenizer, context, config.randomize, targets), count, config, folder)
    record["seconds"] = round(time.perf_counter() - start, 1)
    if rank == 0:
        if config.float16:
            model.round_to_half()
        if evaluation:
            after = evaluation.evaluate_text(model.llm) | evaluation.evaluate_probe(model.llm)
            record["judged"] = evaluation.compare(before, after)
            if targets is not None:
                record["knowledge_r2"] = evaluation.evaluate_knowledge(model, targets, HELD_OUT)
        _write(folder, model, tokenizer, record, evaluation)
        print(summary(record, folder))
    return folder


def _uses_fsdp(config: FinetuneConfig) -> bool:
    """Whether accelerate's FSDP gives each process a part of the LLM.

    Raises:
        SettingError: it does, and the LLM was to be evaluated, or a checkpoint to be read.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() != "true":
        return False
    if config.evaluate:
        raise SettingError("with FSDP no process has the whole LLM to evaluate it: give --no-evaluate")
    if config.resume:
        raise SettingError("with FSDP there are no checkpoints to --resume from")
    return True


def _knowledge(config: FinetuneConfig, record: dict[str, Any], sample: list[str]) -> KnowledgeTargets | None:
    """What the head learns, added to the record; how much of the corpus is in each table is printed.

    Raises:
        DataError: a table cannot be read, or none of the sample of the corpus is in it.
    """
    if not config.knowledge:
        return None
    targets = KnowledgeTargets(config.knowledge, config.knowledge_weight, sample)
    record["knowledge"] = {source.name: list(source.names) for source in targets.sources}
    tables = {source.name: source.table for source in targets.sources if source.table is not None}
    if tables:
        record["tables"] = {
            name: {"molecules": len(table.smiles), "sha256": table.sha256} for name, table in tables.items()
        }
    for name, share in targets.shares(sample).items():
        unreadable = f", {tables[name].unreadable} unreadable" if tables[name].unreadable else ""
        print(
            f"table: {name}, {len(tables[name].smiles):,} molecules{unreadable}; {share:.1%} of the corpus are in it",
            flush=True,
        )
        if not share:
            raise DataError(f"knowledge {name}: no molecule of the corpus is in it; --corpus may name the table itself")
    if tables and config.layers is None:
        print("table: stage 2 can read it (--descriptors rdkit+taught) only with --layers, fewer than the LLM has")
    return targets


def check_memory(llm: registry.LLM, config: FinetuneConfig, machine: Machine | None = None, parts: int = 1) -> None:
    """Check that this machine has enough memory to fine-tune an LLM, before gigabytes are downloaded.

    Args:
        llm: of the registry, or another one, which is not checked.
        config: checked.
        machine: default this one.
        parts: processes that share the weights while they train; each has loaded them all before.

    Raises:
        LLMError: the LLM needs more memory than the machine has; the message states both.
    """
    if llm.shape is None:
        return
    machine = machine or Machine.detect(config.device)
    needed = memory_needed(llm.shape, config, machine.bytes_per_number, parts)
    if needed > machine.memory:
        raise LLMError(
            f"LLM {llm.name} takes about {needed / 1e9:.0f} GB to be fine-tuned with {config.batch_size} molecules at a"
            f" time, and there are {machine.memory / 1e9:.0f} GB of {machine.name}; --batch-size and --layers lower it,"
            " `kflm2 llms` shows what fits"
        )


def memory_needed(shape: Shape, config: FinetuneConfig, bytes_per_number: int, parts: int = 1) -> float:
    """Maximum memory in bytes while an LLM is loaded and fine-tuned.

    Args:
        shape: of the whole LLM.
        config: batch size, rank, layers and whether the weights are in 4 bit.
        bytes_per_number: 4 for float32, 2 for bfloat16.
        parts: processes that share the weights while they train.
    """
    layers = min(config.layers or shape.layers, shape.layers)
    needed = shape.lora_bytes(config.batch_size, _TOKENS, bytes_per_number, config.rank, layers)
    # the whole LLM is loaded and evaluated before layers are cut
    needed -= (1 - 1 / parts) * bytes_per_number * shape.parameters(layers)
    whole = float(bytes_per_number * shape.parameters())
    if config.load_4bit and bytes_per_number == 2:
        # embeddings and vocabulary head are converted to float32
        tables = 2 * (1 if shape.tied else 2) * shape.vocabulary * shape.width
        needed += tables - (2 - _BYTES_OF_4_BIT) * shape.linear_weights(layers)
        whole += tables - (2 - _BYTES_OF_4_BIT) * shape.linear_weights()
    return max(needed, whole)


def _record(config: FinetuneConfig, source: LLMSource, prepared: PreparedCorpus, processes: int) -> dict[str, Any]:
    """Everything that determines the adapter: the same record gives the same adapter."""
    stats = prepared.stats
    settings = {name: value for name, value in to_json(config).items() if name not in ("resume", "out", "device")}
    return {
        "llm": {"name": source.name, "hub_id": source.hub_id, "digest": source.digests["weights"]},
        "layers": config.layers,
        "corpus": {
            "name": prepared.corpus.name,
            "sha256": sha256_file(prepared.corpus.path),
            "read": stats.read,
            "unreadable": stats.unreadable,
            "left_out_as_tested": stats.excluded,
            "tested": list(prepared.corpus_filter.exclude.names),
            "fragments": stats.fragments,
            "taught": stats.training,
            "held_out": stats.held_out,
        },
        "config": settings,
        "processes": processes,
        "versions": versions(),
        "commit": commit(),
    }


def _identity(record: dict[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in ("llm", "corpus", "config", "processes", "tables") if name in record}


def _check_resume(folder: Path, record: dict[str, Any]) -> None:
    """Check that the last checkpoint was made with the same record.

    Raises:
        SettingError: there is no checkpoint, or it has another LLM, corpus, setting or number of processes.
        DataError: it does not say what it has.
    """
    if trainer.last_checkpoint(folder) is None:
        raise SettingError(f"--resume: there is no checkpoint in {folder}")
    saved = read_json(folder / "checkpoints" / "made.json", "checkpoint", DataError)
    for name, value in _identity(record).items():
        old = saved.get(name)
        differences = [f"{old} {name}, and this is {value}"] if old != value else []
        if isinstance(value, dict) and isinstance(old, dict):
            differences = sorted(key for key in {*value, *old} if old.get(key) != value.get(key))
        if name == "config":
            differences = [key for key in differences if key not in _NOT_OF_ADAPTER]
        if differences:
            raise SettingError(f"--resume: {folder} was begun with another {name}: {', '.join(differences)}")


def _begin(folder: Path, record: dict[str, Any]) -> None:
    """Start an empty folder of checkpoints."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    (folder / "losses.csv").unlink(missing_ok=True)
    write_json(folder / "checkpoints" / "made.json", _identity(record))


def _write(
    folder: Path, model: LoRAModel, tokenizer: Any, record: dict[str, Any], evaluation: LLMEvaluation | None
) -> None:
    """Write all files of an adapter; they replace those of an earlier adapter together.

    Raises:
        DataError: they cannot be written; the checkpoints are preserved.
    """
    # the LLM's name for stage 2 and other programs, not its path on this machine
    model.peft.peft_config["default"].base_model_name_or_path = record["llm"]["hub_id"] or record["llm"]["name"]
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as temporary:
            new = Path(temporary)
            model.save(new, half=record["config"]["float16"])
            tokenizer.save_pretrained(new)
            draw_losses(folder / "losses.csv", new / "losses.png")
            write_text(new / "README.md", card(record))
            if evaluation and evaluation.samples:
                evaluation.write_samples(new / "samples.csv")
            write_json(new / adapters.CARD, record)
            # removed first and moved last: without this file a folder is not an adapter, so that a mixture of old and
            # new files is never used as one
            config = "adapter_config.json"
            (folder / config).unlink(missing_ok=True)
            for name in ("samples.csv", adapters.HEAD):  # of an earlier adapter; this one may have none
                (folder / name).unlink(missing_ok=True)
            for path in sorted(new.iterdir(), key=lambda path: path.name == config):
                os.replace(path, folder / path.name)
    except (OSError, SafetensorError) as error:
        raise DataError(f"adapter {folder} cannot be written: {error}; --resume finishes it") from None
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
