"""Tables as text: CSV with any usual delimiter and encoding, Excel's .xlsx, or SDF."""

import csv
import datetime
import io
import itertools
from dataclasses import dataclass
from pathlib import Path

from kflm2.data import compression, sdf
from kflm2.errors import DataError, did_you_mean

_DELIMITERS = (",", ";", "\t", "|")
_FOREIGN = {b"PK\x03\x04": "a ZIP file", b"\xd0\xcf\x11\xe0": "an old Excel file"}
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


def read_columns(path: Path, wanted: list[str], structure: str) -> Table:
    """Read columns of a CSV file (see read_csv), of the first sheet of an .xlsx file, or of an SDF (see read_sdf).

    CSV and SDF may be compressed, as .csv.gz.

    Args:
        path: of the file; its ending decides.
        wanted: names of columns.
        structure: the one of them with the molecules.

    Raises:
        DataError: see read_csv.
    """
    if sdf.is_sdf(path):
        return read_sdf(path, wanted, structure)
    return read_xlsx(path, wanted) if is_xlsx(path) else read_csv(path, wanted)


def column_names(path: Path, wanted: list[str] | None = None) -> list[str]:
    """The names of all columns of a table; of an SDF its properties.

    Args:
        path: of the file.
        wanted: names that the delimiter of a CSV file should give, if one does.

    Raises:
        DataError: it cannot be read.
    """
    if sdf.is_sdf(path):
        return list(
            dict.fromkeys(name for block in sdf.blocks(io.StringIO(_read_text(path))) for name in sdf.properties(block))
        )
    if is_xlsx(path):
        return _sheet(path)[0]
    text = _read_text(path)
    try:
        return find_header(path, text, wanted or [])[1]
    except DataError:
        return find_header(path, text, [])[1]


def is_xlsx(path: Path) -> bool:
    """Whether a file is a spreadsheet of Excel, by its ending."""
    return path.suffix.lower() in (".xlsx", ".xlsm")


def read_xlsx(path: Path, wanted: list[str], further: tuple[str, ...] = ()) -> Table:
    """Read columns of the first sheet, whose first row that is not empty is the header; empty rows are skipped.

    Of a formula the value is read that Excel computed last.

    Args:
        path: of the file.
        wanted: names of columns.
        further: columns as `labelled` names them.

    Raises:
        DataError: no such file, no sheet that can be read, no such column or two of it, or no row.
    """
    header, rows = _sheet(path)
    _check_header(path, header, wanted)
    if not rows:
        raise DataError(f"{path} has a header and no rows")
    labels = labelled(header)
    return Table(path, {name: [row[labels.index(name)] for row in rows] for name in (*wanted, *further)})


def labelled(header: list[str]) -> list[str]:
    """Names that differ: the second column of the name x is x_2, the third column, if it has no name, is column_3."""
    labels: dict[str, None] = {}
    given = set(header)
    for place, name in enumerate(header, 1):
        label = stem = name or f"column_{place}"
        numbers = itertools.count(2)
        while label in labels or (label in given and label != name):
            label = f"{stem}_{next(numbers)}"
        labels[label] = None
    return list(labels)


def _sheet(path: Path) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of the first sheet, as text."""
    from openpyxl import load_workbook

    if not path.is_file():
        raise DataError(f"no file {path}")
    try:
        book = load_workbook(path, read_only=True, data_only=True)
        cells = [[_cell_text(cell) for cell in row] for row in book.worksheets[0].iter_rows(values_only=True)]
        book.close()
    # a damaged file raises errors of zipfile, of the XML parser, KeyError, ValueError and others
    except Exception as error:
        raise DataError(f"{path} cannot be read as a spreadsheet: {str(error).splitlines()[0]}") from None
    header, *rows = [row for row in cells if any(map(str.strip, row))] or [[]]
    if not header:
        raise DataError(f"{path} is empty")
    return [name.strip() for name in header], [row + [""] * (len(header) - len(row)) for row in rows]


def _cell_text(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    # Excel has no integers: 1.0 is written as 1 there
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1e15 else str(cell)


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
        there = ", ".join(map(repr, known)) or "none"
        raise DataError(f"{path}: no property {missing!r}{did_you_mean(missing, known)}; it has: {there}")
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
        DataError: no such file or column, a compressed file that is damaged or too large, a column name that occurs
            twice, an unclosed quote, a row with more or fewer cells than the header, or no row; the message is one
            line, with the row if there is one.
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
    data = compression.read_bytes(path)
    refuse_foreign(path, data)
    text = _decode(data)
    if not text.strip():
        raise DataError(f"{path} is empty")
    return text


def refuse_foreign(path: Path, data: bytes) -> None:
    """Refuse a file, by its first bytes, that is often taken for a text.

    Raises:
        DataError: it is one.
    """
    if foreign := next((name for start, name in _FOREIGN.items() if data.startswith(start)), None):
        raise DataError(
            f"{path} is {foreign}; a table is read as .csv (comma, semicolon, tab or bar), .xlsx or .sdf,"
            " a compressed one as .csv.gz or .sdf.gz"
        )


def _decode(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        # SMILES and numbers are ASCII in all of them, so a wrong encoding can only misspell a name
        return data.decode("cp1252", errors="replace")


def find_header(path: Path | str, text: str, wanted: list[str]) -> tuple[str, list[str]]:
    """The delimiter and the column names; see read_csv. Without wanted columns, the delimiter of the most columns."""
    headers: dict[str, list[str]] = {}
    problem = ""
    for delimiter in _DELIMITERS:
        try:
            rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(cells for cells in rows if any(map(str.strip, cells)))]
        except csv.Error as error:  # with a wrong delimiter quotes are invalid
            problem = str(error)
            continue
        if wanted and set(wanted) <= set(header):
            _check_header(path, header, wanted)
            return delimiter, header
        headers[delimiter] = header
    if not headers:
        raise DataError(f"{path}: the header cannot be read as CSV: {problem}")
    delimiter = max(headers, key=lambda key: len(headers[key]))
    _check_header(path, headers[delimiter], wanted)
    return delimiter, headers[delimiter]


def _check_header(path: Path | str, header: list[str], wanted: list[str]) -> None:
    """Refuse a header that lacks a wanted column, or has two of it."""
    for name in wanted:
        if (count := header.count(name)) == 0:
            raise DataError(
                f"{path}: no column {name!r}{did_you_mean(name, header)}; it has: {', '.join(map(repr, header))}"
            )
        if count > 1:
            raise DataError(f"{path}: {count} columns are named {name!r}; which one is meant?")
