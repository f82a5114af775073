"""Rows of unequal length in one flat array: atoms of molecules, tokens of SMILES."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ragged:
    """n rows packed one after another: row i is values[ptr[i]:ptr[i + 1]]."""

    values: np.ndarray
    """(sum of lengths, ...)"""
    ptr: np.ndarray
    """(n + 1,) int64, from 0."""

    def __len__(self) -> int:
        return len(self.ptr) - 1

    @property
    def lengths(self) -> np.ndarray:
        """(n,) number of entries of each row."""
        return np.diff(self.ptr)

    def take(self, rows: np.ndarray) -> "Ragged":
        """Selected rows, in the order of `rows`, by index arithmetic without a loop."""
        index, ptr = ragged_index(self.ptr, rows)
        return Ragged(self.values[index], ptr)

    @property
    def width(self) -> int:
        """Number of columns of the values."""
        return self.values.shape[1]

    def subset(self, rows: np.ndarray) -> "Ragged":
        """The same as take."""
        return self.take(rows)

    @staticmethod
    def pack(rows: Sequence[np.ndarray]) -> "Ragged":
        """Pack arrays of equal width one after another."""
        ptr = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=ptr[1:])
        return Ragged(np.concatenate(rows), ptr)


def ragged_index(ptr: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the entries of selected rows.

    Args:
        ptr: (n + 1,) boundaries of the rows.
        rows: (B,) row numbers, in any order, repeats allowed.

    Returns:
        Indices of all entries of the rows in order, and the (B + 1,) boundaries of the result.
    """
    lengths = ptr[rows + 1] - ptr[rows]
    new_ptr = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum(lengths, out=new_ptr[1:])
    return np.arange(new_ptr[-1]) + np.repeat(ptr[rows] - new_ptr[:-1], lengths), new_ptr
