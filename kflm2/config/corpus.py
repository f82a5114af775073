"""Which SMILES of a corpus are used. Nothing heavy is imported here."""

from dataclasses import dataclass
from typing import ClassVar

from kflm2.config.base import StageConfig, check_at_least, check_not_negative


@dataclass(frozen=True)
class CorpusConfig(StageConfig):
    """Molecules without labels, from a file of SMILES."""

    corpus: str = "auto"
    """auto (ZINC or ChEMBL where one was downloaded, else zinc_sample), ZINC, ChEMBL, MOSES, zinc_sample, or a file of
    your own: .parquet, or .smi, .csv or .tsv, packed by gzip or not."""
    limit: int | None = None
    """Use the first molecules only; default all."""
    keep_tested: bool = False
    """Also use molecules that a dataset of stage 2 holds; by default those of every dataset that is here are left
    out and counted, by the bonds between their atoms: with all their salts, ions and stereoisomers."""
    fragments: bool = False
    """Also use the molecules' BRICS fragments, open bonds closed: small molecules of many kinds."""
    small: int = 0
    """Also use pieces of at most so many heavy atoms, cut at one or two random bonds; 0 for none."""

    GROUP: ClassVar = "corpus"

    def check_corpus(self) -> None:
        """Refuse values that cannot work."""
        check_at_least(self, 1, "limit")
        check_not_negative(self, "small")
