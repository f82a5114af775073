"""crossAtt against what else a user would pick, on all eleven datasets.

    python benchmark/field.py --hours                     # what would run, and about how long on two cores
    python benchmark/field.py --quick                     # SAMPL and BACE, five runs, measured anew
    python benchmark/field.py --runs 1                    # the first run of each dataset and kind of split
    python benchmark/field.py HIV --methods crossAtt svm --splits cv5x5      # of one dataset two methods and a split
    python benchmark/field.py --chemprop PATH --jobs 2    # all; what is there already is not run again
    python benchmark/field.py --published FILE            # also crossAtt on ten random splits of each dataset as it is
    python benchmark/field.py --show                      # tables and pictures from existing results

Each dataset is standardised (`--standardize parent --deduplicate`; of HIV 8,000 molecules, drawn with its share of
actives) and split in two ways, cv5x5 and scaffold_cv5x5; Llinas has tests of its own. crossAtt, the same without the
LLM, and the paper's five pipelines run with their defaults and the embedded LLM, but for the epochs of tables of more
than 2,500 molecules. The baselines have crossAtt's inner folds (`kflm2 compare --baselines`); minimol is left out on
Tox21 and HIV, which MiniMol learnt from. A run uses one core, except for networks on a GPU (`--device cuda`), whose
time `--hours` does not know. The files must exist: `kflm2 datasets get all`. FILE has the columns method, dataset,
split, metric, run, value.

The runs of a method are added to docs/data/field.csv when all of them have ended, or by the next call after one that
was stopped. What is there is not run again, on this machine or on another. (`--quick` and `--trial` keep a file of
their own in OUT.) Tables show the runs that crossAtt has, and only those methods that have all of these. They go to
OUT/field.md; pictures of all datasets go to docs/, those of some to OUT.
"""

import argparse
import contextlib
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.model_selection import train_test_split

from kflm2.config.base import to_json
from kflm2.config.train import TrainConfig
from kflm2.data.datasets import DATASETS, locate
from kflm2.data.load import load
from kflm2.data.parts import LEAST_RUNS
from kflm2.data.splits import make_splits
from kflm2.errors import DataError, KFLM2Error
from kflm2.files import write_csv, write_text
from kflm2.llm.registry import EMBEDDED
from kflm2.metrics import statistics
from kflm2.metrics.scores import IN_UNITS, SMALLER_IS_BETTER, primary_metric
from kflm2.metrics.statistics import LEAST_DATASETS, Design, Pair, holm, over_datasets
from kflm2.plotting import BLUE, GREY, INK, ORANGE, SHADE, save_figure, styled
from kflm2.results import methods, schema
from kflm2.results.provenance import method_settings
from kflm2.stages.compare.comparison import conclude
from kflm2.stages.compare.pairing import published_of, read_published
from kflm2.stages.compare.stage import run_baseline
from kflm2.stages.train.prepared import LEARNT_BY_MINIMOL
from kflm2.stages.train.stage import run_missing
from kflm2.text_table import markdown

DOCS = Path(__file__).parents[1] / "docs"
PIPELINES = ("combined_base", "gcn_indepent", "combined", "combinedAtt", "combinedSepAtt")
NO_LLM = "no-LLM"
"""crossAtt that reads the graph and the descriptors alone."""
FOLDS = "folds"
"""crossAtt after one epoch: the baselines read their molecules and inner folds from its runs."""
TRAINED = ("crossAtt", NO_LLM, *PIPELINES)
BASELINES = ("mean", "knn", "forest", "xgboost", "svm", "minimol")
CHEMPROP = ("chemprop", "chemprop-rdkit")
METHODS = (*TRAINED, *BASELINES, *CHEMPROP)
SPLITS = ("cv5x5", "scaffold_cv5x5", "given", "random")
"""random: of the tables as written, beside published means."""
RIVALS = ("chemprop", "chemprop-rdkit", "minimol", "svm", "forest", "xgboost", NO_LLM)
WORDS = {
    NO_LLM: "without the LLM",
    "minimol": "MiniMol + SVM",
    "svm": "SVM",
    "xgboost": "XGBoost",
    "chemprop-rdkit": "chemprop with RDKit's descriptors",
    "knn": "5-NN",
}
"""Of methods in tables, where the name does not say it."""
SMALL = ("SAMPL", "Delaney", "BACE", "BBBP", "ClinTox", "SIDER")
"""Datasets of which several repeats of cv5x5 are run; of the others, and of scaffolds, the first."""
ONE_REPEAT = 5
"""Runs: five folds."""
QUICK = ("SAMPL", "BACE")
LARGE = 2500
"""From this number of molecules on a network is trained for fewer epochs."""
EPOCHS_OF_LARGE = 30
HIV_MOLECULES = 8000
TRIAL_MOLECULES = 100
EPOCHS_OF_TRIAL = 2
# Said before any run: the difference that matters, of the RMSE in its unit or of the ROC-AUC.
PRACTICAL = {"SAMPL": 0.1, "Delaney": 0.05, "Lipophilicity": 0.05, "Llinas": 0.05, "Warrior": 0.1}
PRACTICAL_AUC = 0.02
DEVELOPMENT = ("SAMPL", "Delaney")
"""crossAtt's settings were chosen on them, so that they say nothing about other datasets."""
# Seconds of one core for a molecule and a run, of trees and machines for each target; of no-LLM and of a pipeline, as a
# share of crossAtt's. For --hours.
SECONDS = {
    "crossAtt": 0.14,
    "a character": 0.0106,
    NO_LLM: 0.5,
    "voting forest": 0.006,
    "pipeline": 0.08,
    "forest": 0.01,
    "xgboost": 0.04,
    "svm": 0.02,
    "minimol": 0.04,
    "mean": 0.0,
    "knn": 0.002,
    "chemprop": 0.35,
    "chemprop-rdkit": 0.35,
}


