"""Every setting of a prediction. Nothing heavy is imported here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import tyro

from kflm2.errors import SettingError


@dataclass(frozen=True)
class PredictSettings:
    """What predicts what, and where to."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = Path("model")
    """Folder that `kflm2 train --save` made."""
    molecules: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE|-|SMILES")] = ()
    """A .csv, .smi, .sdf or .parquet file, - for SMILES on standard input, or SMILES."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """File for the predictions, .csv or .parquet; default standard output, as CSV. After a kill the same command goes
    on where it was."""
    smiles_column: str = "smiles"
    """Of a table: its column of SMILES."""
    name_column: str | None = None
    """Of a table: a column that is carried over, such as an id."""
    confidence: float = 0.9
    """How often an interval is to hold the true value."""
    shard: str | None = None
    """I/N: the I-th of N equal shares of the rows, for N processes with a file each."""
    llm: str | None = None
    """Where the model's LLM is, for one that is not of the registry."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    config: Path | None = None
    """JSON file of settings; what is given on the command line goes before it."""

    FIRST: ClassVar = ()
    """Settings that others' defaults depend on."""
    POSITIONAL: ClassVar = ("model", "molecules")
    """Settings without a name on the command line."""

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Settings from the given values, else the defaults; not yet checked."""
        return cls(**values)

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            SettingError: the first one found.
        """
        if not self.molecules:
            raise SettingError("give molecules: a .csv, .smi, .sdf or .parquet file, - for standard input, or SMILES")
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
