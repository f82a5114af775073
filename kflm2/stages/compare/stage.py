"""A comparison: methods read or run on the same folds, tested, printed and kept."""

import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from kflm2.config.compare import CompareConfig
from kflm2.errors import DataError
from kflm2.files import read_json, write_json, write_text
from kflm2.metrics.scores import PRIMARY_METRIC, SMALLER_IS_BETTER, choose_thresholds, score
from kflm2.metrics.statistics import compare
from kflm2.results import methods
from kflm2.results.methods import Fold, Method
from kflm2.results.provenance import commit, peak_memory_mb, versions
from kflm2.results.runs import write_csv
from kflm2.stages.compare import chemprop
from kflm2.stages.compare import methods as compare_methods
from kflm2.stages.compare import plots as compare_picture
from kflm2.stages.compare import report as compare_report
from kflm2.stages.compare.baselines import ABOUT, Baselines
from kflm2.stages.compare.report import Compared


def run(config: CompareConfig, seeds: Collection[int] | None = None) -> list[Compared]:
    """Compare the methods of every dataset, print and write what was found.

    Args:
        config: checked.
        seeds: of these runs; default all.

    Returns:
        One a dataset.

    Raises:
        KFLM2Error: runs that cannot be paired, or an unreadable file.
    """
    wanted = [*config.baselines, *(["chemprop"] if config.chemprop else [])]
    found = [method for word in config.results for method in methods.find(word, config.split, seeds)]
    # a baseline that is wanted is completed, and not read as it was left
    found = [method for method in found if not (method.baseline and method.name in wanted)]
    if not found:
        raise DataError(f"results {', '.join(config.results)}: baselines only, and no model to compare with")
    datasets = list(dict.fromkeys(method.dataset for method in found))
    practical = {name: config.practical_of(name) for name in datasets}
    if len(datasets) > 1 and config.predictions:
        raise DataError(f"predictions are of one dataset, and the results are of {', '.join(datasets)}")
    published = compare_methods.published(config.published) if config.published else None
    compared = []
    for name in datasets:
        own = [method for method in found if method.dataset == name]
        figure = config.figure or PRIMARY_METRIC[own[0].task]
        # a mismatch among what is there should show before hours of baselines
        compare_methods.paired(own, figure)
        reference = own[0]
        own += [run_baseline(baseline, reference, config.chemprop) for baseline in wanted]
        own += [compare_methods.read_external(word, reference) for word in config.predictions]
        if len(own) < 2:
            raise DataError(f"{name}: {own[0].name} is the only method; there is nothing to compare it with")
        table = compare_methods.paired(own, figure)
        # the best first, so that pairs read as a list from the top
        table = table[list(table.mean().sort_values(ascending=figure in SMALLER_IS_BETTER).index)]
        assumed, overall, pairs = compare(table, reference.test_share)
        others = [] if published is None else compare_methods.published_of(published, name, figure)
        compared.append(Compared(reference, figure, practical[name], table, assumed, overall, pairs, others))
    for one in compared:
        print(compare_report.text(one))
        _write(one, config.out / one.reference.dataset)
    if len(compared) > 1:
        across = compare_report.across(compared)
        print(compare_report.across_text(across))
        write_csv(config.out / "across.csv", across)
    print(f"\nresults   {config.out}")
    return compared


def _write(one: Compared, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(seed, name, value) for name in one.table for seed, value in one.table[name].items()]
    write_csv(folder / "figures.csv", pd.DataFrame(rows, columns=["seed", "method", one.figure]))
    write_csv(folder / "pairs.csv", compare_report.pairs_table(one))
    write_text(folder / "compare.md", compare_report.markdown(one))
    compare_picture.draw_intervals(one, folder / "tukey.png")
    compare_picture.draw_pairs(one, folder / "paired.png")
    if len(one.table.columns) > 2:
        compare_picture.draw_ranks(one, folder / "ranks.png")


