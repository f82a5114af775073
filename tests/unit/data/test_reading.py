"""Labels of a user's table beyond plain numbers: bounds, weights, classes in words."""

from pathlib import Path

import numpy as np
import pytest

from kflm2.data.datasets import Dataset, File, Task
from kflm2.data.reading import read_table
from kflm2.data.structures import deduplicate
from kflm2.errors import DataError

NAN = np.nan


def _dataset(tmp_path: Path, text: str, targets: tuple[str, ...] = ("y",), task: Task = "regression") -> Dataset:
    (tmp_path / "table.csv").write_text(text)
    return Dataset("table", (File(tmp_path / "table.csv"),), targets, task=task, unit="log M")


def test_a_bound_is_no_label_to_measure_on_and_its_row_is_kept(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path, "smiles,a,b\nCC,1,>7\nC(,>2,1\nCO,<3,\nCN,,\nCCC,4,5\n", ("a", "b"))
    molecules = read_table(dataset)
    assert molecules.smiles == ["CC", "CO", "CCC"]
    np.testing.assert_array_equal(molecules.y_true, [[1, NAN], [NAN, NAN], [4, 5]])
    assert molecules.bounds is not None
    lower, upper = molecules.bounds
    np.testing.assert_array_equal(lower, [[NAN, 7], [NAN, NAN], [NAN, NAN]])
    np.testing.assert_array_equal(upper, [[NAN, NAN], [3, NAN], [NAN, NAN]])
    assert molecules.missing == 3  # one of CO, both of CN
    exact = molecules.without_bounds()
    assert (exact.smiles, exact.bounds) == (["CC", "CCC"], None)
    assert [(entry.row, entry.reason) for entry in exact.rejected][1:] == [
        (3, "only a bound is known"),
        (4, "no target value"),
    ]


def test_a_table_without_bounds_has_none(tmp_path: Path) -> None:
    assert read_table(_dataset(tmp_path, "smiles,y\nCC,1\nCO,2\n")).bounds is None


def test_weights_are_read_and_checked(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path, "smiles,y,w\nCC,1,2\nC(,1,9\nCO,2,\nCN,3,0.5\n")
    molecules = read_table(dataset, weight_column="w")
    assert molecules.weights is not None and molecules.weights.tolist() == [2.0, 0.0, 0.5]
    for cells, message in (
        (">5", "row 1: column 'w' is '>5'; a weight is a number"),
        ("-1", "row 1: column 'w' is -1; a weight is 0 or more"),
        ("0", "all weights .* are 0"),
    ):
        with pytest.raises(DataError, match=message):
            read_table(_dataset(tmp_path, f"smiles,y,w\nCC,1,{cells}\nCO,2,0\n"), weight_column="w")


def test_words_of_classes_are_kept(tmp_path: Path) -> None:
    dataset = _dataset(tmp_path, "smiles,a,b\nCC,no,1\nCO,yes,0\nCN,,1\n", ("a", "b"), "classification")
    molecules = read_table(dataset)
    np.testing.assert_array_equal(molecules.y_true, [[0, 1], [1, 0], [NAN, 1]])
    assert molecules.dataset.classes == (("no", "yes"), ("0", "1"))
    assert molecules.notes == ("a: yes is class 1, no is class 0",)
    plain = _dataset(tmp_path, "smiles,a,b\nCC,0,1\nCO,1,0\n", ("a", "b"), "classification")
    assert read_table(plain).dataset.classes == ()


def test_rows_of_one_structure_are_merged_with_their_bounds_and_weights(tmp_path: Path) -> None:
    text = "smiles,y,w\nCCO,1,1\nOCC,3,2\nC(C)O,>9,3\nCN,>2,1\nNC,>3,1\nCN,<8,1\nCl,>5,1\nCl,<4,1\nCC,7,1\n"
    molecules = deduplicate(read_table(_dataset(tmp_path, text), weight_column="w"))
    assert molecules.smiles == ["CCO", "CN", "CC"]
    np.testing.assert_allclose(molecules.y_true[:, 0], [(1 * 1 + 2 * 3) / 3, NAN, 7])
    assert molecules.bounds is not None and molecules.weights is not None
    np.testing.assert_array_equal(molecules.bounds[:, :, 0], [[NAN, 3, NAN], [NAN, 8, NAN]])
    assert molecules.weights.tolist() == [2.0, 1.0, 1.0]
    assert {entry.row for entry in molecules.rejected if "contradict" in entry.reason} == {7, 8}
    # of 1 and 3: ((1 - 2)^2 + (3 - 2)^2) / (2 - 1)
    assert molecules.notes == ("replicates of 1 structures, y: standard deviation 1.41 log M; their mean is taken",)


def test_a_row_of_weight_zero_is_not_in_the_mean_of_its_structure(tmp_path: Path) -> None:
    text = "smiles,y,w\nCCO,1,1\nOCC,100,0\nCN,4,0\nNC,6,0\n"
    molecules = deduplicate(read_table(_dataset(tmp_path, text), weight_column="w"))
    assert molecules.y_true[:, 0].tolist() == [1.0, 5.0]
    assert molecules.weights is not None and molecules.weights.tolist() == [1.0, 0.0]
