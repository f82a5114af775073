"""The search for settings: trials judged within the molecules that are not for testing, and what a study leaves."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from tqdm import tqdm

from kflm2.config.tune import TUNABLE, TuneConfig
from kflm2.data.load import load
from kflm2.data.molecules import Molecules
from kflm2.data.splits import Split, make_splits
from kflm2.device import choose_device
from kflm2.files import project_folder, write_json
from kflm2.metrics.scores import PRIMARY_METRIC, score, summarize
from kflm2.results.provenance import commit, versions
from kflm2.results.runs import plain
from kflm2.stages.train import experiment, stage
from kflm2.stages.tune import report as search_report
from kflm2.stages.tune.study import Search, Space, open_search, read_space


def run(config: TuneConfig) -> None:
    """Search, and write trials, pictures and the best settings; nested, within every outer split.

    Args:
        config: checked.

    Raises:
        KFLM2Error: the input cannot be used.
    """
    resolved = config.resolved()
    assert resolved.split is not None
    path = config.space or project_folder() / "hyperparameter" / ("grid" if config.sampler == "grid" else "space")
    space = read_space(path if config.space else path.with_suffix(".toml"), TUNABLE)
    if config.sampler == "grid":
        resolved = dataclasses.replace(resolved, trials=min(resolved.trials, len(space.grid())))
    molecules = load(config)
    seeds = range(config.seed, config.seed + max(1, config.nested))
    splits = make_splits(config.split_kind, molecules.smiles, seeds, config.fractions, molecules.parts)
    folder = config.out / molecules.dataset.name / config.model / f"tune-{config.sampler}"
    if not config.nested:
        _search(resolved, space, molecules, splits[0], config.seed, folder)
        return
    outer = []
    for seed, split in zip(seeds, splits, strict=True):
        chosen = _search(resolved, space, molecules, split, seed, folder / f"outer-{seed}")
        (one,) = stage.run(config.of_stage_2(**chosen, seed=seed, runs=1, out=folder / f"outer-{seed}"))
        outer.append((seed, chosen, one.scores["test"].mean))
    name = PRIMARY_METRIC[molecules.dataset.task]
    mean, sd = summarize([figures[name] for _, _, figures in outer])
    rows = [{"seed": seed, "chosen": chosen, "test": figures} for seed, chosen, figures in outer]
    write_json(folder / "nested.json", {"split": resolved.split, "figure": name, "mean": mean, "sd": sd, "outer": rows})
    shown = "-" if mean is None else f"{mean:.3f}" + (f" ± {sd:.3f}" if sd is not None else "")
    print(
        f"\nnested search: test {name} {shown} over {len(outer)} outer splits, each with settings of its own\n{folder}"
    )


def _search(
    config: TuneConfig, space: Space, molecules: Molecules, split: Split, seed: int, folder: Path
) -> dict[str, Any]:
    """One study; what its best trial chose."""
    # from here on there is no test part: neither its labels nor its molecules
    development = _only(molecules, np.sort(np.concatenate([split.train, split.valid])))
    task = molecules.dataset.task
    fixed = plain(config.of_stage_2())
    identity = {
        "dataset": molecules.sha256,
        "split": split.sha256,
        "settings": {name: value for name, value in fixed.items() if name not in (*space.parameters, "out", "device")},
        "inner": config.inner,
    }
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
    objective = Objective(config, development)
    done = len(search.finished())
    print(
        f"study: {config.storage or folder / 'study.journal'}, {done} of {config.trials} trials finished",
        flush=True,
    )
    try:
        with tqdm(total=config.trials, initial=done, desc="trials", unit="trial") as bar:
            for _ in search.run(config.trials, objective):
                bar.update(len(search.finished()) - bar.n)
                bar.set_postfix_str(search_report.best_so_far(search.study, PRIMARY_METRIC[task]))
            bar.update(len(search.finished()) - bar.n)
    finally:
        # Ctrl-C too leaves what was found so far
        chosen = _write(config, search, identity, folder, PRIMARY_METRIC[task])
    return chosen


def _only(molecules: Molecules, rows: np.ndarray) -> Molecules:
    """Some of the molecules as if the table held no others."""
    return dataclasses.replace(
        molecules,
        read=len(rows),
        rows=molecules.rows[rows],
        smiles=[molecules.smiles[i] for i in rows],
        y_true=molecules.y_true[rows],
        parts=None,
        rejected=(),
    )


class Objective:
    """The figure of settings on molecules that are not for testing.

    These are divided anew, in the way of the outer split, into training, choosing the epoch, and judging; the figure is
    the mean over several divisions, the same for every trial.
    """

    def __init__(self, config: TuneConfig, molecules: Molecules) -> None:
        self.config, self.molecules = config, molecules
        self.device = choose_device(config.device)
        kind = config.split if config.split not in ("given", "cv5x5", None) else "random"
        self.splits = make_splits(kind, molecules.smiles, range(config.inner), config.fractions)
        # views are computed once for settings that read the same ones
        self._prepared = functools.lru_cache(maxsize=4)(self._prepare)

    def _prepare(self, views: tuple[tuple[str, str], ...]) -> experiment.Prepared:
        return experiment.prepare(self.config.of_stage_2(**dict(views)), self.device, self.molecules)

    def __call__(self, trial: optuna.trial.Trial, chosen: dict[str, Any]) -> float:
        """Mean figure over the divisions; NaN where a model's predictions are none.

        Raises:
            TrialPruned: it is hopeless.
            SettingError: what was chosen does not go together.
        """
        own = self.config.of_stage_2(**chosen)
        own.check()
        prepared = self._prepared(
            tuple((name, chosen[name]) for name in ("layers", "adapter", "descriptors") if name in chosen)
        )
        y_true, task = self.molecules.y_true, self.molecules.dataset.task
        figures: list[float] = []
        for number, split in enumerate(self.splits):
            y_pred = experiment.train(own, prepared, split, number, self.device).y_pred
            if not np.isfinite(y_pred).all():
                return float("nan")
            judged = score(y_true[split.test], y_pred[split.test], task, np.full(y_true.shape[1], 0.5))
            figure = judged.mean[PRIMARY_METRIC[task]]
            if figure is None:
                return float("nan")
            figures.append(figure)
            trial.report(float(np.mean(figures)), number)
            if number + 1 < len(self.splits) and trial.should_prune():
                raise optuna.TrialPruned
        trial.set_user_attr("figures", figures)
        return float(np.mean(figures))


def _write(config: TuneConfig, search: Search, identity: dict[str, Any], folder: Path, figure: str) -> dict[str, Any]:
    """trials.csv, pictures, best.json; what the best trial chose, {} where none was completed."""
    trials = search.finished()
    names = sorted(search.space.parameters)
    rows = [
        {
            "trial": own.number,
            "state": own.state.name.lower(),
            figure: own.value,
            "sd": summarize(own.user_attrs.get("figures", []))[1],
            **own.params,
            "seconds": own.duration.total_seconds() if own.duration else None,
            "why": own.user_attrs.get("failed", ""),
        }
        for own in trials
    ]
    search_report.write_trials(folder / "trials.csv", rows, ["trial", "state", figure, "sd", *names, "seconds", "why"])
    completed = [own for own in trials if own.value is not None and own.state == optuna.trial.TrialState.COMPLETE]
    print(search_report.summary(search.study, trials, figure, config.inner, folder), flush=True)
    if not completed:
        return {}
    best = search.study.best_trial
    write_json(folder / "best.json", plain(config.of_stage_2(**best.params)))
    counts = {state: sum(row["state"] == state for row in rows) for state in ("complete", "pruned", "fail")}
    write_json(
        folder / "tune.json",
        {
            **identity,
            "sampler": config.sampler,
            "space": {name: repr(own) for name, own in search.space.parameters.items()},
            "trials": counts,
            "best": {"trial": best.number, figure: best.value, "chosen": best.params, **best.user_attrs},
            "versions": versions(),
            "commit": commit(),
        },
    )
    search_report.draw(search.study, folder, figure)
    return dict(best.params)
