"""The corpus that a stage reads: found, filtered, counted."""

from dataclasses import dataclass

from kflm2.config.corpus import CorpusConfig
from kflm2.data.corpus import Corpus, CorpusFilter, CorpusStats, ExcludedStructures, find_corpus, structures_of_datasets
from kflm2.errors import DataError


@dataclass(frozen=True)
class PreparedCorpus:
    """A corpus, the filter for its training SMILES, and the counts of one pass over it."""

    corpus: Corpus
    corpus_filter: CorpusFilter
    stats: CorpusStats


def read_corpus(config: CorpusConfig, held_out: float, longest: int | None) -> PreparedCorpus:
    """Read the corpus once, print its counts, and set the filter for its SMILES.

    Args:
        config: see CorpusConfig.
        held_out: share of the molecules that is held out of training.
        longest: maximum characters of a SMILES; None for no limit.

    Raises:
        DataError: no SMILES is left.
    """
    corpus = find_corpus(config.corpus)
    exclude = ExcludedStructures() if config.keep_tested else structures_of_datasets()
    corpus_filter = CorpusFilter(corpus.path, exclude, config.limit, held_out, config.fragments, config.small, longest)
    stats = CorpusStats()
    for _ in corpus_filter.training_smiles(stats):
        pass
    excluded = (
        f"{stats.excluded} left out because {', '.join(exclude.names)} hold them"
        if exclude.names
        else "none left out as tested on"
    )
    print(
        f"corpus: {corpus.name}, {stats.read:,} read, {stats.unreadable:,} unreadable, {excluded},"
        f" {stats.training:,} to use"
        + (f" ({stats.fragments:,} fragments among them)" if config.fragments or config.small else "")
        + (f", {stats.held_out:,} held out" if held_out else ""),
        flush=True,
    )
    for rejection in stats.shown:
        print(f"  SMILES {rejection.row}: {rejection.smiles[:60]!r}: {rejection.reason}")
    if not stats.training:
        raise DataError(f"corpus {corpus.path}: none of {stats.read} SMILES can be used for training")
    return PreparedCorpus(corpus, corpus_filter, stats)
