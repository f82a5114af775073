"""Stage 3 from a table to judged answers: how well an LLM by itself answers a prompt with a property."""

import csv
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peft import PeftModel

from kflm2 import experiment
from kflm2.data.corpus import randomized
from kflm2.data.load import load
from kflm2.data.molecules import Molecules
from kflm2.data.prompts import MOST_DIGITS, Wording, check_template, parse, read_wording
from kflm2.data.similarity import fingerprints, most_similar
from kflm2.data.splits import Split, make_splits
from kflm2.device import choose_device
from kflm2.errors import DataError
from kflm2.evaluation import prompt_report, report
from kflm2.evaluation.evidence import commit, peak_memory_mb, plain, versions
from kflm2.evaluation.metrics import Figures, choose_thresholds, score
from kflm2.featurize import adapters
from kflm2.featurize import llm as llms
from kflm2.files import atomic, project_folder, write_json
from kflm2.finetune_settings import FinetuneSettings
from kflm2.prompt_settings import PromptSettings
from kflm2.settings import TableSettings, TrainSettings
from kflm2.trainers.decoder import cut, load_decoder
from kflm2.trainers.lora import TaughtLLM
from kflm2.trainers.prompting import Prompter, teach

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Answers:
    """What was answered to some prompts; n of them, one target."""

    prompts: list[str]
    raw: list[list[str]]
    """Texts as the LLM wrote them; of a regression under the grammar, one or more a prompt."""
    y_pred: np.ndarray
    """(n,) the value, or the probability of class 1; NaN where no answer could be read."""


@dataclass
class PromptRun:
    """One seed."""

    seed: int
    split: Split
    figures: dict[str, dict[str, Figures | None]] = field(default_factory=dict)
    """Who answered -> part -> figures: baseline, prompting and the pipeline of stage 2."""
    answered: dict[str, Answers] = field(default_factory=dict)
    """Part -> answers: valid and test."""
    free: list[str] = field(default_factory=list)
    """What the LLM writes to the test's prompts when no grammar bounds it."""
    parsed_free: float = 0.0
    """Share of these that could be read."""
    spread: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """Random SMILES and paraphrases -> how much answers to the same molecule differ, and how well they predict."""
    losses: list[float] = field(default_factory=list)
    """Validation loss after each epoch."""
    seconds: float = 0.0


def run(settings: PromptSettings) -> list[PromptRun]:
    """Teach an LLM to answer and judge its answers, for every seed.

    Args:
        settings: checked.

    Returns:
        The runs.

    Raises:
        KFLM2Error: LLM, table or prompts cannot be used.
    """
    settings = settings.resolved()
    assert settings.split is not None
    device = choose_device(settings.device)
    molecules, target = _one_target(load(settings))
    dataset = molecules.dataset
    path = settings.prompts or project_folder() / "prompt" / "prompts.toml"
    wording = read_wording(path, dataset.name, target, dataset.kind)
    check_template(wording, settings.template)
    for row, value in zip(molecules.rows, molecules.y_true[:, 0], strict=True):
        try:
            if not np.isnan(value):
                wording.write(value)
        except DataError as error:
            raise DataError(f"{dataset.path}, row {row}: {error}") from None
    if settings.llm == llms.AUTO:
        llm, why = llms.auto()
        print(f"LLM: auto takes {llm.name} ({why})", flush=True)
    else:
        llm = llms.find(settings.llm)
    adapter = adapters.default_adapter(llm) if settings.adapter == "auto" else None
    if settings.adapter not in ("auto", "none"):
        adapter = Path(settings.adapter)
    print(f"adapter: {adapter or 'none, the base LLM is taught'}", flush=True)
    checkpoint = llms.checkpoint_folder(llm)
    if adapter is not None:
        adapters.check(adapter, llm, checkpoint)

    base, tokenizer = _llm(checkpoint, adapter, settings, device)
    molecules = _that_fit(molecules, settings, wording, tokenizer, llms.folder_context(checkpoint))
    asking = _Asking(settings, molecules, wording)
    if molecules.rejected:
        print(report.rejections(molecules), flush=True)
    seeds = range(settings.seed, settings.seed + settings.runs)
    splits = make_splits(settings.split, molecules.smiles, seeds, settings.fractions, molecules.parts)
    folder = settings.out / dataset.name / f"prompt_{settings.template}"
    folder.mkdir(parents=True, exist_ok=True)
    runs: list[PromptRun] = []
    for seed, split in zip(seeds, splits, strict=True):
        if runs:  # the run before has put its adapter into it
            base, tokenizer = _llm(checkpoint, adapter, settings, device)
        one = _run(settings, asking, split, seed, base, tokenizer)
        if settings.compare != "none":
            _compare(settings, target, one)
        _write(folder / f"{settings.split}-{seed}", settings, asking, one, llm, adapter, checkpoint)
        runs.append(one)
    print(prompt_report.table(runs, settings, molecules, wording, folder))
    return runs


