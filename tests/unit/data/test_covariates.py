"""Feature columns of a table: numbers or categories, and what is refused rather than guessed."""

import re

import numpy as np
import pytest

from kflm2.data.covariates import Covariate, read_covariate
from kflm2.errors import DataError, MoleculeError


def test_numbers_are_read_with_a_decimal_comma_and_blanks_stay_blank() -> None:
    column, values, notes = read_covariate([" 7,4 ", "6", "n/a", "", "-0,5"], "pH", "own.csv")
    assert column == Covariate("pH", decimal_comma=True)
    np.testing.assert_array_equal(values, [7.4, 6, np.nan, np.nan, -0.5])
    assert notes == ("pH: read with a decimal comma",)


def test_words_are_categories_whatever_their_case_and_blanks() -> None:
    column, values, notes = read_covariate(["Rat ", "mouse", "RAT", "", "guinea  pig"], "species", "own.csv")
    assert column == Covariate("species", ("guinea pig", "mouse", "Rat"))
    np.testing.assert_array_equal(values, [2, 1, 2, np.nan, 0])
    assert notes == ()


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["7.4", "6.0", "acid"], "own.csv: row 3: column 'pH' is 'acid', not a number"),
        (["7.4", ">6", "5"], "own.csv: row 2: column 'pH' is '>6'; a feature is a number"),
        (["", "NA"], "is blank in every row"),
        (["7", "7.0", "7"], "column 'pH' is '7' in every row, which tells nothing"),
        ([f"compound {i}" for i in range(21)], "21 different texts in 21 rows: these are names rather than categories"),
    ],
)
def test_a_column_that_is_unclear_or_says_nothing_is_refused(cells: list[str], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        read_covariate(cells, "pH", "own.csv")


def test_a_cell_of_another_table_means_the_same_or_is_refused() -> None:
    number, category = Covariate("pH"), Covariate("species", ("mouse", "Rat"))
    assert [number.value(cell) for cell in ("7.4", " 7,4", "0,123")] == [7.4, 7.4, 0.123]
    assert [number.value(cell) for cell in ("~7", "= 7.4")] == [7, 7.4]
    # unless the numbers that were learnt from have a decimal comma
    assert Covariate("pH", decimal_comma=True).value("6,125") == 6.125
    assert np.isnan([number.value("NA"), category.value(" ")]).all()
    assert [category.value(cell) for cell in ("rat", "Mouse ")] == [1, 0]
    # 1,234 may be 1.234 or 1234
    for cell in ("1,234", "acid", "inf", ">7", "1_0"):
        with pytest.raises(MoleculeError, match=f"pH is '{cell}', not a number"):
            number.value(cell)
    with pytest.raises(MoleculeError, match="species is 'cow', which the model does not know"):
        category.value("cow")
