"""What cells of a target column mean: numbers, bounds, classes; ambiguous ones are refused."""

import math

import numpy as np
import pytest

from kflm2.data.cells import Labels, looks_like, read_classes, read_numbers
from kflm2.errors import DataError

NAN = math.nan


def _arrays(labels: Labels) -> list[list[float]]:
    return [labels.values.tolist(), labels.lower.tolist(), labels.upper.tolist()]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("5.2", (5.2, NAN, NAN)),
        (" -3e2 ", (-300.0, NAN, NAN)),
        ("= 7", (7.0, NAN, NAN)),
        ("~7", (7.0, NAN, NAN)),
        (">10", (NAN, 10.0, NAN)),
        (">= 10", (NAN, 10.0, NAN)),
        ("≥10", (NAN, 10.0, NAN)),
        (">>1e5", (NAN, 1e5, NAN)),
        ("<0.5", (NAN, NAN, 0.5)),
        ("<= -2", (NAN, NAN, -2.0)),
        ("≤.5", (NAN, NAN, 0.5)),
        ("N/A", (NAN, NAN, NAN)),
        ("", (NAN, NAN, NAN)),
    ],
)
def test_a_number_may_have_a_qualifier(cell: str, expected: tuple[float, ...]) -> None:
    np.testing.assert_array_equal(_arrays(read_numbers([cell], "y", "t")), [[value] for value in expected])


@pytest.mark.parametrize("cell", ["high", ">", "> high", ">>>1", "1..2", "inf", ">inf", "1_0", "<>1", "5 µM"])
def test_what_is_no_number_is_refused_with_its_row(cell: str) -> None:
    with pytest.raises(DataError, match=r"^t\.csv: row 2: column 'y' is .*, not a number$"):
        read_numbers(["1", cell], "y", "t.csv")


def test_qualifiers_of_a_column_of_their_own() -> None:
    labels = read_numbers(["1", "2", "3", "", "5", "6"], "y", "t", ["", "'>'", "<", ">", "=", "~"])
    expected = [[1.0, NAN, NAN, NAN, 5.0, 6.0], [NAN, 2.0, *[NAN] * 4], [NAN, NAN, 3.0, *[NAN] * 3]]
    np.testing.assert_array_equal(_arrays(labels), expected)
    assert labels.notes == ("y: 1 approximate values (~) are taken as exact",)
    with pytest.raises(DataError, match="row 1: the qualifier of 'y' is 'above'"):
        read_numbers(["1"], "y", "t", ["above"])
    with pytest.raises(DataError, match=r"row 1: column 'y' is '>1', and its qualifier is '<'$"):
        read_numbers([">1"], "y", "t", ["<"])


def test_a_decimal_comma_is_read_where_it_is_clear() -> None:
    labels = read_numbers(["1,5", "2", ">0,25"], "y", "t")
    np.testing.assert_array_equal(_arrays(labels), [[1.5, 2.0, NAN], [NAN, NAN, 0.25], [NAN] * 3])
    assert labels.notes == ("y: read with a decimal comma",)
    with pytest.raises(
        DataError, match=r"row 2: column 'y' is '1,500': a decimal comma, or a separator of thousands\?"
    ):
        read_numbers(["7", "1,500", "12,000"], "y", "t")
    assert read_numbers(["1,500", "0,500"], "y", "t").values.tolist() == [1.5, 0.5]  # no thousands begin with 0
    with pytest.raises(DataError, match="row 1: column 'y' is '1,5', and other rows have a decimal point"):
        read_numbers(["1,5", "2.5"], "y", "t")


@pytest.mark.parametrize(
    ("cells", "classes"),
    [
        (("inactive", "active"), ("inactive", "active")),
        (("active", "inactive"), ("inactive", "active")),
        (("Yes", "No"), ("No", "Yes")),
        (("TRUE", "FALSE"), ("FALSE", "TRUE")),
        (("non-mutagenic", "mutagenic"), ("non-mutagenic", "mutagenic")),
        (("Toxic", "not toxic"), ("not toxic", "Toxic")),
        (("2", "1"), ("1", "2")),
        (("-1", "1"), ("-1", "1")),
        (("red", "blue"), ("blue", "red")),
        (("BBB+", "BBB-"), ("BBB-", "BBB+")),
        (("High", "low"), ("low", "High")),
    ],
)
def test_two_words_are_two_classes(cells: tuple[str, str], classes: tuple[str, str]) -> None:
    labels = read_classes([*cells, "", cells[0].upper()], "y", "t")
    first = float(cells[0] == classes[1])
    np.testing.assert_array_equal(labels.values, [first, 1 - first, NAN, first])
    assert labels.classes == classes
    assert labels.notes == (f"y: {classes[1]} is class 1, {classes[0]} is class 0",)


@pytest.mark.parametrize(
    ("word", "value"), [("inhibitor", 1.0), ("inactive", 0.0), ("no", 0.0), ("blue", 1.0), ("BBB-", 0.0)]
)
def test_a_single_word_is_the_class_that_it_names(word: str, value: float) -> None:
    assert read_classes([word, word], "y", "t").values.tolist() == [value, value]


def test_0_and_1_are_classes_without_a_note() -> None:
    labels = read_classes(["1", "0.0", "", "1.0"], "y", "t")
    np.testing.assert_array_equal(labels.values, [1.0, 0.0, NAN, 1.0])
    assert (labels.classes, labels.notes) == (("0", "1"), ())


def test_a_third_value_is_refused() -> None:
    with pytest.raises(DataError, match="row 4: column 'y' is 'unclear' beside 'active' and 'inactive'"):
        read_classes(["active", "inactive", "Active", "unclear", "other"], "y", "t")


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["0", "1", "", "1.0"], "classes"),
        (["yes", "no", "NO", "na"], "classes"),
        (["0", "0"], "either"),
        (["", ""], "either"),
        (["0", "1", "2"], "numbers"),
        ([">1", "0"], "numbers"),
        (["1,5", "0"], "numbers"),
        (["a", "b", "c"], "text"),
        (["1", "x"], "classes"),
    ],
)
def test_what_a_column_looks_like(cells: list[str], expected: str) -> None:
    assert looks_like(cells) == expected
