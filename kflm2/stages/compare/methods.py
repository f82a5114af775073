"""Methods paired fold by fold: runs of this project, predictions of other programs, and published figures."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from kflm2.data.parts import LEAST_RUNS
from kflm2.errors import DataError
from kflm2.metrics.scores import PRIMARY_METRIC, score
from kflm2.results.methods import Method, named

_SHOWN = 5


def read_external(word: str, reference: Method) -> Method:
    """Predictions of another program for the test parts of a method that is here.

    Args:
        word: NAME=FILE; a CSV with the columns seed, row (the molecule's row in the dataset's file, from 1, as in
            predictions.csv) and y_pred, or y_pred_TARGET for each of several targets; a column smiles, where there is
            one, must be the row's.
        reference: whose splits, and measured values, are taken.

    Raises:
        DataError: a test molecule has no prediction, or two, or one that is no number, or for classes no probability.
    """
    name, path = named(word)
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise DataError(f"predictions {path} cannot be read: {error}") from None
    columns = [f"y_pred_{target}" for target in reference.targets]
    if len(columns) == 1:
        table = table.rename(columns={"y_pred": columns[0]})
    if lacking := [column for column in ("seed", "row", *columns) if column not in table]:
        raise DataError(f"predictions {path}: no column {lacking[0]}; there are {', '.join(map(str, table))}")
    folds = {}
    for seed, fold in reference.folds.items():
        assert fold.folder is not None
        known = pd.read_csv(fold.folder / "predictions.csv").query("part.str.startswith('test')")
        own = table[table["seed"] == seed].set_index("row")
        if not own.index.is_unique:
            raise DataError(f"predictions {path}: row {own.index[own.index.duplicated()][0]} of seed {seed} is twice")
        missing = known["row"][~known["row"].isin(own.index)].tolist()
        if missing:
            raise DataError(
                f"predictions {path}: {len(missing)} of {len(known)} test molecules of seed {seed} are missing:"
                f" rows {_some(missing)}"
            )
        y_pred = own.loc[known["row"], columns].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
        if not np.isfinite(y_pred).all():
            row = known["row"].to_numpy()[~np.isfinite(y_pred).all(axis=1)][0]
            raise DataError(f"predictions {path}: row {row} of seed {seed} has no number")
        if "smiles" in own:
            other = own.loc[known["row"], "smiles"].to_numpy() != known["smiles"].to_numpy()
            if other.any():
                row = known["row"].to_numpy()[other][0]
                raise DataError(f"predictions {path}: row {row} of seed {seed} is another molecule than in the dataset")
        if reference.task == "classification" and not ((y_pred >= 0) & (y_pred <= 1)).all():
            row = known["row"].to_numpy()[~((y_pred >= 0) & (y_pred <= 1)).all(axis=1)][0]
            raise DataError(f"predictions {path}: row {row} of seed {seed} has no probability, from 0 to 1")
        y_true = known[[f"y_true_{target}" for target in reference.targets]].to_numpy(dtype=float)
        # probabilities of another program come without a threshold
        figures = score(y_true, y_pred, reference.task, np.full(len(columns), 0.5)).mean
        folds[seed] = dataclasses.replace(fold, figures=figures, folder=None)
    return Method(
        name or path.stem,
        reference.dataset,
        reference.sha256,
        reference.task,
        reference.unit,
        reference.targets,
        reference.split,
        folds,
    )


def paired(methods: Sequence[Method], figure: str | None) -> pd.DataFrame:
    """A table of one dataset's figures, a row a fold and a column a method, when the methods saw the same folds.

    Args:
        methods: of one dataset.
        figure: None takes RMSE, or for classes ROC-AUC.

    Raises:
        DataError: data, splits or runs differ, and which.
    """
    first = methods[0]
    figure = figure or PRIMARY_METRIC[first.task]
    names = [method.name for method in methods]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"two methods of {first.dataset} are named {twice}; name them by NAME=FOLDER")
    for other in methods[1:]:
        _same(first, other)
    if len(first.folds) < LEAST_RUNS:
        raise DataError(
            f"{first.dataset}: {len(first.folds)} runs in common, and at least {LEAST_RUNS} are needed to say anything"
        )
    if len({fold.tested for fold in first.folds.values()}) < LEAST_RUNS:
        raise DataError(
            f"{first.dataset}: the {len(first.folds)} runs test the same molecules ({first.split} split), so they say"
            " nothing of how a difference would come out on others; compare by random, scaffold, cluster or cv5x5"
        )
    table = pd.DataFrame(
        {method.name: {seed: fold.figures.get(figure) for seed, fold in method.folds.items()} for method in methods}
    ).astype(float)
    if (nobody := table.isna().all(axis=1)).any() and not nobody.all():
        print(f"left out  {first.dataset}, seeds {_some(table.index[nobody])}: nobody has a {figure} there", flush=True)
        table = table[~nobody]
    for method in methods:
        if table[method.name].isna().any():
            seed = table.index[table[method.name].isna()][0]
            known = [own for own, value in method.folds[seed].figures.items() if value is not None]
            raise DataError(
                f"{first.dataset}, {method.name}, seed {seed}: no {figure}; there are {', '.join(known) or 'none'}"
            )
    return table


def _some(numbers: Sequence[int] | pd.Index) -> str:
    return ", ".join(map(str, numbers[:_SHOWN])) + (" ..." if len(numbers) > _SHOWN else "")


def _same(first: Method, other: Method) -> None:
    what = f"{first.name} and {other.name} cannot be paired"
    if first.sha256 != other.sha256:
        raise DataError(f"{what}: {first.dataset}'s file is {first.sha256[:12]} for one, {other.sha256[:12]} for other")
    if (first.targets, first.task) != (other.targets, other.task):
        raise DataError(f"{what}: one predicts {', '.join(first.targets)}, the other {', '.join(other.targets)}")
    if first.split != other.split:
        raise DataError(f"{what}: one was split by {first.split}, the other by {other.split}")
    common = [seed for seed in first.folds if seed in other.folds]
    for seed in common:
        one, two = first.folds[seed], other.folds[seed]
        if one.parts != two.parts:
            raise DataError(
                f"{what}: their {first.split} splits of seed {seed} differ ({one.parts[:12]} and {two.parts[:12]})"
            )
        if one.molecules != two.molecules:
            raise DataError(f"{what}: in seed {seed} the same rows have other SMILES or labels (--standardize?)")
    for whole, lacks in ((first, other), (other, first)):
        if missing := [seed for seed in whole.folds if seed not in lacks.folds]:
            raise DataError(
                f"{what}: {lacks.name} lacks {len(missing)} of {whole.name}'s runs ({lacks.split}, seeds"
                f" {_some(missing)}); {len(common)} in common"
            )


def published(path: Path) -> pd.DataFrame:
    """Figures that others published, a line a run: method, dataset, split, metric, run, value.

    Raises:
        DataError: the file cannot be read, or lacks a column.
    """
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise DataError(f"published {path} cannot be read: {error}") from None
    wanted = ("method", "dataset", "split", "metric", "run", "value")
    if lacking := [column for column in wanted if column not in table]:
        raise DataError(f"published {path}: no column {lacking[0]}; there are {', '.join(map(str, table))}")
    table["value"] = pd.to_numeric(table["value"], errors="coerce")
    if table["value"].isna().any():
        raise DataError(f"published {path}: line {int(np.flatnonzero(table['value'].isna())[0]) + 2} has no value")
    return table


def published_of(table: pd.DataFrame, dataset: str, figure: str) -> list[tuple[str, str, int, float, float]]:
    """Method, split, runs, mean and deviation of what was published of a dataset's figure."""

    def letters(text: str) -> str:
        return re.sub(r"[\s_-]", "", text).casefold()

    same = table["metric"].astype(str).map(letters) == letters(figure)
    own = table[same & (table["dataset"] == dataset)]
    return [
        (str(method), str(split), len(runs), float(runs["value"].mean()), float(runs["value"].std(ddof=1)))
        for (method, split), runs in own.fillna({"split": "-"}).groupby(["method", "split"])
    ]
