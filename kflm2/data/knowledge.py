"""Tables of numbers that are known of molecules, which an LLM learns to read off their SMILES."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from pyarrow import ArrowException
from rdkit import Chem

from kflm2.data.molecules import parse_smiles, without_map_numbers
from kflm2.errors import DataError, MoleculeError
from kflm2.files import project_folder, sha256_texts

SMILES_COLUMNS = ("smiles", "SMILES", "Smiles", "canonical_smiles")
"""Columns of SMILES that a table may have; the first one found is read."""


@dataclass(frozen=True)
class KnowledgeTable:
    """P numbers of each of n molecules, some of which may be missing."""

    name: str
    columns: tuple[str, ...]
    smiles: tuple[str, ...]
    """(n,) canonical, each once."""
    written: tuple[str, ...]
    """(n,) as the file has them."""
    values: np.ndarray
    """(n, P) float32, NaN where missing."""
    unreadable: int
    """Rows whose SMILES RDKit cannot read; they are left out."""

    @staticmethod
    def read(path: Path) -> "KnowledgeTable":
        """Read a .parquet or .csv file with a column of SMILES; all its columns of numbers are taken.

        Of a molecule that is there several times the first row counts.

        Raises:
            DataError: no such file, no SMILES, no numbers, or a word in a column of numbers.
        """
        try:
            frame = pd.read_parquet(path) if path.suffix.lower() in (".parquet", ".pq") else pd.read_csv(path)
            # a column without a name is the index that pandas writes
            frame = frame.reset_index(drop=True).filter(regex=r"^(?!Unnamed: \d+$)")
        except (OSError, ValueError, ArrowException) as error:
            raise DataError(f"knowledge {path} cannot be read: {error}") from None
        column = next((name for name in SMILES_COLUMNS if name in frame), None)
        if column is None:
            raise DataError(f"knowledge {path}: no column {' or '.join(SMILES_COLUMNS)}; it has: {', '.join(frame)}")
        for name in frame.columns.drop(column):
            _check_numbers(path, frame[name])
        numbers = frame.select_dtypes("number").drop(columns=column, errors="ignore")
        rows: dict[str, int] = {}
        unreadable = 0
        texts = [text.strip() for text in frame[column].fillna("").astype(str)]
        for row, text in enumerate(texts):
            try:
                rows.setdefault(canonical_smiles(text), row)
            except MoleculeError:
                unreadable += 1
        values = numbers.to_numpy(dtype=np.float32, na_value=np.nan)[list(rows.values())]
        values[~np.isfinite(values)] = np.nan
        varying = [k for k in range(values.shape[1]) if np.unique(values[~np.isnan(values[:, k]), k]).size > 1]
        if not rows or not varying:
            raise DataError(f"knowledge {path}: {len(rows)} molecules, and no column of numbers that vary")
        names = tuple(str(numbers.columns[k]) for k in varying)
        written = tuple(texts[row] for row in rows.values())
        return KnowledgeTable(path.stem, names, tuple(rows), written, values[:, varying], unreadable)

    def rows_of(self, smiles: Sequence[str]) -> np.ndarray:
        """(m, P) float32 numbers of valid SMILES; NaN for a molecule that is not in the table."""
        out = np.full((len(smiles), len(self.columns)), np.nan, dtype=np.float32)
        for row, text in enumerate(smiles):
            index = self._index.get(canonical_smiles(text))
            if index is not None:
                out[row] = self.values[index]
        return out

    @property
    def sha256(self) -> str:
        """Digest of all that is read of the table."""
        content = sha256_texts([*self.columns, *self.smiles])
        return hashlib.sha256(content.encode() + np.ascontiguousarray(self.values).tobytes()).hexdigest()

    @cached_property
    def _index(self) -> dict[str, int]:
        return {text: row for row, text in enumerate(self.smiles)}


def _check_numbers(path: Path, cells: pd.Series) -> None:
    """Refuse a column of numbers with a word among them, which would be left out as if it held no numbers.

    Raises:
        DataError: it is one; the message names the first such cell.
    """
    if pd.api.types.is_numeric_dtype(cells):
        return
    known = cells.dropna()
    words = pd.to_numeric(known, errors="coerce").isna()
    if len(known) and words.mean() < 0.5:
        row = words.idxmax()
        raise DataError(
            f"knowledge {path}: row {row + 1}: column {cells.name!r} is {known[row]!r}, and a number in most other"
            " rows: leave what is no number blank"
        )


def canonical_smiles(smiles: str) -> str:
    """RDKit's canonical SMILES, without atom map numbers.

    Raises:
        MoleculeError: RDKit cannot read it.
    """
    return str(Chem.MolToSmiles(without_map_numbers(parse_smiles(smiles))))


def find_table(word: str) -> Path:
    """The file of a knowledge table: that of xTB in the repository for `xtb`, else a path.

    Raises:
        DataError: there is no such file.
    """
    path = project_folder() / "dataset" / "knowledge_xtb.parquet" if word == "xtb" else Path(word)
    if not path.is_file():
        raise DataError(
            f"knowledge {word}: no file {path}; give descriptors, xtb (the table in the repository), or a .parquet or"
            " .csv file"
        )
    return path
