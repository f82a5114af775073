"""Every setting of a prediction. Nothing heavy is imported here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from kflm2.config.base import InferenceConfig, check_at_least
from kflm2.errors import SettingError


@dataclass(frozen=True)
class PredictConfig(InferenceConfig):
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
    shard: str | None = None
    """I/N: the I-th of N equal shares of the rows, for N processes with a file each."""
    jobs: int | None = None
    """Processes that predict at once; the output is the same bytes for any number. Default: one for each core,
    and one for standard input. With a GPU they compute descriptors and graphs, and one more process the rest."""
    max_atoms: int = 600
    """Atoms of a molecule, without hydrogens; a larger one has the status 'too large' and no prediction. 600 take about
    3 seconds where the model reads descriptors, and the time grows with the square."""
    max_tokens: int = 2048
    """Tokens of a SMILES where the model reads an LLM; a longer one has the status 'too large' and no prediction. 2,048
    take the embedded LLM about 3 seconds on two cores."""

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
        check_at_least(self, 1, "max_atoms", "max_tokens", "jobs", "writings")
        self.share()
        if self.shard is not None and (self.molecules == ("-",) or self.out is None):
            raise SettingError("--shard needs a file to read and --out, a file of its own to write")

    def share(self) -> tuple[int, int]:
        """Number of the share, from 1, and how many there are.

        Raises:
            SettingError: no such share.
        """
        if self.shard is None:
            return 1, 1
        number, slash, count = self.shard.partition("/")
        if not (slash and number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
            raise SettingError(f"shard {self.shard!r}: give I/N, such as 2/4")
        return int(number), int(count)
