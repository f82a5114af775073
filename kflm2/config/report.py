"""Every setting of a report. Nothing heavy is imported here."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from kflm2.config.base import StageConfig
from kflm2.errors import SettingError


@dataclass(frozen=True)
class ReportConfig(StageConfig):
    """What is shown, and where the page goes."""

    results: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME=]FOLDER")] = ()
    """Folders of results: of a model (results/SAMPL/crossAtt), of a dataset (results/SAMPL), or of several datasets
    (results)."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = field(default_factory=lambda: Path("report.html"))
    """The page, one file that needs no other."""

    POSITIONAL: ClassVar = ("results",)

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            SettingError: the first one found.
        """
        if not self.results:
            raise SettingError("give folders of results to report on, such as results/SAMPL")
        if self.out.suffix.lower() not in (".html", ".htm"):
            raise SettingError(f"out {self.out}: a report is written as .html")
