"""Runs of stage 2 as they lie on disk: what a report is made of."""

import functools
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load_file

from kflm2.data.datasets import DATASETS, Task
from kflm2.data.similarity import Fingerprints, fingerprints, nearest
from kflm2.errors import DataError, MoleculeError
from kflm2.files import sha256_texts
from kflm2.metrics.conformal import CONFIDENCE, Calibration


class Nearness:
    """Similarity of test molecules to the nearest in train; what methods with the same split share is found once."""

    def __init__(self) -> None:
        self._prints: Fingerprints = []
        self._place: dict[str, int] = {}
        self._known: dict[str, np.ndarray] = {}

    def __call__(self, table: pd.DataFrame) -> np.ndarray:
        """(n,) Tanimoto similarity of predictions.csv's rows; NaN where a row is not of the test part."""
        key = sha256_texts([*table["smiles"], *table["part"]])
        if key not in self._known:
            self._known[key] = self._nearest(table)
        return self._known[key]

    def _nearest(self, table: pd.DataFrame) -> np.ndarray:
        new = [smiles for smiles in dict.fromkeys(table["smiles"]) if smiles not in self._place]
        try:
            self._prints += fingerprints(new)
        except MoleculeError as error:
            raise DataError(f"predictions.csv holds a molecule that cannot be read: {error}") from None
        self._place |= {smiles: len(self._place) + i for i, smiles in enumerate(new)}
        place = np.array([self._place[smiles] for smiles in table["smiles"]])
        tested, train = is_test(table), (table["part"] == "train").to_numpy()
        out = np.full(len(table), np.nan)
        if train.any():
            out[tested] = nearest([self._prints[i] for i in place[tested]], [self._prints[i] for i in place[train]])[1]
        return out


def is_test(table: pd.DataFrame) -> np.ndarray:
    """(n,) whether a row of predictions.csv is of the test part, or of one of several."""
    return table["part"].str.startswith("test").to_numpy()


@dataclass(frozen=True)
class SavedRun:
    """One seed's folder."""

    folder: Path
    made: dict[str, Any]
    """Its result.json."""

    @property
    def seed(self) -> int:
        return int(self.made["seed"])

    @property
    def task(self) -> Task:
        return self.made["dataset"]["kind"]

    @property
    def targets(self) -> list[str]:
        return self.made["dataset"]["targets"]

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
        if lacking := [name for name in wanted if name not in table]:
            raise DataError(f"{path}: no column {lacking[0]}; there are {', '.join(map(str, table))}")
        return table

    @functools.cached_property
    def y_true(self) -> np.ndarray:
        """(n, K), NaN where the label is missing."""
        return self.table[[f"y_true_{name}" for name in self.targets]].to_numpy(dtype=float)

    @functools.cached_property
    def y_pred(self) -> np.ndarray:
        """(n, K); for classes the probability of class 1."""
        return self.table[[f"y_pred_{name}" for name in self.targets]].to_numpy(dtype=float)

    def rows_of(self, part: str) -> np.ndarray:
        """(n,) whether a row is of a part; `test` is all of its own parts."""
        return is_test(self.table) if part == "test" else (self.table["part"] == part).to_numpy()

    @functools.cached_property
    def calibration(self) -> Calibration:
        """Learnt on validation, without the spread of the ensemble's members, which is not kept."""
        valid = self.rows_of("valid")
        return Calibration(self.task, self.y_true[valid], self.y_pred[valid], np.zeros((int(valid.sum()), self.width)))

    @property
    def width(self) -> int:
        """K, the number of targets."""
        return len(self.targets)

    @functools.cached_property
    def coverage(self) -> dict[str, Any]:
        """Promised and found share of test labels in their interval or set, as result.json says it.

        For a run that does not say, older or a baseline, it is found now, from intervals that are equally wide.
        """
        if said := self.made.get("coverage", {}).get("test"):
            return {**said, "now": False}
        test = self.rows_of("test")
        found = self.calibration.coverage(
            self.y_true[test], self.y_pred[test], np.zeros((int(test.sum()), self.width)), CONFIDENCE
        )
        return {"confidence": found.confidence, "share": found.share, "size": found.size, "now": True}

    @property
    def has_hidden(self) -> bool:
        """Whether it kept hidden states; the first run of a command does."""
        return (self.folder / "hidden.safetensors").is_file()

    def hidden(self) -> dict[str, np.ndarray] | None:
        """View -> (m, H) states, and `row`, (m,) their rows; None where the run kept none.

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
        """Rows that are not used: row, smiles, reason; empty where there is no such file, as a baseline's."""
        columns = ["row", "smiles", "reason"]
        try:
            return pd.read_csv(self.folder / "rejected.csv", dtype=str, keep_default_na=False)[columns]
        except (OSError, ValueError, KeyError):
            return pd.DataFrame(columns=columns)


@dataclass(frozen=True)
class SavedMethod:
    """The runs of one method on one kind of split, in order of their seeds."""

    name: str
    split: str
    runs: list[SavedRun]
    config: str
    """Where it departs from its pipeline's defaults, in words of a command line."""
    on_scaffolds: str
    """The command that would measure it on new scaffolds."""

    @property
    def first(self) -> SavedRun:
        """The run that is shown: not the best one, but the first, whose hidden states are kept."""
        return self.runs[0]

    @property
    def baseline(self) -> bool:
        return bool(self.first.made.get("baseline"))

    def values(self, part: str, figure: str) -> list[float | None]:
        """A figure of every run."""
        return [run.made["metrics"].get(part, {}).get(figure) for run in self.runs]


@dataclass(frozen=True)
class SavedDataset:
    """All methods of one dataset."""

    methods: list[SavedMethod]
    audits: dict[str, dict[str, Any]]
    """Folder -> audit.json."""
    audit_command: str
    near: Nearness = field(default_factory=Nearness)

    @property
    def about(self) -> dict[str, Any]:
        """Name, sha256, targets, unit and kind."""
        return self.methods[0].first.made["dataset"]

    @property
    def quantity(self) -> str:
        """What the target is, in words; '' for a table of the user's own."""
        row = DATASETS.get(str(self.methods[0].first.made["config"].get("dataset")))
        return row.quantity if row and list(row.targets) == self.about["targets"] else ""

    @property
    def parts(self) -> list[str]:
        """Parts that some run has figures of, test first."""
        found = Counter(part for method in self.methods for run in method.runs for part in run.made["metrics"])
        return sorted(found, key=lambda part: (not part.startswith("test"), part == "train", part))
