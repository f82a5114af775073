"""Folders of results, read as methods with their folds."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kflm2.data.datasets import Task
from kflm2.errors import DataError
from kflm2.files import read_json, sha256_texts
from kflm2.metrics.scores import Metrics
from kflm2.results.runs import identity


@dataclass(frozen=True)
class Fold:
    """One run: one split and one seed."""

    parts: str
    """Digest of which row is in which part."""
    molecules: str
    """Digest of rows, SMILES as read, and labels."""
    tested: str
    """Digest of the rows of the test part."""
    sizes: dict[str, int]
    figures: Metrics
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
    task: Task
    unit: str | None
    targets: tuple[str, ...]
    split: str
    folds: dict[int, Fold]
    """Seed -> run."""
    baseline: bool = False
    """Run by a comparison, and not by a person."""

    @property
    def test_share(self) -> float:
        """Test molecules over training molecules, mean of the folds."""
        return float(np.mean([fold.sizes["test"] / fold.sizes["train"] for fold in self.folds.values()]))


def named(word: str) -> tuple[str | None, Path]:
    """NAME=PATH, or PATH alone."""
    name, equals, path = word.partition("=")
    return (name, Path(path)) if equals and not Path(word).exists() else (None, Path(word))


def find(word: str, split: str | None, seeds: Collection[int] | None = None) -> list[Method]:
    """The methods in a folder: a model's, or a dataset's with a folder a model.

    Args:
        word: FOLDER or NAME=FOLDER.
        split: the kind that is wanted; None takes the only one there is.
        seeds: of the runs that are wanted; None takes all.

    Raises:
        DataError: no complete run in it, runs of several kinds of split, or runs of different settings.
    """
    name, folder = named(word)
    if not folder.is_dir():
        raise DataError(f"results {folder}: no such folder")
    folder = folder.resolve()
    if runs := runs_in(folder, seeds):
        return [read(name or folder.name, folder, runs, split)]
    below = {own: runs for own in sorted(folder.iterdir()) if own.is_dir() and (runs := runs_in(own, seeds))}
    if not below:
        raise DataError(f"results {folder}: no result.json of a run in it, nor in the folders in it")
    if name is not None:
        raise DataError(f"results {folder} holds a folder for each of {len(below)} methods, not one named {name}")
    wanted = {own: runs for own, runs in below.items() if split is None or split in kinds_of(runs)}
    for own in below.keys() - wanted.keys():
        print(f"left out  {own}: no run of {split}", flush=True)
    return [read(own.name, own, runs, split) for own, runs in wanted.items()]


def runs_in(folder: Path, seeds: Collection[int] | None = None) -> dict[Path, dict[str, Any]]:
    """Folder -> result of the runs of stage 2; what stage 3 writes is of another form."""
    found = {path.parent: read_json(path, "result", DataError) for path in sorted(folder.glob("*/result.json"))}
    return {path: made for path, made in found.items() if "model" in made and (seeds is None or made["seed"] in seeds)}


def kinds_of(runs: dict[Path, dict[str, Any]]) -> list[str]:
    """The kinds of split, by the folders' names."""
    return sorted({path.name.rpartition("-")[0] for path in runs})


def read(name: str, folder: Path, runs: dict[Path, dict[str, Any]], split: str | None) -> Method:
    """A method from its runs of one kind of split; see find."""
    kinds = kinds_of(runs)
    if split is None and len(kinds) > 1:
        raise DataError(f"results {folder} holds runs of {', '.join(kinds)}; say which with --split")
    split = split or kinds[0]
    if split not in kinds:
        raise DataError(f"results {folder} holds no run of {split}, but of {', '.join(kinds)}")
    runs = {path: made for path, made in runs.items() if path.name.rpartition("-")[0] == split}
    first_path, first = next(iter(runs.items()))
    for path, made in runs.items():
        if made["dataset"] != first["dataset"]:
            raise DataError(f"{path} was measured on another {first['dataset']['name']} than {first_path}")
        ours, theirs = _identity(first), _identity(made)
        if differ := sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)):
            raise DataError(f"{path} and {first_path} are runs of different settings: {', '.join(differ)}")
    folds = {int(made["seed"]): read_fold(path, made) for path, made in runs.items()}
    about = first["dataset"]
    return Method(
        name,
        about["name"],
        about["sha256"],
        about["kind"],
        about["unit"],
        tuple(about["targets"]),
        split,
        dict(sorted(folds.items())),
        bool(first.get("baseline")),
    )


def _identity(made: dict[str, Any]) -> dict[str, Any]:
    return {**identity(made["config"]), "model": made["model"], "LLM": made.get("llm"), "about": made.get("about")}


def read_fold(folder: Path, made: dict[str, Any]) -> Fold:
    """A run from its files.

    Args:
        folder: with predictions.csv.
        made: its result.json.

    Raises:
        DataError: the predictions cannot be read.
    """
    try:
        table = pd.read_csv(folder / "predictions.csv", dtype=str, keep_default_na=False)
        parts, labels = table[["row", "part"]], [name for name in table if name.startswith("y_true_")]
        tested = table.loc[table["part"].str.startswith("test"), "row"]
        molecules = table[["row", "smiles", *labels]]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder}: predictions.csv cannot be read: {error}") from None
    seen = [sha256_texts(own.to_numpy().ravel().tolist()) for own in (parts, molecules, tested)]
    return Fold(
        seen[0],
        seen[1],
        seen[2],
        made["split"]["sizes"],
        made["metrics"].get("test", {}),
        folder,
    )
