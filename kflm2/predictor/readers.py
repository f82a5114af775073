"""Molecules to predict, streamed from tables (CSV, Parquet), SMILES files and SDF in constant memory.

The text formats may be compressed, as .smi.gz.

No row is dropped: a row that cannot be read has the reason instead. Blank lines are not rows.
"""

import contextlib
import csv
import hashlib
import io
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TextIO

from kflm2.config.base import InferenceConfig, StreamConfig
from kflm2.data import compression, sdf
from kflm2.data.columns import SMILES, find_smiles
from kflm2.data.covariates import also_needed
from kflm2.data.molecules import smiles_of_block
from kflm2.data.tables import column_names, find_header, labelled, read_xlsx
from kflm2.errors import DataError, MoleculeError, did_you_mean
from kflm2.files import sha256_file, sha256_texts
from kflm2.predictor.manifest import input_columns
from kflm2.predictor.text_input import LONGEST, Lines, open_text

Format = Literal["csv", "xlsx", "smi", "sdf", "parquet", "words"]

_SUFFIXES: dict[str, Format] = {
    **dict.fromkeys((".csv", ".tsv", ".txt"), "csv"),
    **dict.fromkeys((".xlsx", ".xlsm"), "xlsx"),
    **dict.fromkeys((".smi", ".smiles"), "smi"),
    **dict.fromkeys((".sdf", ".sd"), "sdf"),
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
}
_TABLES = ("csv", "xlsx", "parquet")
_HEAD = 1 << 16


@dataclass(frozen=True)
class InputRow:
    """A row of the input."""

    text: str = ""
    """A SMILES; for SDF the block of a molecule, see MoleculeReader.smiles."""
    name: str = ""
    """Name of the molecule in the input."""
    problem: str = ""
    """Reason why there is no text."""
    cells: tuple[str, ...] = ()
    """Of the columns that are copied to the output; () of a row that does not fit the header."""
    features: tuple[str, ...] = ()
    """Cells of the columns that the model reads beside the structure; () of a row that does not fit the header."""


