"""Stage 3 from a table to evaluated answers: how well an LLM alone answers a prompt with a property."""

import dataclasses
import gc
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from peft import PeftModel

from kflm2 import resources
from kflm2.config.finetune import FinetuneConfig
from kflm2.config.pipelines import PIPELINES
from kflm2.config.prompt import PromptConfig
from kflm2.config.table import TableConfig
from kflm2.config.train import TrainConfig
from kflm2.data.corpus import randomized
from kflm2.data.datasets import DATASETS
from kflm2.data.load import load
from kflm2.data.molecules import Molecules
from kflm2.data.splits import Split, make_splits
from kflm2.device import choose_device, only_device
from kflm2.errors import DataError
from kflm2.llm import checkpoints
from kflm2.llm.decoding import load_decoder
from kflm2.llm.loading import cut_layers, offline, quiet
from kflm2.llm.prompter import Prompter
from kflm2.llm.resolve import LLMSource, resolve
from kflm2.stages.prompt import report, results
from kflm2.stages.prompt.answers import Answers, PromptRun, evaluate, is_readable, stability
from kflm2.stages.prompt.few_shot import PromptBuilder
from kflm2.stages.prompt.results import Experiment
from kflm2.stages.prompt.templates import (
    MOST_DECIMALS,
    PromptSpec,
    check_template,
    parse_number,
    read_prompt_spec,
)
from kflm2.stages.train.report import constant_targets, rejections, shared_structures
from kflm2.stages.train.report import notes as table_notes
from kflm2.stages.train.stage import run as run_training
from kflm2.trainers.lora.model import LoRAModel
from kflm2.trainers.prompt_tuning import tune_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_STEPS = 10
"""Steps of the last decimal that the values' standard deviation should have."""
_CHECKED = 50
"""Right answers whose tokens are checked against the grammar before training."""


