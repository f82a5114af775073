"""What the settings of stages have in common. Nothing heavy is imported here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import tyro

from kflm2.errors import SettingError


@dataclass(frozen=True)
class StageConfig:
    """Settings that a file may give too."""

    config: Path | None = None
    """JSON file of settings; what is given on the command line goes before it."""

    FIRST: ClassVar[tuple[str, ...]] = ()
    """Settings that others' defaults depend on."""
    POSITIONAL: ClassVar[tuple[str, ...]] = ()
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


@dataclass(frozen=True)
class InferenceConfig(StageConfig):
    """Which kept model is used on which molecules."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = Path("model")
    """Folder that `kflm2 train --save` made."""
    molecules: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE|-|SMILES")] = ()
    """A .csv, .smi, .sdf or .parquet file, - for SMILES on standard input, or SMILES."""
    smiles_column: str = "smiles"
    """Of a table: its column of SMILES."""
    name_column: str | None = None
    """Of a table: a column that is carried over, such as an id."""
    llm: str | None = None
    """Where the model's LLM is, for one that is not of the registry."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    POSITIONAL: ClassVar = ("model", "molecules")

    def check(self) -> None:
        """Refuse values that cannot work."""
        if not self.molecules:
            raise SettingError("give molecules: a .csv, .smi, .sdf or .parquet file, - for standard input, or SMILES")
