"""Predictions of a file of any size: in chunks, in order, one output row per input row; resumes after a kill."""

import sys

from kflm2.config.predict import PredictConfig
from kflm2.predictor.bundle import Bundle
from kflm2.predictor.chunks import ChunkReader
from kflm2.predictor.output import load_predictor, open_input, write_rows
from kflm2.predictor.ray_engine import write_folder
from kflm2.predictor.readers import MoleculeReader
from kflm2.stages.predict.table import ChunkPredictor


def run(config: PredictConfig) -> int:
    """Predict, and write one output row per input row.

    Args:
        config: checked.

    Returns:
        Number of rows without a prediction.

    Raises:
        KFLM2Error: model or input cannot be used, or the output cannot be written to its end.
    """
    settings = ("predict", config.confidence, config.writings)
    if config.engine == "ray":
        return write_folder(config, load, settings)
    model = load(config)
    for line in meanings(model.predictor.bundle):
        print(line, file=sys.stderr)
    return write_rows(config, model, settings)


def meanings(bundle: Bundle) -> list[str]:
    """What a model's single column is, with its unit; and of which class a column has the probability, if it is a word.

    Nothing where nothing is known.
    """
    quantity = bundle.provenance.get("quantity")  # a bundle from elsewhere may say anything there
    words = [word for word in (quantity, bundle.unit) if isinstance(word, str) and word and word.isprintable()]
    lines = [f"{bundle.targets[0]}: {', '.join(words)}"] if words and len(bundle.targets) == 1 else []
    return lines + [f"{target}: probability of {word}" for target, word in bundle.class_1.items()]


def load(config: PredictConfig, reader: MoleculeReader | None = None) -> ChunkPredictor:
    """Load the saved model, for the rows of a reader; None: of the input that the settings name."""
    reader = reader or open_input(config)
    predictor = load_predictor(config, config.writings)
    return ChunkPredictor(ChunkReader(reader, predictor.featurizer), predictor, config.confidence)