def run(config: PromptConfig) -> list[PromptRun]:
    """Train an LLM to answer, and evaluate its answers, for every seed.

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
    molecules = load(config).without_bounds()  # an answer is a number
    dataset = molecules.dataset
    path = config.prompts or resources.find("prompt", "prompts.toml")
    # the package's words are of its own datasets, and a table of the user's may have the name of one
    own = config.csv is not None and path == resources.packaged("prompts.toml")
    prompt_spec = read_prompt_spec(path, "default" if own else dataset.name, target, dataset.task)
    check_template(prompt_spec, config.template)
    _check_values(molecules, prompt_spec)
    source = resolve(config.llm, config.adapter, "last")
    if config.adapter != "auto":
        print(f"adapter: {source.adapter or 'none, the base LLM is used'}", flush=True)
    base, tokenizer = _load(source, config, device)
    builder = PromptBuilder(config, molecules, prompt_spec, tokenizer, checkpoints.folder_context(source.folder))
    molecules = builder.molecules
    seeds = range(config.seed, config.seed + config.runs)
    splits = make_splits(config.split, molecules.smiles, seeds, config.fractions, molecules.parts)
    for line in _notes(molecules, config.seed, splits[0]):
        print(line, flush=True)
    folder = config.out / dataset.name / _folder_name(config)
    folder.mkdir(parents=True, exist_ok=True)
    experiment = Experiment(config, molecules, prompt_spec, source)
    outdated = results.outdated(folder, experiment)
    runs: list[PromptRun] = []
    for seed, split in zip(seeds, splits, strict=True):
        prompt_run, base = _run(config, builder, split, seed, base, tokenizer)
        while outdated:  # not before: training may fail
            shutil.rmtree(outdated.pop())
        results.write_run(folder / f"{config.split}-{seed}", experiment, prompt_run)
        runs.append(prompt_run)
    del base
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if stage_2 is not None:
        for prompt_run in runs:
            seed = prompt_run.seed
            _compare(dataclasses.replace(stage_2, seed=seed, out=folder / "stage_2"), molecules, prompt_run)
            results.write_run(folder / f"{config.split}-{seed}", experiment, prompt_run)
    results.write_summary(folder / f"summary-{config.split}.json", experiment, runs)
    print(report.table(runs, experiment, folder))
    return runs


def _notes(molecules: Molecules, seed: int, split: Split) -> list[str]:
    """What a reader of the answers must know of the table, as stage 2 says it."""
    return [
        *table_notes(molecules, reads_covariates=False),
        *([rejections(molecules)] if molecules.rejected else []),
        *filter(None, [shared_structures(molecules, seed, split)]),
        *constant_targets(molecules, split),
    ]


def _one_target(config: PromptConfig) -> PromptConfig:
    """A prompt asks for one target: the first one, where none is named."""
    targets = config.target_columns
    if not targets:
        assert config.dataset is not None
        targets = DATASETS[config.dataset].targets
    if len(targets) > 1:
        print(f"target: {targets[0]}, the first of {len(targets)}; --target-columns takes another", flush=True)
    return dataclasses.replace(config, target_columns=targets[:1], qualifier_columns=config.qualifier_columns[:1])


def _stage_2(config: PromptConfig) -> TrainConfig | None:
    """The pipeline to compare with; checked before anything is trained."""
    if config.compare == "none":
        return None
    table = {field.name: getattr(config, field.name) for field in dataclasses.fields(TableConfig)}
    adapter = config.adapter if PIPELINES[config.compare].adapter else "none"
    values = {**table, "config": None, "llm": config.llm, "adapter": adapter, "runs": 1, "device": config.device}
    values["inner"] = "holdout"  # one model against one LLM
    values["again"] = True  # its runs lie within those of stage 3, and are replaced with them
    stage_2 = TrainConfig.of(config.compare, **values)
    stage_2.check()
    return stage_2


def _check_values(molecules: Molecules, prompt_spec: PromptSpec) -> None:
    """Refuse values that cannot be an answer, and print a note where decimals are too few.

    Raises:
        DataError: the first such value, with its row; or all values have the same answer.
    """
    y_true = molecules.y_true[:, 0]
    answers = set()
    for row, value in zip(molecules.rows, y_true, strict=True):
        try:
            if not np.isnan(value):
                answers.add(prompt_spec.format_answer(float(value)))
        except DataError as error:
            raise DataError(f"{molecules.dataset.path}, row {row}: {error}") from None
    std = float(np.nanstd(y_true))
    if prompt_spec.task == "classification" or std >= _STEPS * 10.0**-prompt_spec.decimals:
        return
    found = f"answers have {prompt_spec.decimals} decimals, and the values' sd is {std:.2g}"
    more = "a table of --prompts can ask for more"
    if std < _STEPS * 10.0**-MOST_DECIMALS:
        more = "give their logarithm, or another unit"
    if std > 0 and len(answers) == 1:
        raise DataError(f"{found}: all have the one answer{answers.pop()}; {more}")
    print(f"note: {found}; {more}", flush=True)


def _folder_name(config: PromptConfig) -> str:
    """Folder of the results, by how the LLM is prompted."""
    words = ["prompt", config.template]
    if config.shots:
        words.append(f"{config.shots}shots")
    return "_".join([*words, *([] if config.epochs else ["untaught"])])


def _load(
    source: LLMSource, config: PromptConfig, device: torch.device
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    base, tokenizer = load_decoder(source.folder, device, config.load_4bit, config.unsloth)
    if source.adapter is not None:
        cut_layers(base.model, source.layers[-1], keep_norm=True)
        # the adapter of stage 1 becomes part of the weights, and a fresh adapter learns to answer
        with quiet(), offline():
            base = PeftModel.from_pretrained(base, str(source.adapter)).merge_and_unload()
    return base, tokenizer


@dataclass(frozen=True)
class _Answerer:
    """An LLM with what its prompts are made of, for one seed."""

    config: PromptConfig
    builder: PromptBuilder
    prompter: Prompter
    train: list[int]
    """Molecules that examples may be taken from."""
    seed: int
    number: tuple[int, int] | None
    """Digits before and after the decimal point of a regression's answers; None for classes."""

    def __call__(self, rows: list[int], template: str, smiles: list[str] | None = None) -> Answers:
        """Answers for some molecules, also in other SMILES of them."""
        prompts = self.builder.prompts(rows, self.train, self.seed, template, smiles)
        if self.number is None:
            words = self.builder.prompt_spec.answers
            probabilities, share = self.prompter.probabilities(prompts, words)
            texts = [[words[int(yes > no)]] for no, yes in probabilities]
            return Answers(prompts, texts, probabilities[:, 1], share)
        texts = self.prompter.answers(prompts, self.number, self.config.samples, self.seed)
        values = [[value for text in samples if (value := parse_number(text)) is not None] for samples in texts]
        y_pred = np.array([np.mean(samples) if samples else np.nan for samples in values])
        return Answers(prompts, texts, y_pred, None)


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
    task = molecules.dataset.task
    labelled = {part: builder.labelled(getattr(split, part)) for part in ("train", "valid", "test")}
    for part, rows in labelled.items():
        if not rows:
            raise DataError(f"no molecule of {part} has a label")
    run = PromptRun(seed, split, labelled)
    train_answers = builder.answers(labelled["train"])
    # values that can be answered are those with as many digits as the training part has
    digits = max(len(answer.strip(" -").partition(".")[0]) for answer in train_answers)
    number = (digits, prompt_spec.decimals) if task == "regression" else None

    torch.manual_seed(seed)
    lora = FinetuneConfig(
        rank=config.rank, alpha=config.alpha, dropout=config.dropout, unsloth=config.unsloth, seed=seed
    )
    model = LoRAModel(llm, lora)
    prompter = Prompter(model.llm, tokenizer)
    if number is not None:
        prompter.check_numbers(train_answers[:_CHECKED], number)
    if config.epochs:
        train, valid = (
            prompter.rows(
                builder.prompts(labelled[part], labelled["train"], seed, config.template),
                builder.answers(labelled[part]),
                config.loss == "text",
            )
            for part in ("train", "valid")
        )
        run.losses = tune_prompts(
            model, prompter, train, valid, config.epochs, config.batch_size, config.learning_rate, seed
        )

    answer = _Answerer(config, builder, prompter, labelled["train"], seed, number)
    run.answers = {part: answer(labelled[part], config.template) for part in ("valid", "test")}
    run.unconstrained = [samples[0] for samples in prompter.answers(run.answers["test"].prompts)]
    run.unconstrained_readable = float(np.mean([is_readable(text, prompt_spec) for text in run.unconstrained]))
    evaluate(run, molecules.y_true[:, 0], task)
    run.robustness = _robustness(run, answer)
    run.seconds = round(time.perf_counter() - start, 1)
    return run, model.peft.unload()


