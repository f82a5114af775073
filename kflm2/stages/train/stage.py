"""Stage 2 from a table to measured predictions: every seed is trained, measured and written."""

import contextlib
import itertools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kflm2.config.base import to_json
from kflm2.config.train import TrainConfig
from kflm2.data.molecules import Molecules
from kflm2.data.splits import Split, make_splits, with_test_learned
from kflm2.device import choose_device
from kflm2.errors import DataError, SettingError
from kflm2.predictor.bundle import check_destination, saved_as
from kflm2.predictor.export import export_bundle
from kflm2.progress import Progress
from kflm2.results import methods, schema
from kflm2.results.provenance import commit, versions
from kflm2.results.runs import Run, write_run, write_summary
from kflm2.results.saved_runs import SavedRun
from kflm2.results.schema import DatasetRecord, DevelopmentRecord, LLMRecord, RunResult
from kflm2.stages.train import plots, report
from kflm2.stages.train.development import check_seen
from kflm2.stages.train.experiment import assemble, evaluate
from kflm2.stages.train.members import Member, fit_all
from kflm2.stages.train.prepared import Prepared, prepare


def run(config: TrainConfig, molecules: Molecules | None = None) -> list[SavedRun]:
    """Train and measure one pipeline for every seed, and write the results; runs that are there already are kept.

    Args:
        config: checked. With the setting `again`, and for a model that is saved, all runs are made.
        molecules: default those of the table.

    Returns:
        The runs, one a seed.

    Raises:
        KFLM2Error: the input cannot be used.
    """
    plan = _plan(config, molecules)
    first = _make(plan, _missing(plan, config.again or plan.config.save is not None))
    write_summary(plan.folder, plan.config.resolved_split)
    runs = [SavedRun(folder, schema.read_run_result(folder)) for folder in map(plan.folder_of, plan.splits)]
    print(report.table(runs, plan.prepared.molecules, plan.prepared.source, plan.folder))
    if plan.config.save is not None and first is not None:
        if plan.config.refit:
            export_bundle(_refit(plan, first), plan.config.save, measured=first)
        else:
            export_bundle(first, plan.config.save)
        print(f"model     {plan.config.save}: kflm2 predict {plan.config.save} molecules.csv -o predicted.csv")
    return runs


def run_missing(config: TrainConfig, molecules: Molecules | None = None) -> tuple[Path, Molecules]:
    """Make the runs that are not there yet; those of the same settings, data, split and LLM are kept.

    With the setting `again` all are made.

    Args:
        config: checked.
        molecules: default those of the table.

    Returns:
        The runs' folder, and the molecules that the pipeline can read. No table is printed and no summary written: the
        runs may come from several processes.
    """
    plan = _plan(config, molecules, elsewhere="--out OUT")
    _make(plan, _missing(plan, config.again))
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
    outdated: tuple[Path, ...] = ()
    """Runs in it of other settings or data, which the first one that is made replaces."""

    def folder_of(self, seed: int) -> Path:
        """The folder of a run."""
        return self.folder / f"{self.config.split}-{seed}"


def _plan(config: TrainConfig, molecules: Molecules | None = None, elsewhere: str = "--name NAME") -> _Plan:
    config = config.resolved()
    if config.save is not None:
        check_destination(config.save)  # a folder that cannot be written should show now, not after training
    assert config.runs is not None and config.split is not None
    device = choose_device(config.device)
    prepared = prepare(config, device, molecules)
    molecules = prepared.molecules
    # every split is made before the first model is trained: a split that cannot be made should show at once
    seeds = range(config.seed, config.seed + config.runs)
    splits = make_splits(config.split, molecules.smiles, seeds, config.fractions, molecules.parts, folds=config.folds)
    by_seed = dict(zip(seeds, splits, strict=True))
    if note := report.shared_structures(molecules, config.seed, splits[0]):
        print(note, flush=True)
    for note in report.constant_targets(molecules, splits[0]):
        print(note, flush=True)
    read = by_seed if "covariates" in config.read_views else {}
    for seed, split in read.items():  # of all seeds: columns that a run cannot read should show now
        note = report.unknown_features(molecules, seed, split)
        if note and seed == config.seed:
            print(note, flush=True)
    seen = check_seen(config, molecules, by_seed)
    _check_labels(molecules, by_seed)
    # a saved model has other settings than the runs that are compared, which must not be overwritten
    name = config.name or (f"{config.model}-saved" if config.save else config.model)
    folder = config.out / molecules.dataset.name / name
    folder.mkdir(parents=True, exist_ok=True)  # a folder that cannot be written should show now, not after training
    # a file of settings must not replace anything by itself
    plan = _Plan(replace(config, again=False), device, prepared, by_seed, seen, folder)
    if config.save is not None and not config.again:
        _check_model(plan, config.save)
    return replace(plan, outdated=_outdated(plan, config.again, elsewhere))


def _check_labels(molecules: Molecules, splits: dict[int, Split]) -> None:
    """Refuse a target of which a model would learn from no label; that should show now, not after other runs.

    Raises:
        DataError: there is one, and in which run.
    """
    unlabelled = np.isnan(molecules.y_learnt)
    if not unlabelled.any():
        return
    for seed, split in splits.items():
        for number in range(len(split.folds) or 1):
            nothing = unlabelled[split.of_member(number).train].all(axis=0)
            if nothing.any():
                name = molecules.dataset.targets[int(np.flatnonzero(nothing)[0])]
                count = int((~unlabelled[:, nothing][:, 0]).sum())
                raise DataError(f"{name} has too few labels ({count}): a model of seed {seed} would learn from none")