def run_baseline(name: str, reference: Method, chemprop_program: Path | None = None) -> Method:
    """A baseline on the folds of a method that is here; runs that are there already are not run again.

    The molecules, their labels and the parts are read from the method's predictions.csv, so that a baseline sees what
    the model saw. Its results lie beside the model's, in files of the same form.
    """
    folds = [fold for fold in reference.folds.values() if fold.folder is not None]
    assert folds[0].folder is not None
    beside = folds[0].folder.parents[1] / name
    # what is computed of molecules is kept as long as they are the same, as they are in all folds of one command
    tables: dict[str, Baselines] = {}
    for fold in tqdm(folds, desc=f"{reference.dataset} {name}", unit="run"):
        assert fold.folder is not None
        made = read_json(fold.folder / "result.json", "result", DataError)
        folder = beside / fold.folder.name
        if _is_done(folder, fold, name):
            continue
        known = pd.read_csv(fold.folder / "predictions.csv")
        if fold.molecules not in tables:
            y_true = known[[f"y_true_{target}" for target in reference.targets]].to_numpy(dtype=float)
            tables[fold.molecules] = Baselines(known["smiles"].tolist(), y_true, reference.task)
        _run_fold(name, tables[fold.molecules], known, made, reference, folder, chemprop_program)
    return methods.find(str(beside), reference.split, reference.folds)[0]


def _is_done(folder: Path, wanted: Fold, name: str) -> bool:
    """Whether a baseline is there that saw the same molecules in the same parts.

    Raises:
        DataError: what is there is no baseline's, and would be overwritten.
    """
    path = folder / "result.json"
    if not path.is_file():
        return False
    try:
        made = read_json(path, "result", DataError)
        found = methods.read_fold(folder, made)
    except DataError:  # broken: it is made again
        return False
    if not made.get("baseline"):
        raise DataError(f"{folder} holds runs of {made.get('model')}, where the baseline {name} would go; rename it")
    same = (found.parts, found.molecules) == (wanted.parts, wanted.molecules)
    return same and made["about"] == _about(name)


def _about(name: str) -> str:
    return chemprop.ABOUT if name == "chemprop" else ABOUT[name]


def _run_fold(
    name: str,
    table: Baselines,
    known: pd.DataFrame,
    made: dict[str, Any],
    reference: Method,
    folder: Path,
    chemprop_program: Path | None,
) -> None:
    start = time.perf_counter()
    part = known["part"].to_numpy(dtype=str)
    rows = {"train": part == "train", "valid": part == "valid", "test": np.char.startswith(part, "test")}
    train, valid = np.flatnonzero(rows["train"]), np.flatnonzero(rows["valid"])
    y_true, task = table.y_true, reference.task
    chosen: list[Any] = [None] * len(reference.targets)
    if name == "chemprop":
        assert chemprop_program is not None
        y_pred = chemprop.predict(chemprop_program, table.smiles, y_true, train, valid, task, made["seed"])
    else:
        y_pred, chosen = table.predict(name, train, valid, made["seed"])
    thresholds = np.full(y_true.shape[1], np.nan)
    if task == "classification":
        thresholds = choose_thresholds(y_true[valid], y_pred[valid])
    scores = {which: score(y_true[own], y_pred[own], task, thresholds).mean for which, own in rows.items()}
    predicted = known.assign(**{f"y_pred_{target}": y_pred[:, k] for k, target in enumerate(reference.targets)})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").unlink(missing_ok=True)
    write_csv(folder / "predictions.csv", predicted)
    write_json(
        folder / "result.json",
        {
            **{key: made[key] for key in ("dataset", "seed", "split", "rows")},
            "model": name,
            "baseline": True,
            "about": _about(name),
            "chosen": dict(zip(reference.targets, chosen, strict=True)),
            "metrics": scores,
            "seconds": {"training": round(time.perf_counter() - start, 3)},
            "peak_memory_mb": peak_memory_mb(),
            "config": {own: made["config"].get(own) for own in ("dataset", "csv", "split", "limit")},
            "versions": versions(),
            "commit": commit(),
        },
    )
