"""crossAtt against what else a user would pick, on all eleven datasets.

    python benchmark/field.py --hours                     # what would run, and about how long on two cores
    python benchmark/field.py --quick                     # SAMPL and BACE, one repeat
    python benchmark/field.py --chemprop PATH --jobs 2    # all; what is there already is not run again
    python benchmark/field.py --published FILE            # also crossAtt on ten random splits of each dataset as it is
    python benchmark/field.py --show                      # tables and pictures from existing results

Each dataset is standardised (`--standardize parent --deduplicate`; of HIV 8,000 molecules, drawn with its share of
actives) and split in two ways, cv5x5 and scaffold_cv5x5; Llinas has tests of its own. crossAtt, the same without the
LLM, and the paper's five pipelines run with their defaults, but for the epochs of tables of more than 2,500 molecules.
The baselines have crossAtt's inner folds (`kflm2 compare --baselines`); minimol is left out on Tox21 and HIV, which
MiniMol learnt from. Every run is a core's, but for the networks on a GPU (`--device cuda`), whose time `--hours` does
not know. The files must exist: `kflm2 datasets get all`. FILE has the columns method, dataset, split, metric, run,
value. The runs of a method go to docs/data/field.csv when all of a dataset and split are there; what is there is not
run again, on this machine or on another. Tables go to OUT/field.md, pictures to docs/.
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.model_selection import train_test_split

from kflm2.config.train import TrainConfig
from kflm2.data.datasets import DATASETS, locate
from kflm2.data.load import load
from kflm2.data.parts import LEAST_RUNS
from kflm2.data.splits import make_splits
from kflm2.errors import KFLM2Error
from kflm2.files import write_csv, write_text
from kflm2.metrics import statistics
from kflm2.metrics.scores import IN_UNITS, SMALLER_IS_BETTER
from kflm2.metrics.statistics import Design, Pair, holm
from kflm2.plotting import BLUE, GREY, INK, ORANGE, SHADE, save_figure, styled
from kflm2.results import methods, schema
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
BASELINES = ("mean", "knn", "forest", "xgboost", "svm", "minimol")
CHEMPROP = ("chemprop", "chemprop-rdkit")
RIVALS = ("chemprop", "chemprop-rdkit", "minimol", "svm", "forest", "xgboost", NO_LLM)
SMALL = ("SAMPL", "Delaney", "BACE", "BBBP", "ClinTox", "SIDER")
"""Datasets of which several repeats of cv5x5 are run; of the others, and of scaffolds, the first."""
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
        """Of a pipeline, or of crossAtt without the LLM."""
        changes: dict[str, Any] = {}
        if method == NO_LLM:
            changes = {"name": NO_LLM, "views": ("graph", "descriptors")}
        table: dict[str, Any] = {"dataset": self.dataset}
        if self.dataset == "HIV" and not self.as_written:
            table = {"csv": _hiv(out), "target_columns": DATASETS["HIV"].targets, "task": "classification"}
        epochs = {"epochs": EPOCHS_OF_LARGE} if len(load(TrainConfig.of(**table)).smiles) > LARGE else {}
        if self.trial:
            epochs = {"epochs": EPOCHS_OF_TRIAL, "limit": TRIAL_MOLECULES}
        config = TrainConfig.of(
            "crossAtt" if method == NO_LLM else method,
            **table,
            **changes,
            standardize="canonical" if self.as_written else "parent",
            deduplicate=not self.as_written,
            split=self.split,
            runs=self.runs,
            out=self.out(out),
            threads=1,
            device=self.device,
            jobs=1 if self.device == "cpu" else None,  # a GPU trains all networks of all runs at once
            **epochs,
        )
        config.check()
        return config

    def out(self, out: Path) -> Path:
        """Of the results."""
        return out / "as_written" if self.as_written else out

    def folder(self, method: str, out: Path) -> Path:
        """Of a method's runs."""
        return self.out(out) / self.dataset / method


