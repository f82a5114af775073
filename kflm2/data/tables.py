"""Tables, as CSV with any usual delimiter and encoding or as SDF; ambiguous content is refused with row and column."""

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kflm2.data import sdf
from kflm2.errors import DataError

_DELIMITERS = (",", ";", "\t", "|")
_MISSING = {"", "na", "n/a", "nan", "null", "none"}
"""Cells that mean a missing label, in upper or lower case."""
_FOREIGN = {b"PK\x03\x04": "a spreadsheet or another ZIP file", b"\xd0\xcf\x11\xe0": "an old Excel file"}
_FOREIGN |= {b"PAR1": "a Parquet file", b"\x1f\x8b": "a gzipped file", b"%PDF": "a PDF"}
"""First bytes -> files that are often taken for a table of text."""


@dataclass(frozen=True)
class Table:
    """The requested columns, as text. Rows are numbered from 1, the first after the header."""

    path: Path
    columns: dict[str, list[str]]
    """Column -> n cells."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def head(self, rows: int | None) -> "Table":
        """The first rows only; None for all."""
        return Table(self.path, {name: cells[:rows] for name, cells in self.columns.items()})

    def numbers(self, column: str) -> np.ndarray:
        """(n,) float64, NaN where the label is missing.

        Raises:
            DataError: a cell is neither a finite number nor missing; the message gives row and column.
        """
        return np.array([self._number(column, row, text.strip()) for row, text in enumerate(self.columns[column], 1)])

    def classes(self, column: str) -> np.ndarray:
        """(n,) 0.0 or 1.0, NaN where the label is missing.

        Raises:
            DataError: another value; the message gives row and column.
        """
        values = self.numbers(column)
        for index in np.flatnonzero(~np.isnan(values) & (values != 0) & (values != 1)).tolist():
            raise DataError(f"{self._location(column, index + 1)} {self.columns[column][index]!r}; a class is 0 or 1")
        return values

    def _number(self, column: str, row: int, text: str) -> float:
        if text.lower() in _MISSING:
            return math.nan
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        # float() accepts 1_000 too, which no spreadsheet writes
        if not math.isfinite(value) or "_" in text:
            raise DataError(f"{self._location(column, row)} {text!r}, not a number")
        return value

    def _location(self, column: str, row: int) -> str:
        return f"{self.path}: row {row}: column {column!r} is"


def read_columns(path: Path, wanted: list[str], structure: str) -> Table:
    """Read columns of a CSV file (see read_csv), or of an SDF (see read_sdf).

    Args:
        path: of the file; its ending decides.
        wanted: names of columns.
        structure: the one of them with the molecules.

    Raises:
        DataError: see read_csv.
    """
    return read_sdf(path, wanted, structure) if sdf.is_sdf(path) else read_csv(path, wanted)


def read_sdf(path: Path, wanted: list[str], structure: str) -> Table:
    """Read properties of an SDF as columns; a molecule that lacks a property has an empty cell.

    Args:
        path: of the file.
        wanted: names of columns.
        structure: the one of them that gets the whole block of each molecule.

    Raises:
        DataError: no such file, no molecule in it, or a property that no molecule has.
    """
    blocks = list(sdf.blocks(io.StringIO(_read_text(path))))
    rows = [sdf.properties(block) for block in blocks]
    if not rows:
        raise DataError(f"{path} has no molecule")
    known = list(dict.fromkeys(name for row in rows for name in row))
    if missing := next((name for name in wanted if name != structure and name not in known), None):
        raise DataError(f"{path}: no property {missing!r}; it has: {', '.join(map(repr, known)) or 'none'}")
    columns = {name: [row.get(name, "") for row in rows] for name in wanted if name != structure}
    return Table(path, {structure: blocks, **columns})


def read_csv(path: Path, wanted: list[str]) -> Table:
    """Read columns of a CSV file with a header.

    The delimiter is the one of comma, semicolon, tab and bar that gives the wanted columns; the encoding is UTF-8,
    UTF-16 with a byte order mark, or else Windows' Latin-1 (cp1252). Empty lines are skipped and not counted.

    Args:
        path: of the file.
        wanted: names of columns.

    Raises:
        DataError: no such file or column, a column name that occurs twice, an unclosed quote, a row with more or fewer
            cells than the header, or no row; the message is one line, with the row if there is one.
    """
    text = _read_text(path)
    delimiter, header = find_header(path, text, wanted)
    indices = {name: header.index(name) for name in wanted}
    columns: dict[str, list[str]] = {name: [] for name in wanted}
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    row = -1
    try:
        for cells in reader:
            # below the header a line of delimiters is a row of empty cells; an empty line is not a row
            if not any(cell.strip() for cell in cells) and (row < 0 or len(cells) < max(2, len(header))):
                continue
            row += 1
            if row == 0:
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{path}: row {row} (line {reader.line_num}) has {len(cells)} cells, the header {len(header)}"
                )
            for name, index in indices.items():
                columns[name].append(cells[index])
    except csv.Error as error:
        raise DataError(f"{path}: row {row + 1} (line {reader.line_num}) cannot be read as CSV: {error}") from None
    if row < 1:
        raise DataError(f"{path} has a header and no rows")
    return Table(path, columns)


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise DataError(f"no file {path}")
    data = path.read_bytes()
    if foreign := next((name for start, name in _FOREIGN.items() if data.startswith(start)), None):
        raise DataError(f"{path} is {foreign}; a table is read as .csv (comma, semicolon, tab or bar) or .sdf")
    text = _decode(data)
    if not text.strip():
        raise DataError(f"{path} is empty")
    return text


def _decode(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        # SMILES and numbers are ASCII in all of them, so a wrong encoding can only misspell a name
        return data.decode("cp1252", errors="replace")


def find_header(path: Path | str, text: str, wanted: list[str]) -> tuple[str, list[str]]:
    """The delimiter and the column names; see read_csv."""
    headers, problem = {}, ""
    for delimiter in _DELIMITERS:
        try:
            rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(cells for cells in rows if any(map(str.strip, cells)))]
        except csv.Error as error:  # with a wrong delimiter quotes are invalid
            problem = str(error)
            continue
        if set(wanted) <= set(header):
            for name in wanted:
                if header.count(name) > 1:
                    raise DataError(f"{path}: {header.count(name)} columns are named {name!r}; which one is meant?")
            return delimiter, header
        headers[delimiter] = header
    if not headers:
        raise DataError(f"{path}: the header cannot be read as CSV: {problem}")
    longest = max(headers.values(), key=len)
    missing = next(name for name in wanted if name not in longest)
    raise DataError(f"{path}: no column {missing!r}; it has: {', '.join(map(repr, longest))}")
