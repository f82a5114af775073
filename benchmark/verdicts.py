"""How often `kflm2 compare` calls equal methods different, and how often it finds a difference that is there.

    python benchmark/verdicts.py                   # 1,000 simulations a row, about 3 minutes on one core
    python benchmark/verdicts.py --simulations 200

Each simulation draws a new table of molecules, and trains real models on the splits: every method is a ridge regression
that reads some features that all methods read, and as many of its own. The own features of all methods matter equally,
so that all methods are equally good on new molecules, though not on any table; this is the null hypothesis. For the
power, method 0 also reads a weak copy of the label. In the grouped form molecules come in groups (as of a scaffold)
that share a part of their features and of their noise, and whole groups are left out.

Rules: `kflm2`, the corrected statistic with Holm's adjustment, as kflm2.metrics.statistics; `range`, the same statistic
adjusted by the studentized range; `single`, the same, not adjusted for the number of pairs; `naive`, Tukey's test,
which takes the runs as independent.
"""

import argparse
from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from kflm2 import text_table
from kflm2.metrics.statistics import ALPHA, Design, compare, critical

KINDS = {"cv5x5": "cv5x5", "random": "ten random splits", "scaffold_cv5x5": "scaffold_cv5x5"}
METHODS = (2, 4, 6, 10)
RULES = ("kflm2", "range", "single", "naive")
MOLECULES = 300
_WIDTH = 4
"""Features that all methods read, and features of each method."""
_LARGEST_GROUP = 12

Parts = list[tuple[np.ndarray, np.ndarray]]
"""Training and test rows of each run."""


def splits(kind: str, groups: np.ndarray, rng: np.random.Generator) -> Parts:
    """Runs of one comparison: 25 of repeated cross-validation, or ten random 8:1:1 splits."""
    return list(_random_splits(rng) if kind == "random" else _folds(groups if kind == "scaffold_cv5x5" else None, rng))


