"""Tables of molecules: read, checked row by row, nothing dropped unsaid."""

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

# RDKit's ring search takes seconds to hours on absurd strings; the longest molecule of the field's datasets has 1,340
# characters and 78 ring-closure digits.
MAX_SMILES_LENGTH = 5000
MAX_DIGITS = 1000


@dataclass(frozen=True)
class Rejection:
    """A row that is not used, and why.

    Rows count from 1, the first after the header, and go on counting where a dataset goes on in a further file.
    """

    row: int
    smiles: str
    reason: str


@dataclass(frozen=True)
class Molecules:
    """The rows of a table that can be used, in file order (n of them), and those that cannot."""

    dataset: Dataset
    sha256: str
    """Digest of the file's bytes (of several files, of their digests)."""
    read: int
    """Rows read; always kept + rejected."""
    rows: np.ndarray
    """(n,) row number of each molecule in the file, from 1."""
    smiles: list[str]
    """(n,) SMILES as written, outer blanks removed; or as standardized, where that was asked for."""
    y_true: np.ndarray
    """(n, K) float64 targets in the dataset's unit, NaN where the label is missing."""
    parts: list[str] | None
    """(n,) train, valid, test or test_NAME: the split column's words, or the dataset's own parts; None without."""
    rejected: tuple[Rejection, ...]
    missing: int
    """Labels that are missing in the rows read."""
    padded: int
    """SMILES with blanks around them in the rows read."""

    def take(self, keep: Sequence[int], rejected: Sequence[Rejection] = ()) -> "Molecules":
        """Some of the molecules, ascending; the others must be among the rejected, so that none goes uncounted.

        Raises:
            DataError: none is left.
        """
        everything = tuple(sorted([*self.rejected, *rejected], key=lambda rejection: rejection.row))
        if not len(keep):
            raise DataError(_none_left(self.dataset.path, everything))
        assert len(keep) + len(everything) == self.read
        return replace(
            self,
            rows=self.rows[list(keep)],
            smiles=[self.smiles[i] for i in keep],
            y_true=self.y_true[list(keep)],
            parts=[self.parts[i] for i in keep] if self.parts is not None else None,
            rejected=everything,
        )

    def reject(self, reasons: dict[int, str]) -> "Molecules":
        """The same table without some molecules: index among the kept -> reason."""
        keep = [i for i in range(len(self.smiles)) if i not in reasons]
        more = [Rejection(int(self.rows[i]), self.smiles[i], reason) for i, reason in reasons.items()]
        return self.take(keep, more)


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
    if not smiles.isascii():
        raise MoleculeError("a character that SMILES do not have")  # RDKit would pass over it
    if len(smiles.split()) > 1:
        # RDKit would take what follows for a name, and the LLM would read it
        raise MoleculeError("a blank inside the SMILES")
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
    """Read a dataset's files and check every row.

    Args:
        dataset: the files and their columns.
        split_column: column that says train, valid or test, if the split is given by one.
        limit: read the first rows of each file only.

    Raises:
        DataError: no such file or column, nothing in it, no valid molecule, a target that is not a number, or a part
            that is none.
    """
    wanted = [dataset.smiles_column, *dataset.targets, *([split_column] if split_column else [])]
    written: list[str] = []
    targets: list[np.ndarray] = []
    parts: list[str] = []
    numbers: list[int] = []
    start = 1
    for file in dataset.files:
        whole = read_csv(file.path, wanted)
        table = whole.head(limit)
        numbers += range(start, start + len(table))
        start += len(whole)
        written += table.columns[dataset.smiles_column]
        read = table.classes if dataset.task == "classification" else table.numbers
        targets.append(np.stack([read(target) for target in dataset.targets], axis=1))
        parts += _parts(table, split_column) if split_column else [file.part] * len(table)
    smiles = [text.strip() for text in written]
    y_true = np.concatenate(targets)

    kept: list[int] = []
    rejected: list[Rejection] = []
    for index, text in enumerate(smiles):
        try:
            parse_smiles(text)
            if np.isnan(y_true[index]).all():
                raise MoleculeError("no target value")
        except MoleculeError as error:
            rejected.append(Rejection(numbers[index], text, str(error)))
        else:
            kept.append(index)
    if not kept:
        raise DataError(_none_left(dataset.path, tuple(rejected)))
    return Molecules(
        dataset=dataset,
        sha256=_digest(dataset),
        read=len(smiles),
        rows=np.array(numbers)[kept],
        smiles=[smiles[i] for i in kept],
        y_true=y_true[kept],
        parts=[parts[i] for i in kept] if split_column or dataset.brings_tests else None,
        rejected=tuple(rejected),
        missing=int(np.isnan(y_true).sum()),
        padded=sum(text != raw for text, raw in zip(smiles, written, strict=True)),
    )


def _parts(table: Table, column: str) -> list[str]:
    """The words of a split column."""
    words = [text.strip() for text in table.columns[column]]
    for row, word in enumerate(words, 1):
        if word not in PARTS and not word.startswith("test_"):
            raise DataError(
                f"{table.path}: row {row}: column {column!r} is {word!r}; a part is train, valid, test or test_NAME"
            )
    return words


def _digest(dataset: Dataset) -> str:
    """Of the file's bytes; of several files, of their digests."""
    digests = [sha256_file(file.path) for file in dataset.files]
    return digests[0] if len(digests) == 1 else sha256_texts(digests)


def _none_left(path: Path, rejected: tuple[Rejection, ...]) -> str:
    first = rejected[0]
    return f"{path}: none of {len(rejected)} rows is a valid molecule; row {first.row} {first.smiles!r}: {first.reason}"
