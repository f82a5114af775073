"""Every setting of an explanation. Nothing heavy is imported here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kflm2.config.base import InferenceConfig, check_at_least
from kflm2.errors import SettingError

MOST_STEPS = 1024
"""Steps at which doubling ends."""


@dataclass(frozen=True)
class ExplainConfig(InferenceConfig):
    """Whose predictions of what, and where to."""

    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("explained")
    """Folder for pictures and tables; those of an earlier run in it are replaced."""
    limit: int = 20
    """Molecules of a file at most, from its first on; SMILES of the command line are all explained."""
    target: str | None = None
    """Which of several targets; default the first."""
    steps: int = 64
    """Points on the way from nothing to the molecule at which gradients are taken; doubled while the parts do not add
    up to the whole."""

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            SettingError: the first one found.
        """
        super().check()
        check_at_least(self, 1, "limit")
        if not 1 <= self.steps <= MOST_STEPS:
            raise SettingError(f"steps is {self.steps}; it must be 1 to {MOST_STEPS}")
        if self.out.exists() and not self.out.is_dir():
            raise SettingError(f"out {self.out} is a file; give a folder")
