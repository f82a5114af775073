"""Tables as text."""

from kflm2.text_table import aligned, markdown, mean_and_std

ROWS = [["", "mean", "verdict"], ["a", "12.5", "better"], ["long name", "3", "no"]]


def test_columns_are_as_wide_as_they_need_and_numbers_stand_to_the_right() -> None:
    assert aligned(ROWS, left=(0, 2)) == [
        "           mean  verdict",
        "a          12.5  better",
        "long name     3  no",
    ]


def test_a_short_row_ends_with_a_remark_that_widens_no_column() -> None:
    lines = aligned([*ROWS, ["b", "a remark that is longer than all columns together"]], left=(0, 2))
    assert lines[:3] == aligned(ROWS, left=(0, 2))
    assert lines[3] == "b          a remark that is longer than all columns together"


def test_markdown_says_which_columns_are_numbers() -> None:
    assert markdown(ROWS) == [
        "|  | mean | verdict |",
        "|---|--:|--:|",
        "| a | 12.5 | better |",
        "| long name | 3 | no |",
    ]


def test_a_deviation_of_one_run_is_left_out() -> None:
    assert mean_and_std(1.23456, 0.5) == "1.235 ± 0.500"
    assert mean_and_std(1.23456, None, digits=1) == "1.2"
    assert mean_and_std(None, None) == "-"


def test_numbers_in_small_or_large_units_are_not_zeros() -> None:
    assert mean_and_std(0.000812, 0.00011, unit=True) == "0.000812 ± 0.00011"
    assert mean_and_std(0.000812, 0.00011) == "0.001 ± 0.000"
    assert mean_and_std(123456.7, None, unit=True) == "1.23e+05"
    assert mean_and_std(0.81, 0.004, unit=True) == "0.810 ± 0.004"
    assert mean_and_std(0.0, 0.0, unit=True) == "0.000 ± 0.000"
