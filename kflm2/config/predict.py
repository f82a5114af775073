"""Every setting of a prediction. Nothing heavy is imported here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kflm2.config.base import InferenceConfig
from kflm2.errors import SettingError


@dataclass(frozen=True)
class PredictConfig(InferenceConfig):
    """What predicts what, and where to."""

    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """File for the predictions, .csv or .parquet; default standard output, as CSV. After a kill the same command goes
    on where it was."""
    confidence: float = 0.9
    """How often an interval is to hold the true value."""
    shard: str | None = None
    """I/N: the I-th of N equal shares of the rows, for N processes with a file each."""

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            SettingError: the first one found.
        """
        super().check()
        if not 0 < self.confidence < 1:
            raise SettingError(f"confidence is {self.confidence}; it must be between 0 and 1, such as 0.9")
        if self.out is not None and self.out.suffix.lower() not in (".csv", ".parquet"):
            raise SettingError(f"out {self.out}: predictions are written as .csv or .parquet")
        self.share()
        if self.shard is not None and (self.molecules == ("-",) or self.out is None):
            raise SettingError("--shard needs a file to read and --out, a file of its own to write")

    def share(self) -> tuple[int, int]:
        """Which share of how many, from 1.

        Raises:
            SettingError: no such share.
        """
        if self.shard is None:
            return 1, 1
        one, slash, many = self.shard.partition("/")
        if not (slash and one.isdigit() and many.isdigit() and 1 <= int(one) <= int(many)):
            raise SettingError(f"shard {self.shard!r}: give I/N, such as 2/4")
        return int(one), int(many)
