"""result.json of every stage that writes one, as typed records: the only module that knows its keys.

Files of earlier versions are read too: a key that was not there yet has its default, an unknown one is ignored. Where a
field has another name than its key, because keys do not change, the metadata says so.
"""

import dataclasses
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from kflm2.data.datasets import Task
from kflm2.data.molecules import Molecules
from kflm2.data.splits import Split
from kflm2.errors import DataError
from kflm2.files import read_json, write_json
from kflm2.llm.resolve import LLMSource
from kflm2.metrics.conformal import Coverage
from kflm2.metrics.scores import Metrics, mean_metrics
from kflm2.text_table import percent_range

T = TypeVar("T")

FILE = "result.json"


@dataclass(frozen=True)
class DatasetRecord:
    """What was measured on."""

    name: str
    sha256: str
    """Of the file; of several files, of their digests."""
    targets: list[str] = field(default_factory=list)
    unit: str | None = ""
    task: Task = field(default="regression", metadata={"key": "kind"})
    classes: list[list[str]] = field(default_factory=list)
    """Of each target the words of class 0 and of class 1; [] where these are 0 and 1."""
    features: dict[str, list[str]] = field(default_factory=dict)
    """Column that stands beside the structure -> its categories; [] for numbers."""

    @staticmethod
    def of(molecules: Molecules) -> "DatasetRecord":
        """The record of a table."""
        dataset = molecules.dataset
        classes = [list(pair) for pair in dataset.classes]
        features = {column.name: list(column.categories) for column in molecules.covariate_columns}
        return DatasetRecord(
            dataset.name, molecules.sha256, list(dataset.targets), dataset.unit, dataset.task, classes, features
        )

    @property
    def mean_metrics(self) -> tuple[str, ...]:
        """Metrics that a run has for all targets together, the primary one first."""
        return mean_metrics(self.task, len(self.targets))

    @property
    def primary_metric(self) -> str:
        """The first of them, by which methods are compared."""
        return self.mean_metrics[0]


@dataclass(frozen=True)
class SplitRecord:
    """How it was split."""

    kind: str
    sha256: str
    """Of which molecule is in which part."""
    sizes: dict[str, int]
    """Part -> molecules."""

    @staticmethod
    def of(split: Split) -> "SplitRecord":
        """The record of a split."""
        return SplitRecord(split.kind, split.sha256, split.sizes)


@dataclass(frozen=True)
class RowCounts:
    """What became of the rows of the table."""

    read: int
    kept: int
    rejected: int

    @staticmethod
    def of(molecules: Molecules) -> "RowCounts":
        """The counts of a table."""
        return RowCounts(molecules.read, len(molecules.smiles), len(molecules.rejected))


@dataclass(frozen=True)
class LLMRecord:
    """Which hidden states were read."""

    name: str
    digest: str
    """Of the weights."""
    tokenizer: str | None = None
    """Digest of the tokenizer's files."""
    adapter: str | None = None
    """Digest of the adapter."""
    layers: list[int] = field(default_factory=list)
    precision: str = "float32"
    """Of its arithmetic."""

    @staticmethod
    def of(source: LLMSource | None) -> "LLMRecord | None":
        """The record of an LLM; None where none is read."""
        if source is None:
            return None
        digests = source.digests
        return LLMRecord(
            source.name,
            digests["weights"],
            digests["tokenizer"],
            digests.get("adapter"),
            list(source.layers),
            source.precision,
        )


@dataclass(frozen=True)
class DevelopmentRecord:
    """The search that chose the settings saw test molecules of a run, so that its test metrics are too good."""

    dataset: str
    split: str
    seed: int
    """What the search was on, and the split and seed whose test part it set aside."""
    seen: float
    """Share of the run's test molecules that it saw."""


@dataclass(frozen=True)
class OriginRecord:
    """The saved model that a run went on from."""

    model: str
    """Name of its folder."""
    sha256: str
    """Of its weights."""
    dataset: str
    """That it learnt from."""
    targets: list[str] = field(default_factory=list)
    known: int = 0
    """Test molecules of the run whose structures it had learnt from."""
    known_others: int = 0
    """The same of the molecules that the run learns from, or chooses the epoch and calibrates by."""


@dataclass(frozen=True)
class RunResult:
    """One run of stage 2, or of a baseline on the same split."""

    dataset: DatasetRecord
    model: str
    """Pipeline or baseline."""
    seed: int
    split: SplitRecord
    rows: RowCounts
    metrics: dict[str, Metrics]
    """Part -> metric -> mean over the targets, of metrics that have one."""
    config: dict[str, Any]
    """Settings as JSON values; --config reads them back."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Step -> duration."""
    peak_memory_mb: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None

    # of stage 2 alone
    development: DevelopmentRecord | None = None
    """None where no search saw a test molecule."""
    llm: LLMRecord | None = None
    origin: OriginRecord | None = None
    """The saved model that it went on from."""
    targets: dict[str, dict[str, Metrics | None]] = field(default_factory=dict)
    """Part -> target -> metrics."""
    thresholds: dict[str, float] | None = None
    """Target -> probability from which class 1 is called; None for regression."""
    coverage: dict[str, Coverage] = field(default_factory=dict)
    """Test part -> how often intervals or sets hold the true value."""
    best_epoch: list[int] = field(default_factory=list)
    """Of each member of the ensemble."""
    history: list[dict[str, list[float]]] | None = None
    """Of each member: part -> loss after each epoch. None in runs that are older."""
    parameters: int | None = None
    """Weights of a member."""
    variance: float | None = None
    """Share of the variance of the LLM's states that is in their principal components; None where it read all."""
    weights: dict[str, dict[str, float]] = field(default_factory=dict)
    """Target -> the pipeline and each voter -> its weight; {} where the pipeline predicts alone."""
    without_xtb: dict[str, int] = field(default_factory=dict)
    """Reason -> molecules that have no xTB values for it."""
    bounds: dict[str, dict[str, int]] = field(default_factory=dict)
    """Part -> `labels` of which only a bound is known, and how many predictions of these are `kept` within it."""

    # of baselines alone
    baseline: bool = False
    about: str | None = None
    """What the baseline is."""
    chosen: dict[str, Any] = field(default_factory=dict)
    """Target -> what validation chose."""


