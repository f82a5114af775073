"""Every setting of a report. Nothing heavy is imported here."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import tyro

from kflm2.errors import SettingError


@dataclass(frozen=True)
class ReportSettings:
    """What is shown, and where the page goes."""

    results: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME=]FOLDER")] = ()
    """Folders of results: of a model (results/SAMPL/crossAtt), of a dataset (results/SAMPL), or of several datasets
    (results)."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = field(default_factory=lambda: Path("report.html"))
    """The page, one file that needs no other."""
    config: Path | None = None
    """JSON file of settings; what is given on the command line goes before it."""

    FIRST: ClassVar = ()
    """Settings that others' defaults depend on."""
    POSITIONAL: ClassVar = ("results",)
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
        if not self.results:
            raise SettingError("give folders of results to report on, such as results/SAMPL")
        if self.out.suffix.lower() not in (".html", ".htm"):
            raise SettingError(f"out {self.out}: a report is written as .html")
