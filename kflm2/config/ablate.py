"""Every setting of an ablation. Nothing heavy is imported here."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from kflm2.config.compare import CompareConfig
from kflm2.config.train import TrainConfig
from kflm2.data.parts import LEAST_RUNS
from kflm2.errors import SettingError


@dataclass(frozen=True)
class AblateConfig(TrainConfig):
    """Settings of stage 2, from whose pipeline views are left out."""

    practical: float | None = field(default=None, metadata={"group": "comparison"})
    """The smallest difference of the metric that matters to you: give it before you see any metric."""

    FIRST: ClassVar = ("model",)
    NOT_OPTIONS: ClassVar = (*TrainConfig.NOT_OPTIONS, "from_", "encoder_rate")

    @classmethod
    def unlisted(cls, values: dict[str, Any], given: set[str]) -> dict[str, Any]:
        """What a search saw that chose the settings of the file."""
        cls.check_start(values)
        return super().unlisted(values, given)

    def check(self) -> None:
        """Refuse values that cannot work."""
        super().check()
        if self.practical is None:
            raise SettingError(
                "say with --practical, before any metric is read, from which difference on it matters to you"
            )
        if not 0 <= self.practical < float("inf"):
            raise SettingError(f"practical is {self.practical}; it must be a number, 0 or more")
        if self.save is not None or self.refit:
            raise SettingError("an ablation keeps no model; leave --save and --refit out")
        if (runs := self.resolved().runs or 0) < LEAST_RUNS:
            raise SettingError(f"runs is {runs}; at least {LEAST_RUNS} are needed to say anything")
        for name in ("views", "name"):
            if getattr(self, name):
                raise SettingError(f"{name} is what an ablation chooses; leave it out")
        if len(self.pipeline_views) < 2:
            raise SettingError(f"{self.model} reads {self.pipeline_views[0]} alone; there is nothing to leave out")

    def compare_config(self, folders: dict[str, str]) -> CompareConfig:
        """Settings of the comparison of the variants.

        Args:
            folders: variant -> folder of its results.
        """
        return CompareConfig.of(
            results=tuple(f"{name}={folder}" for name, folder in folders.items()),
            practical=(str(self.practical),),
            split=self.resolved_split,
            out=self.out / f"{self.model}-ablation",
        )
