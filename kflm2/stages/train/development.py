"""Which test molecules the search that chose the settings saw: such runs are development, not measurements."""

from collections.abc import Mapping, Sequence

from kflm2.config.train import SearchRecord, TrainConfig
from kflm2.data.molecules import Molecules
from kflm2.data.splits import Split, make_splits
from kflm2.data.structures import structure_digests
from kflm2.errors import SettingError
from kflm2.results.schema import DevelopmentRecord
from kflm2.text_table import percent_range


def search_record(molecules: Molecules, split: Split, seed: int, earlier: SearchRecord | None) -> SearchRecord:
    """What a search saw: the structures of train and valid, and what an earlier search saw that gave its settings.

    A structure that stands in the test part too (a duplicate) does not count, so that the test part that was set aside
    is clean.
    """
    digests = structure_digests(molecules.smiles)
    aside = {digests[i] for i in split.test}
    seen = {digests[i] for part in (split.train, split.valid) for i in part} - aside
    if earlier is not None:
        seen |= earlier.digests
    return SearchRecord(molecules.dataset.name, split.kind, seed, " ".join(sorted(seen)))


def check_seen(config: TrainConfig, molecules: Molecules, splits: Mapping[int, Split]) -> dict[int, DevelopmentRecord]:
    """The runs whose test molecules the search saw; none where no search chose the settings.

    Raises:
        SettingError: there are such runs, and they were not asked for; the message names the ways out.
    """
    search = config.search
    if search is None:
        return {}
    digests = structure_digests(molecules.smiles)
    shares = {seed: _share(search, digests, split) for seed, split in splits.items()}
    seen = {seed: share for seed, share in shares.items() if share}
    if seen and not config.development:
        raise SettingError(_refusal(config, search, molecules, digests, seen))
    return {
        seed: DevelopmentRecord(search.dataset, search.split, search.seed, round(share, 4))
        for seed, share in seen.items()
    }


def _share(search: SearchRecord, digests: Sequence[str], split: Split) -> float:
    """Share of the test molecules that the search saw."""
    return sum(digests[i] in search.digests for i in split.test) / len(split.test)


def _refusal(
    config: TrainConfig, search: SearchRecord, molecules: Molecules, digests: Sequence[str], seen: Mapping[int, float]
) -> str:
    seeds = ", ".join(map(str, list(seen)[:3])) + (" ..." if len(seen) > 3 else "")
    ways = ["`kflm2 tune --nested` measures settings that a search chooses"]
    if search.split == config.split:
        (split,) = make_splits(search.split, molecules.smiles, [search.seed], config.fractions, molecules.parts)
        if not _share(search, digests, split):
            ways.insert(0, f"--seed {search.seed} --runs 1 tests on molecules that it did not see")
    ways.append("--development trains these runs all the same, and marks them")
    return (
        f"the search on {search.dataset} that chose these settings saw {percent_range(seen.values())} of the test"
        f" molecules of seed {seeds} ({config.split}): {'; '.join(ways)}"
    )
