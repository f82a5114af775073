"""Every setting of a prediction. Nothing heavy is imported here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kflm2.config.base import StreamConfig, check_at_least
from kflm2.errors import SettingError


@dataclass(frozen=True)
class PredictConfig(StreamConfig):
    """What predicts what, and where to."""

    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """File for the predictions, .csv or .parquet; default standard output, as CSV. After a kill the same command goes
    on where it was."""
    confidence: float = 0.9
    """How often an interval is to hold the true value."""
    writings: int = 1
    """Where the model reads an LLM: SMILES of each molecule over which its prediction is averaged, the standard one and
    random ones. With more than one a column T_writings of each target T has their standard deviation: how much the
    prediction depends on how the molecule is written. The LLM's time grows with the number."""

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            SettingError: the first one found.
        """
        super().check()
        if not 0 < self.confidence < 1:
            raise SettingError(f"confidence is {self.confidence}; it must be between 0 and 1, such as 0.9")
        if self.engine == "local" and self.out is not None and self.out.suffix.lower() not in (".csv", ".parquet"):
            raise SettingError(f"out {self.out}: predictions are written as .csv or .parquet")
        check_at_least(self, 1, "writings")