@dataclass(frozen=True)
class MoleculeReader:
    """A source of molecules: a file, a text, standard input, or the command line."""

    format: Format
    path: Path | None = None
    """None for a text and for standard input."""
    words: tuple[str, ...] = ()
    """SMILES on the command line."""
    smiles_column: str = "smiles"
    """Column of a table."""
    name_column: str | None = None
    """Column of a table; None for no names."""
    keep: tuple[str, ...] = ()
    """Further columns of a table, whose cells the rows bring along; as `labelled` names them, but for Parquet."""
    features: tuple[str, ...] = ()
    """Columns, or of an SDF data items, that the model reads beside the structure."""
    text: str | None = None
    """What a .csv, .smi or .sdf file would hold, where there is no file."""

    @staticmethod
    def of(
        words: tuple[str, ...],
        smiles_column: str | None,
        name_column: str | None,
        model_column: str = SMILES,
        keep: bool = False,
        features: tuple[str, ...] = (),
    ) -> "MoleculeReader":
        """The reader of command-line arguments: one file, `-` for standard input, or SMILES.

        Args:
            words: the arguments.
            smiles_column: of a table; None to find it.
            name_column: of a table.
            model_column: the column of SMILES in the table that the model was trained on, which is tried first.
            keep: whether the rows bring along the cells of all other columns.
            features: columns that the model reads beside the structure.

        Raises:
            DataError: a file that is missing, or of an unknown format, or a column that is not clear.
        """
        if words == ("-",):
            _refuse_columns("standard input has one SMILES a line", smiles_column, name_column)
            return MoleculeReader("smi").with_features(features)
        path = Path(words[0])
        file_format = _SUFFIXES.get(compression.plain(path).suffix.lower())
        # os.path.isfile, since a SMILES may be too long to be a name, for which Path.is_file raises an error
        if len(words) == 1 and (file_format or os.path.isfile(path)):
            if not os.path.isfile(path):
                raise DataError(f"no file {path}")
            if file_format is None:
                raise DataError(f"{path}: unknown format; {', '.join(_SUFFIXES)} are read")
            if compression.is_compressed(path) and file_format in ("xlsx", "parquet"):
                raise DataError(f"{path}: {file_format} is compressed in itself; decompress the file and give that")
            if file_format not in _TABLES:
                _refuse_columns(f"{path} has molecules and names, and no columns of them", smiles_column, name_column)
            reader = MoleculeReader(file_format, path, (), smiles_column or model_column, name_column)
            return reader.with_columns(smiles_column is not None, keep).with_features(features)
        if files := [word for word in words if os.path.isfile(word)]:
            raise DataError(f"{files[0]} is a file among other words; give one file, or SMILES")
        for word in words:
            if os.path.isdir(word):
                raise DataError(f"{word} is a folder; give one file, or SMILES")
            # no SMILES ends like this: atoms in small letters are of rings
            if re.search(r"\.[a-z]{3,}$", word):
                raise DataError(f"no file {word}; {', '.join(_SUFFIXES)} are read")
        _refuse_columns("SMILES of the command line have none", smiles_column, name_column)
        # the shell may pass bytes that are no UTF-8
        texts = tuple(os.fsencode(word).decode(errors="replace") for word in words)
        return MoleculeReader("words", words=texts).with_features(features)

    def with_columns(self, fixed: bool, keep: bool) -> "MoleculeReader":
        """The same with its columns, where it is of a table.

        Args:
            fixed: whether the column of SMILES is certain; else it is found, if the table has none of that name.
            keep: whether the rows bring along the cells of all other columns.

        Raises:
            DataError: the table cannot be read, or it is not clear which column is meant.
        """
        if self.format not in _TABLES:
            return self
        names = self._column_names()
        column = self.smiles_column if fixed or self.smiles_column in names else find_smiles(self._source, names)
        if self.format == "parquet":
            others = [name for name in names if name and names.count(name) == 1]
        else:
            # a spreadsheet often writes delimiters behind its last column
            ends = max((place for place, name in enumerate(names, 1) if name), default=0)
            others = labelled(names[:ends])
        others = [name for name in others if name not in (column, self.name_column)]
        return replace(self, smiles_column=column, keep=tuple(others) if keep else ())

    def with_features(self, names: tuple[str, ...]) -> "MoleculeReader":
        """The same, with columns that the model reads beside the structure.

        Raises:
            DataError: the input does not have them.
        """
        if not names:
            return self
        if self.format in ("smi", "words"):
            what = "SMILES alone do" if self.path is None else f"{self.path} does"
            header = ",".join([self.smiles_column, *names])
            raise DataError(
                f"{also_needed(names)}, which {what} not have: give a table, such as a .csv with the header {header}"
            )
        if self.format in _TABLES:
            there = self._column_names()
            if missing := [name for name in names if name not in there]:
                hint = did_you_mean(missing[0], there) if len(missing) == 1 else ""
                raise DataError(f"{self._source}: {also_needed(missing)}{hint}; it has: {', '.join(map(repr, there))}")
            if twice := [name for name in names if there.count(name) > 1]:
                raise DataError(f"{self._source}: {there.count(twice[0])} columns are named {twice[0]!r}")
        return replace(self, features=names)

    @property
    def _source(self) -> Path | str:
        """For errors."""
        return self.path or ("standard input" if self.text is None else "the table")

    def _column_names(self) -> list[str]:
        if self.text is not None:
            head = self.text.removeprefix("\ufeff")[:_HEAD]
        else:
            assert self.path is not None
            if self.format == "parquet":
                with self._parquet_errors():
                    return [str(name) for name in parquet_file(self.path).schema_arrow.names]
            if self.format == "xlsx":
                return column_names(self.path)
            with open_text(self.path) as file:
                head = file.read(_HEAD)
        if not head.strip():
            raise DataError(f"{self._source} is empty")
        # the delimiter is one that gives a column that is asked for
        asked = [self.smiles_column, *([self.name_column] if self.name_column else [])]
        try:
            return find_header(self._source, head, asked)[1]
        except DataError:
            return find_header(self._source, head, [])[1]

    @property
    def named(self) -> bool:
        """Whether rows may have names."""
        return self.format in ("smi", "sdf") or self.name_column is not None

    def digest(self) -> str:
        """SHA-256 of the input; '' for standard input, which cannot be read twice."""
        if self.text is not None:
            return sha256_texts([self.text])
        if self.format == "words":
            return hashlib.sha256("\n".join(self.words).encode()).hexdigest()
        return "" if self.path is None else sha256_file(self.path)

    def count(self) -> int | None:
        """Number of rows; None for standard input.

        Raises:
            DataError: the file cannot be read.
        """
        if self.format == "words":
            return len(self.words)
        if self.path is None and self.text is None:
            return None
        if self.format == "parquet":
            return int(self._open_parquet().metadata.num_rows)
        return sum(1 for _ in self.rows())

    def rows(self) -> Iterator[InputRow]:
        """All rows, in order.

        Raises:
            DataError: the file cannot be read, or not to its end.
        """
        if self.format == "words":
            yield from map(InputRow, self.words)
        elif self.format == "parquet":
            yield from self._parquet_rows()
        elif self.format == "xlsx":
            assert self.path is not None
            table = read_xlsx(self.path, self._read(), self.keep)
            yield from map(self._row, zip(*(table.columns[name] for name in self._wanted()), strict=True))
        elif self.text is not None:
            yield from self._text_rows(io.StringIO(self.text.removeprefix("\ufeff"), newline=""))
        elif self.path is None:
            # invalid UTF-8 can only misspell a name
            yield from self._text_rows(io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig", errors="replace"))
        else:
            with open_text(self.path) as file:
                yield from self._text_rows(file)

    def smiles(self, row: InputRow) -> str:
        """The SMILES of a row.

        Raises:
            MoleculeError: the row has none.
        """
        if row.problem:
            raise MoleculeError(row.problem)
        return smiles_of_block(row.text) if self.format == "sdf" else row.text.strip()

    def _text_rows(self, file: TextIO) -> Iterator[InputRow]:
        if self.format == "csv":
            yield from self._csv_rows(file)
        else:
            lines = Lines(file, self._source)
            for row in map(self._sdf_row, sdf.blocks(lines)) if self.format == "sdf" else _smi_rows(lines):
                lines.next_molecule()
                yield row

    def _csv_rows(self, file: TextIO) -> Iterator[InputRow]:
        source = self._source
        head = file.read(_HEAD)
        if not head.strip():
            raise DataError(f"{source} is empty")
        delimiter, header = find_header(source, head, self._read())
        file.seek(0)
        labels = labelled(header)
        indices = [labels.index(name) for name in self._wanted()]
        old_limit = csv.field_size_limit(LONGEST)
        try:
            before_header = True
            lines = Lines(file, source)
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            for cells in reader:
                lines.next_molecule()
                # a line of blanks is not a row; a single empty quoted cell, as pandas writes a missing SMILES, is one
                if not any(cell.strip() for cell in cells) and (
                    before_header or len(cells) < len(header) or (len(cells) == 1 and cells[0])
                ):
                    continue
                if before_header:
                    before_header = False
                elif len(cells) != len(header):
                    # the name identifies the row for the user
                    name = cells[indices[1]] if self.name_column and indices[1] < len(cells) else ""
                    problem = f"a row of {len(cells)} cells, where the header has {len(header)}"
                    yield InputRow(name=name, problem=problem)
                else:
                    yield self._row([cells[index] for index in indices])
        except csv.Error as error:
            raise DataError(f"{source}: line {reader.line_num} cannot be read as CSV: {error}") from None
        finally:
            csv.field_size_limit(old_limit)

    def _parquet_rows(self) -> Iterator[InputRow]:
        wanted = self._wanted()
        with self._parquet_errors():
            columns_read = list(dict.fromkeys(wanted))
            for batch in self._open_parquet().iter_batches(batch_size=1024, columns=columns_read):
                columns = [batch.column(name).to_pylist() for name in wanted]
                for cells in zip(*columns, strict=True):
                    yield self._row(list(map(_text, cells)))

    def _open_parquet(self) -> Any:
        assert self.path is not None
        with self._parquet_errors():
            file = parquet_file(self.path)
        names = file.schema_arrow.names
        for name in self._wanted():
            if (count := names.count(name)) != 1:
                there = f"it has: {', '.join(map(repr, names))}"
                if count:
                    raise DataError(f"{self.path}: {count} columns are named {name!r}; {there}")
                raise DataError(f"{self.path}: no column {name!r}{did_you_mean(name, names)}; {there}")
        return file

    @contextlib.contextmanager
    def _parquet_errors(self) -> Iterator[None]:
        """Turn an error of a damaged Parquet file, at its start or later, into a DataError."""
        from pyarrow import ArrowException

        try:
            yield
        except (ArrowException, OSError) as error:
            raise DataError(f"{self.path} cannot be read as Parquet: {str(error).splitlines()[0]}") from None

    def _read(self) -> list[str]:
        """Columns of a table that must be there, each once."""
        return [self.smiles_column, *([self.name_column] if self.name_column else []), *self.features]

    def _wanted(self) -> list[str]:
        return [*self._read(), *self.keep]

    def _row(self, cells: Sequence[str]) -> InputRow:
        """Of the cells of the wanted columns."""
        first = 1 + bool(self.name_column)
        last = first + len(self.features)
        name = cells[1] if self.name_column else ""
        return InputRow(cells[0], name, cells=tuple(cells[last:]), features=tuple(cells[first:last]))

    def _sdf_row(self, block: str) -> InputRow:
        items = sdf.properties(block) if self.features else {}
        return InputRow(block, sdf.title(block), features=tuple(items.get(name, "") for name in self.features))


def _refuse_columns(reason: str, smiles_column: str | None, name_column: str | None) -> None:
    if column := smiles_column or name_column:
        raise DataError(f"no column {column!r} can be read: {reason}")


def reader_of(config: InferenceConfig) -> MoleculeReader:
    """The molecules that the settings name, with the columns that the saved model reads; it is not loaded.

    Raises:
        DataError: see MoleculeReader.of; or a column that the model reads is not there.
        BundleError: there is no model.
    """
    smiles_column, features = input_columns(config.model)
    return MoleculeReader.of(
        config.molecules,
        config.smiles_column,
        config.name_column,
        smiles_column,
        isinstance(config, StreamConfig) and config.keep_columns,
        features if config.reads_features else (),
    )


def check_features(config: InferenceConfig) -> None:
    """Refuse an input without the columns that the saved model reads beside the structure.

    Raises:
        KFLM2Error: see reader_of.
    """
    if input_columns(config.model)[1]:
        reader_of(config)


def parquet_file(path: Path) -> Any:
    """pyarrow's reader of a Parquet file."""
    from pyarrow import parquet

    return parquet.ParquetFile(path)


def _smi_rows(lines: Iterable[str]) -> Iterator[InputRow]:
    """One SMILES per line, a name after a blank."""
    for line in lines:
        if line.strip():
            text, *rest = line.split(maxsplit=1)
            yield InputRow(text, rest[0].strip() if rest else "")


def _text(cell: object) -> str:
    if isinstance(cell, bytes):
        return cell.decode(errors="replace")
    return "" if cell is None else str(cell)
