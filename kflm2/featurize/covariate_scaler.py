"""Covariates (pH, temperature, assay ...) as the models read them: scaled numbers, and a column for each category."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from kflm2.data.covariates import Covariate
from kflm2.errors import DataError, MoleculeError

_SIGMAS = 5.0
"""Scaled numbers are clipped at so many standard deviations, as hidden states are."""
_TOLD = 8
"""Categories that a message names."""


@dataclass(frozen=True)
class ScaledCovariate:
    """One covariate, and what the training rows have of it."""

    name: str
    categories: tuple[str, ...] = ()
    """Those that occur in training; () for numbers."""
    blank: bool = False
    """Whether it is blank in some training rows. Only then a blank is a value, which has a column of its own."""
    low: float = 0.0
    high: float = 0.0
    """Range of the numbers in training."""
    mean: float = 0.0
    std: float = 0.0
    """Of the numbers in training; 0 where they are all equal, so that the models cannot read them."""
    decimal_comma: bool = False
    """Whether the numbers of the table have one."""

    @property
    def width(self) -> int:
        """Columns that the models read."""
        if not self.categories:
            return int(self.std > 0) + self.blank
        columns = len(self.categories) + self.blank
        return columns if columns > 1 else 0

    @cached_property
    def column(self) -> Covariate:
        """What reads its cells in another table."""
        return Covariate(self.name, self.categories, self.decimal_comma)

    def __str__(self) -> str:
        blank = ", or blank" if self.blank else ""
        if not self.categories:
            return f"{self.name} ({self.low:g} to {self.high:g}{blank})"
        return f"{self.name} ({self.some_categories}{blank})"

    @property
    def some_categories(self) -> str:
        """The first categories, for a message."""
        more = len(self.categories) - _TOLD
        return ", ".join(self.categories[:_TOLD]) + (f" and {more} more" if more > 0 else "")

    def columns(self, values: np.ndarray) -> np.ndarray:
        """(n,) values, categories as indices of those in training and -1 for others, to (n, width)."""
        missing = np.isnan(values)
        columns: list[np.ndarray] = []
        if not self.width:
            return np.zeros((len(values), 0))
        if self.categories:
            columns += [values == number for number in range(len(self.categories))]
        elif self.std > 0:
            # a missing number is the mean
            columns.append(np.where(missing, 0.0, (values - self.mean) / self.std).clip(-_SIGMAS, _SIGMAS))
        if self.blank:
            columns.append(missing)
        return np.stack(columns, axis=1)


@dataclass(frozen=True)
class CovariateScaler:
    """C covariates to W columns, with scales and categories of the training rows only."""

    covariates: tuple[ScaledCovariate, ...]

    @classmethod
    def fit(cls, columns: Sequence[Covariate], train: np.ndarray) -> "CovariateScaler":
        """Learn scales and categories.

        Args:
            columns: (C,) as read from the table.
            train: (n, C) values of the training rows; see Covariate.value.

        Raises:
            DataError: in the training rows a column is blank, or no column varies.
        """
        scaler = cls(tuple(_fit(column, values) for column, values in zip(columns, train.T, strict=True)))
        if not scaler.width:
            raise DataError("no feature column varies in the training part; leave --feature-columns out")
        return scaler

    @property
    def width(self) -> int:
        """W."""
        return sum(one.width for one in self.covariates)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns of a table."""
        return tuple(one.name for one in self.covariates)

    def __str__(self) -> str:
        return ", ".join(map(str, self.covariates))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """(n, C) values, as `read` or `of_table` gives them, to (n, W) float32."""
        parts = [one.columns(column) for one, column in zip(self.covariates, values.T, strict=True)]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def of_table(self, columns: Sequence[Covariate], values: np.ndarray) -> np.ndarray:
        """(n, C) values of the table that was read, with categories counted as those in training are."""
        counted = values.copy()
        for c, (one, column) in enumerate(zip(self.covariates, columns, strict=True)):
            if one.categories:
                place = {category: number for number, category in enumerate(one.categories)}
                numbers = np.array([place.get(category, -1) for category in column.categories], dtype=float)
                present = ~np.isnan(values[:, c])
                counted[present, c] = numbers[values[present, c].astype(int)]
        return counted

    def unknown(self, values: np.ndarray) -> np.ndarray:
        """(n,) whether a row has a category, or a blank, that no training row has."""
        return np.any(
            [
                (column == -1) & bool(one.categories) | np.isnan(column) & (not one.blank)
                for one, column in zip(self.covariates, values.T, strict=True)
            ],
            axis=0,
        )

    def read(self, cells: Sequence[str]) -> tuple[np.ndarray, str]:
        """(C,) values of the cells of a row, and which numbers are outside the range of training; '' for none.

        Raises:
            MoleculeError: a cell is blank or unreadable, or a category that no training row has.
        """
        values, outside = np.zeros(len(self.covariates)), []
        for c, (one, cell) in enumerate(zip(self.covariates, cells, strict=True)):
            values[c] = one.column.value(cell)
            if math.isnan(values[c]) and not one.blank:
                raise MoleculeError(f"{one.name} is blank")
            if not one.categories and (values[c] < one.low or values[c] > one.high):
                outside.append(f"{one.name} {values[c]:g} is outside {one.low:g} to {one.high:g}")
        return values, "; ".join(outside)

    def to_json(self) -> list[dict[str, Any]]:
        """JSON values from which `from_json` restores it."""
        return [asdict(one) for one in self.covariates]

    @classmethod
    def from_json(cls, records: Any) -> "CovariateScaler":
        """Restore a scaler.

        Raises:
            ValueError: a value is of another type, or a number that is not finite.
        """
        scaler = cls(
            tuple(
                ScaledCovariate(
                    str(record["name"]),
                    tuple(map(str, record["categories"])),
                    bool(record["blank"]),
                    **{name: float(record[name]) for name in ("low", "high", "mean", "std")},
                    decimal_comma=bool(record.get("decimal_comma")),
                )
                for record in records
            )
        )
        for one in scaler.covariates:
            if not all(map(math.isfinite, (one.low, one.high, one.mean, one.std))) or one.std < 0:
                raise ValueError(f"the scale of {one.name!r} is damaged")
        return scaler


def _fit(column: Covariate, values: np.ndarray) -> ScaledCovariate:
    missing = np.isnan(values)
    present, blank = values[~missing], bool(missing.any())
    if not len(present):
        raise DataError(f"feature column {column.name!r} is blank in all of the training part; leave it out")
    if column.categories:
        seen = tuple(column.categories[number] for number in np.unique(present).astype(int))
        return ScaledCovariate(column.name, seen, blank)
    low, high = float(present.min()), float(present.max())
    std = float(present.std()) if high > low else 0.0
    return ScaledCovariate(column.name, (), blank, low, high, float(present.mean()), std, column.decimal_comma)
