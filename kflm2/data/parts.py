"""Names of parts and of split methods, and fractions; separate from splits.py so that configs need not import RDKit."""

from typing import Literal, get_args

from kflm2.errors import SettingError

PARTS = ("train", "valid", "test")

SplitKind = Literal[
    "random", "scaffold", "scaffold_moleculenet", "cluster", "given", "cv5x5", "scaffold_cv5x5", "cluster_cv5x5"
]
SPLITS: tuple[str, ...] = get_args(SplitKind)
CROSS_VALIDATIONS: tuple[str, ...] = ("cv5x5", "scaffold_cv5x5", "cluster_cv5x5")
"""Kinds with FOLDS times REPEATS seeds: a seed is a fold of a repeat."""

FOLDS = 5
REPEATS = 5
LEAST_RUNS = 3
"""Fewest runs from which methods can be compared."""


def check_fractions(fractions: tuple[float, float, float]) -> None:
    """Check that the fractions of train, valid and test are positive and add up to 1.

    Raises:
        SettingError: they are not; the message shows the sum.
    """
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        terms = " + ".join(f"{fraction:g}" for fraction in fractions)
        raise SettingError(f"split fractions must be positive and add up to 1: {terms} = {sum(fractions):g}")
