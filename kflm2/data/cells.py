"""What cells mean: numbers, bounds on numbers, or two classes.

Everything ambiguous is refused with its row, counted from 1, rather than guessed.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from kflm2.errors import DataError

_MISSING = {"", "na", "n/a", "nan", "null", "none"}
"""Cells that mean a missing label, in upper or lower case."""
_QUALIFIED = re.compile(r"(>=|<=|>>|<<|=>|=<|[<>=~≥≤≈])\s*(.*)", re.DOTALL)
_LOWER, _UPPER, _ABOUT = {">", ">=", "=>", ">>", "≥"}, {"<", "<=", "=<", "<<", "≤"}, {"~", "≈"}
QUALIFIERS = _LOWER | _UPPER | _ABOUT | {"", "="}
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:,\d{3})+")
_POSITIVE = "active yes true positive pos y t + toxic mutagenic permeable soluble inhibitor binder hit high".split()
_NEGATIVE = "inactive no false negative neg n f - low".split()
_NEGATION = re.compile(r"(?:non|not|in|un)[\s_-]*")


@dataclass(frozen=True)
class Labels:
    """The n labels of one target."""

    values: np.ndarray
    """(n,) float64, NaN where the label is missing or only a bound is known."""
    lower: np.ndarray
    """(n,) float64 that the true value is not below, NaN where no such bound is known."""
    upper: np.ndarray
    """(n,) float64 that the true value is not above, NaN where no such bound is known."""
    classes: tuple[str, str] = ("0", "1")
    """The cells of class 0 and class 1."""
    notes: tuple[str, ...] = ()
    """For the user: what was read otherwise than it stands there."""


@dataclass
class _Cell:
    number: float = math.nan
    side: str = ""
    """lower or upper, of a bound; about, of an approximate value."""


@dataclass
class _Reader:
    """Reads the cells of one column."""

    column: str
    where: str
    """Of the table, for errors."""
    comma: bool = field(default=False, init=False)
    """Whether a comma is the decimal mark."""

    def error(self, row: int, text: str, what: str) -> DataError:
        """Of a cell."""
        return DataError(f"{self.where}: row {row}: column {self.column!r} is {text!r}{what}")

    def find_comma(self, texts: list[str]) -> None:
        """Decide whether numbers are written with a decimal comma."""
        numbers = [_split(text)[1] for text in texts]
        with_comma = [(row, text) for row, text in enumerate(numbers, 1) if _DECIMAL_COMMA.fullmatch(text)]
        if not with_comma:
            return
        row, first = with_comma[0]
        if any("." in text and _is_number(text) for text in numbers):
            raise self.error(row, first, ", and other rows have a decimal point: write all numbers in one way")
        if all(_THOUSANDS.fullmatch(text) for _, text in with_comma):
            raise self.error(
                row, first, ": a decimal comma, or a separator of thousands? Write it with a point, or without"
            )
        self.comma = True

    def cell(self, row: int, text: str, qualifier: str | None) -> _Cell:
        """What a cell means.

        Raises:
            DataError: it is neither a number, nor a bound, nor missing.
        """
        sign, digits = _split(text)
        if qualifier:
            if sign not in ("", "=", qualifier):
                raise self.error(row, text, f", and its qualifier is {qualifier!r}")
            sign = qualifier
        if digits.lower() in _MISSING:
            if sign and not qualifier:
                raise self.error(row, text, ", not a number")
            return _Cell()
        if self.comma:
            digits = digits.replace(",", ".")
        if not _is_number(digits):
            raise self.error(row, text, ", not a number")
        side = "lower" if sign in _LOWER else "upper" if sign in _UPPER else "about" if sign in _ABOUT else ""
        return _Cell(float(digits), side)


def read_numbers(texts: Sequence[str], column: str, where: str, qualifiers: Sequence[str] | None = None) -> Labels:
    """Numbers, with or without a qualifier: 5.2, >10, <= 0.5, ~7; a decimal comma is read where it is clear.

    Args:
        texts: (n,) cells.
        column: name of the column, for errors.
        where: name of the table, for errors.
        qualifiers: (n,) cells of a column of qualifiers, such as > or =; None where there is none.

    Raises:
        DataError: a cell is none of these, or ambiguous; the message gives row and column.
    """
    texts = [text.strip() for text in texts]
    reader = _Reader(column, where)
    reader.find_comma(texts)
    cells = []
    for row, text in enumerate(texts, 1):
        qualifier = None if qualifiers is None else _qualifier(qualifiers[row - 1], row, column, where)
        cells.append(reader.cell(row, text, qualifier))

    def only(*sides: str) -> np.ndarray:
        return np.array([cell.number if cell.side in sides else math.nan for cell in cells])

    notes = [f"{column}: read with a decimal comma"] if reader.comma else []
    if about := sum(cell.side == "about" for cell in cells):
        notes.append(f"{column}: {about} approximate values (~) are taken as exact")
    return Labels(only("", "about"), only("lower"), only("upper"), notes=tuple(notes))


def read_plain_numbers(texts: Sequence[str], column: str, where: str, what: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """(n,) numbers, NaN where a cell is blank, and notes for the user; a bound is refused.

    Args:
        texts: (n,) cells.
        column: name of the column, for errors.
        where: name of the table, for errors.
        what: the numbers are, such as `a weight`.

    Raises:
        DataError: see read_numbers; or a bound.
    """
    labels = read_numbers(texts, column, where)
    for row in np.flatnonzero(~np.isnan(labels.lower) | ~np.isnan(labels.upper)).tolist():
        raise DataError(f"{where}: row {row + 1}: column {column!r} is {texts[row]!r}; {what} is a number")
    return labels.values, labels.notes


def read_number(text: str, decimal_comma: bool = False) -> float:
    """A number that stands by itself, ~7 too; NaN for a blank.

    Args:
        text: the cell.
        decimal_comma: whether 6,125 is read with a decimal comma; else one is read only where it cannot separate
            thousands.

    Raises:
        ValueError: it is none.
    """
    if is_missing(text):
        return math.nan
    sign, text = _split(text.strip())
    if sign not in _ABOUT | {"", "="}:
        raise ValueError(text)
    if _DECIMAL_COMMA.fullmatch(text) and (decimal_comma or not _THOUSANDS.fullmatch(text)):
        text = text.replace(",", ".")
    if not _is_number(text):
        raise ValueError(text)
    return float(text)


def is_missing(text: str) -> bool:
    """Whether a cell is blank, or a word for that such as NA."""
    return text.strip().lower() in _MISSING


def is_written_number(text: str) -> bool:
    """Whether a cell is a number, in one way of writing or another, or a bound."""
    digits = _split(text.strip())[1]
    return _is_number(digits) or _DECIMAL_COMMA.fullmatch(digits) is not None


def read_classes(texts: Sequence[str], column: str, where: str) -> Labels:
    """Two classes, as 0 and 1 or as any two words.

    Which word is class 1 is known of usual pairs (active and inactive, yes and no, toxic and non-toxic ...), of others
    it is the second in alphabetical order; a note says it.

    Raises:
        DataError: more than two values.
    """
    texts = [text.strip() for text in texts]
    present = [text for text in texts if text.lower() not in _MISSING]
    numbers = [float(text) if _is_number(text) else None for text in present]
    if all(number in (0, 1) for number in numbers):
        values = [math.nan if text.lower() in _MISSING else float(text) for text in texts]
        return _classes(np.array(values))
    # 1 and 1.0 are one class, and so are Yes and yes
    keys = [repr(number) if number is not None else text.lower() for text, number in zip(present, numbers, strict=True)]
    words = dict(zip(reversed(keys), reversed(present), strict=True))
    found = list(dict.fromkeys(keys))
    if len(found) > 2:
        row = next(row for row, text in enumerate(texts, 1) if text == words[found[2]] or text.lower() == found[2])
        first, second, third = (words[key] for key in found[:3])
        raise DataError(
            f"{where}: row {row}: column {column!r} is {third!r} beside {first!r} and {second!r}; a class is 0 or 1, or"
            " one of two words: leave others blank, or make a column for each question"
        )
    negative, positive = _ordered(found)
    by_key = {negative: 0.0, positive: 1.0}
    rest = iter(keys)
    values = [math.nan if text.lower() in _MISSING else by_key[next(rest)] for text in texts]
    classes = (words.get(negative, ""), words.get(positive, ""))
    note = f"{column}: {classes[1] or 'nothing'} is class 1, {classes[0] or 'nothing'} is class 0"
    return _classes(np.array(values), classes, (note,))


def present(texts: Sequence[str]) -> list[str]:
    """The cells that hold something, without blanks around them."""
    return [text.strip() for text in texts if text.strip().lower() not in _MISSING]


def looks_like(texts: Sequence[str]) -> str:
    """What a column seems to hold: classes (0 and 1, or two words), either (0 alone, or 1 alone), numbers, or text."""
    found = set(present(texts))
    if all(_is_number(text) for text in found):
        values = set(map(float, found))
        return "numbers" if values - {0.0, 1.0} else "classes" if len(values) == 2 else "either"
    if all(map(is_written_number, found)):
        return "numbers"
    return "classes" if len({text.lower() for text in found}) == 2 else "text"


def _classes(values: np.ndarray, classes: tuple[str, str] = ("0", "1"), notes: tuple[str, ...] = ()) -> Labels:
    nothing = np.full(len(values), math.nan)
    return Labels(values, nothing, nothing, classes=classes, notes=notes)


def _ordered(found: list[str]) -> tuple[str, str]:
    """Class 0 and class 1 of at most two values; '' for one that does not occur."""
    if len(found) == 1:
        (only,) = found
        says_no = only in _NEGATIVE or only.endswith("-") or _NEGATION.match(only) is not None
        return (only, "") if says_no and only not in _POSITIVE else ("", only)
    first, second = sorted(found, key=lambda key: (float(key), "") if _is_number(key) else (math.inf, key))
    for negative, positive in ((first, second), (second, first)):
        signs = (negative[-1:], positive[-1:]) == ("-", "+")  # BBB- and BBB+
        if signs or positive in _POSITIVE or negative in _NEGATIVE or _NEGATION.sub("", negative, count=1) == positive:
            return negative, positive
    return first, second


def _qualifier(text: str, row: int, column: str, where: str) -> str:
    text = text.strip().strip("'\"")  # ChEMBL writes '>' with quotes
    if text.lower() in _MISSING:
        return ""
    if text not in QUALIFIERS:
        raise DataError(
            f"{where}: row {row}: the qualifier of {column!r} is {text!r}; one of > >= < <= = ~ is read, or nothing"
        )
    return text


def _split(text: str) -> tuple[str, str]:
    """Qualifier and the rest."""
    match = _QUALIFIED.fullmatch(text)
    return (match[1], match[2].strip()) if match else ("", text)


def _is_number(text: str) -> bool:
    """Whether it is a finite number; float() accepts 1_000 too, which no spreadsheet writes."""
    try:
        return math.isfinite(float(text)) and "_" not in text
    except ValueError:
        return False