_OF_TRAINING = (
    "development",
    "llm",
    "origin",
    "targets",
    "thresholds",
    "coverage",
    "best_epoch",
    "history",
    "parameters",
    "variance",
    "weights",
    "without_xtb",
    "bounds",
)
_OF_BASELINES = ("baseline", "about", "chosen")


@dataclass(frozen=True)
class PromptResult:
    """One run of stage 3."""

    dataset: DatasetRecord
    seed: int
    split: SplitRecord
    rows: dict[str, Any]
    """read and kept, counts, and rejected, the rows with their reasons."""
    llm: dict[str, Any]
    """name, and digests of weights (`digest`), tokenizer and adapter."""
    prompt_spec: dict[str, Any] = field(metadata={"key": "wording"})
    """Templates and words."""
    metrics: dict[str, dict[str, Metrics | None]]
    """Who answered -> part -> metrics."""
    threshold: float | None
    """Probability from which class 1 is called."""
    answered: dict[str, float | None]
    """Shares of answers that could be read."""
    robustness: dict[str, dict[str, float | None]]
    """Random SMILES, paraphrases -> how much the answers differ."""
    validation_losses: list[float | None]
    """After each epoch; None where it was not a number."""
    seconds: float
    peak_memory_mb: int | None
    config: dict[str, Any]
    versions: dict[str, str]
    commit: str | None


def development_note(records: Sequence[DevelopmentRecord | None]) -> str:
    """A sentence on the runs, one record each, whose test molecules a search saw; '' where there are none."""
    seen = [record.seen for record in records if record is not None]
    if not seen:
        return ""
    which = "" if len(seen) == len(records) else f" in {len(seen)} of {len(records)} runs"
    return f"development: the search saw {percent_range(seen)} of these test molecules{which}"


def origin_note(records: Sequence[OriginRecord | None]) -> str:
    """A sentence on runs, one record each, that went on from a model which knew their test molecules; '' for none."""
    known = [record for record in records if record is not None and record.known]
    if not known:
        return ""
    count = sum(record.known for record in known)
    return f"went on from {known[0].model}, which had learnt from {count} of the test molecules of these runs"


def notes(results: Sequence[RunResult]) -> str:
    """Why test metrics of these runs may be too good; '' for nothing."""
    texts = (
        development_note([result.development for result in results]),
        origin_note([result.origin for result in results]),
    )
    return "; ".join(filter(None, texts))


def to_json(record: Any) -> dict[str, Any]:
    """A record as JSON values."""
    keys = {part.name: part.metadata.get("key", part.name) for part in dataclasses.fields(record)}
    left_out: tuple[str, ...] = ()
    if isinstance(record, RunResult):
        left_out = _OF_TRAINING if record.baseline else _OF_BASELINES
    return {key: _plain(getattr(record, name)) for name, key in keys.items() if name not in left_out}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_json(value)
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def write_result(folder: Path, result: RunResult | PromptResult) -> None:
    """Write a run's result.json; the last of its files, so that a folder that has it is complete."""
    write_json(folder / FILE, to_json(result))


def read_run_result(folder: Path) -> RunResult:
    """Read the result.json of a run of stage 2 or of a baseline.

    Raises:
        DataError: it cannot be read, or lacks what every run has.
    """
    return parse(RunResult, read_json(folder / FILE, "result", DataError), folder / FILE)


def is_run_result(folder: Path) -> bool:
    """Whether a folder's result.json is of stage 2 or of a baseline; that of stage 3 names no model.

    Raises:
        DataError: it cannot be read.
    """
    return "model" in read_json(folder / FILE, "result", DataError)


def parse(kind: type[T], values: dict[str, Any], path: Path) -> T:
    """A record from JSON values.

    Args:
        kind: class of the record.
        values: keys that it does not know are ignored.
        path: for the message.

    Raises:
        DataError: a key without a default is missing, or a value has another form.
    """
    try:
        return _record(kind, values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"result {path} has another form than this version of kflm2 reads: {error!r}") from None


def _record(kind: Any, values: dict[str, Any]) -> Any:
    hints = typing.get_type_hints(kind)
    arguments = {}
    for part in dataclasses.fields(kind):
        key = part.metadata.get("key", part.name)
        if key in values:
            arguments[part.name] = _typed(hints[part.name], values[key])
        elif part.default is dataclasses.MISSING and part.default_factory is dataclasses.MISSING:
            raise KeyError(key)
    return kind(**arguments)


def _typed(hint: Any, value: Any) -> Any:
    """A value with the records in it made."""
    if isinstance(hint, types.UnionType):
        return None if value is None else _typed(typing.get_args(hint)[0], value)
    if dataclasses.is_dataclass(hint):
        return _record(hint, value)
    if typing.get_origin(hint) is dict:
        inner = typing.get_args(hint)[1]
        return {key: _typed(inner, entry) for key, entry in value.items()}
    return value
