"""Columns that a model reads beside the structure, such as pH, temperature or assay: numbers or categories."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kflm2.data.cells import is_missing, is_written_number, read_number, read_plain_numbers
from kflm2.errors import DataError, MoleculeError

_FEW = 20
"""So many categories are never too many."""
_ROWS_OF_A_CATEGORY = 4
"""A column with fewer rows for each category than that holds names, which say nothing of other rows."""
_LONGEST = 40
"""Characters of a cell that are told."""


@dataclass(frozen=True)
class Covariate:
    """One column."""

    name: str
    categories: tuple[str, ...] = ()
    """In alphabetical order, each as it is written first; () for numbers."""
    decimal_comma: bool = False
    """Of numbers, whether they are written with a decimal comma."""

    def value(self, cell: str) -> float:
        """What a cell means: a number, or the index of a category; NaN where it is blank.

        Raises:
            MoleculeError: it is neither.
        """
        if is_missing(cell):
            return math.nan
        if not self.categories:
            try:
                return read_number(cell, self.decimal_comma)
            except ValueError:
                raise MoleculeError(f"{self.name} is {shown(cell)}, not a number") from None
        if (key := _key(cell)) not in self._index:
            raise MoleculeError(f"{self.name} is {shown(cell)}, which the model does not know")
        return float(self._index[key])

    def words(self, values: np.ndarray) -> list[str]:
        """(n,) values of categories as words, '' for a blank."""
        return ["" if math.isnan(value) else self.categories[int(value)] for value in values]

    @cached_property
    def _index(self) -> dict[str, int]:
        return {_key(category): number for number, category in enumerate(self.categories)}


def also_needed(names: Sequence[str]) -> str:
    """What is said where columns are missing in what is to be predicted."""
    return f"the model also needs the column{'s' if len(names) > 1 else ''} {', '.join(names)}"


def shown(cell: str) -> str:
    """A cell for a message."""
    cell = cell.strip()
    return repr(cell if len(cell) <= _LONGEST else f"{cell[:_LONGEST]}...")


def read_covariate(texts: Sequence[str], name: str, where: str) -> tuple[Covariate, np.ndarray, tuple[str, ...]]:
    """Read a column: of numbers where most cells that are not blank are numbers, else of categories.

    Upper and lower case are one category, and so are different blanks.

    Args:
        texts: (n,) cells.
        name: of the column.
        where: name of the table, for errors.

    Returns:
        The column; (n,) float64 values, see Covariate.value; and what was read otherwise than it stands there.

    Raises:
        DataError: it says nothing, a number cannot be read, or there are too many categories; the message gives the
            column, and the row where there is one.
    """
    present = [text for text in texts if not is_missing(text)]
    if not present:
        raise DataError(f"{where}: column {name!r} is blank in every row; leave it out of --feature-columns")
    notes: tuple[str, ...] = ()
    if 2 * sum(map(is_written_number, present)) > len(present):
        values, notes = read_plain_numbers(texts, name, where, "a feature")
        column = Covariate(name, decimal_comma=any("," in text for text in present))
    else:
        spelled = {_key(text): " ".join(text.split()) for text in reversed(present)}
        column = Covariate(name, tuple(spelled[key] for key in sorted(spelled)))
        if len(spelled) > max(_FEW, len(present) // _ROWS_OF_A_CATEGORY):
            raise DataError(
                f"{where}: column {name!r} has {len(spelled)} different texts in {len(present)} rows: these are names"
                " rather than categories"
            )
        values = np.array([column.value(text) for text in texts])
    if len(present) == len(texts) and np.ptp(values) == 0:
        raise DataError(
            f"{where}: column {name!r} is {shown(present[0])} in every row, which tells nothing; leave it out of"
            " --feature-columns"
        )
    return column, values, notes


def _key(text: str) -> str:
    return " ".join(text.split()).casefold()