def _check_model(plan: _Plan, folder: Path) -> None:
    """Refuse to replace a saved model by one of other settings or data.

    Raises:
        KFLM2Error: another model is there, or one that cannot be read.
    """
    made = saved_as(folder)
    if made is None:
        return
    try:
        result = schema.parse(RunResult, made, folder)
        differ = methods.differences({"seed": result.seed, **methods.identity(result)}, _identity(plan, seeded=True))
    except DataError:
        differ = "made by an earlier version, which did not keep its settings"
    if differ:
        raise SettingError(
            f"save: {folder} holds another model ({differ}): name another folder, or replace it by --again"
        )


def _outdated(plan: _Plan, again: bool, elsewhere: str) -> tuple[Path, ...]:
    """The folders of runs of other settings or data than those that are to be made; refused without `again`.

    Raises:
        SettingError: there are such runs, and they may not be removed.
        DataError: a run cannot be read, and may not be removed.
    """
    others = {}
    for path in sorted(plan.folder.glob(f"{plan.config.split}-*/{schema.FILE}")):
        if differ := _difference(plan, path.parent, again):
            others[path.parent] = differ
    if not again:
        methods.refuse_others(plan.folder, others, elsewhere)
    return tuple(others)


def _difference(plan: _Plan, folder: Path, again: bool) -> str:
    """In what a run's folder differs from the runs that are to be made; '' if in nothing."""
    try:
        if not schema.is_run_result(folder):
            return "a run of stage 3"
        return methods.differences(methods.identity(schema.read_run_result(folder)), _identity(plan))
    except DataError:
        if not again:
            raise
        return "unreadable"


def _identity(plan: _Plan, seeded: bool = False) -> dict[str, Any]:
    """What the runs that are to be made must share with others of their folder; see methods.identity."""
    config, prepared = plan.config, plan.prepared
    return {
        **({"seed": config.seed} if seeded else {}),
        **methods.settings_and_data(
            DatasetRecord.of(prepared.molecules),
            config.model,
            LLMRecord.of(prepared.source),
            to_json(config),
            None if prepared.origin is None else prepared.origin.record,
        ),
    }


def _missing(plan: _Plan, everything: bool) -> dict[int, Split]:
    """The splits of the runs that are to be made."""
    missing = {seed: split for seed, split in plan.splits.items() if everything or not _is_done(plan, seed, split)}
    if kept := [seed for seed in plan.splits if seed not in missing]:
        print(
            f"kept: {len(kept)} of {len(plan.splits)} runs that are in {plan.folder} already; --again makes them anew"
        )
        made = (schema.read_run_result(plan.folder_of(seed)) for seed in kept)
        if others := sum((result.versions, result.commit) != (versions(), commit()) for result in made):
            print(f"note: {others} of these were made by other versions, which may give other numbers")
    return missing


def _make(plan: _Plan, splits: dict[int, Split]) -> Run | None:
    """Train, measure and write; the first run is returned."""
    first = None
    for run in _runs(plan, splits, plan.config.name or plan.config.model):
        if first is None and plan.outdated:  # not before: training may fail
            (plan.folder / f"summary-{plan.config.split}.json").unlink(missing_ok=True)
            for outdated in plan.outdated:
                # another process may have replaced it meanwhile
                if outdated.is_dir() and _difference(plan, outdated, again=True):
                    shutil.rmtree(outdated, ignore_errors=True)
        folder = plan.folder_of(run.seed)
        folder.mkdir(exist_ok=True)
        plots.draw_run(run, folder)  # before result.json, which says that the run is complete
        write_run(run, folder)
        first = first or run
    return first


def _refit(plan: _Plan, measured: Run) -> Run:
    """The same run once more, on all molecules."""
    split = with_test_learned(measured.split, plan.prepared.molecules.smiles, measured.seed)
    (run,) = _runs(plan, {measured.seed: split}, "refit")
    return run


def _runs(plan: _Plan, splits: dict[int, Split], name: str) -> Iterator[Run]:
    """Train and measure; name: for the progress bar."""
    config, prepared = plan.config, plan.prepared
    tasks = [Member(seed, number) for seed in splits for number in range(config.networks)]
    with (
        Progress(total=len(tasks) * config.epochs, desc=name, unit="epoch", disable=not splits) as bar,
        contextlib.closing(fit_all(config, prepared, splits, plan.device, tasks, bar.update)) as members,
    ):
        for done, (seed, split) in enumerate(splits.items(), start=1):
            models = list(itertools.islice(members, config.networks))
            bar.update(max(0, done * config.networks * config.epochs - bar.n))  # after early stopping
            trained = assemble(config, prepared, split, models, seed)
            seconds = {
                **prepared.seconds,
                "training": round(sum(model.seconds for model in models) + trained.seconds, 3),
            }
            run = evaluate(config, prepared, split, seed, trained, seconds)
            bar.set_postfix_str(report.validation_metric(run.scores["valid"]))
            yield replace(run, development=plan.seen.get(seed))


def _is_done(plan: _Plan, seed: int, split: Split) -> bool:
    """Whether a run is there that would come out the same."""
    folder = plan.folder_of(seed)
    # runs of other settings are not here, see _check_runs; another version may split otherwise
    if not (folder / schema.FILE).is_file():
        return False
    saved = schema.read_run_result(folder)
    return saved.split.sha256 == split.sha256 and saved.development == plan.seen.get(seed)
