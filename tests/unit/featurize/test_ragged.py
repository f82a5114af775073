"""Rows of unequal length: index arithmetic compared with a loop."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kflm2.featurize.ragged import Ragged


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=7).flatmap(
        lambda lengths: st.tuples(st.just(lengths), st.lists(st.integers(0, len(lengths) - 1), max_size=9))
    )
)
def test_take_equals_the_loop(case: tuple[list[int], list[int]]) -> None:
    lengths, selected = case
    rng = np.random.default_rng(sum(lengths))
    rows = [rng.random((length, 3)) for length in lengths]
    taken = Ragged.pack(rows).take(np.array(selected, dtype=np.int64))
    assert len(taken) == len(selected)
    assert taken.lengths.tolist() == [lengths[i] for i in selected]
    np.testing.assert_array_equal(taken.values, np.concatenate([np.zeros((0, 3)), *(rows[i] for i in selected)]))
