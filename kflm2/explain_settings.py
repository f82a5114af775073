"""Every setting of an explanation. Nothing heavy is imported here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import tyro

from kflm2.errors import SettingError

MOST_STEPS = 1024
"""Steps at which doubling ends."""


@dataclass(frozen=True)
class ExplainSettings:
    """Whose predictions of what, and where to."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = Path("model")
    """Folder that `kflm2 train --save` made."""
    molecules: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE|-|SMILES")] = ()
    """A .csv, .smi, .sdf or .parquet file, - for SMILES on standard input, or SMILES."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("explained")
    """Folder for pictures and tables; those of an earlier run in it are replaced."""
    smiles_column: str = "smiles"
    """Of a table: its column of SMILES."""
    name_column: str | None = None
    """Of a table: a column that is shown, such as an id."""
    limit: int = 20
    """Molecules of a file at most, from its first on; SMILES of the command line are all explained."""
    target: str | None = None
    """Which of several targets; default the first."""
    steps: int = 64
    """Points on the way from nothing to the molecule at which gradients are taken; doubled while the parts do not add
    up to the whole."""
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
        if self.limit < 1:
            raise SettingError(f"limit is {self.limit}; it must be at least 1")
        if not 1 <= self.steps <= MOST_STEPS:
            raise SettingError(f"steps is {self.steps}; it must be 1 to {MOST_STEPS}")
        if self.out.exists() and not self.out.is_dir():
            raise SettingError(f"out {self.out} is a file; give a folder")
