"""Molecules to predict, one after another, from any of the files chemists have; a file of any size takes no memory.

Nothing is dropped: a row that cannot be read comes with the reason. Blank lines are no rows.
"""

import codecs
import csv
import hashlib
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rdkit import Chem, rdBase

from kflm2.data.tables import find_header
from kflm2.errors import DataError, MoleculeError
from kflm2.files import sha256_file

Format = Literal["csv", "smi", "sdf", "parquet", "words"]

_SUFFIXES: dict[str, Format] = {
    **dict.fromkeys((".csv", ".tsv", ".txt"), "csv"),
    **dict.fromkeys((".smi", ".smiles"), "smi"),
    **dict.fromkeys((".sdf", ".sd"), "sdf"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
}
_HEAD = 1 << 16
_LONGEST_CELL = 1 << 26
_END = re.compile(r"^M  END", re.MULTILINE)


@dataclass(frozen=True)
class InputRow:
    """One row of the input."""

    text: str = ""
    """A SMILES; of an SDF a block, see MoleculeReader.smiles."""
    name: str = ""
    """What the input calls it."""
    problem: str = ""
    """Why there is no text."""


@dataclass(frozen=True)
class MoleculeReader:
    """Where molecules come from."""

    format: Format
    path: Path | None = None
    """None for standard input."""
    words: tuple[str, ...] = ()
    """SMILES of the command line."""
    smiles_column: str = "smiles"
    """Of a table."""
    name_column: str | None = None
    """Of a table; None for no names."""

    @staticmethod
    def of(words: tuple[str, ...], smiles_column: str, name_column: str | None) -> "MoleculeReader":
        """The input that the words of a command line mean: one file, `-` for standard input, or SMILES.

        Raises:
            DataError: a file that is not there, or of a format that is not read.
        """
        if words == ("-",):
            return MoleculeReader("smi")
        path = Path(words[0])
        known = _SUFFIXES.get(path.suffix.lower())
        if len(words) == 1 and (known or path.is_file()):
            if not path.is_file():
                raise DataError(f"no file {path}")
            if known is None:
                raise DataError(f"{path}: unknown format; {', '.join(_SUFFIXES)} are read")
            if name_column is not None and known in ("smi", "sdf"):
                raise DataError(f"{path} has names of its own, and no column {name_column!r}")
            return MoleculeReader(known, path, smiles_column=smiles_column, name_column=name_column)
        if files := [word for word in words if Path(word).is_file()]:
            raise DataError(f"{files[0]} is a file among other words; give one file, or SMILES")
        return MoleculeReader("words", words=words)

    @property
    def named(self) -> bool:
        """Whether rows may have names."""
        return self.format in ("smi", "sdf") or self.name_column is not None

    def digest(self) -> str:
        """SHA-256 of the input; '' for standard input, which cannot be read twice."""
        if self.format == "words":
            return hashlib.sha256("\n".join(self.words).encode()).hexdigest()
        return "" if self.path is None else sha256_file(self.path)

    def count(self) -> int | None:
        """Rows there are; None for standard input.

        Raises:
            DataError: the file cannot be read.
        """
        if self.format == "words":
            return len(self.words)
        if self.path is None:
            return None
        if self.format == "parquet":
            return int(self._opened_parquet().metadata.num_rows)
        return sum(1 for _ in self.rows())

    def rows(self) -> Iterator[InputRow]:
        """All rows, in order.

        Raises:
            DataError: the file cannot be read on.
        """
        if self.format == "words":
            yield from map(InputRow, self.words)
        elif self.format == "parquet":
            yield from self._parquet()
        elif self.path is None:
            # what is no UTF-8 can only misspell a name
            yield from _lines(io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig", errors="replace"))
        else:
            with open(self.path, encoding=_encoding(self.path), errors="replace", newline="") as file:
                if self.format == "csv":
                    yield from self._csv(file)
                else:
                    yield from _blocks(file) if self.format == "sdf" else _lines(file)

    def smiles(self, given: InputRow) -> str:
        """The SMILES of a row.

        Raises:
            MoleculeError: it has none.
        """
        if given.problem:
            raise MoleculeError(given.problem)
        return _of_block(given.text) if self.format == "sdf" else given.text.strip()

    def _csv(self, file: io.TextIOWrapper) -> Iterator[InputRow]:
        assert self.path is not None
        wanted = self._wanted()
        head = file.read(_HEAD)
        if not head.strip():
            raise DataError(f"{self.path} is empty")
        delimiter, header = find_header(self.path, head, wanted)
        file.seek(0)
        places = [header.index(name) for name in wanted]
        before = csv.field_size_limit(_LONGEST_CELL)
        try:
            first = True
            lines = csv.reader(file, delimiter=delimiter, strict=True)
            for cells in lines:
                # a blank line is no row; a quoted cell of nothing, as pandas writes a missing SMILES, is one
                if not cells or (first and not any(cell.strip() for cell in cells)):
                    continue
                if first:
                    first = False
                elif len(cells) != len(header):
                    # so that the row can be found again
                    name = cells[places[1]] if self.name_column and places[1] < len(cells) else ""
                    problem = f"a row of {len(cells)} cells, where the header has {len(header)}"
                    yield InputRow(name=name, problem=problem)
                else:
                    yield InputRow(*(cells[place] for place in places))
        except csv.Error as error:
            raise DataError(f"{self.path}: line {lines.line_num} cannot be read as CSV: {error}") from None
        finally:
            csv.field_size_limit(before)

    def _parquet(self) -> Iterator[InputRow]:
        wanted = self._wanted()
        for batch in self._opened_parquet().iter_batches(batch_size=1024, columns=wanted):
            columns = [batch.column(name).to_pylist() for name in wanted]
            for cells in zip(*columns, strict=True):
                yield InputRow(*("" if cell is None else str(cell) for cell in cells))

    def _opened_parquet(self) -> Any:
        from pyarrow import ArrowException, parquet

        assert self.path is not None
        try:
            file = parquet.ParquetFile(self.path)
        except (ArrowException, OSError) as error:
            raise DataError(f"{self.path} cannot be read as Parquet: {str(error).splitlines()[0]}") from None
        names = file.schema_arrow.names
        for name in self._wanted():
            if (times := names.count(name)) != 1:
                held = f"{times} columns are" if times else "no column is"
                raise DataError(f"{self.path}: {held} named {name!r}; it has: {', '.join(map(repr, names))}")
        return file

    def _wanted(self) -> list[str]:
        return [self.smiles_column, *([self.name_column] if self.name_column else [])]


def _encoding(path: Path) -> str:
    """UTF-8, UTF-16 with a byte order mark, or else Windows' Latin-1, as tables to train on are read."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open(path, "rb") as file:
        if (block := file.read(_HEAD)).startswith((b"\xff\xfe", b"\xfe\xff")):
            return "utf-16"
        try:
            while block:
                decoder.decode(block)
                block = file.read(_HEAD)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252"
    return "utf-8-sig"


def _lines(file: Iterator[str]) -> Iterator[InputRow]:
    """A SMILES a line, a name after a blank."""
    for line in file:
        if line.strip():
            text, *rest = line.split(maxsplit=1)
            yield InputRow(text, rest[0].strip() if rest else "")


def _blocks(file: Iterator[str]) -> Iterator[InputRow]:
    """The molecules of an SDF, each as text up to the line $$$$."""
    block: list[str] = []
    for line in file:
        if line.startswith("$$$$"):
            yield InputRow("".join(block), block[0].strip() if block else "")
            block = []
        else:
            block.append(line)
    if any(line.strip() for line in block):
        yield InputRow("".join(block), block[0].strip())


def _of_block(block: str) -> str:
    if len(_END.findall(block)) > 1:
        raise MoleculeError("two molecules in one SDF block; a line $$$$ is missing")  # RDKit would read the first only
    with rdBase.BlockLogs():
        mol = Chem.MolFromMolBlock(block)
        if mol is None:
            raise MoleculeError("RDKit cannot read the SDF block")
        return str(Chem.MolToSmiles(mol))