def _random_splits(rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for _ in range(10):
        order = rng.permutation(MOLECULES)
        yield order[: int(0.8 * MOLECULES)], order[int(0.9 * MOLECULES) :]


def _folds(groups: np.ndarray | None, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Five-fold cross-validation five times over; a ninth of the other folds is for validation and not used here."""
    labels = np.arange(MOLECULES) if groups is None else groups
    for _ in range(5):
        fold_of_group, sizes = np.zeros(labels.max() + 1, dtype=int), np.zeros(5, dtype=int)
        for group in rng.permutation(labels.max() + 1):
            fold_of_group[group] = sizes.argmin()
            sizes[sizes.argmin()] += (labels == group).sum()
        for fold in range(5):
            is_test = fold_of_group[labels] == fold
            rest = rng.permutation(np.flatnonzero(~is_test))
            yield rest[len(rest) // 9 :], np.flatnonzero(is_test)


def simulate(kind: str, methods: int, advantage: float, rng: np.random.Generator) -> tuple[pd.DataFrame, Design]:
    """Test RMSE of each method on each run.

    Args:
        kind: of the splits.
        methods: number of methods.
        advantage: weight of the label in what method 0 reads besides; 0 for equal methods.
        rng: of this simulation.
    """
    groups = np.repeat(np.arange(MOLECULES), rng.integers(1, _LARGEST_GROUP + 1, MOLECULES))[:MOLECULES]

    def normal(*shape: int) -> np.ndarray:
        values = rng.normal(size=(*shape, MOLECULES))
        if kind == "scaffold_cv5x5":
            values = (values + rng.normal(size=(*shape, groups.max() + 1))[..., groups]) / np.sqrt(2)
        return values

    shared, own = normal(_WIDTH), normal(methods, _WIDTH)
    y = shared.sum(axis=0) + 0.5 * own.sum(axis=(0, 1)) + normal()
    hint = rng.normal(size=(methods, 1, MOLECULES))
    hint[0] += advantage * y
    x = np.concatenate([np.broadcast_to(shared, own.shape), own, hint], axis=1).transpose(0, 2, 1)
    parts = splits(kind, groups, rng)
    rows = []
    for train, test in parts:
        inputs = x[:, train]
        gram = inputs.transpose(0, 2, 1) @ inputs + np.eye(x.shape[2])
        weights = np.linalg.solve(gram, inputs.transpose(0, 2, 1) @ y[train][:, None])
        rows.append(np.sqrt(((y[test] - (x[:, test] @ weights)[..., 0]) ** 2).mean(axis=1)))
    table = pd.DataFrame(np.array(rows), columns=[f"m{number}" for number in range(methods)])
    return table, Design.of([test for _, test in parts], [len(train) for train, _ in parts], MOLECULES)


def different(table: pd.DataFrame, design: Design) -> dict[str, np.ndarray]:
    """Rule -> whether it tells each pair apart, in the order of itertools.combinations."""
    runs, methods = table.shape
    pairs = compare(table, design, 0.0)
    t = np.abs([pair.effect for pair in pairs]) / design.error_factor
    return {
        "kflm2": np.array([pair.p for pair in pairs]) < ALPHA,
        "range": t > _quantile(methods, runs - 1) / np.sqrt(2),
        "single": t > critical(1, runs),
        "naive": np.abs([pair.difference for pair in pairs]) > _tukey(table),
    }


def _tukey(table: pd.DataFrame) -> float:
    """Half width of Tukey's intervals, with the error of repeated measures."""
    values = table.to_numpy()
    runs, methods = values.shape
    errors = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    freedom = (runs - 1) * (methods - 1)
    return _quantile(methods, freedom) * float(np.sqrt((errors**2).sum() / freedom / runs))


@lru_cache
def _quantile(methods: int, freedom: int) -> float:
    return float(stats.studentized_range.ppf(1 - ALPHA, methods, freedom))


def false_differences(kind: str, methods: int, count: int, seed: int) -> int:
    """Of a number of comparisons of equal methods, those in which kflm2 tells any pair apart."""
    comparisons = (simulate(kind, methods, 0.0, np.random.default_rng([seed, number])) for number in range(count))
    return sum(bool(different(*comparison)["kflm2"].any()) for comparison in comparisons)


def _row(kind: str, methods: int, count: int, advantage: float) -> list[str]:
    """Family-wise error of each rule, the true advantage of method 0 in RMSE, and the power of each rule."""
    wrong, right = (dict.fromkeys(RULES, 0.0) for _ in range(2))
    gains = []
    with_first = [index for index, pair in enumerate(combinations(range(methods), 2)) if 0 in pair]
    for simulation in range(count):
        for rule, pairs in different(*simulate(kind, methods, 0.0, np.random.default_rng([0, simulation]))).items():
            wrong[rule] += pairs.any() / count
        table, design = simulate(kind, methods, advantage, np.random.default_rng([1, simulation]))
        gains.append(1 - table["m0"].mean() / table.drop(columns="m0").to_numpy().mean())
        for rule, pairs in different(table, design).items():
            right[rule] += pairs[with_first].mean() / count
    errors, powers = ([f"{100 * rates[rule]:.1f}" for rule in RULES] for rates in (wrong, right))
    return [KINDS[kind], str(methods), *errors, f"{100 * np.mean(gains):.1f}", *powers]


def main() -> None:
    """Print a row for each kind of split and number of methods."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1000)
    parser.add_argument("--advantage", type=float, default=0.3, help="weight of the label in what method 0 reads")
    options = parser.parse_args()
    head = ["splits", "methods", *(f"{rule}, false" for rule in RULES), "RMSE lower by %"]
    head += [f"{rule}, found" for rule in RULES]
    rows = [_row(kind, methods, options.simulations, options.advantage) for kind in KINDS for methods in METHODS]
    print("false: % of comparisons of equal methods with any difference. found: % of pairs with the better method 0.\n")
    print("\n".join(text_table.markdown([head, *rows])))


if __name__ == "__main__":
    main()
