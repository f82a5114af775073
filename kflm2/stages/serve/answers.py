"""What a model answers, as JSON values: about itself, predictions, explanations. It runs in the worker's process."""

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import torch

from kflm2.config.pipelines import PIPELINES
from kflm2.config.serve import ServeConfig
from kflm2.data.covariates import also_needed
from kflm2.device import choose_device
from kflm2.errors import DataError, MoleculeError
from kflm2.metrics.conformal import promise
from kflm2.metrics.scores import IN_UNITS, mean_metrics
from kflm2.predictor.bundle import Bundle
from kflm2.predictor.bundle_reader import load_bundle
from kflm2.predictor.chunks import Chunk, ChunkReader, chunks
from kflm2.predictor.export import describe_models
from kflm2.predictor.featurizer import OK
from kflm2.predictor.formats import as_csv
from kflm2.predictor.predictor import Predictor
from kflm2.predictor.readers import MoleculeReader
from kflm2.stages.explain import plots
from kflm2.stages.explain.stage import Explainer, explained_values
from kflm2.stages.predict.table import ChunkPredictor, target_columns
from kflm2.stages.report.molecule_svg import SCALE, SIZE, draw


class Answers:
    """Answers of one model."""

    def __init__(self, config: ServeConfig) -> None:
        """Load the model.

        Args:
            config: checked.

        Raises:
            KFLM2Error: the model cannot be used.
        """
        self.config, self.device = config, choose_device(config.device)
        if self.device.type == "cpu":
            torch.set_num_threads(1)  # as `kflm2 predict`, so that both give the same digits
        self.bundle = load_bundle(config.model, config.llm, self.device)
        self.predictor = Predictor(self.bundle, self.device, config.max_atoms, config.max_tokens)
        self._explainers: dict[str, Explainer] = {}

    @property
    def features(self) -> tuple[str, ...]:
        """Columns that the model reads beside the structure."""
        return () if self.bundle.covariates is None else self.bundle.covariates.names

    def about(self) -> dict[str, Any]:
        """What the page says of the model."""
        bundle = self.bundle
        return {
            "name": self.config.model.resolve().name,
            "task": bundle.task,
            "targets": [
                {"name": name, "column": column, "unit": bundle.unit, "class_1": bundle.class_1.get(name)}
                for name, column in zip(bundle.targets, target_columns(bundle), strict=True)
            ],
            "smiles_column": bundle.smiles_column,
            "features": list(self.features),
            "confidence": self.config.confidence,
            "drawing": {"size": list(SIZE), "scale": SCALE},
            **_provenance(bundle, self.config.confidence),
        }

    def predict(self, source: dict[str, Any], drawings: bool) -> dict[str, Any]:
        """Predictions, a row for each row of the input.

        Args:
            source: `format` and `words`, `text`, `smiles_column` or `name_column` of a MoleculeReader.
            drawings: whether each row has a drawing of its molecule, None for one that cannot be drawn, and under
                `given` what it has in the columns that the model reads beside the structure.

        Raises:
            DataError: no molecule, too many, or a table that cannot be read.
        """
        reader = MoleculeReader(**{"smiles_column": self.bundle.smiles_column, **source})
        reader = reader.with_columns("smiles_column" in source, keep=True).with_features(self.features)
        count = sum(1 for _ in itertools.islice(reader.rows(), self.config.limit + 1))
        if not count:
            raise DataError("there is no molecule in the request")
        if count > self.config.limit:
            raise DataError(f"more than {self.config.limit} molecules; send fewer at once, or use kflm2 predict")
        predict = ChunkPredictor(ChunkReader(reader, self.predictor.featurizer), self.predictor, self.config.confidence)
        made = [predict(chunk) for chunk in chunks(reader, 0, None, predict.chunk_size)]
        tables = [table for _, table in made]
        rows = [row for table in tables for row in _rows(table)]
        if drawings:
            for row, given in zip(rows, (given for chunk, _ in made for given in chunk.rows), strict=True):
                row["drawing"] = draw(row["smiles"]) if row["status"] == OK else None
                # as /api/explain takes them: a column of this name may be another one of the table
                row["given"] = dict(zip(self.features, given.features, strict=False))
        header = as_csv(predict(Chunk(0, []))[1], True)
        csv = header + b"".join(as_csv(table, False) for table in tables)
        return {"columns": list(tables[0].columns), "rows": rows, "csv": csv.decode()}

    def explain(
        self, smiles: str, name: str, target: str | None, features: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The picture and the values of an explanation.

        Args:
            smiles: of the molecule.
            name: shown in the picture; may be empty.
            target: one of the model's; None for the first.
            features: column -> value, of those that the model reads beside the structure.

        Raises:
            KFLM2Error: no such target, or the molecule has no prediction.
        """
        target = target or self.bundle.targets[0]
        if target not in self._explainers:
            self._explainers[target] = Explainer(self.bundle, target, self.config.steps, self.device)
        features = features or {}
        if missing := [column for column in self.features if column not in features]:
            raise DataError(f"{also_needed(missing)}: give them as features")
        cells = ["" if (cell := features[column]) is None else str(cell) for column in self.features]
        # the limits on the size of a molecule are the predictor's
        status = self.predictor.predict([smiles], cells=[cells]).status[0]
        if status != OK:
            raise MoleculeError(f"there is no prediction to explain: {status}")
        explanation, _ = self._explainers[target].explain(smiles, name, cells)
        return {
            "target": target,
            "smiles": explanation.smiles,
            "title": explanation.title,
            "svg": plots.svg(explanation),
            **json_value(explained_values(explanation)),
        }


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON values, numbers with the six digits of the CSV."""
    columns = [[json_value(value) for value in table[name].tolist()] for name in table]
    return [dict(zip(table.columns, cells, strict=True)) for cells in zip(*columns, strict=True)]


def json_value(value: Any) -> Any:
    """A value for JSON: floats of six digits, None for what is missing, and inf as the word that a CSV has for it."""
    if isinstance(value, dict):
        return {key: json_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(entry) for entry in value]
    if value is pd.NA:
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        if math.isinf(value):
            return str(value)
        return None if math.isnan(value) else float(f"{value:.6g}")
    return value


def _provenance(bundle: Bundle, confidence: float) -> dict[str, Any]:
    """What is known of how the model was made; a bundle from elsewhere may say anything there, or nothing."""
    worth = promise(bundle.calibration.fewest, bundle.task, confidence, bundle.ensemble.folds)
    try:
        return {**_training(bundle), "worth": f"{worth[0].upper()}{worth[1:]}."}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {"quantity": "", "facts": [], "metrics": [], "worth": f"{worth[0].upper()}{worth[1:]}."}


def _training(bundle: Bundle) -> dict[str, Any]:
    record = bundle.provenance
    sizes = record["split"]["sizes"]
    parts = ", ".join(f"{int(size)} {part}" for part, size in sizes.items())
    facts = [
        ["pipeline", f"{bundle.config.model}: {PIPELINES[bundle.config.model].about}"],
        ["models", describe_models(bundle)],
        *([] if bundle.covariates is None else [["feature columns", str(bundle.covariates)]]),
        ["LLM", "none" if bundle.source is None else str(bundle.source)],
        ["trained on", f"{record['dataset']['name']}, {int(record['rows']['kept'])} molecules"],
        ["split", f"{record['split']['kind']}: {parts}"],
    ]
    for part, values in record["coverage"].items():
        if values["share"] is not None:
            held = f"{100 * values['share']:.1f} % of {part}, where {100 * values['confidence']:g} % were meant"
            facts.append(["intervals held" if bundle.task == "regression" else "sets of classes held", held])
    metrics = [
        {
            "part": str(part),
            "values": [
                [metric, json_value(record["metrics"][part][metric]), bundle.unit if metric in IN_UNITS else ""]
                for metric in mean_metrics(bundle.task, len(bundle.targets))
            ],
        }
        for part, size in sizes.items()
        if part != "train" and size
    ]
    return {"quantity": str(record["quantity"] or ""), "facts": facts, "metrics": metrics}
