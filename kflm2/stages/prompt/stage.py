"""Stage 3 from a table to judged answers: how well an LLM by itself answers a prompt with a property."""

import dataclasses
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from peft import PeftModel

from kflm2.config.finetune import FinetuneConfig
from kflm2.config.pipelines import PIPELINES
from kflm2.config.prompt import PromptConfig
from kflm2.config.table import TableConfig
from kflm2.config.train import TrainConfig
from kflm2.data.corpus import randomized
from kflm2.data.datasets import DATASETS, Task
from kflm2.data.load import load
from kflm2.data.molecules import Molecules
from kflm2.data.splits import Split, make_splits
from kflm2.device import choose_device, only_device
from kflm2.errors import DataError
from kflm2.files import project_folder
from kflm2.llm import adapters, checkpoints, registry, resolve
from kflm2.llm.decoding import cut, load_decoder
from kflm2.llm.loading import quiet
from kflm2.llm.prompter import Prompter
from kflm2.metrics.scores import choose_thresholds, score
from kflm2.stages.prompt import report as prompt_report
from kflm2.stages.prompt import results as prompt_evidence
from kflm2.stages.prompt.few_shot import PromptBuilder
from kflm2.stages.prompt.results import Answers, PromptRun
from kflm2.stages.prompt.templates import PromptSpec, check_template, parse, read_prompt_spec
from kflm2.stages.train import report
from kflm2.stages.train import stage as experiment
from kflm2.trainers.lora.model import LoRAModel
from kflm2.trainers.prompt_tuning import teach

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_CHECKED = 50
"""Right answers whose tokens are held against the grammar before anything is taught."""


def run(config: PromptConfig) -> list[PromptRun]:
    """Teach an LLM to answer and judge its answers, for every seed.

    Args:
        config: checked.

    Returns:
        The runs.

    Raises:
        KFLM2Error: LLM, table or prompts cannot be used.
    """
    config = _one_target(config.resolved())
    assert config.split is not None
    device = only_device(choose_device(config.device))
    (target,) = config.target_columns
    stage_2 = _stage_2(config)
    molecules = load(config)
    dataset = molecules.dataset
    path = config.prompts or project_folder() / "prompt" / "prompts.toml"
    prompt_spec = read_prompt_spec(path, dataset.name, target, dataset.task)
    check_template(prompt_spec, config.template)
    _check_values(molecules, prompt_spec)
    if config.llm == registry.AUTO:
        llm, why = resolve.auto()
        print(f"LLM: auto takes {llm.name} ({why})", flush=True)
    else:
        llm = resolve.find(config.llm)
    adapter = adapters.default_adapter(llm) if config.adapter == "auto" else None
    if config.adapter not in ("auto", "none"):
        adapter = Path(config.adapter)
    print(f"adapter: {adapter or 'none, the base LLM is taught'}", flush=True)
    checkpoint = checkpoints.checkpoint_folder(llm)
    if adapter is not None:
        adapters.check(adapter, llm, checkpoint)

    base, tokenizer = _load(checkpoint, adapter, config, device)
    builder = PromptBuilder(config, molecules, prompt_spec, tokenizer, checkpoints.folder_context(checkpoint))
    molecules = builder.molecules
    if molecules.rejected:
        print(report.rejections(molecules), flush=True)
    seeds = range(config.seed, config.seed + config.runs)
    splits = make_splits(config.split, molecules.smiles, seeds, config.fractions, molecules.parts)
    folder = config.out / dataset.name / _name(config)
    folder.mkdir(parents=True, exist_ok=True)
    made = prompt_evidence.made_from(config, molecules, prompt_spec, llm, adapter, checkpoint)
    runs: list[PromptRun] = []
    for seed, split in zip(seeds, splits, strict=True):
        one, base = _run(config, builder, split, seed, base, tokenizer)
        prompt_evidence.write_run(folder / f"{config.split}-{seed}", made, molecules, one)
        runs.append(one)
    del base
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if stage_2 is not None:
        for one in runs:
            _compare(dataclasses.replace(stage_2, seed=one.seed, out=folder / "stage_2"), molecules, one)
            prompt_evidence.write_run(folder / f"{config.split}-{one.seed}", made, molecules, one)
    prompt_evidence.write_summary(folder / f"summary-{config.split}.json", made, runs)
    print(prompt_report.table(runs, config, molecules, prompt_spec, folder))
    return runs


