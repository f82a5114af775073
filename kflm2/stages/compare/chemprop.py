"""chemprop as a baseline: run as a program in its own environment, on the same split, one model an inner fold.

D-MPNN of Yang et al. (J. Chem. Inf. Model. 2019, 59, 3370), implemented in chemprop 2 (Heid et al., J. Chem. Inf.
Model. 2024, 64, 9), with chemprop's default settings.
"""

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from kflm2.data.datasets import Task
from kflm2.data.splits import Split
from kflm2.errors import DataError

ABOUT = {
    "chemprop": "chemprop 2, directed message passing, its own defaults",
    "chemprop-rdkit": "chemprop 2, directed message passing and RDKit's 2D descriptors, its own defaults",
}
_FEATURES = {"chemprop": [], "chemprop-rdkit": ["--molecule-featurizers", "rdkit_2d"]}


def predict(
    program: Path, name: str, smiles: list[str], y_true: np.ndarray, split: Split, task: Task, seed: int
) -> np.ndarray:
    """Train chemprop and predict with it.

    Args:
        program: path of the command chemprop in its environment.
        name: a key of ABOUT.
        smiles: n SMILES.
        y_true: (n, K), NaN where the label is missing; labels of the test part are not passed on.
        split: with inner folds an ensemble is trained, a model for each, which the fold stops.
        task: of the targets.
        seed: of the weights.

    Returns:
        (n, K) predictions for all molecules, for classes the probability of class 1; with inner folds those of train
        and valid are out-of-fold, and all others are means.

    Raises:
        DataError: chemprop failed; the message contains the last line of its output.
    """
    trials = [split.of_member(number) for number in range(len(split.folds) or 1)]
    single = [
        # of one split as before there were folds; of several no two models have the same weights
        _predict(
            program, _FEATURES[name], smiles, y_true, trial, task, seed if not split.folds else 1000 * seed + number
        )
        for number, trial in enumerate(trials)
    ]
    y_pred = np.mean(single, axis=0)
    if split.folds:
        for trial, own in zip(trials, single, strict=True):
            y_pred[trial.valid] = own[trial.valid]
    return y_pred


def _predict(
    program: Path, features: list[str], smiles: list[str], y_true: np.ndarray, split: Split, task: Task, seed: int
) -> np.ndarray:
    train, valid = split.train, split.valid
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
        arguments += ["--pytorch-seed", str(seed), *features]
        _run(program, arguments, folder)
        arguments = ["predict", "--test-path", "all.csv", "--smiles-columns", "smiles", *features]
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
