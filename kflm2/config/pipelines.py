"""The pipelines: which views each one reads, how it fuses them, and its own defaults."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Pipeline:
    """Which views are read, how they are fused, and with which defaults."""

    views: tuple[str, ...]
    fusion: Literal["single", "concat", "weighted", "separate", "cross"]
    about: str
    defaults: dict[str, object] = field(default_factory=dict)
    """Settings that differ from the defaults of ModelConfig, TrainingConfig and TrainConfig."""
    adapter: bool = True
    """False: always the base LLM, never a fine-tuned one."""


PIPELINES = {
    "combined_base": Pipeline(("states",), "single", "embedding DNN, LLM not fine-tuned", adapter=False),
    "gcn_indepent": Pipeline(("graph",), "single", "graph network alone"),
    "combined": Pipeline(("states", "graph"), "concat", "concatenation"),
    "combinedAtt": Pipeline(("states", "graph"), "weighted", "weighted concatenation"),
    "combinedSepAtt": Pipeline(("states", "graph"), "separate", "attention over tokens and over atoms, concatenated"),
    "crossAtt": Pipeline(
        ("states", "graph"),
        "cross",
        "tokens and atoms attend to each other, with descriptors",
        {
            "descriptors": "rdkit",
            "hidden": 64,
            "states_width": 256,
            "states_components": 64,
            "graph_encoder": "gine",
            "graph_width": 128,
            "graph_depth": 4,
            "schedule": "onecycle",
            # not the LLM: alone it predicts worse than these, and what it adds reaches the fusion
            "vote": ("graph", "descriptors"),
            "inner": "folds",
            "voters": ("svm", "forest"),
        },
    ),
}
