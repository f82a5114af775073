"""Every setting of stage 2, and the pipelines with their own defaults. Nothing heavy is imported here.

A setting is a field, its explanation the text under it: the command line's --help is made from these.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from kflm2.data.datasets import DATASETS
from kflm2.data.parts import check_fractions
from kflm2.errors import SettingError, one_of

Attend = Literal["items", "pooled"]
GraphKind = Literal["gcn", "gine"]


@dataclass(frozen=True)
class DataSettings:
    """What is predicted, and from which views of a molecule."""

    dataset: str | None = None
    """A dataset of the registry."""
    csv: Path | None = None
    """Or a table of your own, with a header."""
    smiles_column: str = "smiles"
    """Its column of SMILES."""
    target_columns: tuple[str, ...] = ()
    """Its columns to predict; a blank cell is a missing label."""
    kind: Literal["regression", "classification"] = "regression"
    """What its targets are; classes are 0 and 1."""
    limit: int | None = None
    """Read the first rows only; default all."""
    split: Literal["random", "scaffold", "given"] = "random"
    """random; scaffold: no Bemis-Murcko scaffold in two parts; given: by --split-column."""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of train, valid and test."""
    split_column: str | None = None
    """Column of the table that says train, valid or test."""
    model: str = "crossAtt"
    """Pipeline: combined_base, gcn_indepent, combined, combinedAtt, combinedSepAtt or crossAtt."""
    llm: str = "auto"
    """auto (DS_1.5B with CUDA where it can be had, else the embedded SmolLM2_135M), a name of the registry, a folder
    with a checkpoint, a .gguf file, or a Hugging Face id."""
    adapter: str = "auto"
    """Folder of a PEFT adapter; auto takes models/<LLM>/<corpus> when it is there; none takes the base LLM."""
    layers: str = "middle"
    """Layers of the LLM whose states are read, side by side: middle (two fifths of the way up; the layers above it are
    not run), last (the paper's), fifths (five, evenly spaced), or numbers such as 6,12,-1."""
    descriptors: Literal["none", "rdkit", "morgan", "rdkit+morgan"] = "none"
    """Descriptors that join as a further view: RDKit's 2D set, Morgan counts (radius 2, 2,048 bits), or both."""
    seed: int = 0
    """First seed, of split and weights."""
    runs: int = 10
    """How many seeds; every run is reported."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    out: Path = field(default_factory=lambda: Path("results"))
    """Folder of results."""
    config: Path | None = None
    """JSON file of settings; what is given on the command line goes before it."""

    def check_data(self) -> None:
        """Refuse values that cannot work."""
        one_of("model", self.model, tuple(MODELS))
        if (self.dataset is None) == (self.csv is None):
            raise SettingError("give either --dataset, a name of the registry, or --csv, a table of your own")
        if self.csv is not None and not self.target_columns:
            raise SettingError("--csv needs --target-columns, the columns to predict")
        if self.csv is None and self.target_columns:
            raise SettingError("--target-columns goes with --csv; a dataset of the registry has its own")
        check_fractions(self.fractions)
        if (self.split == "given") != (self.split_column is not None):
            raise SettingError(
                "--split given and --split-column, the column that says train, valid or test, go together"
            )
        if self.dataset is not None:
            one_of("dataset", self.dataset, tuple(DATASETS))
        for name in ("runs", "limit"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise SettingError(f"{name} is {value}; it must be at least 1")


@dataclass(frozen=True)
class ModelSettings:
    """What a model is made of. The defaults are the paper's; a pipeline may have others."""

    hidden: int = 16
    """Width in which the views are fused."""
    dropout: float = 0.1
    """Share of activations dropped in training."""
    graph_encoder: GraphKind = "gcn"
    """gcn: the paper's two layers, no bond features; gine: bond features and residual layers."""
    graph_width: int = 64
    """Width of gine's layers."""
    graph_depth: int = 3
    """Number of gine's layers."""
    states_width: int = 1024
    """Inner width of the embedding DNN."""
    attend: Attend = "items"
    """items: attention over tokens and over atoms; pooled: the original's, over one vector, which does nothing."""
    heads: int = 4
    """Attention heads; they must divide hidden."""

    def check_model(self) -> None:
        """Refuse values that cannot work."""
        for name in ("hidden", "graph_width", "graph_depth", "states_width", "heads"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.dropout < 1:
            raise SettingError(f"dropout is {self.dropout}; it must be at least 0 and less than 1")
        if self.hidden % self.heads:
            raise SettingError(f"hidden {self.hidden} cannot be divided by heads {self.heads}")


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained. The defaults are the paper's; a pipeline may have others."""

    epochs: int = 100
    """Passes over the training molecules."""
    learning_rate: float = 1e-3
    """Adam's step size; with the onecycle schedule the largest one."""
    schedule: Literal["constant", "onecycle"] = "constant"
    """Learning rate over time: constant, or onecycle (up for a fifth of the steps, then down to zero)."""
    batch_size: int = 32
    """Molecules in a step."""
    weight_decay: float = 0.0
    """Adam's decoupled weight decay."""
    patience: int = 0
    """Stop after this many epochs without a better validation loss; 0 never stops early."""
    threads: int = 1
    """CPU threads that train. Models this small gain little from more; and another number adds up in another order, so
    that results are the same bits only where it is the same."""
    ensemble: int = 1
    """Models trained for each run, from different initial weights on the same split; their mean predicts."""

    def check_training(self) -> None:
        """Refuse values that cannot work."""
        for name, low in (("epochs", 1), ("batch_size", 1), ("patience", 0), ("threads", 1), ("ensemble", 1)):
            if getattr(self, name) < low:
                raise SettingError(f"{name} is {getattr(self, name)}; it must be at least {low}")
        if not self.learning_rate > 0:
            raise SettingError(f"learning_rate is {self.learning_rate}; it must be positive")
        if not self.weight_decay >= 0:
            raise SettingError(f"weight_decay is {self.weight_decay}; it must not be negative")


@dataclass(frozen=True)
class TrainSettings(TrainingSettings, ModelSettings, DataSettings):
    """All settings of stage 2."""

    @classmethod
    def of(cls, model: str, **values: Any) -> Self:
        """Settings of a pipeline: the given values, else the pipeline's own, else the defaults; not yet checked.

        Raises:
            SettingError: unknown pipeline.
        """
        one_of("model", model, tuple(MODELS))
        return cls(**{**MODELS[model].defaults, **values, "model": model})

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            SettingError: the first one found.
        """
        self.check_data()
        self.check_model()
        self.check_training()


@dataclass(frozen=True)
class Recipe:
    """One of the pipelines: which views it takes, how it fuses them, and its own defaults."""

    views: tuple[str, ...]
    fusion: Literal["single", "concat", "weighted", "separate", "cross"]
    about: str
    defaults: dict[str, object] = field(default_factory=dict)
    """Where it departs from the defaults above."""
    adapter: bool = True
    """False: always the base LLM, never a fine-tuned one."""


MODELS = {
    "combined_base": Recipe(("states",), "single", "embedding DNN, LLM not fine-tuned", adapter=False),
    "gcn_indepent": Recipe(("graph",), "single", "graph network alone"),
    "combined": Recipe(("states", "graph"), "concat", "concatenation"),
    "combinedAtt": Recipe(("states", "graph"), "weighted", "weighted concatenation"),
    "combinedSepAtt": Recipe(("states", "graph"), "separate", "attention over tokens and over atoms, concatenated"),
    "crossAtt": Recipe(
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
        },
    ),
}


def wants_tokens(settings: TrainSettings) -> bool:
    """Whether the model reads states token by token, or pooled."""
    fusion = MODELS[settings.model].fusion
    return fusion == "cross" or (fusion == "separate" and settings.attend == "items")
