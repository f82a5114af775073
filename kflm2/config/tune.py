"""Every setting of the hyperparameter search. Nothing heavy is imported here."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from kflm2.config.base import check_at_least, hints_of, is_of, words_of
from kflm2.config.train import ModelConfig, TrainConfig, TrainingConfig
from kflm2.data.parts import CROSS_VALIDATIONS, FOLDS, REPEATS
from kflm2.errors import SettingError

_NOT_TUNABLE = ("inner", "jobs", "threads", "encoder_rate")
"""They change how a trial is measured, or only how long it takes, or are of a start that a search does not have."""
TUNABLE = (
    *(field.name for part in (ModelConfig, TrainingConfig) for field in fields(part) if field.name not in _NOT_TUNABLE),
    "layers",
    "descriptors",
    "adapter",
)
"""Settings that a search may choose."""
DEFAULT_TRIALS = 50


def check_choice(name: str, value: Any) -> None:
    """Refuse a value that a setting cannot have, by its type.

    Raises:
        ValueError: the setting is a list, or the value is of another type or no such choice.
    """
    hint = hints_of(TrainConfig)[name]
    if isinstance(getattr(TrainConfig(), name), tuple):
        raise ValueError("it is a list, which cannot be searched")
    if value is None or not is_of(value, hint):
        raise ValueError(f"{value!r} is not {words_of(hint)}")


def is_whole(name: str) -> bool:
    """Whether a setting takes whole numbers only."""
    return not is_of(0.5, hints_of(TrainConfig)[name])


@dataclass(frozen=True)
class SearchConfig:
    """How settings are searched for."""

    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """tpe (tree-structured Parzen estimator), random, or grid: every combination of a space of choices and steps."""
    space: Path | None = None
    """TOML file of what is chosen from; default hyperparameter/space.toml (for the grid grid.toml) where there is one,
    else the package's own."""
    trials: int | None = None
    """Finished trials that the study ends with, those of earlier runs and other processes included; default 50, and of
    a grid all combinations."""
    inner_splits: int = 3
    """Inner splits of the molecules that are not for testing, over which a trial's metric is averaged. With inner folds
    (--inner folds) there is one, and the metric is of the out-of-fold predictions."""
    prune: bool = True
    """Stop a trial whose best mean so far is worse than the median of the others'."""
    nested: int = 0
    """Search within each of so many outer splits (seeds), and report the outer test metrics; 0 searches once."""
    storage: str | None = None
    """URL of a database for many machines (sqlite, postgresql, mysql); default a journal file, for the processes of
    one machine."""

    GROUP: ClassVar = "search"


@dataclass(frozen=True)
class TuneConfig(SearchConfig, TrainConfig):
    """Settings of stage 2, of which a search chooses some."""

    given: tuple[str, ...] = ()
    """Names of the settings that the command line, a script or a caller gives; these are not searched."""

    FIRST: ClassVar = ("model", "csv")
    NOT_OPTIONS: ClassVar = (*TrainConfig.NOT_OPTIONS, "from_", "encoder_rate", "given")
    CSV_REPLACES_DATASET: ClassVar = True

    @classmethod
    def of(cls, model: str | None = None, **values: Any) -> Self:
        """As in TrainConfig; the values that are given are not searched."""
        return super().of(model, **{"given": tuple(values), **values})

    @classmethod
    def unlisted(cls, values: dict[str, Any], given: set[str]) -> dict[str, Any]:
        """What an earlier search saw, and what is not searched: not what a file gives, since best.json gives all."""
        cls.check_start(values)
        return {**super().unlisted(values, given), "given": tuple(sorted(given & set(TUNABLE)))}

    def check(self) -> None:
        """Refuse values that cannot work."""
        super().check()
        check_at_least(self, 1, "trials", "inner_splits")
        check_at_least(self, 0, "nested")
        if self.again:
            raise SettingError("a search goes on with the study that is there; to begin anew give another --out")
        if self.nested and (self.save is not None or self.refit):
            raise SettingError("a nested search has a model for each outer split; leave --save and --refit out")
        if self.split in CROSS_VALIDATIONS and self.inner_splits > FOLDS * REPEATS:
            raise SettingError(f"inner_splits is {self.inner_splits}; {self.split} has {FOLDS * REPEATS} splits")
        if self.nested and self.search:
            raise SettingError("a nested search begins with settings that no search chose; leave its best.json out")
        if self.nested and self.storage:
            raise SettingError("nested searches are several studies, each in a file of its own; leave --storage out")
