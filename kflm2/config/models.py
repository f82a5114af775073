"""Every setting of the commands on saved models. Nothing heavy is imported here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from kflm2.config.base import StageConfig
from kflm2.errors import SettingError
from kflm2.resources import saved_model


@dataclass(frozen=True)
class ModelsConfig(StageConfig):
    """The table of the models that come with kflm2 has no settings."""


@dataclass(frozen=True)
class PackConfig(StageConfig):
    """Which model is packed, and where to."""

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = Path("model")
    """Folder that `kflm2 train --save` wrote, or the name of a model of `kflm2 models`."""
    save: Path | None = None
    """Folder of the packed model."""
    again: bool = False
    """Replace the model that is in the folder of --save."""
    llm: str | None = None
    """Where the model's LLM is, for one that is not in the registry."""

    POSITIONAL: ClassVar = ("model",)

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            SettingError: there is no folder to write to.
        """
        if self.save is None:
            raise SettingError("give --save, a folder for the packed model")
        if self.save.resolve().is_relative_to(saved_model(self.model).resolve()):
            raise SettingError(f"save: {self.save} is the model itself or lies in it: name another folder")
