"""A comparison: methods read or run on the same folds, tested, printed and written."""

import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kflm2.config.compare import CompareConfig
from kflm2.data.covariates import Covariate
from kflm2.errors import DataError
from kflm2.files import write_csv, write_text
from kflm2.metrics.scores import SMALLER_IS_BETTER, choose_thresholds, score
from kflm2.metrics.statistics import compare
from kflm2.progress import Progress
from kflm2.results import methods, schema
from kflm2.results.methods import Fold, Method
from kflm2.results.provenance import commit, peak_memory_mb, versions
from kflm2.results.saved_runs import SavedRun
from kflm2.results.schema import RunResult
from kflm2.stages.compare import chemprop, pairing, plots, report
from kflm2.stages.compare.baselines import ABOUT, READ_FEATURES, Baselines
from kflm2.stages.compare.comparison import Comparison


def run(config: CompareConfig, seeds: Collection[int] | None = None) -> list[Comparison]:
    """Compare the methods of every dataset, print and write the results.

    Args:
        config: checked.
        seeds: of these runs; default all.

    Returns:
        One comparison a dataset.

    Raises:
        KFLM2Error: runs that cannot be paired, or an unreadable file.
    """
    baselines: list[str] = list(config.baselines)
    if config.chemprop and not set(chemprop.ABOUT).intersection(baselines):
        baselines.append("chemprop")
    saved = [method for word in config.results for method in methods.find(word, config.split, seeds)]
    # a baseline that is asked for is completed first, and not read as it was left
    saved = [method for method in saved if not (method.baseline and method.name in baselines)]
    if not saved:
        raise DataError(f"results {', '.join(config.results)}: baselines only, and no model to compare with")
    datasets = list(dict.fromkeys(method.dataset for method in saved))
    practical = {name: config.practical_of(name) for name in datasets}
    if len(datasets) > 1 and config.predictions:
        raise DataError(f"predictions are of one dataset, and the results are of {', '.join(datasets)}")
    published = pairing.read_published(config.published) if config.published else None
    comparisons = []
    for dataset in datasets:
        compared = [method for method in saved if method.dataset == dataset]
        metric = config.metric or compared[0].record.primary_metric
        # a mismatch among the saved runs should show before hours of baselines
        pairing.pair(compared, metric)
        reference = _reference(compared)
        if baselines and len({_inner(method) for method in compared if not method.baseline}) > 1:
            print(f"baselines of {dataset} have what {reference.name} has: {_inner(reference)}", flush=True)
        compared += [run_baseline(baseline, reference, config.chemprop) for baseline in baselines]
        compared += [pairing.read_external(word, reference) for word in config.predictions]
        if len(compared) < 2:
            raise DataError(f"{dataset}: {reference.name} is the only method; there is nothing to compare it with")
        table = pairing.pair(compared, metric)
        # the best first, so that pairs read as a list from the top
        table = table[list(table.mean().sort_values(ascending=metric in SMALLER_IS_BETTER).index)]
        design = reference.design(table.index)
        pairs = compare(table, design, practical[dataset])
        notes = {method.name: method.development for method in compared if method.development}
        others = [] if published is None else pairing.published_of(published, dataset, metric)
        comparisons.append(Comparison(reference, metric, practical[dataset], table, design, pairs, others, notes))
    for comparison in comparisons:
        print(report.text(comparison))
        _write(comparison, config.out / comparison.reference.dataset)
    if len(comparisons) > 1:
        across = report.across(comparisons)
        print(report.across_text(across))
        write_csv(config.out / "across.csv", across)
    print(f"\nresults   {config.out}")
    return comparisons


def _reference(compared: list[Method]) -> Method:
    """The method whose molecules and folds the baselines have: a model with inner folds, else the first model."""
    models = [method for method in compared if not method.baseline] or compared
    return next((method for method in models if _inner(method) == "inner folds"), models[0])


def _inner(method: Method) -> str:
    run = next(iter(method.folds.values())).run
    return "inner folds" if run is not None and run.folds else "a holdout"


