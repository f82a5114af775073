"""From settings to molecules: read, and where that is asked for brought to standard form and freed of duplicates."""

from dataclasses import replace

from kflm2.config.table import TableConfig
from kflm2.data import datasets
from kflm2.data.datasets import Dataset, File
from kflm2.data.molecules import Molecules, read_table
from kflm2.data.structures import deduplicate, standardize
from kflm2.files import sha256_file


def load(config: TableConfig) -> Molecules:
    """The molecules that the settings ask for.

    Raises:
        KFLM2Error: the table cannot be used.
    """
    dataset = _dataset(config)
    for file in dataset.files:
        if file.sha256 and sha256_file(file.path) != file.sha256:
            print(f"note: {file.path} is not the published file of {dataset.name}: its SHA-256 is another")
    molecules = read_table(dataset, config.split_column, config.limit)
    if config.split_kind != "given":
        molecules = replace(molecules, parts=None)  # the dataset's own tests are not what is tested then
    molecules = standardize(molecules, config.standardize)
    return deduplicate(molecules) if config.deduplicate else molecules


def _dataset(config: TableConfig) -> Dataset:
    if config.csv is None:
        assert config.dataset is not None
        dataset = datasets.find(config.dataset)
        return dataset.with_targets(config.target_columns or dataset.targets)
    return Dataset(
        name=config.csv.stem,
        files=(File(config.csv),),
        targets=config.target_columns,
        task=config.resolved_task,
        smiles_column=config.smiles_column or "smiles",
    )
