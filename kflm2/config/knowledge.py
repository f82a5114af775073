"""Every setting of the computation of a knowledge table. Nothing heavy is imported here."""

from dataclasses import dataclass, field
from pathlib import Path

from kflm2.config.corpus import CorpusConfig
from kflm2.errors import SettingError


@dataclass(frozen=True)
class KnowledgeConfig(CorpusConfig):
    """Of which molecules xTB's numbers are computed."""

    out: Path = field(default_factory=lambda: Path("knowledge.parquet"), metadata={"group": "output"})
    """The table, .parquet; a card of the same name, .md, is written beside it."""

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            SettingError: the first one found.
        """
        self.check_corpus()
        if self.out.suffix.lower() != ".parquet":
            raise SettingError(f"out {self.out}: a knowledge table is written as .parquet")
