"""Predictions of a file of any size: in chunks, in order, one output row per input row; resumes after a kill."""

from kflm2.config.predict import PredictConfig
from kflm2.predictor.chunks import ChunkReader
from kflm2.predictor.output import open_input, write_rows
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
    reader, predictor = open_input(config, config.writings)
    predict = ChunkPredictor(ChunkReader(reader, predictor.featurizer), predictor, config.confidence)
    return write_rows(config, predict, ("predict", config.confidence, config.writings))
