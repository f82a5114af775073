"""Methods paired fold by fold: runs of this project and predictions of other programs; also published metrics."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kflm2.data.parts import LEAST_RUNS
from kflm2.errors import DataError
from kflm2.metrics.scores import score
from kflm2.results.methods import Method, split_name

_SHOWN = 5


def pair(methods: Sequence[Method], metric: str) -> pd.DataFrame:
    """A table of one dataset's metric, a row a fold and a column a method, when the methods saw the same folds.

    Args:
        methods: of one dataset.
        metric: its name.

    Raises:
        DataError: data, splits or runs differ, and which.
    """
    first = methods[0]
    names = [method.name for method in methods]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"two methods of {first.dataset} are named {repeated}; name them by NAME=FOLDER")
    for other in methods[1:]:
        _check_pair(first, other)
    table = pd.DataFrame(
        {method.name: {seed: fold.metrics.get(metric) for seed, fold in method.folds.items()} for method in methods}
    ).astype(float)
    if (nobody := table.isna().all(axis=1)).any() and not nobody.all():
        print(f"left out  {first.dataset}, seeds {_some(table.index[nobody])}: nobody has a {metric} there", flush=True)
        table = table[~nobody]
    if len(table) < LEAST_RUNS:
        raise DataError(
            f"{first.dataset}: {len(table)} runs in common, and at least {LEAST_RUNS} are needed to say anything"
        )
    if len({first.folds[seed].tested for seed in table.index}) < LEAST_RUNS:
        raise DataError(
            f"{first.dataset}: the {len(table)} runs test the same molecules ({first.split} split), so they say"
            " nothing of how a difference would come out on others; compare by random, scaffold, cluster or a cv5x5"
        )
    for method in methods:
        if table[method.name].isna().any():
            seed = table.index[table[method.name].isna()][0]
            known = [name for name, value in method.folds[seed].metrics.items() if value is not None]
            raise DataError(
                f"{first.dataset}, {method.name}, seed {seed}: no {metric}; there are {', '.join(known) or 'none'}"
            )
    return table


def _some(numbers: Sequence[int] | pd.Index) -> str:
    return ", ".join(map(str, numbers[:_SHOWN])) + (" ..." if len(numbers) > _SHOWN else "")


def _check_pair(first: Method, other: Method) -> None:
    """Refuse two methods that were not measured on the same data, targets, splits and molecules."""
    problem = f"{first.name} and {other.name} cannot be paired"
    digests = first.record.sha256, other.record.sha256
    if digests[0] != digests[1]:
        raise DataError(f"{problem}: {first.dataset}'s file is {digests[0][:12]} for one, {digests[1][:12]} for other")
    if (first.targets, first.record.task) != (other.targets, other.record.task):
        raise DataError(f"{problem}: one predicts {', '.join(first.targets)}, the other {', '.join(other.targets)}")
    if first.split != other.split:
        raise DataError(f"{problem}: one was split by {first.split}, the other by {other.split}")
    common = [seed for seed in first.folds if seed in other.folds]
    for seed in common:
        folds = first.folds[seed], other.folds[seed]
        if folds[0].parts != folds[1].parts:
            raise DataError(
                f"{problem}: their {first.split} splits of seed {seed} differ ({folds[0].parts[:12]} and"
                f" {folds[1].parts[:12]})"
            )
        if folds[0].molecules != folds[1].molecules:
            raise DataError(f"{problem}: in seed {seed} the same rows have other SMILES or labels (--standardize?)")
    for whole, lacks in ((first, other), (other, first)):
        if missing := [seed for seed in whole.folds if seed not in lacks.folds]:
            raise DataError(
                f"{problem}: {lacks.name} lacks {len(missing)} of {whole.name}'s runs ({lacks.split}, seeds"
                f" {_some(missing)}); {len(common)} in common"
            )


def read_external(word: str, reference: Method) -> Method:
    """Predictions of another program for the test parts of a method that is here.

    Args:
        word: NAME=FILE; a CSV with the columns seed, row (the molecule's row in the dataset's file, from 1, as in
            predictions.csv) and y_pred, or y_pred_TARGET for each of several targets; a column smiles, where there is
            one, must be the row's.
        reference: whose splits and y_true are taken.

    Raises:
        DataError: a test molecule has no prediction, or two, or one that is no number, or for classes no probability.
    """
    name, path = split_name(word)
    table = _read_csv(path, "predictions")
    columns = [f"y_pred_{target}" for target in reference.targets]
    if len(columns) == 1:
        table = table.rename(columns={"y_pred": columns[0]})
    _check_columns(table, ("seed", "row", *columns), f"predictions {path}")
    folds = {}
    for seed, fold in reference.folds.items():
        assert fold.run is not None
        predictions = pd.read_csv(fold.run.folder / "predictions.csv")
        tested = predictions.query("part.str.startswith('test')")
        predicted = table[table["seed"] == seed].set_index("row")
        y_pred = _aligned(predicted, tested, columns, f"predictions {path}", seed)
        if reference.record.task == "classification" and not ((y_pred >= 0) & (y_pred <= 1)).all():
            row = tested["row"].to_numpy()[~((y_pred >= 0) & (y_pred <= 1)).all(axis=1)][0]
            raise DataError(f"predictions {path}: row {row} of seed {seed} has no probability, from 0 to 1")
        labels = [f"y_true_{target}" for target in reference.targets]
        y_true, y_others = (
            table[labels].to_numpy(dtype=float) for table in (tested, predictions.drop(index=tested.index))
        )
        # probabilities of another program come without a threshold
        metrics = score(y_true, y_pred, reference.record.task, np.full(len(columns), 0.5), y_others).mean
        folds[seed] = dataclasses.replace(fold, metrics=metrics, run=None)
    return Method(name or path.stem, reference.record, reference.split, folds)


def _aligned(predicted: pd.DataFrame, tested: pd.DataFrame, columns: list[str], source: str, seed: int) -> np.ndarray:
    """(test molecules, K) predictions in the order of the test part.

    Args:
        predicted: of one seed, by row.
        tested: the test part's lines of predictions.csv.
        columns: (K,) of the predictions.
        source: file, for the message.
        seed: of the run, for the message.

    Raises:
        DataError: a row is missing, there twice, no number, or another molecule.
    """
    if not predicted.index.is_unique:
        raise DataError(f"{source}: row {predicted.index[predicted.index.duplicated()][0]} of seed {seed} is twice")
    missing = tested["row"][~tested["row"].isin(predicted.index)].tolist()
    if missing:
        raise DataError(
            f"{source}: {len(missing)} of {len(tested)} test molecules of seed {seed} are missing: rows"
            f" {_some(missing)}"
        )
    y_pred = predicted.loc[tested["row"], columns].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
    if not np.isfinite(y_pred).all():
        row = tested["row"].to_numpy()[~np.isfinite(y_pred).all(axis=1)][0]
        raise DataError(f"{source}: row {row} of seed {seed} has no number")
    if "smiles" in predicted:
        differ = predicted.loc[tested["row"], "smiles"].to_numpy() != tested["smiles"].to_numpy()
        if differ.any():
            row = tested["row"].to_numpy()[differ][0]
            raise DataError(f"{source}: row {row} of seed {seed} is another molecule than in the dataset")
    return y_pred


def read_published(path: Path) -> pd.DataFrame:
    """Metrics that others published, a line a run: method, dataset, split, metric, run, value.

    Raises:
        DataError: the file cannot be read, or lacks a column.
    """
    table = _read_csv(path, "published")
    _check_columns(table, ("method", "dataset", "split", "metric", "run", "value"), f"published {path}")
    table["value"] = pd.to_numeric(table["value"], errors="coerce")
    if table["value"].isna().any():
        raise DataError(f"published {path}: line {int(np.flatnonzero(table['value'].isna())[0]) + 2} has no value")
    return table


def published_of(table: pd.DataFrame, dataset: str, metric: str) -> list[tuple[str, str, int, float, float]]:
    """Method, split, runs, mean and standard deviation of what was published of a dataset's metric."""

    def letters(text: str) -> str:
        return re.sub(r"[\s_-]", "", text).casefold()

    same = table["metric"].astype(str).map(letters) == letters(metric)
    rows = table[same & (table["dataset"] == dataset)]
    return [
        (str(method), str(split), len(runs), float(runs["value"].mean()), float(runs["value"].std(ddof=1)))
        for (method, split), runs in rows.fillna({"split": "-"}).groupby(["method", "split"])
    ]


def _read_csv(path: Path, what: str) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{what} {path} cannot be read: {error}") from None


def _check_columns(table: pd.DataFrame, columns: Sequence[str], source: str) -> None:
    if missing := [column for column in columns if column not in table]:
        raise DataError(f"{source}: no column {missing[0]}; there are {', '.join(map(str, table))}")