def _robustness(run: PromptRun, answer: _Answerer) -> dict[str, dict[str, float | None]]:
    """How much the answers for the test molecules depend on how these are written and prompted."""
    config, molecules, rows = answer.config, answer.builder.molecules, run.labelled["test"]
    variants = {
        "random SMILES": [
            answer(rows, config.template, [randomized(molecules.smiles[i], number) for i in rows]).y_pred
            for number in range(config.smiles_variants)
        ],
        "paraphrases": [
            answer(rows, name).y_pred for name in answer.builder.prompt_spec.templates if name != config.template
        ],
    }
    return {
        name: stability([run.answers["test"].y_pred, *y_pred], molecules.y_true[rows, 0], molecules.dataset.task)
        for name, y_pred in variants.items()
        if y_pred
    }


def _compare(stage_2: TrainConfig, molecules: Molecules, run: PromptRun) -> None:
    """Add the metrics of a pipeline of stage 2 on the same seed and split."""
    (trained,) = run_training(stage_2, molecules)
    for part, rows in run.split.parts.items():
        if sorted(molecules.rows[rows]) != sorted(trained.table.loc[trained.rows_of(part), "row"]):
            print(f"note: stage 2 rejects other rows, so its {part} part is another and it is left out", flush=True)
            return
    (target,) = molecules.dataset.targets
    run.metrics[stage_2.model] = {
        part: targets[target] for part, targets in trained.result.targets.items() if part != "train"
    }
