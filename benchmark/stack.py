"""Stack methods: weights are fitted on the validation part of each run, and used for its test part.

    python benchmark/stack.py results/SAMPL/crossAtt-LLM results/SAMPL/crossAtt-graph --out stacked.csv
    kflm2 compare results/SAMPL/crossAtt-all --split cv5x5 --predictions stack=stacked.csv --practical 0.1

For one target and the runs of cv5x5. The weights are non-negative and add up to 1; `--equal` takes the plain mean.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from kflm2.files import write_csv


def stacked(tables: list[pd.DataFrame], equal: bool) -> tuple[pd.DataFrame, np.ndarray]:
    """Predictions of one run's test part, and the weights of the methods.

    Args:
        tables: predictions.csv of each method, with the same rows.
        equal: use equal weights.
    """
    first = tables[0]
    fixed = [name for name in first if name in ("row", "smiles", "part") or name.startswith("y_true_")]
    if any(not table[fixed].equals(first[fixed]) for table in tables):
        raise SystemExit("the folders hold runs on other molecules, labels or splits, which cannot be stacked")
    (target,) = (name.removeprefix("y_true_") for name in first if name.startswith("y_true_"))
    y_pred = np.stack([table.set_index("row").loc[first["row"], f"y_pred_{target}"] for table in tables], axis=1)
    valid, test = (first["part"] == part for part in ("valid", "test"))
    weights = np.ones(len(tables))
    if not equal:
        weights = nnls(y_pred[valid], first.loc[valid, f"y_true_{target}"].to_numpy())[0]
    weights = weights / weights.sum()
    return pd.DataFrame({"row": first.loc[test, "row"], "y_pred": y_pred[test] @ weights}), weights


def main() -> None:
    """Stack run by run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="a folder of runs for each method")
    parser.add_argument("--equal", action="store_true", help="equal weights, nothing fitted")
    parser.add_argument("--out", type=Path, default=Path("stacked.csv"))
    options = parser.parse_args()
    predictions, weights = [], []
    for path in sorted(options.folders[0].glob("cv5x5-*")):
        tables = [pd.read_csv(folder / path.name / "predictions.csv") for folder in options.folders]
        table, run_weights = stacked(tables, options.equal)
        predictions.append(table.assign(seed=int(path.name.removeprefix("cv5x5-"))))
        weights.append(run_weights)
    write_csv(options.out, pd.concat(predictions))
    for folder, weight in zip(options.folders, np.mean(weights, axis=0), strict=True):
        print(f"{weight:.2f}  {folder.name}")
    print(f"{len(predictions)} runs: {options.out}")


if __name__ == "__main__":
    main()
