"""Runs of stage 2 as they lie on disk."""

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file

from kflm2.data.datasets import Task
from kflm2.data.splits import Split, inner_groups, with_folds
from kflm2.errors import DataError
from kflm2.metrics.conformal import CONFIDENCE, Calibration, Coverage
from kflm2.metrics.scores import summarize
from kflm2.results import schema
from kflm2.results.schema import RunResult


@dataclass(frozen=True)
class RunCoverage(Coverage):
    """Coverage of the test part of a saved run."""

    recomputed: bool
    """Computed when it was read, for a run that did not record it, from intervals of equal width."""


@dataclass(frozen=True)
class SavedRun:
    """One seed's folder."""

    folder: Path
    result: RunResult

    @property
    def seed(self) -> int:
        """First seed of weights, and of the split."""
        return self.result.seed

    @property
    def task(self) -> Task:
        """What the targets are."""
        return self.result.dataset.task

    @property
    def targets(self) -> list[str]:
        """(K,) names."""
        return self.result.dataset.targets

    @property
    def split_kind(self) -> str:
        """Kind of split, by the folder's name."""
        return self.folder.name.rpartition("-")[0]

    @functools.cached_property
    def table(self) -> pd.DataFrame:
        """Its predictions.csv.

        Raises:
            DataError: it cannot be read, or lacks a column.
        """
        path = self.folder / "predictions.csv"
        try:
            # a molecule may be called NA
            table = pd.read_csv(path, dtype={"smiles": str, "part": str}, keep_default_na=False, na_values=[""])
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read: {error}") from None
        wanted = [
            "row",
            "smiles",
            "part",
            *(f"y_{which}_{name}" for which in ("true", "pred") for name in self.targets),
        ]
        if missing := [name for name in wanted if name not in table]:
            raise DataError(f"{path}: no column {missing[0]}; there are {', '.join(map(str, table))}")
        return table

    @functools.cached_property
    def split(self) -> Split:
        """Its parts, and the inner folds of its models, which its settings give once more.

        Raises:
            DataError: predictions.csv cannot be read.
        """
        part = self.table["part"].to_numpy(dtype=str)
        train, valid = (np.flatnonzero(part == name) for name in ("train", "valid"))
        sets = {name: np.flatnonzero(part == name) for name in sorted(set(part)) if name.startswith("test_")}
        test = np.flatnonzero(is_test(self.table))
        split = Split(self.split_kind, train, valid, test, sets if len(sets) > 1 else {})
        if not self.folds:
            return split
        folds = self.result.config["ensemble"]
        return with_folds(split, folds, self.seed, inner_groups(split, self.table["smiles"].tolist(), folds))

    @property
    def parts(self) -> pd.Series:
        """(n,) what a molecule's prediction is of; with inner folds `valid`, out-of-fold, for all that is not test."""
        part = self.table["part"]
        return part.replace("train", "valid") if self.folds else part

    @functools.cached_property
    def y_true(self) -> np.ndarray:
        """(n, K), NaN where the label is missing."""
        return self.table[[f"y_true_{name}" for name in self.targets]].to_numpy(dtype=float)

    @functools.cached_property
    def y_pred(self) -> np.ndarray:
        """(n, K); for classes the probability of class 1."""
        return self.table[[f"y_pred_{name}" for name in self.targets]].to_numpy(dtype=float)

    def rows_of(self, part: str) -> np.ndarray:
        """(n,) whether a row is of a part; `test` is all of its own parts.

        With inner folds there is no train, and `valid` is all that is not test.
        """
        if self.folds and part in ("train", "valid"):
            return np.zeros(len(self.table), dtype=bool) if part == "train" else ~is_test(self.table)
        return is_test(self.table) if part == "test" else (self.table["part"] == part).to_numpy()

    @property
    def folds(self) -> bool:
        """Whether its models are of inner folds; predictions of train and valid are then out-of-fold predictions."""
        return self.result.config.get("inner") == "folds"

    @functools.cached_property
    def calibration(self) -> Calibration:
        """Learnt on validation, without the standard deviation of the ensemble's members, which is not on disk."""
        valid = self.rows_of("valid")
        std = np.zeros((int(valid.sum()), len(self.targets)))
        return Calibration.fit(self.task, self.y_true[valid], self.y_pred[valid], std)

    @functools.cached_property
    def coverage(self) -> RunCoverage:
        """Confidence, and share of test labels in their interval or set, as result.json records them."""
        if recorded := self.result.coverage.get("test"):
            return RunCoverage(recorded.confidence, recorded.share, recorded.size, recomputed=False)
        test = self.rows_of("test")
        std = np.zeros((int(test.sum()), len(self.targets)))
        coverage = self.calibration.coverage(self.y_true[test], self.y_pred[test], std, CONFIDENCE)
        return RunCoverage(coverage.confidence, coverage.share, coverage.size, recomputed=True)

    @property
    def has_hidden(self) -> bool:
        """Whether its hidden states are on disk; those of the first run of a command are."""
        return (self.folder / "hidden.safetensors").is_file()

    def hidden(self) -> dict[str, np.ndarray] | None:
        """View -> (m, H) states, and `row`, (m,) their rows; None where there are none on disk.

        Raises:
            DataError: the file cannot be read.
        """
        if not self.has_hidden:
            return None
        path = self.folder / "hidden.safetensors"
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path} cannot be read: {error}") from None

    def rejected(self) -> pd.DataFrame:
        """Rows that are not used: row, smiles, reason; empty where there is no such file, as for a baseline."""
        columns = ["row", "smiles", "reason"]
        try:
            return pd.read_csv(self.folder / "rejected.csv", dtype=str, keep_default_na=False)[columns]
        except (OSError, ValueError, KeyError):
            return pd.DataFrame(columns=columns)


def mean_weights(runs: Sequence[RunResult]) -> dict[str, tuple[float | None, float | None]]:
    """Network and voters -> mean and standard deviation of their weight over runs and targets; {} without voters."""
    columns = [column for run in runs for column in run.weights.values()]
    names = columns[0] if columns else {}
    return {name: summarize([column.get(name) for column in columns]) for name in names}


def is_test(table: pd.DataFrame) -> np.ndarray:
    """(n,) whether a row of predictions.csv is of the test part, or of one of several."""
    return table["part"].str.startswith("test").to_numpy()


def runs_in(folder: Path, seeds: Collection[int] | None = None) -> list[SavedRun]:
    """The runs of stage 2 and of baselines in a method's folder, in order of their folders' names.

    Args:
        folder: of a method.
        seeds: of the runs that are wanted; None takes all.

    Raises:
        DataError: a result.json cannot be read.
    """
    folders = [path.parent for path in sorted(folder.glob(f"*/{schema.FILE}"))]
    runs = [SavedRun(path, schema.read_run_result(path)) for path in folders if schema.is_run_result(path)]
    return [run for run in runs if seeds is None or run.seed in seeds]


def split_kinds(runs: list[SavedRun]) -> list[str]:
    """The kinds of split of some runs."""
    return sorted({run.split_kind for run in runs})
