"""The stages, a function each: its settings are its command line."""

from kflm2.command import Stage
from kflm2.settings import TrainSettings


def _train(settings: TrainSettings) -> None:
    """Predict molecular properties: LLM states of SMILES fused with a graph network over atoms.

    Reads a table of molecules, splits it, trains one pipeline for every seed, and prints and writes how well it
    predicts: OUT/<dataset>/<model>/<split>-<seed>/ with result.json, predictions.csv and pictures, and a summary.
    """
    # torch takes seconds to import, and --help or a mistyped setting should not wait for it
    from kflm2.experiment import run

    run(settings)


train = Stage(_train, TrainSettings)
