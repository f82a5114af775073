"""chemprop as a baseline: run as a program in its own environment, on the same split.

D-MPNN of Yang et al. (J. Chem. Inf. Model. 2019, 59, 3370), implemented in chemprop 2 (Heid et al., J. Chem. Inf.
Model. 2024, 64, 9), with chemprop's default settings.
"""

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from kflm2.data.datasets import Task
from kflm2.errors import DataError

ABOUT = "chemprop 2, directed message passing, its own defaults"


def predict(
    program: Path, smiles: list[str], y_true: np.ndarray, train: np.ndarray, valid: np.ndarray, task: Task, seed: int
) -> np.ndarray:
    """Train chemprop and predict with it.

    Args:
        program: path of the command chemprop in its environment.
        smiles: n SMILES.
        y_true: (n, K), NaN where the label is missing; labels of the test part are not passed on.
        train: rows.
        valid: rows.
        task: of the targets.
        seed: of the weights.

    Returns:
        (n, K) predictions for all molecules, for classes the probability of class 1.

    Raises:
        DataError: chemprop failed; the message contains the last line of its output.
    """
    targets = [f"target{number}" for number in range(y_true.shape[1])]
    with tempfile.TemporaryDirectory(prefix="kflm2-chemprop-") as temporary:
        folder = Path(temporary)
        labelled = np.concatenate([train, valid])
        table = pd.DataFrame(y_true[labelled], columns=targets)
        table.insert(0, "smiles", [smiles[row] for row in labelled])
        table["part"] = ["train"] * len(train) + ["val"] * len(valid)
        table.to_csv(folder / "known.csv", index=False)
        pd.DataFrame({"smiles": smiles}).to_csv(folder / "all.csv", index=False)
        arguments = ["train", "--data-path", "known.csv", "--smiles-columns", "smiles", "--target-columns", *targets]
        arguments += ["--splits-column", "part", "--task-type", task, "--output-dir", "made"]
        arguments += ["--pytorch-seed", str(seed)]
        _run(program, arguments, folder)
        arguments = ["predict", "--test-path", "all.csv", "--smiles-columns", "smiles"]
        _run(program, [*arguments, "--model-paths", "made", "--preds-path", "predicted.csv"], folder)
        return pd.read_csv(folder / "predicted.csv")[targets].to_numpy(dtype=float)


def _run(program: Path, arguments: list[str], folder: Path) -> None:
    try:
        process = subprocess.run([str(program.absolute()), *arguments], cwd=folder, capture_output=True, text=True)
    except OSError as error:
        raise DataError(f"chemprop {program} cannot be run: {error.strerror or error}") from None
    if process.returncode:
        output = process.stderr.strip() or process.stdout.strip() or f"status {process.returncode}"
        raise DataError(f"chemprop {arguments[0]} failed: {output.splitlines()[-1][:300]}")