@dataclass(frozen=True)
class Part:
    """One dataset and one kind of split."""

    dataset: str
    split: str
    runs: int
    trial: bool = False
    as_written: bool = False
    """For published metrics: nothing is standardised, no row left out."""
    device: str = "cpu"
    """On which the networks are trained."""

    def config(self, method: str, out: Path) -> TrainConfig:
        """Of a pipeline, of crossAtt without the LLM, or of FOLDS."""
        changes: dict[str, Any] = {}
        if method == NO_LLM:
            changes = {"name": NO_LLM, "views": ("graph", "descriptors")}
        elif method == FOLDS:
            changes = {"name": FOLDS, "voters": ()}
        table: dict[str, Any] = {"dataset": self.dataset}
        if self.dataset == "HIV" and not self.as_written:
            table = {"csv": _hiv(out), "target_columns": DATASETS["HIV"].targets, "task": "classification"}
        epochs = {"epochs": EPOCHS_OF_LARGE} if len(load(TrainConfig.of(**table)).smiles) > LARGE else {}
        if self.trial:
            epochs = {"epochs": EPOCHS_OF_TRIAL, "limit": TRIAL_MOLECULES}
        if method == FOLDS:
            epochs["epochs"] = 1
        device = "cpu" if method == FOLDS else self.device
        config = TrainConfig.of(
            "crossAtt" if method in (NO_LLM, FOLDS) else method,
            **table,
            **changes,
            standardize="canonical" if self.as_written else "parent",
            deduplicate=not self.as_written,
            split=self.split,
            runs=self.runs,
            out=self.out(out),
            llm=EMBEDDED,  # auto would take a larger one where there is a GPU
            threads=1,
            device=device,
            jobs=1 if device == "cpu" else None,  # a GPU trains all networks of all runs at once
            **epochs,
        )
        config.check()
        return config

    def runs_in(self, runs: pd.DataFrame) -> pd.DataFrame:
        """Those of the part."""
        mine = (runs["dataset"] == self.dataset) & (runs["split"] == self.split)
        return runs[mine & (runs["seed"] < self.runs)] if len(runs) else runs

    def out(self, out: Path) -> Path:
        """Of the results."""
        return out / "as_written" if self.as_written else out

    def folder(self, method: str, out: Path) -> Path:
        """Of a method's runs."""
        return self.out(out) / self.dataset / method


