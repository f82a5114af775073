"""Every setting of stage 2, and the pipelines with their own defaults. Nothing heavy is imported here.

A setting is a field, its explanation the text under it: the command line's --help is made from these.
"""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from kflm2.data.datasets import DATASETS, Kind
from kflm2.data.parts import FOLDS, REPEATS, SplitKind, check_fractions
from kflm2.errors import SettingError, one_of

Attend = Literal["items", "pooled"]
GraphKind = Literal["gcn", "gine"]
View = Literal["states", "graph", "descriptors"]


@dataclass(frozen=True)
class TableSettings:
    """Which molecules, and how they are split."""

    dataset: str | None = None
    """A dataset of the registry."""
    csv: Path | None = None
    """Or a table of your own, with a header."""
    smiles_column: str | None = None
    """Its column of SMILES; default smiles."""
    target_columns: tuple[str, ...] = ()
    """Its columns to predict; a blank cell is a missing label. With --dataset, some of the dataset's own."""
    kind: Kind | None = None
    """What its targets are; classes are 0 and 1. Default regression."""
    limit: int | None = None
    """Read the first rows only, of each file where there are several; default all."""
    standardize: Literal["none", "parent", "tautomer"] = "none"
    """none keeps molecules as written; parent takes the largest organic fragment, uncharged; tautomer its canonical
    tautomer too."""
    deduplicate: bool = False
    """One row a structure: mean of the targets; classes that contradict each other are dropped."""
    split: SplitKind | None = None
    """random; scaffold: no Bemis-Murcko scaffold in two parts, balanced as in D-MPNN; scaffold_moleculenet: the largest
    scaffolds to train, one split for all seeds; cluster: no cluster of similar molecules in two parts; given: by
    --split-column or the dataset's own files; cv5x5: five-fold cross-validation five times over. Default given where
    there are given parts, else random."""
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of train, valid and test."""
    split_column: str | None = None
    """Column of the table that says train, valid, test, or test_NAME for several test sets; where it names no valid,
    that is drawn from train."""
    seed: int = 0
    """First seed, of split and weights."""
    out: Path = field(default_factory=lambda: Path("results"))
    """Folder of results."""

    def check_table(self) -> None:
        """Refuse values that cannot work."""
        if (self.dataset is None) == (self.csv is None):
            raise SettingError("give either --dataset, a name of the registry, or --csv, a table of your own")
        if self.csv is not None and not self.target_columns:
            raise SettingError("--csv needs --target-columns, the columns to predict")
        check_fractions(self.fractions)
        if self.split_column is not None and self.split not in (None, "given"):
            raise SettingError(f"--split-column gives the split; it does not go with --split {self.split}")
        if len(set(self.target_columns)) < len(self.target_columns):
            raise SettingError(f"a target is asked for twice: {', '.join(self.target_columns)}")
        if self.dataset is not None:
            one_of("dataset", self.dataset, tuple(DATASETS))
            own = DATASETS[self.dataset].with_targets(self.target_columns)
            for name in ("kind", "smiles_column"):
                if getattr(self, name) not in (None, getattr(own, name)):
                    raise SettingError(f"{name} of {self.dataset} is {getattr(own, name)}, not {getattr(self, name)}")
        if self.split == "given" and self.split_kind_by_default != "given":
            raise SettingError("--split given needs --split-column, the column that says train, valid or test")
        if self.limit is not None and self.limit < 1:
            raise SettingError(f"limit is {self.limit}; it must be at least 1")
        if self.seed < 0:
            raise SettingError(f"seed is {self.seed}; it must be at least 0")

    @property
    def table_kind(self) -> Kind:
        """What the targets are."""
        return DATASETS[self.dataset].kind if self.dataset else self.kind or "regression"

    @property
    def split_kind_by_default(self) -> SplitKind:
        """Given where a column or the dataset's files say what is for training and what for testing, else random."""
        given = self.split_column is not None or (self.dataset is not None and DATASETS[self.dataset].brings_tests)
        return "given" if given else "random"

    @property
    def split_kind(self) -> SplitKind:
        """The split asked for, else the default one."""
        return self.split or self.split_kind_by_default


@dataclass(frozen=True)
class DataSettings(TableSettings):
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
        one_of("model", self.model, tuple(MODELS))
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
        return (*MODELS[self.model].views, *(() if self.descriptors == "none" else ("descriptors",)))

    @property
    def read_views(self) -> tuple[str, ...]:
        """Views that are read."""
        return tuple(view for view in self.own_views if not self.views or view in self.views)


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
class TrainSettings(TrainingSettings, ModelSettings, DataSettings):
    """All settings of stage 2."""

    FIRST: ClassVar[tuple[str, ...]] = ("model",)
    """Settings that others' defaults depend on."""

    @classmethod
    def of(cls, model: str = DataSettings.model, **values: Any) -> Self:
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
        if self.class_weight != "none" and self.table_kind == "regression":
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

    def of_stage_2(self, **changes: Any) -> "TrainSettings":
        """Settings of stage 2 alone, of which some are changed; for stages that train with settings of their own."""
        own = {field.name: getattr(self, field.name) for field in fields(TrainSettings)}
        return TrainSettings(**{**own, "config": None, **changes})


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
            # not the LLM: by itself it predicts worse than these, and what it adds it says in the fusion
            "vote": ("graph", "descriptors"),
        },
    ),
}


def wants_tokens(settings: TrainSettings) -> bool:
    """Whether the model reads states token by token, or pooled."""
    fusion = MODELS[settings.model].fusion
    crosses = fusion == "cross" and {"states", "graph"} <= set(settings.read_views)
    return crosses or (fusion == "separate" and settings.attend == "items")
