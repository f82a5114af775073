"""Covariates as the models read them: scikit-learn's scaling and columns, of the training rows only."""

import json

import numpy as np
import pytest
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from kflm2.data.covariates import Covariate
from kflm2.errors import DataError, MoleculeError
from kflm2.featurize.covariate_scaler import CovariateScaler

COLUMNS = (Covariate("pH"), Covariate("T"), Covariate("assay", ("A", "B", "C")), Covariate("buffer", ("x", "y")))
NAN = np.nan
# the last two rows are of test: another pH, a category and blanks that training has not
VALUES = np.array(
    [
        [7.0, 20.0, 0, 0],
        [5.0, NAN, 2, 0],
        [6.5, 30.0, 0, 0],
        [8.0, 25.0, 2, 0],
        [99.0, NAN, 1, 0],
        [NAN, 10.0, 2, 1],
    ]
)
TRAIN = VALUES[:4]
SCALER = CovariateScaler.fit(COLUMNS, TRAIN)


def test_numbers_and_categories_are_scikit_learns_and_a_blank_is_the_mean_with_a_column_of_its_own() -> None:
    scaled = SCALER(SCALER.of_table(COLUMNS, VALUES))
    # pH; T and whether it is blank; two assays of training; buffer is x in all of training, so it says nothing
    assert scaled.shape == (6, 5) and SCALER.width == 5 and scaled.dtype == np.float32
    numbers = StandardScaler().fit(TRAIN[:, :2]).transform(VALUES[:, :2])
    np.testing.assert_allclose(scaled[:, 0], np.nan_to_num(numbers[:, 0]).clip(-5, 5), rtol=1e-6)
    np.testing.assert_allclose(scaled[:, 1], np.nan_to_num(numbers[:, 1]), rtol=1e-6)
    np.testing.assert_array_equal(scaled[:, 2], [0, 1, 0, 0, 1, 0])
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(TRAIN[:, 2:3])
    np.testing.assert_array_equal(scaled[:, 3:], encoder.transform(VALUES[:, 2:3]))


def test_what_training_has_not_is_known_to_be_unknown() -> None:
    assert SCALER.unknown(SCALER.of_table(COLUMNS, VALUES)).tolist() == [False] * 4 + [True, True]


def test_cells_are_read_as_the_table_was_or_refused() -> None:
    values, outside = SCALER.read(["6,5", "", "c", "X"])
    np.testing.assert_array_equal(SCALER(values[None]), SCALER(SCALER.of_table(COLUMNS, np.array([[6.5, NAN, 2, 0]]))))
    assert outside == ""
    assert SCALER.read(["4", "31", "A", "x"])[1] == "pH 4 is outside 5 to 8; T 31 is outside 20 to 30"
    for cells, message in (
        (["", "20", "A", "x"], "pH is blank"),
        (["7", "20", "B", "x"], "assay is 'B', which the model does not know"),
        (["7", "20", "A", ""], "buffer is blank"),
        (["7", "warm", "A", "x"], "T is 'warm', not a number"),
    ):
        with pytest.raises(MoleculeError, match=message):
            SCALER.read(cells)


def test_json_restores_the_same_scaler_and_refuses_a_damaged_one() -> None:
    records = json.loads(json.dumps(SCALER.to_json()))
    assert CovariateScaler.from_json(records) == SCALER
    assert str(SCALER) == "pH (5 to 8), T (20 to 30, or blank), assay (A, C), buffer (x)"
    records[0]["mean"] = float("nan")
    with pytest.raises(ValueError, match="the scale of 'pH' is damaged"):
        CovariateScaler.from_json(records)


def test_training_rows_without_any_value_or_any_difference_are_refused() -> None:
    with pytest.raises(DataError, match="'pH' is blank in all of the training part"):
        CovariateScaler.fit(COLUMNS, np.array([[NAN, 1, 0, 0], [NAN, 2, 1, 1]]))
    with pytest.raises(DataError, match="no feature column varies"):
        CovariateScaler.fit(COLUMNS, TRAIN[[0, 0]])
