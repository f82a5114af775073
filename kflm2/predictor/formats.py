"""Tables as CSV or Parquet that grow by appended bytes, and can be cut off anywhere between two tables."""

import functools
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from kflm2.files import atomic

_ROW_GROUP = 65_536
"""Rows after which a row group of a Parquet file ends."""
_GROUP_BYTES = 64 << 20
"""Bytes in memory after which a row group ends too."""
_SPECIAL = re.compile(r'[",\r\n]')
"""Characters for which a cell of a CSV file is quoted."""
Encode = Callable[[pd.DataFrame, bool], bytes]
"""A table as bytes; or, if the second argument is true, the header of such tables, and the rows of a CSV."""


def encoder(out: Path, types: dict[str, Any]) -> Encode:
    """What makes the bytes of an output.

    Args:
        out: its name ends with .csv or .parquet.
        types: Arrow types of columns that hold neither numbers nor text; only Parquet can have some.
    """
    return as_csv if _is_csv(out) else functools.partial(_as_arrow, types)


def finish(part: Path, out: Path) -> None:
    """Move the complete CSV file to the output, or write the complete Arrow stream to it as Parquet."""
    if _is_csv(out):
        os.replace(part, out)
        return
    import pyarrow as pa

    with pa.OSFile(str(part)) as file:
        write_parquet(file, out)


def write_parquet(arrow: Any, out: Path) -> None:
    """Write an Arrow stream, which a file of pyarrow or bytes hold, to a Parquet file, atomically."""
    import pyarrow as pa
    from pyarrow import parquet

    with (
        atomic(out) as temporary,
        pa.ipc.open_stream(arrow) as stream,
        parquet.ParquetWriter(temporary, stream.schema) as writer,
    ):
        group: list[pa.RecordBatch] = []
        for batch in stream:
            group.append(batch)
            if sum(map(len, group)) >= _ROW_GROUP or sum(one.nbytes for one in group) >= _GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(group))
                group = []
        if group:
            writer.write_table(pa.Table.from_batches(group))


def _is_csv(out: Path) -> bool:
    return out.suffix.lower() == ".csv"


def as_csv(table: pd.DataFrame, header: bool) -> bytes:
    """CSV, UTF-8; a cell with a comma, a quote or a line break, which a carriage return is too, is quoted."""
    columns = [_csv_cells(table[name]) for name in table]
    rows = [table.columns.tolist()] if header else []
    rows += zip(*columns, strict=True)
    return "".join(",".join(map(_quoted, cells)) + "\n" for cells in rows).encode()


def _csv_cells(column: pd.Series) -> list[str]:
    if column.dtype.kind == "f":
        # six digits are more than the accuracy of any model
        return ["" if math.isnan(value) else f"{value:.6g}" for value in column.tolist()]
    return ["" if value is pd.NA else str(value) for value in column.tolist()]


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if _SPECIAL.search(cell) else cell


def _as_arrow(types: dict[str, Any], table: pd.DataFrame, header: bool) -> bytes:
    """Messages of an Arrow stream, which can be appended to a file and cut off; numbers have the digits of the CSV."""
    import pyarrow as pa

    by_kind = {"i": pa.int64(), "f": pa.float64()}
    schema = pa.schema([(name, types.get(name) or by_kind.get(table[name].dtype.kind, pa.string())) for name in table])
    if header:
        return schema.serialize().to_pybytes()
    numbers = [name for name in table if table[name].dtype.kind == "f"]
    rounded = table.assign(**{name: [float(f"{value:.6g}") for value in table[name].tolist()] for name in numbers})
    return pa.RecordBatch.from_pandas(rounded, schema, preserve_index=False).serialize().to_pybytes()