def main() -> None:
    """Run what is missing, then print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="datasets; default all")
    parser.add_argument("--quick", action="store_true", help=f"{' and '.join(QUICK)}, five runs of each split, anew")
    parser.add_argument(
        "--trial",
        action="store_true",
        help=f"{TRIAL_MOLECULES} molecules, {EPOCHS_OF_TRIAL} epochs, 3 runs: whether it works",
    )
    parser.add_argument(
        "--runs",
        type=int,
        default=5 * ONE_REPEAT,
        help=f"at most so many of each dataset and split; default 25 of cv5x5 of {', '.join(SMALL)}, 5 of all others",
    )
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, metavar="METHOD", help=f"to run; default all of {', '.join(METHODS)}"
    )
    parser.add_argument("--splits", nargs="+", choices=SPLITS, metavar="SPLIT", help=f"default {', '.join(SPLITS)}")
    parser.add_argument("--chemprop", type=Path, help="path of the command of chemprop 2; default without it")
    parser.add_argument("--published", type=Path, help="CSV of published runs to compare with")
    parser.add_argument("--jobs", type=int, default=joblib.cpu_count(), help="runs at a time; default one a core")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="cpu (default), or cuda to train all networks at once"
    )
    parser.add_argument("--out", type=Path, default=Path("results/field"))
    parser.add_argument("--hours", action="store_true", help="guess how long it takes, and run nothing")
    parser.add_argument("--show", action="store_true", help="run nothing: tables and pictures only")
    options = parser.parse_args()
    names = QUICK if options.quick else options.names or list(DATASETS)
    if unknown := [name for name in names if name not in DATASETS]:
        parser.error(f"no dataset {unknown[0]}; there are {', '.join(DATASETS)}")
    if options.trial:
        options.out = options.out / "trial"
    most = min(options.runs, ONE_REPEAT) if options.quick else options.runs
    splits = options.splits or SPLITS
    parts = [part for part in plan(names, most, options.trial, options.device) if part.split in splits]
    published = None if options.published is None else read_published(options.published)
    as_written = []
    if published is not None and "random" in splits and "crossAtt" in (options.methods or METHODS):
        as_written = list(_as_written(names, published, most, options.trial, options.device))
    if not options.chemprop and (without := [name for name in options.methods or () if name in CHEMPROP]):
        parser.error(f"{' and '.join(without)}: --chemprop PATH says where chemprop is")
    wanted = tuple(name for name in options.methods or METHODS if options.chemprop or name not in CHEMPROP)
    own = options.quick or options.trial
    store = (options.out if own else DOCS) / "data" / "field.csv"
    if not options.show:
        names_of = {**dict.fromkeys(parts, wanted), **dict.fromkeys(as_written, ("crossAtt",))}
        left = {part: missing(part, names, store) for part, names in names_of.items()}
        print(hours(left, options.jobs), flush=True)
        if options.hours:
            return
        start = time.perf_counter()
        for part, names in names_of.items():
            run_part(part, names, store, options)
        print(f"ran for {(time.perf_counter() - start) / 3600:.1f} hours, {options.jobs} at a time")
    for part in (*parts, *as_written):
        save_runs(part, options.out, store)
    runs = stored(store)
    beside = _beside_published(as_written, runs, published) if published is not None and as_written else []
    every = set(names) == set(DATASETS) and set(splits) == set(SPLITS)
    show(parts, runs, options.out, DOCS if every and not own else options.out, beside)


def run_part(part: Part, names: Sequence[str], store: Path, options: argparse.Namespace) -> None:
    """Run what is missing of one dataset and kind of split, and add it to the store of all runs."""
    save_runs(part, options.out, store)  # of a call that was stopped
    if not (wanted := missing(part, names, store)):
        print(f"{part.dataset}, {part.split}: all runs are in {store}", flush=True)
        return
    others = [(part, name, options.out, wanted[name], options.chemprop) for name in wanted if name not in TRAINED]
    if others:
        wanted[FOLDS] = sorted({seed for task in others for seed in task[3]})
    # of one method several runs at a time; then several methods, the slowest last
    for name in ("crossAtt", FOLDS):
        if name in wanted:
            _in_parallel(_train, [(part, name, options.out, wanted[name], options.jobs)], 1)
            save_runs(part, options.out, store)
    models = [(part, name, options.out, wanted[name]) for name in wanted if name in (NO_LLM, *PIPELINES)]
    _in_parallel(_train, models, _jobs(options))
    save_runs(part, options.out, store)
    for tasks in ([task for task in others if (task[1] in CHEMPROP) == chemprop] for chemprop in (False, True)):
        _in_parallel(_baseline, tasks, options.jobs)
        save_runs(part, options.out, store)


def _jobs(options: argparse.Namespace) -> int:
    """Commands that train at a time: a GPU trains the networks of one at once, and has no room for a second."""
    return options.jobs if options.device == "cpu" else 1


def missing(part: Part, names: Iterable[str], store: Path) -> dict[str, list[int]]:
    """Method -> seeds of the runs that the store has not; only methods of which runs are missing."""
    known = part.runs_in(stored(store))
    done = known.groupby("method")["seed"].agg(set) if len(known) else {}
    wanted = {name: sorted(set(range(part.runs)) - done.get(name, set())) for name in names}
    if part.dataset in LEARNT_BY_MINIMOL:
        wanted.pop("minimol", None)
    return {name: seeds for name, seeds in wanted.items() if seeds}


def stored(store: Path) -> pd.DataFrame:
    """Every run that was measured, here or on another machine, a line each."""
    table = pd.read_csv(store) if store.is_file() else pd.DataFrame()
    wanted = "dataset split method seed metric value coverage test_molecules training_seconds device parts".split()
    return table.reindex(columns=[*table, *(name for name in wanted if name not in table)])


def save_runs(part: Part, out: Path, store: Path) -> None:
    """Add the runs of a part that are in a folder and not in the store; those of other settings are left out."""
    lines: list[dict[str, object]] = []
    for name in METHODS:
        folder = part.folder(name, out)
        if not any(folder.glob(f"{part.split}-*/{schema.FILE}")):
            continue
        try:
            (method,) = methods.find(str(folder), part.split)
            run = next(iter(method.folds.values())).run
            assert run is not None
            if differ := _other_settings(part, name, run.result, out):
                raise DataError(f"other settings than this benchmark's: {differ}")
            lines += _runs(part, method)
        except DataError as error:
            print(f"left out  {folder}: {error}", flush=True)
    rows = pd.DataFrame(lines)
    table = pd.concat([known for known in (stored(store), rows) if len(known)] or [rows])
    if len(table):
        store.parent.mkdir(parents=True, exist_ok=True)
        write_csv(store, table.drop_duplicates(["dataset", "split", "method", "seed"], keep="first"))


def _other_settings(part: Part, name: str, result: schema.RunResult, out: Path) -> str:
    """In what a run differs from those that are made now; '' in nothing that its settings show."""
    if result.llm is not None and result.llm.name != EMBEDDED:
        return f"LLM {result.llm.name}, not {EMBEDDED}"
    wanted = method_settings(to_json(part.config(name if name in TRAINED else FOLDS, out).resolved()))
    found = result.config if result.baseline else method_settings(result.config)
    names = ("split", "limit", "inner", "ensemble") if result.baseline else wanted.keys() - {"llm"}
    return methods.differences({key: found.get(key) for key in names}, {key: wanted.get(key) for key in names})


def plan(names: Iterable[str], runs: int = 5 * ONE_REPEAT, trial: bool = False, device: str = "cpu") -> Iterator[Part]:
    """Dataset and split of every experiment, the quickest datasets first; runs: at most so many."""
    one_repeat = min(3 if trial else ONE_REPEAT, runs)
    several = min(5 * ONE_REPEAT, runs)
    for name in sorted(names, key=[*SMALL, *(name for name in DATASETS if name not in SMALL)].index):
        if DATASETS[name].brings_tests:
            yield Part(name, "given", one_repeat, trial, device=device)
            continue
        yield Part(name, "cv5x5", several if name in SMALL and not trial else one_repeat, trial, device=device)
        yield Part(name, "scaffold_cv5x5", one_repeat, trial, device=device)


def _as_written(names: Iterable[str], published: pd.DataFrame, runs: int, trial: bool, device: str) -> Iterator[Part]:
    """Up to ten random splits of each dataset of which others published runs on random splits."""
    known = set(published.loc[published["split"] == "random", "dataset"])
    runs = min(3 if trial else 10, runs)
    parts = (Part(name, "random", runs, trial, as_written=True, device=device) for name in names)
    yield from (part for part in parts if part.dataset in known)


def hours(left: dict[Part, dict[str, list[int]]], jobs: int) -> str:
    """What will run and about how long; of each part the runs that are missing."""
    total, lines = 0.0, []
    for part, wanted in left.items():
        if not wanted:
            continue
        dataset, _ = locate(part.dataset)
        smiles = load(TrainConfig.of(dataset=part.dataset)).smiles
        count = min(len(smiles), HIV_MOLECULES) if part.dataset == "HIV" else len(smiles)
        count = TRIAL_MOLECULES if part.trial else count
        length = float(np.mean([len(text) for text in smiles[:500]]))
        share = (EPOCHS_OF_TRIAL if part.trial else EPOCHS_OF_LARGE if count > LARGE else 100) / 100
        network = (SECONDS["crossAtt"] + SECONDS["a character"] * length) * share
        core_hours = 0.0
        for name, seeds in wanted.items():
            if name in TRAINED:
                seconds = network * (1 if name == "crossAtt" else SECONDS.get(name, SECONDS["pipeline"]))
                if name not in PIPELINES and dataset.task == "classification":
                    seconds += SECONDS["voting forest"] * len(dataset.targets)
            else:
                seconds = SECONDS[name] if name in CHEMPROP else SECONDS[name] * len(dataset.targets)
            core_hours += seconds * count * len(seeds) / 3600
        words = f"{part.split}, as written" if part.as_written else part.split
        runs = sum(map(len, wanted.values()))
        lines.append([f"{part.dataset}, {words}", f"{count:,}", str(len(wanted)), str(runs), f"{core_hours:.1f}"])
        total += core_hours
    table = markdown([["", "molecules", "methods", "runs of all", "core hours"], *lines])
    return "\n".join([*table, f"about {total / jobs:.1f} hours, {jobs} at a time, for what is not there yet"])


def _in_parallel(function: Callable[..., None], tasks: Iterable[tuple[Any, ...]], jobs: int) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    joblib.Parallel(n_jobs=jobs, batch_size=1)(joblib.delayed(_logged)(function, task) for task in tasks)


def _logged(function: Callable[..., None], task: tuple[Any, ...]) -> None:
    """Run a task with its output in a file."""
    part, method, out, *_ = task
    log = out / "logs" / f"{part.dataset}-{part.split}-{method}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with open(log, "w", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            function(*task)
            end = f"{time.perf_counter() - start:.0f} s"
        except KFLM2Error as error:  # the others go on
            end = f"FAILED, {error}"
    print(f"{part.dataset}, {part.split}, {method}: {end}", flush=True)


def _train(part: Part, method: str, out: Path, seeds: Sequence[int], jobs: int = 1) -> None:
    config = part.config(method, out)
    starts = [seed for seed in seeds if seed - 1 not in seeds]
    for start in starts:
        runs = next(count for count in itertools.count(1) if start + count not in seeds)
        run_missing(replace(config, seed=start, runs=runs, jobs=config.jobs and jobs))


def _baseline(part: Part, name: str, out: Path, seeds: Sequence[int], program: Path | None) -> None:
    (reference,) = methods.find(str(part.folder(FOLDS, out)), part.split, seeds)
    if lacking := sorted(set(seeds) - reference.folds.keys()):
        raise DataError(f"{FOLDS} has no run of seed {lacking[0]}")
    run_baseline(name, reference, program)


def _hiv(out: Path) -> Path:
    """A table of 8,000 molecules of HIV with its share of actives, always the same."""
    path = out / "tables" / "HIV.csv"
    if not path.exists():
        dataset, _ = locate("HIV")
        table = pd.read_csv(dataset.path)
        drawn, _ = train_test_split(table, train_size=HIV_MOLECULES, stratify=table[dataset.targets[0]], random_state=0)
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = drawn.sort_index()[[dataset.smiles_column, dataset.targets[0]]]
        write_csv(path, columns.set_axis(["smiles", dataset.targets[0]], axis=1))
    return path


def show(parts: list[Part], runs: pd.DataFrame, out: Path, docs: Path, beside: list[str]) -> None:
    """Print the tables and draw the pictures, of what is there; runs: the store; beside: lines that follow."""
    found = {part: comparable(part, runs) for part in parts}
    lines = []
    for split in dict.fromkeys(part.split for part in parts if part.split != "given"):  # runs of given tests give none
        measured: dict[str, pd.DataFrame] = {}
        judged: list[Judged] = []
        for part, mine in found.items():
            if part.split != split or mine.empty:
                continue
            metric = str(mine["metric"].iloc[0])
            # a fold of one class has no ROC-AUC, of no method; a method that lacks others is left out
            table = mine.pivot(index="seed", columns="method", values="value").dropna(how="all").dropna(axis=1)
            if len(table) < LEAST_RUNS:
                print(f"no verdict  {part.dataset}, {split}: {LEAST_RUNS} runs are needed, with {metric} {len(table)}")
                continue
            try:
                judged += _judged(part, metric, table, out)
            except DataError as error:  # the splits are made once more from the dataset's file
                print(f"no verdict  {part.dataset}, {split}: {error}")
                docs = out  # not the pictures of all datasets
                continue
            measured[part.dataset] = table if metric in SMALLER_IS_BETTER else -table
        if judged:
            p_values = holm([entry.pair.p for entry in judged])
            verdicts = {
                (entry.rival, entry.dataset): entry.verdict(p) for entry, p in zip(judged, p_values, strict=True)
            }
            lines += [f"\n### {split}\n", *_counts(verdicts)]
            draw_ranks(measured, docs / f"field-ranks-{split}.png")
            draw_pairs(judged, verdicts, docs / f"field-pairs-{split}.png")
    shown = [mine for mine in found.values() if len(mine)]
    if not shown and not beside:
        sys.exit(f"crossAtt has not run yet in {out}")
    text = "\n".join([*(tables(pd.concat(shown)) if shown else []), *lines, *beside])
    write_text(out / "field.md", text + "\n")
    print(text)


def comparable(part: Part, runs: pd.DataFrame) -> pd.DataFrame:
    """crossAtt's runs of a part, and those of the methods that have all of these."""
    mine = part.runs_in(runs)
    seeds = mine.groupby("method")["seed"].agg(set) if len(mine) else {}
    wanted = seeds.get("crossAtt", set())
    mine = mine[mine["seed"].isin(wanted)]
    tested = {name: rows.set_index("seed")[["parts", "test_molecules"]] for name, rows in mine.groupby("method")}
    problems = {}
    for name in seeds.keys() if wanted else ():
        if not wanted <= seeds[name]:
            problems[name] = "not all of crossAtt's runs are there"
        elif not _same_parts(tested[name], tested["crossAtt"]):
            problems[name] = "its parts are not crossAtt's"
        else:
            continue
        print(f"left out  {part.dataset}, {part.split}, {name}: {problems[name]}")
    return mine[~mine["method"].isin(problems)]


