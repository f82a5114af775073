"""Rows of predictions as bytes: CSV, or messages of an Arrow stream."""

import math
import re

import pandas as pd

_SPECIAL = re.compile(r'[",\r\n]')
"""Characters for which a cell of a CSV file is quoted."""


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


def as_arrow(table: pd.DataFrame, header: bool) -> bytes:
    """Messages of an Arrow stream, which can be appended to a file and cut off; numbers have the digits of the CSV."""
    import pyarrow as pa

    types = {"i": pa.int64(), "f": pa.float64()}
    schema = pa.schema([(name, types.get(table[name].dtype.kind, pa.string())) for name in table])
    if header:
        return schema.serialize().to_pybytes()
    numbers = [name for name in table if table[name].dtype.kind == "f"]
    rounded = table.assign(**{name: [float(f"{value:.6g}") for value in table[name].tolist()] for name in numbers})
    return pa.RecordBatch.from_pandas(rounded, schema, preserve_index=False).serialize().to_pybytes()
