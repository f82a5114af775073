"""Every setting of the commands on datasets. Nothing heavy is imported here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from kflm2.config.base import StageConfig

Names = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME ...|all]")]


@dataclass(frozen=True)
class OverviewConfig(StageConfig):
    """Which datasets are listed."""

    names: Names = ()
    """Some of the datasets; default all."""

    POSITIONAL: ClassVar = ("names",)


@dataclass(frozen=True)
class DownloadConfig(StageConfig):
    """Which datasets are downloaded."""

    names: Names = ()
    """Datasets; all for the eleven of the paper; ZINC, MOSES or ChEMBL for a corpus to fine-tune an LLM on."""
    source: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Copy from this folder instead, with the same checks."""

    POSITIONAL: ClassVar = ("names",)
    OLD_NAMES: ClassVar = {"source": "from"}
