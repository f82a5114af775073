"""From settings to molecules: read, and where that is asked for brought to standard form and freed of duplicates."""

from dataclasses import replace

from kflm2.config.table import TableSettings
from kflm2.data import datasets
from kflm2.data.datasets import Dataset, File
from kflm2.data.molecules import Molecules, read_table
from kflm2.data.structures import deduplicate, standardize
from kflm2.files import sha256_file


def load(settings: TableSettings) -> Molecules:
    """The molecules that the settings ask for.

    Raises:
        KFLM2Error: the table cannot be used.
    """
    dataset = _dataset(settings)
    for file in dataset.files:
        if file.sha256 and sha256_file(file.path) != file.sha256:
            print(f"note: {file.path} is not the published file of {dataset.name}: its SHA-256 is another")
    molecules = read_table(dataset, settings.split_column, settings.limit)
    if settings.split_kind != "given":
        molecules = replace(molecules, parts=None)  # the dataset's own tests are not what is tested then
    molecules = standardize(molecules, settings.standardize)
    return deduplicate(molecules) if settings.deduplicate else molecules


def _dataset(settings: TableSettings) -> Dataset:
    if settings.csv is None:
        assert settings.dataset is not None
        dataset = datasets.find(settings.dataset)
        return dataset.with_targets(settings.target_columns or dataset.targets)
    return Dataset(
        name=settings.csv.stem,
        files=(File(settings.csv),),
        targets=settings.target_columns,
        kind=settings.table_kind,
        smiles_column=settings.smiles_column or "smiles",
    )
