"""Predictions of a chunk of the input as rows of the output."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from kflm2.predictor.bundle import Bundle
from kflm2.predictor.chunks import ChunkModel, ReadChunk
from kflm2.predictor.featurizer import OK
from kflm2.predictor.predictor import Predictions, Predictor

_COLUMNS = ("row", "name", "smiles", "in_domain", "nearest", "similarity", "distance", "status", "features", "xtb")


@dataclass(frozen=True)
class ChunkPredictor(ChunkModel):
    """Predicts the rows of a chunk."""

    predictor: Predictor
    confidence: float

    DOING, DONE = "predicting", "predicted"

    @property
    def device(self) -> torch.device:
        """Of the LLM and the networks."""
        return self.predictor.device

    def table(self, done: ReadChunk) -> pd.DataFrame:
        """Predictions of a chunk; see table."""
        return table(self.predictor.bundle, done.smiles, self.predictor.predict_read(done.read, self.confidence))


def table(bundle: Bundle, smiles: list[str], predictions: Predictions) -> pd.DataFrame:
    """The output table, a row per molecule.

    Columns: `smiles`; for each target T of a regression `T`, `T_low`, `T_high`; for classification `T` (probability),
    `T_class`, the calibrated probability `T_threshold` from which class 1 is called, and `T_possible`, the classes that
    cannot be excluded; then `in_domain`, `nearest`, `similarity`,
    `distance`, `status`; of a model that reads columns beside the structure `features`: ok, or which numbers are
    outside the range of training; and of one that reads xTB `xtb`: ok, or why the molecule has no such values. With
    several writings `T_writings` too.
    """
    columns: dict[str, object] = {"smiles": np.array(smiles, dtype=object)}
    ok = np.array([status == OK for status in predictions.status], dtype=bool)
    # they were chosen on probabilities before calibration, and the probabilities of the table are calibrated
    thresholds = bundle.calibration.calibrated(bundle.thresholds[None])[0]
    for k, target in enumerate(target_columns(bundle)):
        columns[target] = predictions.y_pred[:, k]
        if predictions.intervals is not None:
            columns[f"{target}_low"], columns[f"{target}_high"] = predictions.intervals[:, k].T
        if predictions.writings_std is not None:
            columns[f"{target}_writings"] = predictions.writings_std[:, k]
        if predictions.predicted_class is not None and predictions.sets is not None:
            first, second = bundle.classes[k]
            labels = np.array(["none", first, second, f"{first} or {second}"])
            columns[f"{target}_class"] = _classes(predictions.predicted_class[:, k], (first, second))
            columns[f"{target}_threshold"] = np.where(ok, thresholds[k], np.nan)
            columns[f"{target}_possible"] = np.where(ok, labels[predictions.sets[:, k] @ np.array([1, 2])], "")
    columns["in_domain"] = np.where(ok, np.where(predictions.domain.inside, "yes", "no"), "")
    columns["nearest"] = np.array(predictions.nearest, dtype=object)
    columns["similarity"], columns["distance"] = predictions.domain.similarity, predictions.domain.distance
    columns["status"] = np.array(predictions.status, dtype=object)
    if predictions.outside is not None:
        columns["features"] = np.where(ok, [beyond or OK for beyond in predictions.outside], "")
    if predictions.xtb is not None:
        columns["xtb"] = np.where(ok, [failure or OK for failure in predictions.xtb], "")
    return pd.DataFrame(columns)


def _classes(called: np.ndarray, words: tuple[str, str]) -> object:
    """0 and 1 as numbers, other classes as their words; missing where there is no prediction."""
    numbers = pd.array(called, dtype="Int64")
    if words == ("0", "1"):
        return numbers
    return np.array(["" if number is pd.NA else words[number] for number in numbers], dtype=object)


def target_columns(bundle: Bundle) -> list[str]:
    """The columns of the targets: their names, with a suffix where a column of that name exists."""
    taken, names = set(_COLUMNS), []
    for name in bundle.targets:
        while taken & (
            columns := {
                name,
                *(f"{name}_{end}" for end in ("low", "high", "writings", "class", "threshold", "possible")),
            }
        ):
            name = f"{name}_predicted"
        taken |= columns
        names.append(name)
    return names
