"""Stage 2 from a table to measured predictions: every seed is trained, measured and written."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tqdm import tqdm

from kflm2.config.base import to_json
from kflm2.config.train import TrainConfig
from kflm2.data.molecules import Molecules
from kflm2.data.splits import Split, make_splits
from kflm2.device import choose_device
from kflm2.predictor.bundle import check_destination
from kflm2.predictor.export import export_bundle
from kflm2.results import schema
from kflm2.results.provenance import method_settings
from kflm2.results.runs import Run, write_run, write_summary
from kflm2.results.schema import DevelopmentRecord, LLMRecord
from kflm2.stages.train import plots, report
from kflm2.stages.train.development import check_seen
from kflm2.stages.train.experiment import Prepared, evaluate, prepare, train


def run(config: TrainConfig) -> list[Run]:
    """Train and measure one pipeline for every seed, and write the results.

    Args:
        config: checked.

    Returns:
        The runs, one a seed.

    Raises:
        KFLM2Error: the input cannot be used.
    """
    plan = _plan(config)
    runs = list(_runs(plan, plan.splits))
    write_summary(runs, plan.folder / f"summary-{plan.config.split}.json")
    print(report.table(runs, plan.folder))
    if plan.config.save is not None:
        export_bundle(runs[0], plan.config.save)
        print(f"model     {plan.config.save}: kflm2 predict {plan.config.save} molecules.csv -o predicted.csv")
    return runs


def run_missing(config: TrainConfig, molecules: Molecules | None = None) -> tuple[Path, Molecules]:
    """Make the runs that are not there yet; those of the same settings, data, split and LLM are kept.

    Args:
        config: checked.
        molecules: default those of the table.

    Returns:
        The runs' folder, and the molecules that the pipeline can read. No table is printed and no summary written: the
        runs may come from several processes.
    """
    plan = _plan(config, molecules)
    missing = {seed: split for seed, split in plan.splits.items() if not _is_done(plan, seed, split)}
    for _ in _runs(plan, missing):
        pass
    return plan.folder, plan.prepared.molecules


@dataclass(frozen=True)
class _Plan:
    """What is decided before the first model is trained."""

    config: TrainConfig
    """Resolved."""
    device: torch.device
    prepared: Prepared
    splits: dict[int, Split]
    """Seed -> split."""
    seen: dict[int, DevelopmentRecord]
    """Of the runs whose test molecules the search saw that chose the settings."""
    folder: Path


def _plan(config: TrainConfig, molecules: Molecules | None = None) -> _Plan:
    config = config.resolved()
    if config.save is not None:
        check_destination(config.save)  # a folder that cannot be written should show now, not after training
    assert config.runs is not None and config.split is not None
    device = choose_device(config.device)
    prepared = prepare(config, device, molecules)
    molecules = prepared.molecules
    # every split is made before the first model is trained: a split that cannot be made should show at once
    seeds = range(config.seed, config.seed + config.runs)
    splits = make_splits(config.split, molecules.smiles, seeds, config.fractions, molecules.parts)
    by_seed = dict(zip(seeds, splits, strict=True))
    seen = check_seen(config, molecules, by_seed)
    # a saved model has other settings than the runs that are compared, which must not be overwritten
    name = config.name or (f"{config.model}-saved" if config.save else config.model)
    folder = config.out / molecules.dataset.name / name
    folder.mkdir(parents=True, exist_ok=True)  # a folder that cannot be written should show now, not after training
    return _Plan(config, device, prepared, by_seed, seen, folder)


def _runs(plan: _Plan, splits: dict[int, Split]) -> Iterator[Run]:
    """Train, measure and write, run after run."""
    config, prepared = plan.config, plan.prepared
    epochs = config.members * config.epochs
    title = config.name or config.model
    with tqdm(total=len(splits) * epochs, desc=title, unit="epoch", disable=not splits) as bar:
        for done, (seed, split) in enumerate(splits.items(), start=1):
            start = time.perf_counter()
            trained = train(config, prepared, split, seed, plan.device, bar.update)
            bar.update(done * epochs - bar.n)  # after early stopping
            seconds = {**prepared.seconds, "training": round(time.perf_counter() - start, 3)}
            run = replace(evaluate(config, prepared, split, seed, trained, seconds), development=plan.seen.get(seed))
            bar.set_postfix_str(report.validation_metric(run.scores["valid"]))
            folder = plan.folder / f"{config.split}-{seed}"
            write_run(run, folder)
            plots.draw_run(run, folder)
            yield run


def _is_done(plan: _Plan, seed: int, split: Split) -> bool:
    """Whether a run is there that would come out the same."""
    folder = plan.folder / f"{plan.config.split}-{seed}"
    if not (folder / schema.FILE).is_file():
        return False
    saved = schema.read_run_result(folder)
    return (
        method_settings(to_json(plan.config)) == method_settings(saved.config)
        and saved.split.sha256 == split.sha256
        and saved.development == plan.seen.get(seed)
        and saved.dataset.sha256 == plan.prepared.molecules.sha256
        and saved.llm == LLMRecord.of(plan.prepared.source)
    )
