"""Stage 1 from a corpus to an adapter with its card: what was read, what was learnt, how it was judged."""

import contextlib
import csv
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from kflm2.data.corpus import Corpus, Selection, Survey, find_corpus, structures_of_datasets
from kflm2.device import choose_device
from kflm2.errors import DataError, LLMError, SettingError
from kflm2.evaluation.evidence import commit, plain, versions
from kflm2.featurize import llm as llms
from kflm2.featurize.llm_sizes import Machine
from kflm2.files import atomic, sha256_file, write_json, write_text
from kflm2.finetune_settings import FinetuneSettings
from kflm2.trainers import lora
from kflm2.trainers.lessons import Collator, DescriptorTargets, Lesson, Lessons

HELD_OUT = 0.02
"""Share of the corpus that is not taught, for the perplexity."""
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
    if settings.llm == llms.AUTO:
        llm, why = llms.auto()
        print(f"LLM: auto takes {llm.name} ({why})", flush=True)
    else:
        llm = llms.find(settings.llm)
    check_memory(llm, settings)
    checkpoint = llms.checkpoint_folder(llm)
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

    torch.manual_seed(settings.seed)
    model, tokenizer, targets = _model(settings, checkpoint, material, context, device)
    judged = material.survey.held_out
    before = lora.perplexity(model, tokenizer, judged, context) if judged else None
    lessons = Lessons(material.selection, settings.epochs, step, settings.seed)
    start = time.perf_counter()
    collator = Collator(tokenizer, context, settings.randomize, targets)
    lora.train(model, lessons, collator, count, settings, folder)
    made["seconds"] = round(time.perf_counter() - start, 1)
    made["perplexity"] = {
        "held_out": len(judged),
        "before": before,
        "after": lora.perplexity(model, tokenizer, judged, context) if judged else None,
    }
    if rank == 0:
        _write(folder, model, tokenizer, made)
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


def _model(
    settings: FinetuneSettings, checkpoint: Path, material: Material, context: int, device: torch.device
) -> tuple[lora.TaughtLLM, Any, DescriptorTargets | None]:
    base, tokenizer = lora.load_llm(checkpoint, settings.layers, device)
    targets = DescriptorTargets(material.sample) if settings.knowledge == "descriptors" else None
    model = lora.TaughtLLM(base, settings, len(targets.columns) if targets else 0)
    model.to(device)
    if targets is not None:
        first = [Lesson(smiles, 0) for smiles in material.sample[:256]]
        batch = Collator(tokenizer, context, 0.0, None)(first)
        model.fit_head({name: value.to(device) for name, value in batch.items()})
    return model, tokenizer, targets


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
    model.save(folder)
    tokenizer.save_pretrained(folder)
    _draw(folder / "losses.csv", folder / "losses.png")
    write_text(folder / "README.md", card(made))
    write_json(folder / llms.ADAPTER_CARD, made)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def summary(made: dict[str, Any], folder: Path) -> str:
    """What a person sees at the end."""
    perplexity, corpus = made["perplexity"], made["corpus"]
    judged = "no molecule was held out"
    if count := perplexity["held_out"]:
        judged = f"{perplexity['before']:.4g} before, {perplexity['after']:.4g} after, on {count} held-out molecules"
    taught = f"taught with {corpus['taught']:,} molecules of {corpus['name']} in {made['seconds']:.0f} s"
    return f"\n{made['llm']['name']} {taught}\nperplexity  {judged}\nadapter     {folder}"


def card(made: dict[str, Any]) -> str:
    """The model card, Markdown."""
    llm, corpus, perplexity = made["llm"], made["corpus"], made["perplexity"]
    counts = (f"{name.replace('_', ' ')} {value:,}" for name, value in corpus.items() if isinstance(value, int))
    rows = [
        ("LLM", f"{llm['name']} {llm['hub_id']}".strip()),
        ("layers", f"the first {made['layers']}" if made["layers"] else "all"),
        ("corpus", f"{corpus['name']}, SHA-256 {corpus['sha256']}"),
        ("molecules", ", ".join(counts)),
        ("perplexity per token, held out", f"{perplexity['before']} before, {perplexity['after']} after"),
        ("seconds", made["seconds"]),
        *((f"`{name}`", value) for name, value in made["config"].items()),
        *((f"version of {name}", value) for name, value in made["versions"].items()),
        ("commit", made["commit"]),
    ]
    return "\n".join(
        [
            "---",
            "library_name: peft",
            f"base_model: {llm['hub_id'] or llm['name']}",
            "---",
            "",
            f"# LoRA adapter for {llm['name']}, taught with {corpus['name']}",
            "",
            "Made by `kflm2 finetune`; its hidden states describe molecules given as SMILES.",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in rows),
            "",
        ]
    )


def _draw(losses: Path, picture: Path) -> None:
    """Losses over the steps, smoothed over a fiftieth of them."""
    with losses.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axis = figure.subplots()
    for name in [key for key in rows[0] if key != "step"]:
        steps, values = zip(*((int(row["step"]), float(row[name])) for row in rows if row[name]), strict=True)
        window = max(1, len(values) // 50)
        smooth = torch.tensor(values).unfold(0, window, 1).mean(dim=1)
        axis.plot(steps[window - 1 :], smooth.tolist(), label=name)
    axis.set(xlabel="step", ylabel="loss", yscale="log")
    axis.legend(frameon=False)
    with atomic(picture) as temporary:
        figure.savefig(temporary, dpi=150)
