"""Every setting of stage 2. Nothing heavy is imported here.

A setting is a field, its explanation the text under it: the command line's --help is made from these.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from kflm2.config.pipelines import PIPELINES
from kflm2.config.table import TableConfig
from kflm2.data.parts import FOLDS, REPEATS
from kflm2.errors import SettingError, one_of

Attend = Literal["items", "pooled"]
GraphKind = Literal["gcn", "gine"]
View = Literal["states", "graph", "descriptors"]


@dataclass(frozen=True)
class DataConfig(TableConfig):
    """From which views of a molecule it is predicted, and how often."""

    model: str = "crossAtt"
    """Pipeline: combined_base, gcn_indepent, combined, combinedAtt, combinedSepAtt or crossAtt."""
    llm: str = "auto"
    """auto (DS_1.5B with CUDA where it can be had, else the embedded SmolLM2_135M), a name of the registry, a folder
    with a checkpoint, a .gguf file, a Hugging Face id, or random: and one of these, the same with random weights."""
    adapter: str = "auto"
    """Folder of a PEFT adapter; auto takes models/<LLM>/<corpus> when it is there; none takes the base LLM."""
    layers: str = "middle"
    """Layers of the LLM whose states are read, side by side: middle (two fifths of the way up; the layers above it are
    not run), last (the paper's), fifths (five, evenly spaced), or numbers such as 6,12,-1."""
    descriptors: Literal["none", "rdkit", "morgan", "rdkit+morgan"] = "none"
    """Descriptors that join as a further view: RDKit's 2D set, Morgan counts (radius 2, 2,048 bits), or both."""
    views: tuple[View, ...] = ()
    """Of the views that the pipeline would read, only these, for an ablation; default all."""
    name: str | None = None
    """Folder of the results, OUT/<dataset>/NAME; default the pipeline's name."""
    runs: int | None = None
    """How many seeds; every run is reported. Default 10, 25 for cv5x5, and 1 with --save."""
    save: Path | None = None
    """Folder in which the first run's model is kept, for kflm2 predict."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    config: Path | None = None
    """JSON file of settings; what is given on the command line goes before it."""

    def check_data(self) -> None:
        """Refuse values that cannot work."""
        self.check_table()
        one_of("model", self.model, tuple(PIPELINES))
        own = self.own_views
        if unread := [view for view in self.views if view not in own]:
            raise SettingError(f"views: {self.model} does not read {unread[0]} here; it reads {', '.join(own)}")
        if self.name is not None and (self.name.strip() in ("", "..") or Path(self.name).name != self.name):
            raise SettingError(f"name {self.name!r} is no name of a folder")
        if self.runs is not None and self.runs < 1:
            raise SettingError(f"runs is {self.runs}; it must be at least 1")
        if self.split == "cv5x5" and self.seed + (self.runs or 1) > FOLDS * REPEATS:
            raise SettingError(f"cv5x5 has the seeds 0 to {FOLDS * REPEATS - 1}; --seed and --runs leave them")

    @property
    def own_views(self) -> tuple[str, ...]:
        """Views that the pipeline reads when none is left out."""
        return (*PIPELINES[self.model].views, *(() if self.descriptors == "none" else ("descriptors",)))

    @property
    def read_views(self) -> tuple[str, ...]:
        """Views that are read."""
        return tuple(view for view in self.own_views if not self.views or view in self.views)


@dataclass(frozen=True)
class ModelConfig:
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
    gate_states: bool = False
    """crossAtt: what the LLM says enters through a gate that starts shut, so that training starts from the graph."""
    vote: tuple[View, ...] = ()
    """Of the views that are read, these predict by themselves too, each with a loss of its own, and the mean of them
    and of the fusion predicts."""
    view_dropout: float = 0.0
    """crossAtt: share of molecules for which a view is hidden in training, each view by itself, so that none leans on
    another."""

    def check_model(self) -> None:
        """Refuse values that cannot work."""
        for name in ("hidden", "graph_width", "graph_depth", "states_width", "heads"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.dropout < 1:
            raise SettingError(f"dropout is {self.dropout}; it must be at least 0 and less than 1")
        if not 0 <= self.view_dropout < 1:
            raise SettingError(f"view_dropout is {self.view_dropout}; it must be at least 0 and less than 1")
        if self.hidden % self.heads:
            raise SettingError(f"hidden {self.hidden} cannot be divided by heads {self.heads}")


@dataclass(frozen=True)
class TrainingConfig:
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
    class_weight: Literal["none", "balanced"] = "none"
    """balanced: the positive labels of a target weigh as much in the loss as its negative ones. Ranks, and so ROC-AUC,
    stay comparable; probabilities are then no longer those of the data."""
    ensemble: int | None = None
    """Models trained for each run, from different initial weights on the same split; their mean predicts, and the more
    they differ the wider are its intervals. Default 1, and 5 with --save."""

    def check_training(self) -> None:
        """Refuse values that cannot work."""
        for name, low in (("epochs", 1), ("batch_size", 1), ("patience", 0), ("threads", 1), ("ensemble", 1)):
            if (value := getattr(self, name)) is not None and value < low:
                raise SettingError(f"{name} is {getattr(self, name)}; it must be at least {low}")
        if not self.learning_rate > 0:
            raise SettingError(f"learning_rate is {self.learning_rate}; it must be positive")
        if not self.weight_decay >= 0:
            raise SettingError(f"weight_decay is {self.weight_decay}; it must not be negative")


@dataclass(frozen=True)
class TrainConfig(TrainingConfig, ModelConfig, DataConfig):
    """All settings of stage 2."""

    FIRST: ClassVar[tuple[str, ...]] = ("model",)
    """Settings that others' defaults depend on."""

    @classmethod
    def of(cls, model: str = DataConfig.model, **values: Any) -> Self:
        """Settings of a pipeline: the given values, else the pipeline's own, else the defaults; not yet checked.

        Raises:
            SettingError: unknown pipeline.
        """
        one_of("model", model, tuple(PIPELINES))
        return cls(**{**PIPELINES[model].defaults, **values, "model": model})

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            SettingError: the first one found.
        """
        self.check_data()
        self.check_model()
        self.check_training()
        if self.class_weight != "none" and self.resolved_task == "regression":
            raise SettingError(f"class_weight {self.class_weight} goes with classes, and the targets are none")

    @property
    def members(self) -> int:
        """Models of a run."""
        return self.ensemble or (5 if self.save else 1)

    def resolved(self) -> Self:
        """The same settings with the defaults that depend on others filled in: split, runs and ensemble."""
        split = self.split_kind
        runs = 1 if self.save else FOLDS * REPEATS - self.seed if split == "cv5x5" else 10
        return replace(self, split=split, runs=self.runs or runs, ensemble=self.members)

    def of_stage_2(self, **changes: Any) -> "TrainConfig":
        """Settings of stage 2 alone, of which some are changed; for stages that train with settings of their own."""
        own = {field.name: getattr(self, field.name) for field in fields(TrainConfig)}
        return TrainConfig(**{**own, "config": None, **changes})


def wants_tokens(config: TrainConfig) -> bool:
    """Whether the model reads states token by token, or pooled."""
    fusion = PIPELINES[config.model].fusion
    crosses = fusion == "cross" and {"states", "graph"} <= set(config.read_views)
    return crosses or (fusion == "separate" and config.attend == "items")
