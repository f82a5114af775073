"""From settings to molecules: read, and where that is asked for standardized and freed of duplicates."""

from dataclasses import replace
from pathlib import Path
from typing import Protocol

from kflm2.data import datasets
from kflm2.data.compression import plain
from kflm2.data.datasets import Dataset, File, Task
from kflm2.data.molecules import Molecules
from kflm2.data.reading import read_table
from kflm2.data.structures import Standardization, deduplicate, standardize
from kflm2.files import sha256_file


class TableSource(Protocol):
    """What must be known to read a table; kflm2/config/table.py explains each."""

    @property
    def dataset(self) -> str | None: ...
    @property
    def csv(self) -> Path | None: ...
    @property
    def smiles_column(self) -> str | None: ...
    @property
    def target_columns(self) -> tuple[str, ...]: ...
    @property
    def qualifier_columns(self) -> tuple[str, ...]: ...
    @property
    def weight_column(self) -> str | None: ...
    @property
    def feature_columns(self) -> tuple[str, ...]: ...
    @property
    def split_column(self) -> str | None: ...
    @property
    def limit(self) -> int | None: ...
    @property
    def standardize(self) -> Standardization: ...
    @property
    def deduplicate(self) -> bool: ...
    @property
    def resolved_task(self) -> Task: ...
    @property
    def resolved_split(self) -> str: ...


def load(settings: TableSource) -> Molecules:
    """The molecules that the settings name.

    Raises:
        KFLM2Error: the table cannot be used.
    """
    dataset = _dataset(settings)
    for file in dataset.files:
        if file.sha256 and sha256_file(file.path) != file.sha256:
            print(f"note: {file.path} is not the published file of {dataset.name}: its SHA-256 is another")
    molecules = read_table(
        dataset,
        settings.split_column,
        settings.limit,
        settings.qualifier_columns,
        settings.weight_column,
        settings.feature_columns,
    )
    if settings.resolved_split != "given":
        molecules = replace(molecules, parts=None)  # the dataset's own test sets are not used then
    molecules = standardize(molecules, settings.standardize)
    return deduplicate(molecules) if settings.deduplicate else molecules


def _dataset(settings: TableSource) -> Dataset:
    if settings.csv is None:
        assert settings.dataset is not None
        dataset = datasets.find(settings.dataset)
        return dataset.with_targets(settings.target_columns or dataset.targets)
    return Dataset(
        name=plain(settings.csv).stem,
        files=(File(settings.csv),),
        targets=settings.target_columns,
        task=settings.resolved_task,
        smiles_column=settings.smiles_column or "smiles",
    )