def _write(comparison: Comparison, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    table = comparison.table
    rows = [(seed, name, value) for name in table for seed, value in table[name].items()]
    write_csv(folder / "figures.csv", pd.DataFrame(rows, columns=["seed", "method", comparison.metric]))
    write_csv(folder / "pairs.csv", report.pairs_table(comparison))
    write_text(folder / "compare.md", report.markdown(comparison))
    plots.draw_means(comparison, folder / "means.png")
    plots.draw_pairs(comparison, folder / "paired.png")


def run_baseline(name: str, reference: Method, chemprop_program: Path | None = None) -> Method:
    """A baseline on the folds of a method that is here; runs that are there already are not run again.

    The molecules, their labels and the parts are read from the method's predictions.csv, and its inner folds are made
    again, so that a baseline sees what the model saw. Its results lie beside the model's, in files of the same form.
    """
    folds = [(fold, fold.run) for fold in reference.folds.values() if fold.run is not None]
    beside = folds[0][1].folder.parents[1] / name
    if folds[0][1].result.bounds or folds[0][1].result.config.get("weight_column"):
        print(f"note: {name} learns from exact labels, all of one weight; the models had bounds or weights", flush=True)
    if folds[0][1].result.dataset.features and name not in READ_FEATURES:
        print(f"note: {name} does not read the feature columns", flush=True)
    # descriptors are computed once for all folds with the same molecules, as the folds of one command have
    tables: dict[str, Baselines] = {}
    for fold, run in Progress(folds, desc=f"{reference.dataset} {name}", unit="run"):
        folder = beside / run.folder.name
        if _is_done(folder, fold, name):
            continue
        if fold.molecules not in tables:
            tables[fold.molecules] = Baselines(
                run.table["smiles"].tolist(), run.y_true, run.task, *_feature_columns(run)
            )
        _run_fold(name, tables[fold.molecules], run, folder, chemprop_program)
    return methods.find(str(beside), reference.split, reference.folds)[0]


def _is_done(folder: Path, wanted: Fold, name: str) -> bool:
    """Whether a baseline is there that saw the same molecules in the same parts.

    Raises:
        DataError: what is there is no baseline's, and would be overwritten.
    """
    if not (folder / schema.FILE).is_file():
        return False
    try:
        if not schema.is_run_result(folder):
            other = "a run of stage 3"
        else:
            saved = SavedRun(folder, schema.read_run_result(folder))
            fold = methods.read_fold(saved)
            other = "" if saved.result.baseline else f"runs of {saved.result.model}"
    except DataError:  # broken: it is run again
        return False
    if other:
        raise DataError(f"{folder} holds {other}, where the baseline {name} would go; rename it")
    assert wanted.run is not None
    # the dataset's record has the names of the feature columns, and the digest of what stands there
    same = (fold.parts, fold.molecules) == (wanted.parts, wanted.molecules)
    same = same and saved.result.dataset == wanted.run.result.dataset
    return same and saved.result.about == _about(name, wanted.run)


def _feature_columns(run: SavedRun) -> tuple[tuple[Covariate, ...], np.ndarray | None]:
    """The columns beside the structure of a run's table, and (n, C) what stands there; see Covariate.value."""
    columns = tuple(Covariate(name, tuple(words)) for name, words in run.result.dataset.features.items())
    if not columns:
        return (), None
    texts = [run.table[f"feature_{column.name}"].fillna("").astype(str) for column in columns]
    values = [[column.value(text) for text in cells] for column, cells in zip(columns, texts, strict=True)]
    return columns, np.array(values).T


def _about(name: str, reference: SavedRun) -> str:
    count = reference.result.config["ensemble"] if reference.folds else 0
    folds = f"; with the {count} inner folds of the models" if count else "; with a validation part"
    beside = "; with the feature columns" if reference.result.dataset.features and name in READ_FEATURES else ""
    return {**ABOUT, **chemprop.ABOUT}[name] + folds + beside


def _run_fold(
    name: str,
    table: Baselines,
    run: SavedRun,
    folder: Path,
    chemprop_program: Path | None,
) -> None:
    """Run a baseline on one split, and write its results.

    Args:
        name: of the baseline.
        table: molecules and labels.
        run: the reference.
        folder: of the baseline's results.
        chemprop_program: the command chemprop.
    """
    start = time.perf_counter()
    reference, split = run.result, run.split
    targets, task, y_true = reference.dataset.targets, reference.dataset.task, table.y_true
    chosen: list[Any] = [None] * len(targets)
    if name in chemprop.ABOUT:
        assert chemprop_program is not None
        y_pred = chemprop.predict(chemprop_program, name, table.smiles, y_true, split, task, reference.seed)
    else:
        y_pred, chosen = table.predict(name, split, reference.seed)
    thresholds = np.full(y_true.shape[1], np.nan)
    if task == "classification":
        thresholds = choose_thresholds(y_true[split.held_out], y_pred[split.held_out])
    result = RunResult(
        dataset=reference.dataset,
        model=name,
        seed=reference.seed,
        split=reference.split,
        rows=reference.rows,
        metrics={
            which: score(y_true[rows], y_pred[rows], task, thresholds, y_true[split.not_tested]).mean
            for which, rows in split.measured.items()
        },
        # inner and ensemble: what the predictions of train and valid are
        config={key: reference.config.get(key) for key in ("dataset", "csv", "split", "limit", "inner", "ensemble")},
        seconds={"training": round(time.perf_counter() - start, 3)},
        peak_memory_mb=peak_memory_mb(),
        versions=versions(),
        commit=commit(),
        baseline=True,
        about=_about(name, run),
        chosen=dict(zip(targets, chosen, strict=True)),
    )
    predicted = run.table.assign(**{f"y_pred_{target}": y_pred[:, k] for k, target in enumerate(targets)})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / schema.FILE).unlink(missing_ok=True)
    write_csv(folder / "predictions.csv", predicted)
    schema.write_result(folder, result)