def _one_target(config: PromptConfig) -> PromptConfig:
    """A prompt asks for one thing: the first target, where none is named."""
    targets = config.target_columns
    if not targets:
        assert config.dataset is not None
        targets = DATASETS[config.dataset].targets
    if len(targets) > 1:
        print(f"target: {targets[0]}, the first of {len(targets)}; --target-columns takes another", flush=True)
    return dataclasses.replace(config, target_columns=targets[:1])


def _stage_2(config: PromptConfig) -> TrainConfig | None:
    """What stands beside: checked before anything is taught."""
    if config.compare == "none":
        return None
    table = {own.name: getattr(config, own.name) for own in dataclasses.fields(TableConfig)}
    adapter = config.adapter if PIPELINES[config.compare].adapter else "none"
    stage_2 = TrainConfig.of(config.compare, **table, llm=config.llm, adapter=adapter, runs=1, device=config.device)
    stage_2.check()
    return stage_2


def _check_values(molecules: Molecules, prompt_spec: PromptSpec) -> None:
    """Refuse values that cannot be answered, and say where decimals are too few.

    Raises:
        DataError: the first such value, with its row.
    """
    y = molecules.y_true[:, 0]
    for row, value in zip(molecules.rows, y, strict=True):
        try:
            if not np.isnan(value):
                prompt_spec.write(float(value))
        except DataError as error:
            raise DataError(f"{molecules.dataset.path}, row {row}: {error}") from None
    if prompt_spec.task == "regression" and np.nanstd(y) < 10 * 10.0**-prompt_spec.decimals:
        print(
            f"note: answers have {prompt_spec.decimals} decimals, and the values' sd is {np.nanstd(y):.2g}; a table of"
            " --prompts can ask for more",
            flush=True,
        )


def _name(config: PromptConfig) -> str:
    """Folder of what was asked, and how."""
    words = ["prompt", config.template]
    if config.shots:
        words.append(f"{config.shots}shots")
    return "_".join([*words, *([] if config.epochs else ["untaught"])])


