"""Every setting of the hyperparameter search. Nothing heavy is imported here."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, Literal

from kflm2.config.base import check_at_least
from kflm2.config.train import ModelConfig, TrainConfig, TrainingConfig
from kflm2.errors import SettingError

TUNABLE = (
    *(field.name for part in (ModelConfig, TrainingConfig) for field in fields(part)),
    "layers",
    "descriptors",
    "adapter",
)
"""Settings that a search may choose."""


@dataclass(frozen=True)
class SearchConfig:
    """How settings are searched for."""

    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """tpe (tree-structured Parzen estimator), random, or grid: every combination of a space of choices and steps."""
    space: Path | None = None
    """TOML file of what is chosen from; default hyperparameter/space.toml (for the grid grid.toml) where there is one,
    else the package's own."""
    trials: int = 50
    """Finished trials that the study ends with, those of earlier runs and other processes included."""
    inner: int = 3
    """Inner splits of the molecules that are not for testing, over which a trial's metric is averaged."""
    prune: bool = True
    """Stop a trial whose mean so far is worse than the median of the others."""
    nested: int = 0
    """Search within each of so many outer splits (seeds), and report the outer test metrics; 0 searches once."""
    storage: str | None = None
    """URL of a database for many machines (sqlite, postgresql, mysql); default a journal file, for the processes of
    one machine."""

    GROUP: ClassVar = "search"


@dataclass(frozen=True)
class TuneConfig(SearchConfig, TrainConfig):
    """Settings of stage 2, of which a search chooses some."""

    FIRST: ClassVar = ("model", "csv")
    CSV_REPLACES_DATASET: ClassVar = True

    def check(self) -> None:
        """Refuse values that cannot work."""
        super().check()
        check_at_least(self, 1, "trials", "inner")
        check_at_least(self, 0, "nested")
        if self.nested and self.storage:
            raise SettingError("nested searches are several studies, each in a file of its own; leave --storage out")
