"""Methods whose figures can be compared: folders of results, and predictions of other programs, fold by fold."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kflm2.data.datasets import Kind
from kflm2.errors import DataError
from kflm2.evaluation.metrics import MAIN, Figures, score
from kflm2.evaluation.statistics import LEAST_FOLDS

_SHOWN = 5


@dataclass(frozen=True)
class Fold:
    """One run: one split and one seed."""

    split: str
    """SHA-256 of the rows of its parts."""
    sizes: dict[str, int]
    figures: Figures
    """Of the test part."""
    folder: Path | None
    """With predictions.csv; None for predictions of another program."""


@dataclass(frozen=True)
class Method:
    """What was measured of one way to predict one dataset."""

    name: str
    dataset: str
    sha256: str
    """Of the dataset's file."""
    kind: Kind
    unit: str | None
    targets: tuple[str, ...]
    split: str
    folds: dict[int, Fold]
    """Seed -> run."""

    @property
    def test_share(self) -> float:
        """Test molecules over training molecules, mean of the folds."""
        return float(np.mean([fold.sizes["test"] / fold.sizes["train"] for fold in self.folds.values()]))


def named(word: str) -> tuple[str | None, Path]:
    """NAME=PATH, or PATH alone."""
    name, equals, path = word.partition("=")
    return (name, Path(path)) if equals and not Path(word).exists() else (None, Path(word))


def find(word: str, split: str | None) -> list[Method]:
    """The methods in a folder: a model's, or a dataset's with a folder a model.

    Args:
        word: FOLDER or NAME=FOLDER.
        split: the kind that is wanted; None takes the only one there is.

    Raises:
        DataError: no complete run in it, or runs of several kinds of split.
    """
    name, folder = named(word)
    if not folder.is_dir():
        raise DataError(f"results {folder}: no such folder")
    folders = [folder] if _runs(folder) else sorted(path for path in folder.iterdir() if path.is_dir() and _runs(path))
    if not folders:
        raise DataError(f"results {folder}: no result.json of a run in it, nor in the folders in it")
    if name is not None and len(folders) > 1:
        raise DataError(f"results {folder} holds {len(folders)} methods, so it cannot be one named {name}")
    return [_read(name or own.name, own, split) for own in folders]


def _runs(folder: Path) -> list[Path]:
    """Runs of stage 2; what stage 3 writes is no method of its own kind."""
    return [path for path in sorted(folder.glob("*/result.json")) if "model" in json.loads(path.read_text())]


def _read(name: str, folder: Path, split: str | None) -> Method:
    by_kind: dict[str, list[tuple[Path, dict[str, Any]]]] = defaultdict(list)
    for path in _runs(folder):
        found = json.loads(path.read_text(encoding="utf-8"))
        by_kind[path.parent.name.rpartition("-")[0]].append((path, found))
    if split is None and len(by_kind) > 1:
        raise DataError(f"results {folder} holds runs of {', '.join(sorted(by_kind))}; say which with --split")
    split = split or next(iter(by_kind))
    if split not in by_kind:
        raise DataError(f"results {folder} holds no run of {split}, but of {', '.join(sorted(by_kind))}")
    own = by_kind[split]
    first = own[0][1]["dataset"]
    for path, found in own:
        if found["dataset"]["sha256"] != first["sha256"]:
            raise DataError(f"{path.parent} was measured on another {first['name']} than {own[0][0].parent}")
    folds = {
        int(found["seed"]): Fold(
            found["split"]["sha256"], found["split"]["sizes"], found["metrics"].get("test", {}), path.parent
        )
        for path, found in own
    }
    return Method(
        name,
        first["name"],
        first["sha256"],
        first["kind"],
        first["unit"],
        tuple(first["targets"]),
        split,
        dict(sorted(folds.items())),
    )


def outside(word: str, reference: Method) -> Method:
    """Predictions of another program for the test parts of a method that is here.

    Args:
        word: NAME=FILE; a CSV with the columns seed, row (the molecule's row in the dataset's file, from 0, as in
            predictions.csv) and y_pred, or y_pred_TARGET for each of several targets.
        reference: whose splits, and measured values, are taken.

    Raises:
        DataError: a test molecule has no prediction, or two, or one that is no number.
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
            shown = ", ".join(map(str, missing[:_SHOWN])) + (" ..." if len(missing) > _SHOWN else "")
            raise DataError(
                f"predictions {path}: {len(missing)} of {len(known)} test molecules of seed {seed} are missing:"
                f" rows {shown}"
            )
        y_pred = own.loc[known["row"], columns].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
        if not np.isfinite(y_pred).all():
            row = known["row"].to_numpy()[~np.isfinite(y_pred).all(axis=1)][0]
            raise DataError(f"predictions {path}: row {row} of seed {seed} has no number")
        y_true = known[[f"y_true_{target}" for target in reference.targets]].to_numpy(dtype=float)
        # probabilities of another program come without a threshold
        figures = score(y_true, y_pred, reference.kind, np.full(len(columns), 0.5)).mean
        folds[seed] = Fold(fold.split, fold.sizes, figures, None)
    return Method(
        name or path.stem,
        reference.dataset,
        reference.sha256,
        reference.kind,
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
    figure = figure or MAIN[first.kind]
    names = [method.name for method in methods]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"two methods of {first.dataset} are named {twice}; name them by NAME=FOLDER")
    for other in methods[1:]:
        _same(first, other)
    if len(first.folds) < LEAST_FOLDS:
        raise DataError(
            f"{first.dataset}: {len(first.folds)} runs in common, and at least {LEAST_FOLDS} are needed to say anything"
        )
    table = pd.DataFrame(
        {method.name: {seed: fold.figures.get(figure) for seed, fold in method.folds.items()} for method in methods}
    )
    for name in table:
        if table[name].isna().any():
            seed = table.index[table[name].isna()][0]
            known = [own for own, value in first.folds[seed].figures.items() if value is not None]
            raise DataError(f"{first.dataset}, {name}, seed {seed}: no {figure}; there are {', '.join(known)}")
    return table.astype(float)


def _same(first: Method, other: Method) -> None:
    what = f"{first.name} and {other.name} cannot be paired"
    if first.sha256 != other.sha256:
        raise DataError(f"{what}: {first.dataset}'s file is {first.sha256[:12]} for one, {other.sha256[:12]} for other")
    if first.split != other.split:
        raise DataError(f"{what}: one was split by {first.split}, the other by {other.split}")
    common = [seed for seed in first.folds if seed in other.folds]
    for seed in common:
        if first.folds[seed].split != other.folds[seed].split:
            raise DataError(
                f"{what}: their {first.split} splits of seed {seed} differ"
                f" ({first.folds[seed].split[:12]} and {other.folds[seed].split[:12]})"
            )
    for one, two in ((first, other), (other, first)):
        if missing := [seed for seed in one.folds if seed not in two.folds]:
            shown = ", ".join(map(str, missing[:_SHOWN])) + (" ..." if len(missing) > _SHOWN else "")
            raise DataError(
                f"{what}: {two.name} lacks {len(missing)} of {one.name}'s runs ({two.split}, seeds {shown});"
                f" {len(common)} in common"
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
    same = table["metric"].astype(str).str.replace("_", " ").str.casefold() == figure.casefold()
    own = table[same & (table["dataset"] == dataset)]
    return [
        (str(method), str(split), len(runs), float(runs["value"].mean()), float(runs["value"].std(ddof=1)))
        for (method, split), runs in own.groupby(["method", "split"], sort=True)
    ]