def _same_parts(rows: pd.DataFrame, others: pd.DataFrame) -> bool:
    """Whether two methods tested the same in each run; older rows have no digest, only the number of molecules."""
    others = others.loc[rows.index]
    digests = (rows["parts"] == others["parts"]) | rows["parts"].isna() | others["parts"].isna()
    return bool((digests & (rows["test_molecules"] == others["test_molecules"])).all())


@dataclass(frozen=True)
class Judged:
    """crossAtt and a rival on one dataset."""

    dataset: str
    unit: str
    """Of the metric."""
    rival: str
    practical: float
    smaller_is_better: bool
    design: Design
    pair: Pair
    """crossAtt minus the rival; p of the pair by itself."""

    def verdict(self, p: float) -> str:
        """What can be said of the two; p: corrected."""
        return conclude(self.pair, self.design, self.practical, self.smaller_is_better, p)


def _judged(part: Part, metric: str, table: pd.DataFrame, out: Path) -> Iterator[Judged]:
    practical = PRACTICAL.get(part.dataset, PRACTICAL_AUC)
    unit = (DATASETS[part.dataset].unit or metric) if metric in IN_UNITS else metric
    design = _design(part, table.index.tolist(), out)
    for rival in [name for name in RIVALS if name in table and "crossAtt" in table]:
        (only,) = statistics.compare(table[["crossAtt", rival]], design, practical)
        yield Judged(part.dataset, unit, rival, practical, metric in SMALLER_IS_BETTER, design, only)