def main() -> None:
    """Run what is missing, then print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(DATASETS), help="datasets; default all")
    parser.add_argument("--quick", action="store_true", help=f"{' and '.join(QUICK)}, the first repeat only")
    parser.add_argument(
        "--trial",
        action="store_true",
        help=f"{TRIAL_MOLECULES} molecules, {EPOCHS_OF_TRIAL} epochs, 3 runs: whether it works",
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help=f"repeats of cv5x5 of {', '.join(SMALL)}; others have one; default 5"
    )
    parser.add_argument("--chemprop", type=Path, help="path of the command of chemprop 2; default without it")
    parser.add_argument("--published", type=Path, help="CSV of published runs to compare with")
    parser.add_argument("--jobs", type=int, default=joblib.cpu_count(), help="runs at a time; default one a core")
    parser.add_argument("--device", default="cpu", help="cpu (default), or cuda to train all networks at once")
    parser.add_argument("--out", type=Path, default=Path("results/field"))
    parser.add_argument("--hours", action="store_true", help="guess how long it takes, and run nothing")
    parser.add_argument("--show", action="store_true", help="run nothing")
    options = parser.parse_args()
    names = QUICK if options.quick else options.names
    parts = list(plan(names, 1 if options.quick else options.repeats, options.trial, options.device))
    published = None if options.published is None else read_published(options.published)
    as_written = [] if published is None else list(_as_written(names, published, options.trial, options.device))
    baselines = (*BASELINES, *(CHEMPROP if options.chemprop else ()))
    docs = options.out if options.quick or options.trial else DOCS
    if not options.show:
        left = {part: missing(part, baselines, docs / "data" / "field.csv") for part in parts}
        print(hours(left, as_written, options.jobs), flush=True)
        if options.hours:
            return
        start = time.perf_counter()
        for part in parts:
            run_part(part, baselines, docs / "data" / "field.csv", options)
        _in_parallel(_train, ((part, "crossAtt", options.out) for part in as_written), _jobs(options))
        print(f"ran for {(time.perf_counter() - start) / 3600:.1f} hours, {options.jobs} at a time")
    show(parts, options.out, docs)
    if published is not None:
        print("\n".join(_beside_published(as_written, options.out, published)))


def run_part(part: Part, baselines: Iterable[str], store: Path, options: argparse.Namespace) -> None:
    """Run what is missing of one dataset and kind of split, and add it to the store of all runs.

    crossAtt is run again where its runs are in the store and not in the folder, since the others read their molecules
    and folds from there; on another machine the digits may then differ a little from those in the store, which stay.
    """
    if not (wanted := missing(part, baselines, store)):
        print(f"{part.dataset}, {part.split}: all runs are in {store}", flush=True)
        return
    # of one method several runs at a time; then several methods, the slowest last
    _in_parallel(_train, [(part, "crossAtt", options.out, options.jobs)], 1)
    models = [(part, name, options.out) for name in (NO_LLM, *PIPELINES) if name in wanted]
    others = [(part, name, options.out, options.chemprop) for name in baselines if name in wanted]
    quick, slow = ([task for task in others if (task[1] in CHEMPROP) == chemprop] for chemprop in (False, True))
    _in_parallel(_train, models, _jobs(options))
    save_runs(part, options.out, store)
    for tasks in (quick, slow):
        _in_parallel(_baseline, tasks, options.jobs)
        save_runs(part, options.out, store)


def _jobs(options: argparse.Namespace) -> int:
    """Commands that train at a time: a GPU trains the networks of one at once, and has no room for a second."""
    return options.jobs if options.device == "cpu" else 1


def missing(part: Part, baselines: Iterable[str], store: Path) -> list[str]:
    """The methods of which the store has not all runs."""
    known = stored(store)
    known = known[(known["dataset"] == part.dataset) & (known["split"] == part.split)]
    seeds = known.groupby("method")["seed"].nunique() if len(known) else {}
    wanted = [name for name in ("crossAtt", NO_LLM, *PIPELINES, *baselines) if seeds.get(name, 0) < part.runs]
    return [name for name in wanted if name != "minimol" or part.dataset not in LEARNT_BY_MINIMOL]


def stored(store: Path) -> pd.DataFrame:
    """Every run that was measured, here or on another machine, a line each."""
    return pd.read_csv(store) if store.is_file() else pd.DataFrame(columns=["dataset", "split", "method", "seed"])


def save_runs(part: Part, out: Path, store: Path) -> None:
    """Add the runs of a part that are in a folder and not in the store."""
    if not any(part.folder("crossAtt", out).glob(f"{part.split}-*/{schema.FILE}")):
        return
    found = _complete(methods.find(str(out / part.dataset), part.split))
    rows = pd.DataFrame([row for method in found for row in _runs(part, method)])
    table = pd.concat([known for known in (stored(store), rows) if len(known)] or [rows])
    if len(table):
        store.parent.mkdir(parents=True, exist_ok=True)
        write_csv(store, table.drop_duplicates(["dataset", "split", "method", "seed"], keep="first"))


def plan(names: Iterable[str], repeats: int = 5, trial: bool = False, device: str = "cpu") -> Iterator[Part]:
    """Dataset and split of every experiment, the quickest datasets first."""
    for name in sorted(names, key=[*SMALL, *(name for name in DATASETS if name not in SMALL)].index):
        if DATASETS[name].brings_tests:
            yield Part(name, "given", 3 if trial else 5, trial, device=device)
            continue
        yield Part(name, "cv5x5", 3 if trial else 5 * (repeats if name in SMALL else 1), trial, device=device)
        yield Part(name, "scaffold_cv5x5", 3 if trial else 5, trial, device=device)


def _as_written(names: Iterable[str], published: pd.DataFrame, trial: bool, device: str) -> Iterator[Part]:
    """Ten random splits of each dataset of which others published runs on random splits."""
    known = set(published.loc[published["split"] == "random", "dataset"])
    parts = (Part(name, "random", 3 if trial else 10, trial, as_written=True, device=device) for name in names)
    yield from (part for part in parts if part.dataset in known)


def hours(left: dict[Part, list[str]], as_written: list[Part], jobs: int) -> str:
    """What will run and about how long; of each part the methods that are missing."""
    total, lines = 0.0, []
    for part, wanted in [*left.items(), *((part, ["crossAtt"]) for part in as_written)]:
        if not wanted:
            continue
        dataset, _ = locate(part.dataset)
        smiles = load(TrainConfig.of(dataset=part.dataset)).smiles
        count = min(len(smiles), HIV_MOLECULES) if part.dataset == "HIV" else len(smiles)
        count = TRIAL_MOLECULES if part.trial else count
        length = float(np.mean([len(text) for text in smiles[:500]]))
        share = (EPOCHS_OF_TRIAL if part.trial else EPOCHS_OF_LARGE if count > LARGE else 100) / 100
        network = (SECONDS["crossAtt"] + SECONDS["a character"] * length) * share
        seconds = 0.0
        for name in wanted:
            if name in ("crossAtt", NO_LLM, *PIPELINES):
                seconds += network * (1 if name == "crossAtt" else SECONDS.get(name, SECONDS["pipeline"]))
                if name not in PIPELINES and dataset.task == "classification":
                    seconds += SECONDS["voting forest"] * len(dataset.targets)
            else:
                seconds += SECONDS[name] if name in CHEMPROP else SECONDS[name] * len(dataset.targets)
        words = f"{part.split}, as written" if part.as_written else part.split
        core_hours = seconds * count * part.runs / 3600
        lines.append([f"{part.dataset}, {words}", f"{count:,}", str(part.runs), str(len(wanted)), f"{core_hours:.1f}"])
        total += core_hours
    table = markdown([["", "molecules", "runs", "methods", "core hours"], *lines])
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


def _train(part: Part, method: str, out: Path, jobs: int = 1) -> None:
    config = part.config(method, out)
    run_missing(replace(config, jobs=config.jobs and jobs))


def _baseline(part: Part, name: str, out: Path, program: Path | None) -> None:
    (reference,) = methods.find(str(part.folder("crossAtt", out)), part.split)
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


def show(parts: list[Part], out: Path, docs: Path) -> None:
    """Print the tables and draw the pictures, of what is there."""
    for part in parts:
        save_runs(part, out, docs / "data" / "field.csv")
    runs = stored(docs / "data" / "field.csv")
    lines, shown = [], []
    for split in dict.fromkeys(part.split for part in parts):
        ranks: dict[str, pd.DataFrame] = {}
        judged: list[Judged] = []
        for part in parts:
            mine = runs[(runs["dataset"] == part.dataset) & (runs["split"] == split)]
            if part.split != split or mine.empty:
                continue
            shown.append(mine)
            if split == "given":  # all runs of it test the same molecules, and give no verdict
                continue
            metric = str(mine["metric"].iloc[0])
            # a fold of one class has no ROC-AUC, of no method; a method that lacks others is left out
            table = mine.pivot(index="seed", columns="method", values="value").dropna(how="all").dropna(axis=1)
            if len(table) < LEAST_RUNS:
                print(f"left out  {part.dataset}, {split}: {metric} of {len(table)} runs")
                continue
            judged += _judged(part, metric, table, out)
            ranks[part.dataset] = table.rank(axis=1, ascending=metric in SMALLER_IS_BETTER)
        if judged:
            p_values = holm([entry.pair.p for entry in judged])
            verdicts = {
                (entry.rival, entry.dataset): entry.verdict(p) for entry, p in zip(judged, p_values, strict=True)
            }
            lines += [f"\n### {split}\n", *_counts(verdicts)]
            draw_ranks(ranks, docs / f"field-ranks-{split}.png")
            draw_pairs(judged, verdicts, docs / f"field-pairs-{split}.png")
    if not shown:
        sys.exit(f"nothing is complete yet in {out}")
    text = "\n".join([*_means(pd.concat(shown)), *lines])
    write_text(out / "field.md", text + "\n")
    print(text)


def _complete(found: list[methods.Method]) -> list[methods.Method]:
    """The methods that have crossAtt's runs; of a benchmark that was stopped some have not."""
    reference = next((method for method in found if method.name == "crossAtt"), None)
    if reference is None or len(reference.folds) < LEAST_RUNS:
        return []
    for method in found:
        if method.folds.keys() != reference.folds.keys():
            print(f"left out  {method.dataset}, {method.split}, {method.name}: not all of crossAtt's runs are there")
    return [method for method in found if method.folds.keys() == reference.folds.keys()]


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
            "coverage": fold.run.coverage.share,
            "test_molecules": fold.sizes["test"],
            "training_seconds": result.seconds["training"],
            "device": result.config.get("device", "cpu"),  # a baseline has none
            "commit": result.commit,
        }


