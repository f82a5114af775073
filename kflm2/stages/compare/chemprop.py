"""chemprop as a baseline: a program of its own, in an environment of its own, on the same split.

D-MPNN of Yang et al. (J. Chem. Inf. Model. 2019, 59, 3370) as chemprop 2 has it (Heid et al., J. Chem. Inf. Model.
2024, 64, 9), with its own defaults.
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
    """Train chemprop, and let it predict.

    Args:
        program: the command chemprop of the environment that has it.
        smiles: n SMILES.
        y_true: (n, K), NaN where the label is missing; those of the test part are not handed over.
        train: rows.
        valid: rows.
        task: of the targets.
        seed: of its weights.

    Returns:
        (n, K) predictions of all molecules, for classes the probability of class 1.

    Raises:
        DataError: chemprop failed; its last line is told.
    """
    targets = [f"target{number}" for number in range(y_true.shape[1])]
    with tempfile.TemporaryDirectory(prefix="kflm2-chemprop-") as place:
        folder = Path(place)
        known = np.concatenate([train, valid])
        table = pd.DataFrame(y_true[known], columns=targets)
        table.insert(0, "smiles", [smiles[row] for row in known])
        table["part"] = ["train"] * len(train) + ["val"] * len(valid)
        table.to_csv(folder / "known.csv", index=False)
        pd.DataFrame({"smiles": smiles}).to_csv(folder / "all.csv", index=False)
        words = ["train", "--data-path", "known.csv", "--smiles-columns", "smiles", "--target-columns", *targets]
        words += ["--splits-column", "part", "--task-type", task, "--output-dir", "made", "--pytorch-seed", str(seed)]
        _run(program, words, folder)
        words = ["predict", "--test-path", "all.csv", "--smiles-columns", "smiles"]
        _run(program, [*words, "--model-paths", "made", "--preds-path", "predicted.csv"], folder)
        return pd.read_csv(folder / "predicted.csv")[targets].to_numpy(dtype=float)


def _run(program: Path, words: list[str], folder: Path) -> None:
    try:
        done = subprocess.run([str(program.absolute()), *words], cwd=folder, capture_output=True, text=True)
    except OSError as error:
        raise DataError(f"chemprop {program} cannot be run: {error.strerror or error}") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()[-1]
        raise DataError(f"chemprop {words[0]} failed: {said[:300]}")
