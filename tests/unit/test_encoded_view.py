"""Groups of molecules of similar size."""

import numpy as np
import pytest

from kflm2.encoded_view import similar_sizes


@pytest.mark.parametrize("cost", [0, 30, 10_000])
def test_groups_are_the_cheapest_of_all_cuts(cost: int) -> None:
    rng = np.random.default_rng(cost)
    first, second = rng.integers(1, 12, 9), rng.integers(1, 8, 9)

    def padded(groups: list[np.ndarray]) -> int:
        return sum(len(group) * first[group].max() * second[group].max() + cost for group in groups)

    groups = similar_sizes(first, second, cost)
    assert sorted(np.concatenate(groups)) == list(range(9))
    order = np.argsort(first, kind="stable")
    cuts = (np.flatnonzero([(mask >> k) & 1 for k in range(8)]) + 1 for mask in range(2**8))
    assert padded(groups) == min(padded(np.split(order, cut)) for cut in cuts)


def test_a_giant_molecule_is_padded_alone() -> None:
    first = np.array([20, 25, 900, 22])
    assert [group.tolist() for group in similar_sizes(first, first, 20_000)] == [[2], [0, 1, 3]]
