"""Tables of molecules: read, checked row by row, nothing dropped unsaid."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rdkit import Chem, rdBase

from kflm2.data.datasets import Dataset
from kflm2.errors import DataError, MoleculeError
from kflm2.files import sha256_file

# RDKit's ring search takes seconds to hours on absurd strings; the longest molecule of the field's datasets has 1,340
# characters and 78 ring-closure digits.
MAX_SMILES_LENGTH = 5000
MAX_DIGITS = 1000


@dataclass(frozen=True)
class Rejection:
    """A row that is not used, and why. Rows count from 1, the first after the header."""

    row: int
    smiles: str
    reason: str


@dataclass(frozen=True)
class Molecules:
    """The rows of a table that can be used, in file order (n of them), and those that cannot."""

    dataset: Dataset
    sha256: str
    """Digest of the file's bytes."""
    read: int
    """Rows read; always kept + rejected."""
    rows: np.ndarray
    """(n,) row number of each molecule in the file, from 1."""
    smiles: list[str]
    """(n,) SMILES as written, outer blanks removed."""
    y_true: np.ndarray
    """(n, K) float64 targets in the dataset's unit, NaN where the label is missing."""
    parts: list[str] | None
    """(n,) the split column's words, where one was asked for."""
    rejected: tuple[Rejection, ...]

    def reject(self, reasons: dict[int, str]) -> "Molecules":
        """The same table without some molecules: index among the kept -> reason."""
        keep = [i for i in range(len(self.smiles)) if i not in reasons]
        more = [Rejection(int(self.rows[i]), self.smiles[i], reason) for i, reason in reasons.items()]
        rejected = tuple(sorted([*self.rejected, *more], key=lambda rejection: rejection.row))
        if not keep:
            raise DataError(_none_left(self.dataset.path, rejected))
        return Molecules(
            dataset=self.dataset,
            sha256=self.sha256,
            read=self.read,
            rows=self.rows[keep],
            smiles=[self.smiles[i] for i in keep],
            y_true=self.y_true[keep],
            parts=[self.parts[i] for i in keep] if self.parts is not None else None,
            rejected=rejected,
        )


def parse_smiles(smiles: str) -> Chem.Mol:
    """RDKit's molecule of a SMILES.

    Raises:
        MoleculeError: it is empty, too long to be parsed safely, or RDKit cannot read it; the message says why.
    """
    if not smiles:
        raise MoleculeError("no SMILES")
    if len(smiles) > MAX_SMILES_LENGTH:
        raise MoleculeError(f"SMILES of {len(smiles)} characters; {MAX_SMILES_LENGTH} are read at most")
    if sum(character.isdigit() for character in smiles) > MAX_DIGITS:
        raise MoleculeError(f"SMILES with more than {MAX_DIGITS} digits")
    # RDKit would write the reason to stderr; it belongs in the rejection
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
        if mol is None:
            raise MoleculeError(f"RDKit cannot read it: {_problem(smiles)}")
    if mol.GetNumAtoms() == 0:
        raise MoleculeError("no atoms")
    return mol


def _problem(smiles: str) -> str:
    mol = Chem.MolFromSmiles(smiles, sanitize=False)
    if mol is None:
        return "not a SMILES"
    problems = Chem.DetectChemistryProblems(mol)
    return problems[0].Message() if problems else "it cannot be sanitized"


def read_table(dataset: Dataset, split_column: str | None = None, limit: int | None = None) -> Molecules:
    """Read a dataset's CSV and check every row.

    Args:
        dataset: the file and its columns.
        split_column: column that says train, valid or test, if the split is given.
        limit: read the first rows only.

    Raises:
        DataError: no such file or column, nothing in it, no valid molecule, or a target that is not a number.
    """
    path = dataset.path
    frame = _read_csv(path, limit)
    wanted = [dataset.smiles_column, *dataset.targets, *([split_column] if split_column else [])]
    for column in wanted:
        if column not in frame.columns:
            raise DataError(f"{path}: no column {column!r}; it has: {', '.join(map(repr, frame.columns))}")
    smiles = frame[dataset.smiles_column].str.strip().tolist()
    y_true = np.stack([_numbers(frame[target], path, dataset.kind) for target in dataset.targets], axis=1)

    kept: list[int] = []
    rejected: list[Rejection] = []
    for index, text in enumerate(smiles):
        try:
            parse_smiles(text)
            if np.isnan(y_true[index]).all():
                raise MoleculeError("no target value")
        except MoleculeError as error:
            rejected.append(Rejection(index + 1, text, str(error)))
        else:
            kept.append(index)
    if not kept:
        raise DataError(_none_left(path, tuple(rejected)))
    return Molecules(
        dataset=dataset,
        sha256=sha256_file(path),
        read=len(frame),
        rows=np.array(kept) + 1,
        smiles=[smiles[i] for i in kept],
        y_true=y_true[kept],
        parts=frame[split_column].str.strip().iloc[kept].tolist() if split_column else None,
        rejected=tuple(rejected),
    )


def _read_csv(path: Path, limit: int | None) -> pd.DataFrame:
    if not path.is_file():
        raise DataError(f"no file {path}")
    try:
        # as text: a target that is not a number must be seen, with its row, rather than become NaN
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, nrows=limit, encoding="utf-8-sig")
    except pd.errors.EmptyDataError:
        raise DataError(f"{path} is empty") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as CSV: {str(error).splitlines()[0]}") from None
    if frame.empty:
        raise DataError(f"{path} has a header and no rows")
    return frame


def _numbers(column: pd.Series, path: Path, kind: str) -> np.ndarray:
    """A target column as float64, NaN where it is blank."""
    values = np.full(len(column), np.nan)
    for index, text in enumerate(column.str.strip()):
        if not text:
            continue
        with contextlib.suppress(ValueError):
            values[index] = float(text)
        if not np.isfinite(values[index]):
            raise DataError(f"{path}: row {index + 1}: column {column.name!r} is {text!r}, not a number")
        if kind == "classification" and values[index] not in (0.0, 1.0):
            raise DataError(f"{path}: row {index + 1}: column {column.name!r} is {text!r}; a class is 0 or 1")
    return values


def _none_left(path: Path, rejected: tuple[Rejection, ...]) -> str:
    first = rejected[0]
    return f"{path}: none of {len(rejected)} rows is a valid molecule; row {first.row} {first.smiles!r}: {first.reason}"