def _design(part: Part, seeds: list[int], out: Path) -> Design:
    """What the runs have in common; the splits are made once more, as the runs may be of another machine."""
    config = part.config("crossAtt", out).resolved()
    assert config.split is not None
    molecules = load(config)
    splits = make_splits(config.split, molecules.smiles, seeds, config.fractions, molecules.parts)
    return Design.of([split.test for split in splits], [len(split.train) for split in splits], len(molecules.smiles))


def _runs(part: Part, method: methods.Method) -> Iterator[dict[str, object]]:
    """A line a run, with all metrics of the test part."""
    for seed, fold in method.folds.items():
        assert fold.run is not None
        result = schema.read_run_result(fold.run.folder)
        yield {
            "dataset": part.dataset,
            "split": part.split,
            "method": method.name,
            "seed": seed,
            "metric": method.record.primary_metric,
            "value": result.metrics["test"][method.record.primary_metric],
            **{name: result.metrics["test"].get(name) for name in ("MAE", "R2", "PR-AUC", "balanced accuracy", "MCC")},
            "parts": result.split.sha256[:16],
            "coverage": fold.run.coverage.share,
            "test_molecules": fold.sizes["test"],
            "training_seconds": result.seconds["training"],
            "device": result.config.get("device", "cpu"),  # a baseline has none
            "commit": result.commit,
        }