def _means(runs: pd.DataFrame) -> list[str]:
    """One line a dataset and split: each method's mean and standard deviation, the best in bold."""
    names = [
        name for name in ("crossAtt", NO_LLM, *PIPELINES, *CHEMPROP, *BASELINES[::-1]) if name in set(runs["method"])
    ]
    lines = [["", "split", "runs", "metric", *names]]
    for (dataset, split), part in runs.groupby(["dataset", "split"], sort=False):
        grouped = part.groupby("method")["value"]
        metric = part["metric"].iloc[0]
        best = grouped.mean().idxmin() if metric == "RMSE" else grouped.mean().idxmax()
        cells = []
        for name in names:
            if name not in grouped.groups:
                cells.append("-")
                continue
            values = grouped.get_group(name)
            text = f"{values.mean():.3f} ± {values.std():.3f}"
            cells.append(f"**{text}**" if name == best else text)
        lines.append([dataset, split, str(part["seed"].nunique()), metric, *cells])
    return markdown(lines, (0, 1, 3))


def _counts(verdicts: dict[tuple[str, str], str]) -> list[str]:
    """On how many datasets crossAtt is better than each rival, alike, not told apart, or worse."""
    lines = [["crossAtt against", "datasets", "better", "alike, or less than matters", "not told apart", "worse"]]
    for rival in RIVALS:
        words = [verdict for (name, _), verdict in verdicts.items() if name == rival]
        if not words:
            continue
        better, worse = (words.count(f"{name} is better") for name in ("crossAtt", rival))
        alike = sum(word in ("alike", "differ by less than matters") for word in words)
        lines.append([rival, *map(str, (len(words), better, alike, len(words) - better - alike - worse, worse))])
    return [*markdown(lines), "", "p by Holm's method over all rivals and datasets of a kind of split"]


