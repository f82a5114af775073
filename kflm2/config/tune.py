"""Every setting of the search for settings. Nothing heavy is imported here."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from kflm2.config.train import DataConfig, ModelConfig, TrainConfig, TrainingConfig
from kflm2.errors import SettingError

TUNABLE = (
    *(field.name for kind in (ModelConfig, TrainingConfig) for field in dataclasses.fields(kind)),
    "layers",
    "descriptors",
    "adapter",
)
"""Settings that a search may choose."""


@dataclass(frozen=True)
class TuneConfig(TrainConfig):
    """Settings of stage 2, of which a search chooses some."""

    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """tpe (tree-structured Parzen estimator), random, or grid: every combination of a space of choices and steps."""
    space: Path | None = None
    """What is chosen from; default hyperparameter/space.toml, for the grid hyperparameter/grid.toml."""
    trials: int = 50
    """Finished trials that the study ends with, those of earlier runs and other processes included."""
    inner: int = 3
    """Divisions of the molecules that are not for testing, of which a trial's figure is the mean."""
    prune: bool = True
    """Give a trial up whose mean so far is worse than half of the others' was."""
    nested: int = 0
    """Search within each of so many outer splits (seeds), and report the outer test figures; 0 searches once."""
    storage: str | None = None
    """URL of a database for many machines (sqlite, postgresql, mysql); default a journal file, for the processes of
    one machine."""

    FIRST: ClassVar[tuple[str, ...]] = ("model", "csv")
    """Settings that others' defaults depend on."""

    @classmethod
    def of(cls, model: str = DataConfig.model, **values: Any) -> Self:
        """Settings of a pipeline, not yet checked; a table goes before a script's dataset."""
        if values.get("csv") is not None:
            values = {**values, "csv": Path(values["csv"]), "dataset": None}
        return super().of(model, **values)

    def check(self) -> None:
        """Refuse values that cannot work."""
        super().check()
        for name, low in (("trials", 1), ("inner", 1), ("nested", 0)):
            if getattr(self, name) < low:
                raise SettingError(f"{name} is {getattr(self, name)}; it must be at least {low}")
        if self.nested and self.storage:
            raise SettingError("nested searches are several studies, each in a file of its own; leave --storage out")
