"""The pipelines with their own defaults."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Pipeline:
    """One of the pipelines: which views it takes, how it fuses them, and its own defaults."""

    views: tuple[str, ...]
    fusion: Literal["single", "concat", "weighted", "separate", "cross"]
    about: str
    defaults: dict[str, object] = field(default_factory=dict)
    """Where it departs from the defaults above."""
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
            "graph_encoder": "gine",
            "graph_width": 128,
            "graph_depth": 4,
            "schedule": "onecycle",
            # not the LLM: by itself it predicts worse than these, and what it adds it says in the fusion
            "vote": ("graph", "descriptors"),
        },
    ),
}
