"""Every setting of an ablation. Nothing heavy is imported here."""

from dataclasses import dataclass

from kflm2.config.compare import CompareConfig
from kflm2.config.train import TrainConfig
from kflm2.data.parts import LEAST_RUNS
from kflm2.errors import SettingError


@dataclass(frozen=True)
class AblateConfig(TrainConfig):
    """Settings of stage 2, of whose pipeline parts are left out."""

    practical: float | None = None
    """The smallest difference of the figure that matters to you: say it before you see any."""

    def check(self) -> None:
        """Refuse values that cannot work."""
        super().check()
        if self.practical is None:
            raise SettingError(
                "say with --practical, before any figure is read, from which difference on it matters to you"
            )
        if not 0 <= self.practical < float("inf"):
            raise SettingError(f"practical is {self.practical}; it must be a number, 0 or more")
        if (runs := self.resolved().runs or 0) < LEAST_RUNS:
            raise SettingError(f"runs is {runs}; at least {LEAST_RUNS} are needed to say anything")
        for name in ("views", "name"):
            if getattr(self, name):
                raise SettingError(f"{name} is what an ablation chooses; leave it out")
        if len(self.own_views) < 2:
            raise SettingError(f"{self.model} reads {self.own_views[0]} alone; there is nothing to leave out")

    def compare(self, folders: dict[str, str]) -> CompareConfig:
        """The comparison of the parts.

        Args:
            folders: part -> folder of its results.
        """
        return CompareConfig.of(
            results=tuple(f"{name}={folder}" for name, folder in folders.items()),
            practical=(str(self.practical),),
            split=self.split_kind,
            out=self.out / f"{self.model}-ablation",
        )