def tables(runs: pd.DataFrame) -> list[str]:
    """Means of the test metric, of crossAtt with the standard deviation: the field, then the paper's pipelines.

    Args:
        runs: rows of the store that can be compared, see comparable.
    """
    field = ("crossAtt", *RIVALS, "knn", "mean")
    lines = []
    for words, splits in (("Random folds, and given tests", ("cv5x5", "given")), ("Scaffolds", ("scaffold_cv5x5",))):
        of_split = runs[runs["split"].isin(splits)]
        for heading, names in ((words, field), (f"{words}: the paper's pipelines", ("crossAtt", *PIPELINES))):
            compared = of_split[of_split["method"].isin(names)]
            compared = compared.groupby("dataset", sort=False).filter(lambda part: part["method"].nunique() > 1)
            if len(compared):
                lines += [f"\n### {heading}\n", *_means(compared, names)]
        lines += _over_datasets(of_split, words)
    lines += ["\n### Test molecules inside the 90 % intervals of crossAtt\n", *_coverage(runs)]
    return [*lines, "\n### Minutes of a core for training one run\n", *_minutes(runs)]


def _means(runs: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """A line a dataset, regression first, and one with the folds on which crossAtt is better; the best in bold."""
    names = [name for name in names if name in set(runs["method"])]
    lines, wins, folds = [], dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for dataset, part in sorted(
        runs.groupby("dataset", sort=False), key=lambda item: DATASETS[item[0]].task, reverse=True
    ):
        metric = part["metric"].iloc[0]
        table = part.pivot(index="seed", columns="method", values="value")
        means, cells = table.mean().round(3), {}
        best = means.min() if metric in SMALLER_IS_BETTER else means.max()
        for name in names:
            cells[name] = f"{means[name]:.3f}" if name in means else "-"
            if name == "crossAtt" and len(table) > 1:
                cells[name] += f" ± {table[name].std():.3f}"
            if means.get(name) == best:  # as printed
                cells[name] = f"**{cells[name]}**"
            if name in table and "given" not in set(part["split"]):
                better = table["crossAtt"] - table[name]
                wins[name] += int((-better if metric in SMALLER_IS_BETTER else better).gt(0).sum())
                folds[name] += int(better.notna().sum())
        lines.append([dataset, metric, str(table["crossAtt"].count()), *cells.values()])
    heading = ["", "metric", "runs", *(WORDS.get(name, name) for name in names)]
    last = [f"{wins[name]} of {folds[name]}" if folds[name] and name != "crossAtt" else "" for name in names]
    return markdown([heading, *lines, ["folds on which crossAtt is better", "", "", *last]], (0, 1))


def _over_datasets(runs: pd.DataFrame, words: str) -> list[str]:
    """crossAtt against each rival with the datasets, not their runs, as the sample.

    One difference a dataset, of the means in units of what matters, so that they can be ranked.

    Args:
        runs: rows of the store that can be compared, see comparable.
        words: for the heading.
    """
    means = runs[~runs["dataset"].isin(DEVELOPMENT)].groupby(["dataset", "metric", "method"])["value"].mean()
    differences: dict[str, dict[str, float]] = {name: {} for name in RIVALS}
    for (dataset, metric), values in means.groupby(level=["dataset", "metric"]):
        mean = values.droplevel(["dataset", "metric"])
        for name in [name for name in RIVALS if name in mean]:
            better = mean[name] - mean["crossAtt"] if metric in SMALLER_IS_BETTER else mean["crossAtt"] - mean[name]
            differences[name][str(dataset)] = better / PRACTICAL.get(str(dataset), PRACTICAL_AUC)
    tested = {name: list(found.values()) for name, found in differences.items() if len(found) >= LEAST_DATASETS}
    if not tested:
        return []
    corrected = holm([over_datasets(values) for values in tested.values()])
    lines = []
    for (name, values), p in zip(tested.items(), corrected, strict=True):
        middle = float(np.median(values))
        verdict = "not told apart" if p >= 0.05 else "better" if middle > 0 else "worse"
        better = str(sum(value > 0 for value in values))
        lines.append([WORDS.get(name, name), str(len(values)), better, f"{middle:+.2f}", f"{p:.3f}", verdict])
    heading = ["crossAtt against", "datasets", "better mean on", "median difference", "p", "crossAtt is"]
    return [f"\n### {words}: over the datasets\n", *markdown([heading, *lines])]


def _coverage(runs: pd.DataFrame) -> list[str]:
    """A line a dataset: how much of the test part crossAtt's intervals hold, mean over the runs."""
    mine = runs[runs["method"] == "crossAtt"]
    held = mine.pivot_table(index="dataset", columns="split", values="coverage", sort=False)
    lines = [
        [str(dataset), *("-" if np.isnan(share) else f"{100 * share:.1f} %" for share in row)]
        for dataset, row in held.iterrows()
    ]
    return markdown([["", *held.columns], *lines])


def _minutes(runs: pd.DataFrame) -> list[str]:
    """A line a dataset: the median over the runs of both kinds of split, of those on a CPU."""
    runs = runs[runs["device"] == "cpu"]
    names = [name for name in ("crossAtt", *RIVALS, *PIPELINES) if name in set(runs["method"])]
    median = runs.pivot_table(
        index="dataset", columns="method", values="training_seconds", aggfunc="median", sort=False
    )
    lines = [
        [str(dataset), *("-" if np.isnan(row[name]) else _two_digits(row[name] / 60) for name in names)]
        for dataset, row in median.iterrows()
    ]
    return markdown([["", *(WORDS.get(name, name) for name in names)], *lines])


def _two_digits(number: float) -> str:
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"


def _counts(verdicts: dict[tuple[str, str], str]) -> list[str]:
    """On how many datasets crossAtt is better than each rival, alike, not told apart, or worse."""
    lines = [["crossAtt against", "datasets", "better", "alike, or less than matters", "not told apart", "worse"]]
    for rival in RIVALS:
        words = [verdict for (name, _), verdict in verdicts.items() if name == rival]
        if not words:
            continue
        better, worse = (words.count(f"{name} is better") for name in ("crossAtt", rival))
        alike = sum(word in ("alike", "differ by less than matters") for word in words)
        lines.append(
            [
                WORDS.get(rival, rival),
                *map(str, (len(words), better, alike, len(words) - better - alike - worse, worse)),
            ]
        )
    return [*markdown(lines), "", "p by Holm's method over all rivals and datasets of a kind of split"]


def _beside_published(parts: list[Part], runs: pd.DataFrame, published: pd.DataFrame) -> list[str]:
    """crossAtt's mean beside what others published of random splits, and in how many cells ours is better."""
    others = list(dict.fromkeys(published["method"]))
    lines, lower, cells = [["", "metric", "runs", "crossAtt", *others]], 0, 0
    for part in parts:
        dataset = DATASETS[part.dataset]
        metric = primary_metric(dataset.task, len(dataset.targets))
        mine = part.runs_in(runs)
        ours = mine.loc[mine["method"] == "crossAtt", "value"].astype(float)
        means = {
            name: mean for name, split, _, mean, _ in published_of(published, part.dataset, metric) if split == "random"
        }
        row = [part.dataset, metric, str(len(ours)), f"{ours.mean():.3f} ± {ours.std():.3f}" if len(ours) else "-"]
        for name in others:
            if name not in means:  # another metric, such as ROC-AUC of rounded predictions
                row.append("-")
                continue
            row.append(f"{means[name]:.3f}")
            if len(ours):
                lower += (ours.mean() < means[name]) == (metric in SMALLER_IS_BETTER)
                cells += 1
        lines.append(row)
    counted = f"crossAtt's mean is better than {lower} of {cells} published ones; only equal metrics are compared"
    return [
        "\n### Beside published means, random splits of the tables as written\n",
        *markdown(lines, (0, 1)),
        "",
        counted,
    ]


@styled
def draw_ranks(tables: dict[str, pd.DataFrame], path: Path) -> None:
    """Mean rank of each method that has run on all datasets: a dot a dataset, a bar for their mean.

    Args:
        tables: dataset -> a row a run, a column a method; the smaller the better.
        path: of the picture.
    """
    # among methods of which some have not run, a rank would depend on which
    common = sorted(set.intersection(*(set(table) for table in tables.values())))
    ranks = pd.DataFrame({name: table[common].rank(axis=1).mean() for name, table in tables.items()})
    ranks = ranks.loc[ranks.mean(axis=1).sort_values().index]
    figure = Figure(figsize=(6.5, 1.2 + 0.32 * len(ranks)))
    axis = figure.subplots()
    for row, (name, values) in enumerate(ranks.iterrows()):
        color = BLUE if name == "crossAtt" else GREY
        axis.plot(values, [row] * len(values), ".", color=color, alpha=0.5)
        axis.plot(values.mean(), row, "|", color=color, ms=16, mew=2.5)
    axis.set_yticks(range(len(ranks)), [WORDS.get(name, name) for name in ranks.index], parse_math=False)
    axis.set_ylim(len(ranks) - 0.5, -0.5)
    axis.set_xlabel("rank among these methods, mean over the runs; 1 is the best")
    datasets = {1: "the dataset", 2: "both datasets"}.get(len(tables), f"all {len(tables)} datasets")
    axis.set_title(f"methods that have run on {datasets}; a dot each, a bar for the mean", fontsize=9)
    save_figure(figure, path)


@styled
def draw_pairs(judged: list[Judged], verdicts: dict[tuple[str, str], str], path: Path) -> None:
    """How much crossAtt's error is smaller than each rival's, in units of what matters; a panel a dataset."""
    datasets = list(dict.fromkeys(entry.dataset for entry in judged))
    rivals = [name for name in RIVALS if any(entry.rival == name for entry in judged)]
    columns = 2 if len(datasets) in (2, 4) else min(3, len(datasets))
    rows = -(-len(datasets) // columns)
    figure = Figure(figsize=(3 * max(columns, 2), 0.7 + (0.6 + 0.2 * len(rivals)) * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axis, dataset in zip(axes, datasets, strict=False):
        axis.axvspan(-1, 1, color=SHADE, lw=0)
        axis.axvline(0, color=INK, lw=0.8)
        for entry in judged:
            if entry.dataset != dataset:
                continue
            sign = (-1 if entry.smaller_is_better else 1) / entry.practical
            verdict = verdicts[entry.rival, dataset]
            color = BLUE if verdict == "crossAtt is better" else ORANGE if verdict.endswith("is better") else GREY
            row = rivals.index(entry.rival)
            axis.plot([sign * entry.pair.low, sign * entry.pair.high], [row, row], color=color, lw=2)
            axis.plot(sign * entry.pair.difference, row, "o", color=color, ms=5)
        axis.set_title(f"{dataset}, {_matters(judged, dataset)}", fontsize=8)
        axis.set_yticks(range(len(rivals)), [WORDS.get(name, name) for name in rivals], parse_math=False, fontsize=8)
        axis.set_ylim(len(rivals) - 0.5, -0.5)
    for axis in axes[len(datasets) :]:
        axis.set_visible(False)
    figure.supxlabel(
        "better than the rival by so many times what matters (shaded); 95 % interval of each pair alone\n"
        "with Holm's correction over all pairs, blue: crossAtt is better, orange: the rival, grey: neither is shown",
        fontsize=8,
    )
    save_figure(figure, path)


def _matters(judged: list[Judged], dataset: str) -> str:
    """`1 is 0.1 kcal/mol`, of a dataset."""
    entry = next(entry for entry in judged if entry.dataset == dataset)
    return f"1 is {entry.practical:g} {entry.unit}"


if __name__ == "__main__":
    main()
