"""The registry of datasets: a row each, no code per dataset."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kflm2.errors import DataError, one_of
from kflm2.files import project_folder

Kind = Literal["regression", "classification"]


@dataclass(frozen=True)
class Dataset:
    """What one table holds and which of its columns are read."""

    name: str
    path: Path
    targets: tuple[str, ...]
    """Columns to predict."""
    unit: str = ""
    """Unit of the targets, for tables and axes."""
    kind: Kind = "regression"
    smiles_column: str = "smiles"
    quantity: str = ""
    """What the target is, in words."""


_ROWS = (Dataset("SAMPL", Path("SAMPL.csv"), ("expt",), "kcal/mol", quantity="hydration free energy"),)

DATASETS = {row.name: row for row in _ROWS}


def find(name: str) -> Dataset:
    """The registry's row of a name, its path made absolute.

    Raises:
        SettingError: no such dataset.
        DataError: its file is not in dataset/.
    """
    one_of("dataset", name, tuple(DATASETS))
    row = DATASETS[name]
    path = project_folder() / "dataset" / row.path
    if not path.is_file():
        raise DataError(f"dataset {name}: no file {path}")
    return Dataset(**{**row.__dict__, "path": path})
