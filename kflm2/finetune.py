"""Stage 1 from a corpus to an adapter with its card: what was read, what was learnt, how it was judged."""

import contextlib
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kflm2.data.corpus import Corpus, Selection, Survey, find_corpus, structures_of_datasets
from kflm2.device import choose_device, only_device
from kflm2.errors import DataError, LLMError, SettingError
from kflm2.evaluation.adapter_card import card, draw_losses, summary
from kflm2.evaluation.evidence import commit, plain, versions
from kflm2.featurize import adapters
from kflm2.featurize import llm as llms
from kflm2.featurize.llm_sizes import Machine
from kflm2.files import sha256_file, write_json, write_text
from kflm2.finetune_settings import FinetuneSettings
from kflm2.trainers import lora
from kflm2.trainers.decoder import cut, load_decoder
from kflm2.trainers.judge import Judged
from kflm2.trainers.lessons import Collator, DescriptorTargets, Lesson, Lessons

HELD_OUT = 0.02
"""Share of the corpus that is not taught, for the perplexity."""
_BYTES_OF_4_BIT = 0.53
"""A weight in 4 bit, with its share of the scales."""
_TOKENS = 40
"""Of a drug-like SMILES with its end, for the estimate of memory."""
_SAMPLE = 2000
"""Molecules from which the descriptors' ranks and the states' scale are learnt."""


@dataclass(frozen=True)
class Material:
    """A corpus after one pass over it."""

    corpus: Corpus
    selection: Selection
    survey: Survey
    sample: list[str]
    """The first SMILES to be taught."""