def _beside_published(parts: list[Part], out: Path, published: pd.DataFrame) -> list[str]:
    """crossAtt's mean beside what others published of random splits, and in how many cells ours is better."""
    others = list(dict.fromkeys(published["method"]))
    lines, lower, cells = [["as written, random", "metric", "runs", "crossAtt", *others]], 0, 0
    for part in parts:
        if not part.folder("crossAtt", out).is_dir():
            continue
        (method,) = methods.find(str(part.folder("crossAtt", out)), "random")
        metric = method.record.primary_metric
        ours = np.array([fold.metrics[metric] for fold in method.folds.values()], dtype=float)
        means = {
            name: mean for name, split, _, mean, _ in published_of(published, part.dataset, metric) if split == "random"
        }
        row = [part.dataset, metric, str(len(ours)), f"{ours.mean():.3f} ± {ours.std(ddof=1):.3f}"]
        for name in others:
            if name not in means:  # another metric, such as ROC-AUC of rounded predictions
                row.append("-")
                continue
            better = (ours.mean() < means[name]) == (metric in SMALLER_IS_BETTER)
            lower, cells = lower + better, cells + 1
            row.append(f"{means[name]:.3f}" + ("" if better else " (better)"))
        lines.append(row)
    counted = f"crossAtt's mean is better than {lower} of {cells} published ones; only equal metrics are compared"
    return ["", *markdown(lines, (0, 1)), "", counted]


@styled
def draw_ranks(tables: dict[str, pd.DataFrame], path: Path) -> None:
    """Mean rank of each method: a dot a dataset, a bar for their mean."""
    ranks = pd.DataFrame({name: table.mean() for name, table in tables.items()})
    ranks = ranks.loc[ranks.mean(axis=1).sort_values().index]
    figure = Figure(figsize=(6.5, 1.2 + 0.32 * len(ranks)))
    axis = figure.subplots()
    for row, (name, values) in enumerate(ranks.iterrows()):
        color = BLUE if name == "crossAtt" else GREY
        axis.plot(values, [row] * len(values), ".", color=color, alpha=0.5)
        axis.plot(values.mean(), row, "|", color=color, ms=16, mew=2.5)
    axis.set_yticks(range(len(ranks)), list(ranks.index), parse_math=False)
    axis.set_ylim(len(ranks) - 0.5, -0.5)
    axis.set_xlabel("rank among the methods, mean over the runs; 1 is the best")
    axis.set_title(f"a dot a dataset ({len(tables)}), a bar for their mean", fontsize=9)
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
        axis.set_yticks(range(len(rivals)), rivals, parse_math=False, fontsize=8)
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