def _one_target(molecules: Molecules) -> tuple[Molecules, str]:
    targets = molecules.dataset.targets
    if len(targets) > 1:
        print(f"target: {targets[0]}, the first of {len(targets)}; --target-columns takes another", flush=True)
        dataset = dataclasses.replace(molecules.dataset, targets=targets[:1])
        molecules = dataclasses.replace(molecules, dataset=dataset, y_true=molecules.y_true[:, :1])
    return molecules, targets[0]


class _Asking:
    """Prompts of the molecules of a table."""

    def __init__(self, settings: PromptSettings, molecules: Molecules, wording: Wording) -> None:
        self.settings, self.molecules, self.wording = settings, molecules, wording
        self._prints = fingerprints(molecules.smiles) if settings.shots and settings.shots_by == "nearest" else []

    def prompts(
        self, rows: Sequence[int], train: Sequence[int], seed: int, template: str, smiles: list[str] | None = None
    ) -> list[str]:
        """A prompt for each of some molecules.

        Args:
            rows: of the molecules.
            train: rows that examples may be taken from; a molecule is no example of itself.
            seed: of random examples.
            template: name.
            smiles: other writings of the molecules.
        """
        texts = smiles if smiles is not None else [self.molecules.smiles[i] for i in rows]
        y = self.molecules.y_true[:, 0]
        return [
            self.wording.ask(
                text, template, [(self.molecules.smiles[i], float(y[i])) for i in self._shots(row, train, seed)]
            )
            for row, text in zip(rows, texts, strict=True)
        ]

    def _shots(self, row: int, train: Sequence[int], seed: int) -> list[int]:
        if not self.settings.shots:
            return []
        others = [i for i in train if i != row]
        if self.settings.shots_by == "random":
            return np.random.default_rng([seed, row]).choice(others, self.settings.shots, replace=False).tolist()
        near = most_similar(self._prints[row], [self._prints[i] for i in others], self.settings.shots)
        # the most similar one last, next to the question
        return [others[i] for i in reversed(near)]

    def labelled(self, rows: np.ndarray) -> list[int]:
        """Those of some rows that have a label."""
        return [int(i) for i in rows if not np.isnan(self.molecules.y_true[i, 0])]

    def answers(self, rows: Sequence[int]) -> list[str]:
        """What the molecules should be answered with."""
        return [self.wording.write(float(self.molecules.y_true[i, 0])) for i in rows]


def _that_fit(
    molecules: Molecules,
    settings: PromptSettings,
    wording: Wording,
    tokenizer: "PreTrainedTokenizerBase",
    context: int,
) -> Molecules:
    """The molecules whose prompts the LLM can read at once; an example counts as the table's longest SMILES."""
    lengths = [len(ids) for ids in tokenizer(molecules.smiles)["input_ids"]]
    longest = molecules.smiles[int(np.argmax(lengths))]
    shots = [(longest, -0.5 if molecules.dataset.kind == "regression" else 0.0)] * settings.shots
    room = MOST_DIGITS + wording.decimals + 4
    texts = [wording.ask(smiles, settings.template, shots) for smiles in molecules.smiles]
    reasons = {
        i: f"its prompt of {len(ids)} tokens and an answer are longer than the LLM's context of {context}"
        for i, ids in enumerate(tokenizer(texts)["input_ids"])
        if len(ids) + room > context
    }
    return molecules.reject(reasons) if reasons else molecules