def run(settings: FinetuneSettings) -> Path:
    """Teach an LLM, and write the adapter and how it was made.

    Args:
        settings: checked.

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
        return _run(settings, processes, rank)


def _run(settings: FinetuneSettings, processes: int, rank: int) -> Path:
    device = choose_device(settings.device)
    if device.type == "cuda" and processes > 1:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    else:
        only_device(device)
    if settings.llm == llms.AUTO:
        llm, why = llms.auto()
        print(f"LLM: auto takes {llm.name} ({why})", flush=True)
    else:
        llm = llms.find(settings.llm)
    check_memory(llm, settings)
    checkpoint = llms.checkpoint_folder(llm)
    depth = llms.folder_depth(checkpoint)
    if (settings.layers or 0) > depth:
        raise SettingError(f"layers is {settings.layers}, and {llm.name} has {depth}")
    context = llms.folder_context(checkpoint)
    material = read(settings, context)
    step = settings.batch_size * settings.accumulation * processes
    count = material.survey.taught
    if count * settings.epochs < step:
        raise SettingError(f"a step takes {step} molecules and {count} are to be taught; lower --batch-size")
    folder = settings.out / llm.name / material.corpus.name
    made = _made(settings, llm, checkpoint, material)
    if rank == 0:
        _prepare(folder, made, settings.resume)

    base, tokenizer = load_decoder(checkpoint, device, settings.load_4bit, settings.unsloth)
    judged = Judged(material.selection, material.survey.held_out, material.sample, tokenizer, context, settings.seed)
    before = judged.written(base) if rank == 0 else {}
    cut(base, settings.layers)
    if rank == 0:
        before |= judged.probed(base)
    targets = DescriptorTargets(material.sample) if settings.knowledge == "descriptors" else None
    torch.manual_seed(settings.seed)
    model = lora.TaughtLLM(base, settings, len(targets.columns) if targets else 0)
    if targets is not None:
        first = Collator(tokenizer, context, 0.0, None)([Lesson(smiles, 0) for smiles in material.sample[:256]])
        model.fit_head({name: value.to(device) for name, value in first.items()})

    start = time.perf_counter()
    lessons = Lessons(material.selection, settings.epochs, step, settings.seed)
    lora.train(model, lessons, Collator(tokenizer, context, settings.randomize, targets), count, settings, folder)
    made["seconds"] = round(time.perf_counter() - start, 1)
    if rank == 0:
        if settings.float16:
            model.round_to_half()
        after = judged.written(model.llm) | judged.probed(model.llm)
        made["judged"] = judged.compare(before, after)
        _write(folder, model, tokenizer, made)
        judged.write_samples(folder / "samples.csv")
        print(summary(made, folder))
    return folder


def check_memory(llm: llms.LLM, settings: FinetuneSettings, machine: Machine | None = None) -> None:
    """Refuse an LLM that this machine cannot train, before gigabytes are downloaded.

    Raises:
        LLMError: it takes more memory than there is; both are named.
    """
    if llm.shape is None:
        return
    machine = machine or Machine.here()
    layers = min(settings.layers or llm.shape.layers, llm.shape.layers)
    needed = llm.shape.lora_bytes(settings.batch_size, _TOKENS, machine.number, settings.rank, layers)
    if settings.load_4bit and machine.number == 2:
        needed -= (2 - _BYTES_OF_4_BIT) * llm.shape.linear_weights(layers)
    if needed > machine.memory:
        raise LLMError(
            f"LLM {llm.name} takes about {needed / 1e9:.0f} GB to be taught with {settings.batch_size} molecules at a"
            f" time, and there are {machine.memory / 1e9:.0f} GB of {machine.name}; --batch-size and --layers lower it,"
            " `kflm2 llms` shows what fits"
        )


def read(settings: FinetuneSettings, context: int) -> Material:
    """Pass over the corpus once: count, and take out what is not taught.

    Args:
        settings: see FinetuneSettings.
        context: tokens that the LLM reads at once.

    Raises:
        DataError: nothing is left to be taught.
    """
    corpus = find_corpus(settings.corpus)
    exclude, names = (frozenset[str](), list[str]()) if settings.keep_tested else structures_of_datasets()
    # a token is a character at least; begin and end are tokens too
    selection = Selection(corpus.path, exclude, settings.limit, HELD_OUT, settings.fragments, context - 2)
    survey = Survey()
    sample: list[str] = []
    for smiles in selection.taught(survey):
        if len(sample) < _SAMPLE:
            sample.append(smiles)
    taught = survey.taught
    left_out = (
        f"{survey.tested} left out because {', '.join(names)} hold them" if names else "none left out as tested on"
    )
    print(
        f"corpus: {corpus.name}, {survey.read:,} read, {survey.unreadable:,} unreadable, {left_out},"
        f" {taught:,} to be taught"
        + (f" ({survey.fragments:,} fragments among them)" if settings.fragments else "")
        + f", {len(survey.held_out)} held out",
        flush=True,
    )
    for own in survey.shown:
        print(f"  line {own.row}: {own.smiles[:60]!r}: {own.reason}")
    if not taught:
        raise DataError(f"corpus {corpus.path}: none of {survey.read} SMILES can be taught")
    return Material(corpus, selection, survey, sample)


def _made(settings: FinetuneSettings, llm: llms.LLM, checkpoint: Path, material: Material) -> dict[str, Any]:
    """What identifies the adapter: from the same the same comes out."""
    survey = material.survey
    config = {name: value for name, value in plain(settings).items() if name not in ("resume", "out", "device")}
    return {
        "llm": {"name": llm.name, "hub_id": llm.hub_id, "digest": llms.checkpoint_digest(checkpoint)["weights"]},
        "layers": settings.layers,
        "corpus": {
            "name": material.corpus.name,
            "sha256": sha256_file(material.corpus.path),
            "read": survey.read,
            "unreadable": survey.unreadable,
            "left_out_as_tested": survey.tested,
            "fragments": survey.fragments,
            "taught": survey.taught,
        },
        "config": config,
        "versions": versions(),
        "commit": commit(),
    }


def _prepare(folder: Path, made: dict[str, Any], resume: bool) -> None:
    """A fresh folder, or the one to go on in.

    Raises:
        SettingError: what is there was made from something else.
    """
    note = folder / "checkpoints" / "made.json"
    identity = {name: made[name] for name in ("llm", "corpus", "config")}
    if resume:
        if lora.last_checkpoint(folder) is None:
            raise SettingError(f"--resume: there is no checkpoint in {folder}")
        before = json.loads(note.read_text(encoding="utf-8"))
        for name, value in identity.items():
            if before[name] != value:
                own = sorted(key for key in value if before[name].get(key) != value[key])
                raise SettingError(f"--resume: {folder} was begun with another {name}: {', '.join(own)}")
        return
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    (folder / "losses.csv").unlink(missing_ok=True)
    write_json(note, identity)


def _write(folder: Path, model: lora.TaughtLLM, tokenizer: Any, made: dict[str, Any]) -> None:
    # the name by which stage 2 and others know the LLM, not this machine's path
    model.peft.peft_config["default"].base_model_name_or_path = made["llm"]["hub_id"] or made["llm"]["name"]
    model.save(folder, half=made["config"]["float16"])
    tokenizer.save_pretrained(folder)
    draw_losses(folder / "losses.csv", folder / "losses.png")
    write_text(folder / "README.md", card(made))
    write_json(folder / adapters.CARD, made)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
