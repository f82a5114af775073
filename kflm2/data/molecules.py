"""Tables of molecules: read and checked row by row; every rejected row is recorded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rdkit import Chem, rdBase

from kflm2.data.datasets import Dataset
from kflm2.data.parts import PARTS
from kflm2.data.tables import Table, read_csv
from kflm2.errors import DataError, MoleculeError
from kflm2.files import sha256_file, sha256_texts

# RDKit's ring search takes seconds to hours on nonsensical strings; the longest molecule of the common datasets has
# 1,340 characters and 78 ring-closure digits.
MAX_SMILES_LENGTH = 5000
MAX_DIGITS = 1000


@dataclass(frozen=True)
class Rejection:
    """A row that is not used, and the reason.

    Rows are numbered from 1, the first after the header, and consecutively over the files of a dataset.
    """

    row: int
    smiles: str
    reason: str


@dataclass(frozen=True)
class Molecules:
    """The n usable rows of a table, in file order, and the rejected ones."""

    dataset: Dataset
    sha256: str
    """Digest of the file's bytes (for several files, of their digests)."""
    read: int
    """Rows read; always n + len(rejected)."""
    rows: np.ndarray
    """(n,) row number of each molecule in the file, from 1."""
    smiles: list[str]
    """(n,) SMILES; as in the file without outer blanks, until they are standardized."""
    y_true: np.ndarray
    """(n, K) float64 targets in the dataset's unit, NaN where the label is missing."""
    parts: list[str] | None
    """(n,) train, valid, test or test_NAME, from the split column or the dataset; None if neither gives parts."""
    rejected: tuple[Rejection, ...]
    missing: int
    """Missing labels in the rows read."""
    padded: int
    """SMILES with blanks around them in the rows read."""

    def take(self, keep: Sequence[int], rejected: Sequence[Rejection] = ()) -> "Molecules":
        """The molecules of some indices, ascending; all others must be in rejected, so that every row is counted.

        Raises:
            DataError: no molecule is left.
        """
        all_rejected = tuple(sorted([*self.rejected, *rejected], key=lambda rejection: rejection.row))
        if not len(keep):
            raise DataError(_none_left(self.dataset.path, all_rejected))
        assert len(keep) + len(all_rejected) == self.read
        return replace(
            self,
            rows=self.rows[list(keep)],
            smiles=[self.smiles[i] for i in keep],
            y_true=self.y_true[list(keep)],
            parts=[self.parts[i] for i in keep] if self.parts is not None else None,
            rejected=all_rejected,
        )

    def reject(self, reasons: dict[int, str]) -> "Molecules":
        """The same table without the molecules in reasons: index into smiles -> reason."""
        keep = [i for i in range(len(self.smiles)) if i not in reasons]
        rejected = [Rejection(int(self.rows[i]), self.smiles[i], reason) for i, reason in reasons.items()]
        return self.take(keep, rejected)


def parse_smiles(smiles: str) -> Chem.Mol:
    """RDKit's molecule of a SMILES.

    Raises:
        MoleculeError: it is empty, too long to be parsed safely, or RDKit cannot read it; the message is the reason.
    """
    if not smiles:
        raise MoleculeError("no SMILES")
    if len(smiles) > MAX_SMILES_LENGTH:
        raise MoleculeError(f"SMILES of {len(smiles)} characters; {MAX_SMILES_LENGTH} are read at most")
    if sum(character.isdigit() for character in smiles) > MAX_DIGITS:
        raise MoleculeError(f"SMILES with more than {MAX_DIGITS} digits")
    if not smiles.isascii():
        raise MoleculeError("a character that SMILES do not have")  # RDKit would ignore it
    if len(smiles.split()) > 1:
        # RDKit would read the second field as a name, but the LLM would read it as SMILES
        raise MoleculeError("a blank inside the SMILES")
    # the reason goes into the rejection, not to stderr
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
    """Read a dataset's files and check every row.

    Args:
        dataset: the files and their columns.
        split_column: column with the part of each row (train, valid, test or test_NAME), for a given split.
        limit: use only the first rows of each file.

    Raises:
        DataError: no such file or column, an empty file, no valid molecule, a target that is not a number, or an
            invalid part.
    """
    wanted = [dataset.smiles_column, *dataset.targets, *([split_column] if split_column else [])]
    raw_smiles: list[str] = []
    labels: list[np.ndarray] = []
    parts: list[str] = []
    rows: list[int] = []
    first_row = 1
    for file in dataset.files:
        full_table = read_csv(file.path, wanted)
        table = full_table.head(limit)
        rows += range(first_row, first_row + len(table))
        first_row += len(full_table)
        raw_smiles += table.columns[dataset.smiles_column]
        parse = table.classes if dataset.task == "classification" else table.numbers
        labels.append(np.stack([parse(target) for target in dataset.targets], axis=1))
        parts += _parts(table, split_column) if split_column else [file.part] * len(table)
    smiles = [text.strip() for text in raw_smiles]
    y_true = np.concatenate(labels)

    valid: list[int] = []
    rejected: list[Rejection] = []
    for index, text in enumerate(smiles):
        try:
            parse_smiles(text)
            if np.isnan(y_true[index]).all():
                raise MoleculeError("no target value")
        except MoleculeError as error:
            rejected.append(Rejection(rows[index], text, str(error)))
        else:
            valid.append(index)
    if not valid:
        raise DataError(_none_left(dataset.path, tuple(rejected)))
    return Molecules(
        dataset=dataset,
        sha256=_digest(dataset),
        read=len(smiles),
        rows=np.array(rows)[valid],
        smiles=[smiles[i] for i in valid],
        y_true=y_true[valid],
        parts=[parts[i] for i in valid] if split_column or dataset.brings_tests else None,
        rejected=tuple(rejected),
        missing=int(np.isnan(y_true).sum()),
        padded=sum(text != raw for text, raw in zip(smiles, raw_smiles, strict=True)),
    )


def _parts(table: Table, column: str) -> list[str]:
    """The parts in a split column."""
    parts = [text.strip() for text in table.columns[column]]
    for row, part in enumerate(parts, 1):
        if part not in PARTS and not part.startswith("test_"):
            raise DataError(
                f"{table.path}: row {row}: column {column!r} is {part!r}; a part is train, valid, test or test_NAME"
            )
    return parts


def _digest(dataset: Dataset) -> str:
    """SHA-256 of the file's bytes; for several files, of their digests."""
    digests = [sha256_file(file.path) for file in dataset.files]
    return digests[0] if len(digests) == 1 else sha256_texts(digests)


def _none_left(path: Path, rejected: tuple[Rejection, ...]) -> str:
    first = rejected[0]
    return f"{path}: none of {len(rejected)} rows is a valid molecule; row {first.row} {first.smiles!r}: {first.reason}"