def _load(
    checkpoint: Path, adapter: Path | None, config: PromptConfig, device: torch.device
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    base, tokenizer = load_decoder(checkpoint, device, config.load_4bit, config.unsloth)
    if adapter is not None:
        cut(base, adapters.layers_of(adapter))
        # what stage 1 taught becomes part of the weights, and a fresh adapter learns to answer
        with quiet():
            base = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    return base, tokenizer


def _run(
    config: PromptConfig,
    builder: PromptBuilder,
    split: Split,
    seed: int,
    llm: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
) -> "tuple[PromptRun, PreTrainedModel]":
    """One seed, and the LLM as it was before."""
    start = time.perf_counter()
    molecules, prompt_spec = builder.molecules, builder.prompt_spec
    y, task = molecules.y_true[:, 0], molecules.dataset.task
    own = {part: builder.labelled(getattr(split, part)) for part in ("train", "valid", "test")}
    for part, rows in own.items():
        if not rows:
            raise DataError(f"no molecule of {part} has a label")
    one = PromptRun(seed, split, {part: own[part] for part in ("valid", "test")})
    # values that can be answered are those of the size that training has
    digits = max(len(answer.strip(" -").partition(".")[0]) for answer in builder.answers(own["train"]))
    number = (digits, prompt_spec.decimals) if task == "regression" else None

    torch.manual_seed(seed)
    lora = FinetuneConfig(
        rank=config.rank, alpha=config.alpha, dropout=config.dropout, unsloth=config.unsloth, seed=seed
    )
    model = LoRAModel(llm, lora, 0)
    prompter = Prompter(model.llm, tokenizer)
    if number is not None:
        prompter.check_numbers(builder.answers(own["train"][:_CHECKED]), number)
    if config.epochs:
        train, valid = (
            prompter.rows(
                builder.prompts(own[part], own["train"], seed, config.template),
                builder.answers(own[part]),
                config.loss == "text",
            )
            for part in ("train", "valid")
        )
        one.losses = teach(model, prompter, train, valid, config.epochs, config.batch_size, config.learning_rate, seed)

    def ask(rows: list[int], template: str, smiles: list[str] | None = None) -> Answers:
        prompts = builder.prompts(rows, own["train"], seed, template, smiles)
        if number is None:
            both, share = prompter.probabilities(prompts, prompt_spec.answers)
            texts = [[prompt_spec.answers[int(yes > no)]] for no, yes in both]
            return Answers(prompts, texts, both[:, 1], share)
        texts = prompter.answers(prompts, number, config.samples, seed)
        values = [[value for text in few if (value := parse(text)) is not None] for few in texts]
        return Answers(prompts, texts, np.array([np.mean(few) if few else np.nan for few in values]), None)

    for part in ("valid", "test"):
        one.answered[part] = ask(own[part], config.template)
    one.free = [few[0] for few in prompter.answers(one.answered["test"].prompts)]
    one.read_free = float(np.mean([prompt_report.readable(text, prompt_spec) for text in one.free]))
    _evaluate(one, y, task, own)
    one.spread = _robustness(config, prompt_spec, molecules, own["test"], one.answered["test"], ask)
    one.seconds = round(time.perf_counter() - start, 1)
    return one, model.peft.unload()


def _evaluate(one: PromptRun, y: np.ndarray, task: Task, own: dict[str, list[int]]) -> None:
    """Figures of the answers, and of the trivial one: the training part's mean, or its share of class 1."""
    y_pred = np.full(len(y), np.nan)
    for part, answers in one.answered.items():
        y_pred[own[part]] = answers.y_pred
    trivial = np.full(len(y), np.mean(y[own["train"]]))
    cuts = np.array([np.nan])
    if task == "classification":
        known = [i for i in own["valid"] if not np.isnan(y_pred[i])]
        cuts = choose_thresholds(y[known, None], y_pred[known, None])
        one.threshold = float(cuts[0])
    name = "mean of train" if task == "regression" else "majority"
    for who, values, threshold in ((name, trivial, np.array([0.5])), ("prompting", y_pred, cuts)):
        one.figures[who] = {}
        for part, all_rows in one.split.parts.items():
            rows = [int(i) for i in all_rows if not np.isnan(y[i]) and not np.isnan(values[i])]
            if part != "train":
                figures = score(y[rows, None], values[rows, None], task, threshold)
                one.figures[who][part] = figures.targets[0]


def _robustness(
    config: PromptConfig,
    prompt_spec: PromptSpec,
    molecules: Molecules,
    rows: list[int],
    asked: Answers,
    ask: Callable[..., Answers],
) -> dict[str, dict[str, float | None]]:
    """How much the answers to the same molecules hang on how they are written and asked for."""
    y, task = molecules.y_true[rows, 0], molecules.dataset.task
    ways = {
        "random SMILES": [
            ask(rows, config.template, [randomized(molecules.smiles[i], number) for i in rows]).y_pred
            for number in range(config.writings)
        ],
        "paraphrases": [ask(rows, name).y_pred for name in prompt_spec.templates if name != config.template],
    }
    return {name: prompt_report.spread([asked.y_pred, *values], y, task) for name, values in ways.items() if values}


def _compare(stage_2: TrainConfig, molecules: Molecules, one: PromptRun) -> None:
    """The same seed and split through a pipeline of stage 2."""
    (other,) = experiment.run(stage_2)
    for part, rows in one.split.parts.items():
        if molecules.rows[rows].tolist() != other.molecules.rows[other.split.parts[part]].tolist():
            print(f"note: stage 2 rejects other rows, so its {part} part is another and it is left out", flush=True)
            return
    figures = {part: scores.targets[0] for part, scores in other.scores.items() if part != "train"}
    one.figures[stage_2.model] = figures
