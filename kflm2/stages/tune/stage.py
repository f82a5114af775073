"""The hyperparameter search: trials measured on molecules that are not for testing, and what a study leaves."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from kflm2 import resources
from kflm2.config.base import to_json
from kflm2.config.train import TrainConfig
from kflm2.config.tune import DEFAULT_TRIALS, TUNABLE, TuneConfig
from kflm2.data.molecules import Molecules
from kflm2.data.splits import Split, groups_of, make_splits, structure_groups, with_folds
from kflm2.device import choose_device
from kflm2.errors import SettingError
from kflm2.files import write_json
from kflm2.metrics.scores import SCALED_RMSE, score, summarize
from kflm2.progress import Progress
from kflm2.results.provenance import commit, versions
from kflm2.results.schema import DatasetRecord
from kflm2.stages.train.development import search_record
from kflm2.stages.train.experiment import assemble, train
from kflm2.stages.train.members import Member, fit_member, fit_ridge, scaled_features
from kflm2.stages.train.prepared import Prepared, load_readable, prepare
from kflm2.stages.train.stage import run as run_training
from kflm2.stages.tune import report
from kflm2.stages.tune.study import Search, Space, open_search, read_space
from kflm2.text_table import mean_and_std

_NOT_OF_TRIALS = ("out", "device", "jobs", "runs", "name", "save", "refit", "development", "search")
"""Settings that do not change a trial."""


def run(config: TuneConfig) -> None:
    """Search, and write trials, pictures and the best settings; nested, within every outer split.

    Args:
        config: checked.

    Raises:
        KFLM2Error: the input cannot be used.
    """
    resolved = config.resolved()
    # voters, their weights and the columns of the ridge depend on what a trial chooses, so that each resolves them
    resolved = dataclasses.replace(
        config, split=resolved.split, runs=resolved.runs, ensemble=resolved.ensemble, inner=resolved.inner
    )
    default = "grid.toml" if config.sampler == "grid" else "space.toml"
    whole = read_space(config.space or resources.find("hyperparameter", default), TUNABLE)
    space = whole.without(config.given)
    print(f"searched  {', '.join(space.parameters)}")
    if fixed := [name for name in whole.parameters if name in config.given]:
        print(f"fixed     {', '.join(f'{name} {getattr(config, name)}' for name in fixed)}, as given")
    trials = config.trials or DEFAULT_TRIALS
    if config.sampler == "grid":
        combinations = len(space.grid())
        trials = min(config.trials or combinations, combinations)
        print(f"grid      {trials} of {combinations} combinations")
    resolved = dataclasses.replace(resolved, trials=trials)
    # before any split: a molecule that is rejected later would change who is set aside
    molecules = load_readable(resolved.train_config().resolved(), choose_device(config.device))
    seeds = range(config.seed, config.seed + max(1, config.nested))
    splits = make_splits(config.resolved_split, molecules.smiles, seeds, config.fractions, molecules.parts)
    if config.nested > 1 and len({split.sha256 for split in splits}) == 1:
        raise SettingError(f"--nested {config.nested}: the split {config.resolved_split} is the same for every seed")
    folder = config.out / molecules.dataset.name / config.model / f"tune-{config.sampler}"
    if not config.nested:
        _search(resolved, space, molecules, splits[0], config.seed, folder)
        return
    outer = []
    for seed, split in zip(seeds, splits, strict=True):
        chosen = _search(resolved, space, molecules, split, seed, folder / f"outer-{seed}")
        outer_out = folder / f"outer-{seed}"
        # what a longer search chose replaces what a shorter one did
        (outer_run,) = run_training(config.train_config(**chosen, seed=seed, runs=1, out=outer_out, again=True))
        outer.append((seed, chosen, outer_run.result.metrics["test"]))
    name = DatasetRecord.of(molecules).primary_metric
    mean, std = summarize([metrics[name] for _, _, metrics in outer])
    rows = [{"seed": seed, "chosen": chosen, "test": metrics} for seed, chosen, metrics in outer]
    nested = {"split": config.resolved_split, "figure": name, "mean": mean, "sd": std, "outer": rows}
    write_json(folder / "nested.json", nested)
    print(
        f"\nnested search: test {name} {mean_and_std(mean, std)} over {len(outer)} outer splits, each with settings of"
        f" its own\n{folder}"
    )


def _search(
    config: TuneConfig, space: Space, molecules: Molecules, split: Split, seed: int, folder: Path
) -> dict[str, Any]:
    """One study; what its best trial chose."""
    record = search_record(molecules, split, seed, config.search)
    # from here on there is no test part: neither its labels nor its molecules
    development = _only(molecules, split.not_tested)
    groups, least = None, config.folds or len(config.fractions)
    if split.kind == "given" and structure_groups(molecules.smiles, split.not_tested, split.test, least) is not None:
        groups = structure_groups(development.smiles, range(len(development.smiles)))
    task, metric = molecules.dataset.task, DatasetRecord.of(molecules).primary_metric
    fixed = to_json(config.train_config())
    identity = {
        "dataset": molecules.sha256,
        "split": split.sha256,
        "settings": {name: value for name, value in fixed.items() if name not in (*space.parameters, *_NOT_OF_TRIALS)},
        **({} if config.folds else {"inner": config.inner_splits}),
        # a study of several targets that averaged their RMSE cannot go on
        **({"metric": metric} if metric == SCALED_RMSE else {}),
        **({"replicates": "together"} if groups is not None else {}),
    }
    assert config.trials is not None
    search = open_search(
        folder,
        config.storage,
        f"{molecules.dataset.name}-{config.model}-{config.split}-{seed}",
        space,
        config.sampler,
        identity,
        minimize=task == "regression",
        prune=config.prune,
        seed=config.seed,
    )
    objective = Objective(config, development, groups)
    done = len(search.finished())
    print(
        f"study: {config.storage or folder / 'study.journal'}, {done} of {config.trials} trials finished",
        flush=True,
    )
    try:
        with Progress(total=config.trials, initial=done, desc="trials", unit="trial") as bar:
            for _ in search.run(config.trials, objective):
                bar.update(len(search.finished()) - bar.n)
                bar.set_postfix_str(report.best_so_far(search.study, metric))
            bar.update(len(search.finished()) - bar.n)
    finally:
        # Ctrl-C too leaves what was found so far
        best = config.train_config(seed=seed, runs=1, limit=None, development=False, search=record)
        chosen = _write(config, search, identity, folder, metric, best)
    if not chosen:
        reasons = sorted({str(trial.user_attrs.get("failed", "pruned")) for trial in search.finished()})
        raise SettingError(f"no trial was completed, so there are no best settings: {'; '.join(reasons)}")
    return chosen


def _only(molecules: Molecules, rows: np.ndarray) -> Molecules:
    """Some of the molecules as if the table held no others."""
    return dataclasses.replace(molecules, read=len(rows), rejected=(), parts=None).take(rows.tolist())


class Objective:
    """The metric of settings on molecules that are not for testing.

    These are split again, in the way of the outer split, into parts to train, to choose the epoch, and to measure; the
    metric is the mean over several inner splits, the same for every trial. With inner folds it is the metric of the
    out-of-fold predictions of the whole ensemble.
    """

    def __init__(self, config: TuneConfig, molecules: Molecules, replicates: list[list[int]] | None = None) -> None:
        """Make the inner splits.

        Args:
            config: see TuneConfig.
            molecules: of train and valid.
            replicates: rows of a given split that stay together, see structure_groups; default none do.
        """
        self.config, self.molecules, self._replicates = config, molecules, replicates
        self.device = choose_device(config.device)
        assert config.split is not None
        self._kind = "random" if config.split in ("given", "cv5x5") else config.split
        _ = self._groups if config.folds else self.splits  # which cannot be made should show at once
        # views are computed once for settings that read the same ones
        self._prepared = functools.lru_cache(maxsize=4)(self._prepare)

    @functools.cached_property
    def splits(self) -> list[Split]:
        """The inner splits of trials with a holdout."""
        smiles, config = self.molecules.smiles, self.config
        seeds = range(config.inner_splits)
        return make_splits(self._kind, smiles, seeds, config.fractions, together=self._replicates)

    @functools.cached_property
    def _groups(self) -> list[list[int]] | None:
        """What the inner folds of a trial keep together."""
        return self._replicates or groups_of(self._kind, self.molecules.smiles)

    def _prepare(self, views: tuple[tuple[str, str], ...]) -> Prepared:
        return prepare(self.config.train_config(**dict(views)).resolved(), self.device, self.molecules)

    def __call__(self, trial: optuna.trial.Trial, chosen: dict[str, Any]) -> float:
        """Mean metric over the inner splits; NaN where a model's predictions are not finite.

        Raises:
            TrialPruned: it is worse than the median of the others.
            SettingError: the chosen settings do not go together.
        """
        config = self.config.train_config(**chosen)
        config.check()
        config = config.resolved()
        if bool(config.folds) != bool(self.config.folds):
            raise SettingError(
                f"a model of {config.members} has no inner folds, by which the other trials are measured"
            )
        of_views = ("layers", "adapter", "descriptors", "attend", "inner")
        prepared = self._prepared(tuple((name, chosen[name]) for name in of_views if name in chosen))
        if config.folds:
            return self._of_folds(trial, config, prepared)
        values: list[float] = []
        for number, split in enumerate(self.splits):
            y_pred = train(config, prepared, split, number, self.device).y_pred[split.test]
            values.append(self._metric(y_pred, split.test, split.train))
            if np.isnan(values[-1]) and np.isfinite(y_pred).all():
                trial.set_user_attr("undefined", self._undefined(number))
                return float("nan")
            _report(trial, values, len(self.splits))
        trial.set_user_attr("figures", values)
        return float(np.mean(values))

    def _of_folds(self, trial: optuna.trial.Trial, config: TrainConfig, prepared: Prepared) -> float:
        """Metric of the out-of-fold predictions; a trial is pruned by its first folds."""
        everything, none = np.arange(len(self.molecules.smiles)), np.zeros(0, dtype=int)
        split = with_folds(Split(self.config.resolved_split, everything, none, none), config.folds, 0, self._groups)
        features, _ = scaled_features(config, prepared, split)
        base = None
        if config.baseline_model == "ridge" and features.unscaled is not None:
            base = fit_ridge(config, features, self.molecules, split).predict(features.unscaled)
        members, values = [], []
        for number, fold in enumerate(split.folds):
            members.append(fit_member(config, prepared, {0: split}, self.device, Member(0, number)))
            y_pred = members[-1].predict(features.subset(fold))
            if base is not None:
                y_pred = y_pred + base[number, fold]
            values.append(self._metric(y_pred, fold, split.of_member(number).train))
            _report(trial, values, len(split.folds))
        members += [
            fit_member(config, prepared, {0: split}, self.device, Member(0, number))
            for number in range(len(members), config.networks)
        ]
        trial.set_user_attr("figures", values)
        return self._metric(assemble(config, prepared, split, members, 0).y_pred, everything, everything)

    def _undefined(self, number: int) -> str:
        """Why there is no metric of an inner split whose predictions are numbers."""
        metric = DatasetRecord.of(self.molecules).primary_metric
        return (
            f"inner split {number} has no {metric}: the labels that test it are of one class, or too few; take fewer"
            " --inner-splits, or --inner folds"
        )

    def _metric(self, y_pred: np.ndarray, rows: np.ndarray, train: np.ndarray) -> float:
        """The primary metric of predictions of some rows; NaN where there is none."""
        if not np.isfinite(y_pred).all():
            return float("nan")
        y_true, thresholds = self.molecules.y_learnt, np.full(y_pred.shape[1], 0.5)
        scores = score(y_true[rows], y_pred, self.molecules.dataset.task, thresholds, y_true[train])
        value = scores.mean[scores.primary]
        return float("nan") if value is None else value


def _report(trial: optuna.trial.Trial, values: list[float], count: int) -> None:
    """Tell the study the mean of the first of `count` values.

    Raises:
        TrialPruned: the best of what it has told is worse than the median of the other trials.
    """
    mean = float(np.mean(values))
    if np.isnan(mean):
        return
    trial.report(mean, len(values) - 1)
    if len(values) < count and trial.should_prune():
        raise optuna.TrialPruned


def _write(
    config: TuneConfig, search: Search, identity: dict[str, Any], folder: Path, metric: str, found: TrainConfig
) -> dict[str, Any]:
    """trials.csv, pictures, and best.json, `found` with what the best trial chose.

    Returns:
        What the best trial chose; {} where none was completed.
    """
    trials = search.finished()
    names = sorted(search.space.parameters)
    rows = [
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            metric: trial.value,
            "sd": summarize(trial.user_attrs.get("figures", []))[1],
            **trial.params,
            "seconds": trial.duration.total_seconds() if trial.duration else None,
            "why": trial.user_attrs.get("failed", ""),
        }
        for trial in trials
    ]
    report.write_trials(folder / "trials.csv", rows, ["trial", "state", metric, "sd", *names, "seconds", "why"])
    found_any = any(trial.state == optuna.trial.TrialState.COMPLETE and trial.value is not None for trial in trials)
    chosen = search.study.best_trial.params if found_any else {}
    splits = f"mean of {config.inner_splits} inner splits"
    if folds := dataclasses.replace(config, **chosen).folds:
        splits = f"out-of-fold, {folds} inner folds"
    print(report.summary(search.study, trials, metric, splits, folder), flush=True)
    if not found_any:
        return {}
    best = search.study.best_trial
    write_json(folder / "best.json", to_json(dataclasses.replace(found, **best.params)))
    counts = {state: sum(row["state"] == state for row in rows) for state in ("complete", "pruned", "fail")}
    write_json(
        folder / "tune.json",
        {
            **identity,
            "sampler": config.sampler,
            "space": {name: repr(distribution) for name, distribution in search.space.parameters.items()},
            "trials": counts,
            "best": {"trial": best.number, metric: best.value, "chosen": best.params, **best.user_attrs},
            "versions": versions(),
            "commit": commit(),
        },
    )
    report.draw(search.study, folder, metric)
    return dict(best.params)