def _llm(
    checkpoint: Path, adapter: Path | None, settings: PromptSettings, device: torch.device
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    base, tokenizer = load_decoder(checkpoint, device, settings.load_4bit, settings.unsloth)
    if adapter is not None:
        cut(base, adapters.layers_of(adapter))
        # what stage 1 taught becomes part of the weights, and a fresh adapter learns to answer
        base = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    return base, tokenizer


def _run(
    settings: PromptSettings,
    asking: _Asking,
    split: Split,
    seed: int,
    llm: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
) -> PromptRun:
    start = time.perf_counter()
    one = PromptRun(seed, split)
    molecules, wording = asking.molecules, asking.wording
    y, kind = molecules.y_true[:, 0], molecules.dataset.kind
    own = {part: asking.labelled(getattr(split, part)) for part in ("train", "valid", "test")}
    for part, rows in own.items():
        if not rows:
            raise DataError(f"no molecule of {part} has a label")
    torch.manual_seed(seed)
    lora = FinetuneSettings(
        rank=settings.rank, alpha=settings.alpha, dropout=settings.dropout, unsloth=settings.unsloth, seed=seed
    )
    model = TaughtLLM(llm, lora, 0)
    prompter = Prompter(model.llm, tokenizer)
    if settings.epochs:
        taught = {
            part: prompter.rows(
                asking.prompts(own[part], own["train"], seed, settings.template),
                asking.answers(own[part]),
                settings.loss == "text",
            )
            for part in ("train", "valid")
        }
        one.losses = teach(
            model, prompter, taught["train"], taught["valid"], settings.epochs, settings.batch_size,
            settings.learning_rate, seed,
        )  # fmt: skip
    # values that can be answered are those of the size that training has
    digits = max(len(wording.write(float(y[i])).lstrip(" -").partition(".")[0]) for i in own["train"])

    def ask(rows: list[int], template: str, smiles: list[str] | None = None) -> Answers:
        prompts = asking.prompts(rows, own["train"], seed, template, smiles)
        if kind == "classification":
            return Answers(prompts, [], prompter.probabilities(prompts, wording.answers)[:, 1])
        texts = prompter.answers(prompts, (digits, wording.decimals), settings.samples, seed)
        values = [[value for text in few if (value := parse(text)) is not None] for few in texts]
        return Answers(prompts, texts, np.array([np.mean(few) if few else np.nan for few in values]))

    for part in ("valid", "test"):
        one.answered[part] = ask(own[part], settings.template)
    one.free = [few[0] for few in prompter.answers(one.answered["test"].prompts)]
    one.parsed_free = float(np.mean([prompt_report.readable(text, wording) for text in one.free]))

    y_pred = np.full(len(y), np.nan)
    for part in ("valid", "test"):
        y_pred[own[part]] = one.answered[part].y_pred
    baseline = np.full(len(y), np.mean(y[own["train"]]))
    cuts = np.array([np.nan])
    for name, values in (("mean of train" if kind == "regression" else "majority", baseline), ("prompting", y_pred)):
        if kind == "classification":
            cuts = choose_thresholds(y[own["valid"], None], values[own["valid"], None])
            if name == "majority":
                cuts = np.array([0.5])
        one.figures[name] = {
            part: score(y[rows, None], values[rows, None], kind, cuts).targets[0]
            for part, rows in _judged(split, own, values).items()
        }
    one.spread = _robustness(settings, wording, molecules, own["test"], one.answered["test"], ask)
    one.seconds = round(time.perf_counter() - start, 1)
    return one


def _judged(split: Split, own: dict[str, list[int]], values: np.ndarray) -> dict[str, list[int]]:
    """Rows of valid, test and the test sets that make it up, of which there is an answer."""
    answered = {i for part in ("valid", "test") for i in own[part] if not np.isnan(values[i])}
    return {part: [int(i) for i in rows if int(i) in answered] for part, rows in split.parts.items() if part != "train"}


def _robustness(
    settings: PromptSettings,
    wording: Wording,
    molecules: Molecules,
    rows: list[int],
    asked: Answers,
    ask: Any,
) -> dict[str, dict[str, float | None]]:
    """How much the answers to the same molecules hang on how they are written and asked for."""
    y, kind = molecules.y_true[rows, 0], molecules.dataset.kind
    ways = {
        "random SMILES": [
            ask(rows, settings.template, [randomized(molecules.smiles[i], number) for i in rows]).y_pred
            for number in range(settings.writings)
        ],
        "paraphrases": [ask(rows, name).y_pred for name in wording.templates if name != settings.template],
    }
    return {name: prompt_report.spread([asked.y_pred, *values], y, kind) for name, values in ways.items() if values}


def _compare(settings: PromptSettings, target: str, one: PromptRun) -> None:
    """The same seed and split through a pipeline of stage 2."""
    shared = {own.name: getattr(settings, own.name) for own in dataclasses.fields(TableSettings)}
    given = settings.dataset is not None or settings.csv is not None
    assert given
    stage_2 = TrainSettings.of(
        settings.compare,
        **{**shared, "target_columns": (target,), "seed": one.seed},
        llm=settings.llm, adapter=settings.adapter, runs=1, device=settings.device,
    )  # fmt: skip
    stage_2.check()
    (other,) = experiment.run(stage_2)
    if other.split.sha256 != one.split.sha256:
        print("note: stage 2 rejects other molecules, so its split is another and it is left out", flush=True)
        return
    one.figures[settings.compare] = {
        part: scores.targets[0] for part, scores in other.scores.items() if part != "train"
    }


def _write(
    folder: Path,
    settings: PromptSettings,
    asking: _Asking,
    one: PromptRun,
    llm: llms.LLM,
    adapter: Path | None,
    checkpoint: Path,
) -> None:
    """predictions.csv, split.json and result.json, which comes last."""
    molecules = asking.molecules
    (folder / "result.json").unlink(missing_ok=True)
    target = molecules.dataset.targets[0]
    labels = one.split.labels()
    with atomic(folder / "predictions.csv") as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["row", "smiles", "part", f"y_true_{target}", f"y_pred_{target}", "prompt", "answer", "free"])
        for part, answers in one.answered.items():
            rows = asking.labelled(getattr(one.split, part))
            free = one.free if part == "test" else [""] * len(rows)
            raw = answers.raw or [[""]] * len(rows)
            for i, value, prompt, texts, text in zip(rows, answers.y_pred, answers.prompts, raw, free, strict=True):
                known = "" if np.isnan(value) else float(value)
                y_true = float(molecules.y_true[i, 0])
                lines.writerow(
                    [
                        int(molecules.rows[i]),
                        molecules.smiles[i],
                        labels[i],
                        y_true,
                        known,
                        prompt,
                        "|".join(texts),
                        text,
                    ]
                )
    parts = {part: molecules.rows[own].tolist() for part, own in one.split.parts.items()}
    write_json(folder / "split.json", {"kind": one.split.kind, "sha256": one.split.sha256, "rows": parts})
    digests = llms.checkpoint_digest(checkpoint)
    test = one.answered["test"].y_pred
    write_json(
        folder / "result.json",
        {
            "dataset": {
                "name": molecules.dataset.name,
                "sha256": molecules.sha256,
                "targets": list(molecules.dataset.targets),
                "unit": molecules.dataset.unit,
                "kind": molecules.dataset.kind,
            },
            "seed": one.seed,
            "split": {"kind": one.split.kind, "sha256": one.split.sha256, "sizes": one.split.sizes},
            "rows": {
                "read": molecules.read,
                "kept": len(molecules.smiles),
                "rejected": [dataclasses.asdict(own) for own in molecules.rejected],
            },
            "llm": {
                "name": llm.name,
                "digest": digests["weights"],
                "tokenizer": digests["tokenizer"],
                "adapter": adapters.digest(adapter) if adapter else None,
            },
            "wording": dataclasses.asdict(asking.wording),
            "metrics": one.figures,
            "answered": {"test": float(np.mean(~np.isnan(test))), "test without grammar": one.parsed_free},
            "robustness": one.spread,
            "validation_losses": one.losses,
            "seconds": one.seconds,
            "peak_memory_mb": peak_memory_mb(),
            "config": plain(settings),
            "versions": versions(),
            "commit": commit(),
        },
    )
