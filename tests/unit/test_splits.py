"""Splits: disjoint, complete, seeded, and scaffolds whole."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from kflm2.data import datasets
from kflm2.data.molecules import read_table
from kflm2.data.splits import Split, make_split
from kflm2.errors import DataError, SettingError

SAMPL = read_table(datasets.find("SAMPL")).smiles


def _parts(split: Split) -> list[list[int]]:
    return [part.tolist() for part in (split.train, split.valid, split.test)]


@settings(max_examples=40, deadline=None)
@given(st.integers(10, 400), st.integers(0, 1000))
def test_a_random_split_holds_every_molecule_once(n: int, seed: int) -> None:
    split = make_split("random", ["C"] * n, seed)
    train, valid, test = _parts(split)
    assert sorted(train + valid + test) == list(range(n))
    assert (len(train), len(valid)) == (n * 8 // 10, n // 10)
    assert split.labels().tolist() == [
        "train" if i in set(train) else "valid" if i in set(valid) else "test" for i in range(n)
    ]


def test_sampl_is_split_as_published() -> None:
    assert make_split("random", SAMPL, 0).sizes == {"train": 513, "valid": 64, "test": 65}


@pytest.mark.parametrize("kind", ["random", "scaffold"])
def test_the_seed_decides(kind: str) -> None:
    first, again, other = (make_split(kind, SAMPL, seed) for seed in (1, 1, 2))
    assert _parts(first) == _parts(again)
    assert first.sha256 == again.sha256 != other.sha256
    assert _parts(first) != _parts(other)


@pytest.mark.parametrize("seed", [0, 5])
def test_scaffolds_stay_whole_and_follow_the_balanced_rule(seed: int) -> None:
    """Molecule by molecule against a second writing of the rule, with RDKit's scaffolds."""
    scaffolds = [
        MurckoScaffold.MurckoScaffoldSmiles(mol=Chem.MolFromSmiles(text), includeChirality=False) for text in SAMPL
    ]
    members = defaultdict(set)
    for i, scaffold in enumerate(scaffolds):
        members[scaffold].add(i)
    sizes = {"train": 513, "valid": 64, "test": 65}
    big = [name for name in members if len(members[name]) > sizes["valid"] / 2]
    rest = [name for name in members if name not in big]
    rng = np.random.default_rng(seed)
    queue = [big[i] for i in rng.permutation(len(big))]
    queue += [rest[i] for i in rng.permutation(len(rest))]
    room = {"train": sizes["train"], "valid": sizes["valid"], "test": len(SAMPL)}
    home = {}
    for name in queue:
        part = next(part for part in room if room[part] >= len(members[name]))
        room[part] -= len(members[name])
        home[name] = part
    split = make_split("scaffold", SAMPL, seed)
    assert split.labels().tolist() == [home[scaffold] for scaffold in scaffolds]
    assert min(split.sizes.values()) > 0
    assert len(big) > 1


def test_a_given_split_is_the_column() -> None:
    words = ["test", "train", "train", "valid", "test"]
    split = make_split("given", ["C"] * 5, 0, parts=words)
    assert _parts(split) == [[1, 2], [3], [0, 4]]
    assert split.labels().tolist() == words
    with pytest.raises(DataError, match="molecule 2: part 'Train'"):
        make_split("given", ["C"] * 3, 0, parts=["train", "Train", "test"])
    with pytest.raises(DataError, match="leaves valid empty"):
        make_split("given", ["C"] * 2, 0, parts=["train", "test"])
    with pytest.raises(SettingError):
        make_split("given", ["C"] * 2, 0)


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.2), (0.9, 0.1, 0.0), (1.2, -0.1, -0.1)])
def test_fractions_that_do_not_add_up(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(SettingError, match="add up to 1"):
        make_split("random", ["C"] * 100, 0, fractions)


def test_other_fractions_a_part_left_empty_and_an_unknown_kind() -> None:
    assert make_split("random", ["C"] * 20, 0, (0.5, 0.25, 0.25)).sizes == {"train": 10, "valid": 5, "test": 5}
    with pytest.raises(DataError, match="random split of 5 molecules leaves valid empty"):
        make_split("random", ["C"] * 5, 0)
    with pytest.raises(SettingError, match="random, scaffold, given"):
        make_split("kennard", ["C"] * 50, 0)


def test_the_digest_is_of_who_is_where() -> None:
    one = Split("random", np.array([0, 1]), np.array([2]), np.array([3]))
    assert one.sha256 == Split("given", np.array([0, 1]), np.array([2]), np.array([3])).sha256
    assert one.sha256 != Split("random", np.array([0, 1]), np.array([3]), np.array([2])).sha256
    assert one.sha256 != Split("random", np.array([0]), np.array([1, 2]), np.array([3])).sha256
