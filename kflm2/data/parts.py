"""The parts of a split, the ways to split, and shares; apart from splits.py so that settings need not import RDKit."""

from typing import Literal, get_args

from kflm2.errors import SettingError

PARTS = ("train", "valid", "test")

SplitKind = Literal["random", "scaffold", "scaffold_moleculenet", "cluster", "given", "cv5x5"]
SPLITS: tuple[str, ...] = get_args(SplitKind)

FOLDS = 5
REPEATS = 5
LEAST_RUNS = 3
"""From which on something can be said of a difference between methods."""


def check_fractions(fractions: tuple[float, float, float]) -> None:
    """Refuse shares of train, valid and test that are not positive or do not add up to 1.

    Raises:
        SettingError: the message shows the sum.
    """
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        shown = " + ".join(f"{fraction:g}" for fraction in fractions)
        raise SettingError(f"split fractions must be positive and add up to 1: {shown} = {sum(fractions):g}")
