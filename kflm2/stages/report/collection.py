"""Data of a report: the runs of all methods, grouped by dataset."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from kflm2.config.pipelines import PIPELINES
from kflm2.config.train import TrainConfig
from kflm2.data.datasets import DATASETS
from kflm2.data.similarity import Fingerprints, fingerprints, nearest
from kflm2.errors import DataError, MoleculeError
from kflm2.files import sha256_texts
from kflm2.llm.registry import PLACEBO
from kflm2.results.saved_runs import SavedRun, is_test
from kflm2.results.schema import DatasetRecord


class Similarity:
    """Similarity of test molecules to the nearest training molecule, computed once for methods with the same split."""

    def __init__(self) -> None:
        self._prints: Fingerprints = []
        self._index: dict[str, int] = {}
        self._values: dict[str, np.ndarray] = {}

    def __call__(self, table: pd.DataFrame) -> np.ndarray:
        """(n,) Tanimoto similarity for the rows of predictions.csv; NaN for rows that are not in the test part."""
        key = sha256_texts([*table["smiles"], *table["part"]])
        if key not in self._values:
            self._values[key] = self._nearest(table)
        return self._values[key]

    def _nearest(self, table: pd.DataFrame) -> np.ndarray:
        new = [smiles for smiles in dict.fromkeys(table["smiles"]) if smiles not in self._index]
        try:
            self._prints += fingerprints(new)
        except MoleculeError as error:
            raise DataError(f"predictions.csv contains a molecule that cannot be read: {error}") from None
        self._index |= {smiles: len(self._index) + i for i, smiles in enumerate(new)}
        index = np.array([self._index[smiles] for smiles in table["smiles"]])
        test, train = is_test(table), (table["part"] == "train").to_numpy()
        similarity = np.full(len(table), np.nan)
        if train.any():
            queries, references = ([self._prints[i] for i in index[rows]] for rows in (test, train))
            similarity[test] = nearest(queries, references)[1]
        return similarity


@dataclass(frozen=True)
class SavedMethod:
    """The runs of one method on one kind of split, ordered by seed."""

    name: str
    split: str
    runs: list[SavedRun]
    settings: str
    """Its settings that differ from the pipeline's defaults, as command line options."""
    on_scaffolds: str
    """The command that runs the method on scaffold splits."""
    tested: dict[int, frozenset[str]] = field(default_factory=dict)
    """Seed -> digest of the rows of the test part."""

    @property
    def first(self) -> SavedRun:
        """The run that the page shows in detail: not the best, but the first, which has hidden states on disk."""
        return self.runs[0]

    @property
    def baseline(self) -> bool:
        return self.first.result.baseline

    @property
    def reads(self) -> str:
        """The views that it reads, and whether its LLM was taught; '' for a baseline."""
        result = self.first.result
        if result.baseline or result.model not in PIPELINES:
            return ""
        descriptors, views = result.config.get("descriptors", "none"), tuple(result.config.get("views") or ())
        columns = tuple(result.config.get("feature_columns") or ())
        words = {view: view for view in ("graph", "descriptors", "covariates")}
        if result.llm is not None:
            is_random = str(result.config.get("llm", "")).startswith(PLACEBO)
            words["states"] = f"{'random' if is_random else 'taught' if result.llm.adapter else 'untaught'} LLM"
        read = TrainConfig(model=result.model, descriptors=descriptors, views=views, feature_columns=columns).read_views
        return " + ".join(words.get(view, "LLM") for view in read)

    def values(self, part: str, metric: str, target: str | None = None) -> list[float | None]:
        """A metric of every run, None where a run does not have it.

        Args:
            part: of the split.
            metric: name.
            target: None for the mean over the targets.
        """
        results = [run.result for run in self.runs]
        if target is None:
            return [result.metrics.get(part, {}).get(metric) for result in results]
        return [(result.targets.get(part, {}).get(target) or {}).get(metric) for result in results]

    def can_be_compared(self, other: "SavedMethod") -> bool:
        """Whether both were tested on the same molecules, as far as they have runs in common."""
        common = self.tested.keys() & other.tested.keys()
        if self.split != other.split:
            return False
        if not common:
            # of a cross-validation, or given tests, other runs test the same molecules in all
            return frozenset().union(*self.tested.values()) == frozenset().union(*other.tested.values())
        return all(self.tested[seed] == other.tested[seed] for seed in common)


def comparable(methods: list[SavedMethod]) -> list[list[SavedMethod]]:
    """Groups of methods of one kind of split that were tested on the same molecules."""
    groups: list[list[SavedMethod]] = []
    for method in methods:
        fits = (group for group in groups if all(method.can_be_compared(other) for other in group))
        if (group := next(fits, None)) is None:
            groups.append(group := [])
        group.append(method)
    return groups


@dataclass(frozen=True)
class SavedDataset:
    """All methods of one dataset."""

    methods: list[SavedMethod]
    audits: dict[str, dict[str, Any]]
    """Name of the audit's folder -> content of audit.json."""
    audit_command: str
    """The command that runs an audit."""
    similarity: Similarity = field(default_factory=Similarity)

    @property
    def record(self) -> DatasetRecord:
        """Name, digest, targets, unit and task."""
        return self.methods[0].first.result.dataset

    @property
    def groups(self) -> list[list[SavedMethod]]:
        """The methods that can be compared with each other; methods of different groups cannot."""
        return comparable(self.methods)

    @property
    def source(self) -> str:
        """Where the table comes from: the registry, or a file of the user."""
        config = self.methods[0].first.result.config
        return "registry" if config.get("dataset") else str(config.get("csv"))

    @property
    def quantity(self) -> str:
        """Name of the target's quantity; '' for a table of the user."""
        dataset = DATASETS.get(str(self.methods[0].first.result.config.get("dataset")))
        return dataset.quantity if dataset and list(dataset.targets) == self.record.targets else ""

    @property
    def parts(self) -> list[str]:
        """Parts for which any run has metrics, test first."""
        parts = {part for method in self.methods for run in method.runs for part in run.result.metrics}
        return sorted(parts, key=lambda part: (not part.startswith("test"), part == "train", part))
