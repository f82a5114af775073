"""Splits: disjoint, complete, seeded, with whole groups; whole-group splits against a second implementation."""

from collections import defaultdict
from itertools import chain

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem, DataStructs
from rdkit.Chem.MolStandardize import rdMolStandardize
from rdkit.Chem.Scaffolds import MurckoScaffold
from rdkit.ML.Cluster import Butina

from kflm2.data import datasets, splits
from kflm2.data.reading import read_table
from kflm2.data.similarity import fingerprints, nearest
from kflm2.data.splits import Split, groups_of, make_splits
from kflm2.errors import DataError, SettingError

SAMPL = read_table(datasets.find("SAMPL")).smiles
CARBON = Chem.MolFromSmarts("[#6]")
WHOLE = ("scaffold", "scaffold_moleculenet", "cluster")


def _make_split(kind: str, smiles: list[str], seed: int = 0, **options: object) -> Split:
    (split,) = make_splits(kind, smiles, [seed], **options)
    return split


def _parts(split: Split) -> list[list[int]]:
    return [part.tolist() for part in (split.train, split.valid, split.test)]


@settings(max_examples=40, deadline=None)
@given(st.integers(10, 400), st.integers(0, 1000))
def test_a_random_split_contains_every_molecule_once(n: int, seed: int) -> None:
    split = _make_split("random", ["C"] * n, seed)
    train, valid, test = _parts(split)
    assert sorted(train + valid + test) == list(range(n))
    assert (len(train), len(valid)) == (n * 8 // 10, n // 10)
    assert split.labels().tolist() == [
        "train" if i in set(train) else "valid" if i in set(valid) else "test" for i in range(n)
    ]


@pytest.mark.parametrize("kind", WHOLE)
def test_a_split_of_whole_groups_contains_every_molecule_once(kind: str) -> None:
    split = _make_split(kind, SAMPL, 3)
    assert sorted(chain(*_parts(split))) == list(range(len(SAMPL)))
    assert split.sizes == {"train": 513, "valid": 64, "test": 65}


def test_sampl_is_split_as_published() -> None:
    assert _make_split("random", SAMPL).sizes == {"train": 513, "valid": 64, "test": 65}


@pytest.mark.parametrize("kind", ["random", "scaffold", "cluster", "cv5x5", "scaffold_cv5x5", "cluster_cv5x5"])
def test_the_seed_determines_the_split(kind: str) -> None:
    first, other = make_splits(kind, SAMPL, [1, 2])
    repeated = _make_split(kind, SAMPL, 1)
    assert _parts(first) == _parts(repeated)
    assert first.sha256 == repeated.sha256 != other.sha256
    assert _parts(first) != _parts(other)


def test_the_moleculenet_scaffold_split_does_not_depend_on_the_seed() -> None:
    first, other = make_splits("scaffold_moleculenet", SAMPL, [1, 2])
    assert first.sha256 == other.sha256 != _make_split("scaffold", SAMPL, 1).sha256


def rdkit_scaffolds(smiles: list[str]) -> list[str]:
    """A scaffold of each molecule, without stereochemistry."""
    return [MurckoScaffold.MurckoScaffoldSmiles(text, includeChirality=False) for text in smiles]


def scaffold_groups(smiles: list[str], scaffolds: list[str]) -> list[list[int]]:
    """Molecules linked by a scaffold or the skeleton of their largest organic part, as components of a graph."""
    graph = networkx.Graph()
    disconnector = rdMolStandardize.MetalDisconnector()
    salt = Chem.MolFromSmarts(disconnector.MetalNof)
    for i, (text, scaffold) in enumerate(zip(smiles, scaffolds, strict=True)):
        mol = Chem.MolFromSmiles(text)
        if mol.HasSubstructMatch(salt):
            mol = disconnector.Disconnect(mol)
        parts = [part for part in Chem.GetMolFrags(mol, asMols=True) if part.HasSubstructMatch(CARBON)] or [mol]
        part = max(parts, key=lambda part: part.GetNumHeavyAtoms())
        key = Chem.MolToInchiKey(part).partition("-")[0] or Chem.MolToSmiles(part, isomericSmiles=False)
        graph.add_edges_from([(i, ("scaffold", scaffold)), (i, ("key", key))])
    groups = [sorted(i for i in component if isinstance(i, int)) for component in networkx.connected_components(graph)]
    return sorted(groups, key=lambda group: group[0])


def balanced_oracle(groups: list[list[int]], seed: int) -> list[str]:
    """D-MPNN's rule, after its paper's code: (n,) part of each molecule."""
    n = sum(map(len, groups))
    room = {"train": int(n * 0.8), "valid": int(n * 0.1), "test": n}
    limit = min(room["valid"], n - room["train"] - room["valid"]) / 2
    big = [group for group in groups if len(group) > limit]
    rest = [group for group in groups if len(group) <= limit]
    rng = np.random.default_rng(seed)
    queue = [big[i] for i in rng.permutation(len(big))]
    queue += [rest[i] for i in rng.permutation(len(rest))]
    part_of = {}
    for group in queue:
        part = next(part for part in room if room[part] >= len(group))
        room[part] -= len(group)
        part_of.update(dict.fromkeys(group, part))
    return [part_of[i] for i in range(n)]


def moleculenet_oracle(groups: list[list[int]]) -> list[str]:
    """MoleculeNet's rule: scaffolds by size, then by first member, both descending, to train, valid and test."""
    n = sum(map(len, groups))
    parts: dict[str, list[int]] = {"train": [], "valid": [], "test": []}
    for group in sorted(groups, key=lambda group: (-len(group), -group[0])):
        if len(parts["train"]) + len(group) > 0.8 * n:
            if len(parts["train"]) + len(parts["valid"]) + len(group) > 0.9 * n:
                parts["test"] += group
            else:
                parts["valid"] += group
        else:
            parts["train"] += group
    part_of = {i: part for part, rows in parts.items() for i in rows}
    return [part_of[i] for i in range(n)]


@pytest.mark.parametrize("name", ["SAMPL", "Delaney", "BBBP", "Tox21"])
def test_scaffolds_stay_whole_and_follow_the_rules(name: str, dataset_files: None) -> None:
    smiles = read_table(datasets.find(name)).smiles[:3000]
    balanced, fixed, shuffled = (
        _make_split(kind, smiles, 5) for kind in ("scaffold", "scaffold_moleculenet", "random")
    )
    scaffolds = rdkit_scaffolds(smiles)
    groups = scaffold_groups(smiles, scaffolds)
    assert balanced.labels().tolist() == balanced_oracle(groups, 5)
    assert fixed.labels().tolist() == moleculenet_oracle(groups)
    order = np.random.default_rng(5).permutation(len(smiles))
    assert shuffled.train.tolist() == sorted(order[: int(0.8 * len(smiles))].tolist())
    for split in (balanced, fixed):
        parts_of = defaultdict(set)
        for scaffold, part in zip(scaffolds, split.labels(), strict=True):
            parts_of[scaffold].add(part)
        assert all(len(parts) == 1 for parts in parts_of.values())
        assert min(split.sizes.values()) >= 0.09 * len(smiles)


@pytest.mark.parametrize("kind", [*WHOLE, "scaffold_cv5x5", "cluster_cv5x5"])
@pytest.mark.parametrize(
    "pair",
    [
        ("Oc1ccccn1", "O=c1cccc[nH]1"),  # 2-hydroxypyridine and its tautomer
        ("CCCc1ccncc1", "CCCc1cc[nH+]cc1.OC(=O)/C=C\\C([O-])=O"),  # a base and its maleate
    ],
)
def test_two_smiles_of_the_same_molecule_stay_together(kind: str, pair: tuple[str, str]) -> None:
    smiles = [*SAMPL[:100], pair[0], *SAMPL[100:200], pair[1]]
    assert len({MurckoScaffold.MurckoScaffoldSmiles(text) for text in pair}) == 2
    for split in make_splits(kind, smiles, range(20)):
        assert split.labels()[100] == split.labels()[201]


def test_salts_of_two_molecules_need_not_stay_together() -> None:
    maleates = [f"{text}.OC(=O)/C=C\\C([O-])=O" for text in ("CCCc1cc[nH+]cc1", "C[NH2+]C1CCCCC1")]
    groups = groups_of("scaffold", [*maleates, "c1ccccc1C"])
    assert groups == [[0], [1], [2]]


def test_in_a_cluster_split_test_molecules_are_less_similar_to_train() -> None:
    prints = fingerprints(SAMPL)

    def mean_similarity(kind: str) -> float:
        splits = make_splits(kind, SAMPL, range(3))
        similarities = [
            nearest([prints[i] for i in split.test], [prints[i] for i in split.train])[1] for split in splits
        ]
        return float(np.concatenate(similarities).mean())

    assert mean_similarity("cluster") < mean_similarity("random") - 0.05


def test_in_a_repeat_every_molecule_is_in_one_test_fold() -> None:
    n = 103
    splits = make_splits("cv5x5", ["C"] * n, range(25))
    for repeat in range(5):
        folds = splits[5 * repeat : 5 * repeat + 5]
        assert sorted(np.concatenate([split.test for split in folds]).tolist()) == list(range(n))
        assert {len(split.test) for split in folds} == {20, 21}
        for split in folds:
            assert sorted(chain(*_parts(split))) == list(range(n))
            assert len(split.valid) == (n - len(split.test)) // 9
    assert len({split.sha256 for split in splits}) == 25
    with pytest.raises(SettingError, match="0 to 24"):
        make_splits("cv5x5", ["C"] * n, [25])


def _butina_of_rdkit(smiles: list[str]) -> dict[str, int]:
    """SMILES -> number of its cluster, by RDKit's own clustering."""
    prints = fingerprints(smiles)
    distances = [
        1 - similarity
        for i in range(1, len(prints))
        for similarity in DataStructs.BulkTanimotoSimilarity(prints[i], prints[:i])
    ]
    clusters = Butina.ClusterData(distances, len(prints), 0.65, isDistData=True, reordering=False)
    return {smiles[i]: number for number, cluster in enumerate(clusters) for i in cluster}


@pytest.mark.parametrize("name", ["SAMPL", "Delaney"])
@pytest.mark.parametrize("kind", ["scaffold_cv5x5", "cluster_cv5x5"])
def test_folds_of_whole_groups_test_every_molecule_once_in_a_repeat(name: str, kind: str, dataset_files: None) -> None:
    smiles = read_table(datasets.find(name)).smiles
    scaffolds = {text: MurckoScaffold.MurckoScaffoldSmiles(text, includeChirality=False) for text in smiles}
    clustered = [text for text in smiles if kind == "cluster_cv5x5" or not scaffolds[text]]
    clusters = _butina_of_rdkit(clustered)
    keys: dict[str, str | int] = {text: clusters.get(text, scaffolds[text]) for text in smiles}
    splits = make_splits(kind, smiles, range(25))
    for repeat in range(5):
        folds = splits[5 * repeat : 5 * repeat + 5]
        assert sorted(np.concatenate([split.test for split in folds]).tolist()) == list(range(len(smiles)))
        # benzene derivatives are 24 % of SAMPL and 23 % of Delaney: a fold by themselves
        sizes = sorted(len(split.test) for split in folds)
        assert sizes[0] > 0.18 * len(smiles)
        assert sizes[3] - sizes[0] <= 5
        for split in folds:
            assert sorted(chain(*_parts(split))) == list(range(len(smiles)))
            parts_of = defaultdict(set)
            for text, part in zip(smiles, split.labels(), strict=True):
                parts_of[keys[text]].add(part)
            assert all(len(parts) == 1 for parts in parts_of.values())
            # whole groups, so that not every size can be had
            assert abs(len(split.valid) - (len(smiles) - len(split.test)) / 9) <= 2
    # acyclic molecules are tested too, and in other company every time
    assert len({split.sha256 for split in splits}) == 25


def test_a_group_larger_than_a_fold_is_a_fold_by_itself() -> None:
    benzenes = ["C" * i + "c1ccccc1" for i in range(50)]
    others = [text for text in SAMPL if "1" in text and MurckoScaffold.MurckoScaffoldSmiles(text) != "c1ccccc1"][:60]
    splits = make_splits("scaffold_cv5x5", [*benzenes, *others], range(5))
    sizes = sorted(len(split.test) for split in splits)
    assert sizes[4] == 50
    assert sizes[:4] == [15, 15, 15, 15]
    with pytest.raises(DataError, match="scaffold_cv5x5 split of 50 molecules leaves"):
        make_splits("scaffold_cv5x5", benzenes, range(5))
    with pytest.raises(SettingError, match="cluster_cv5x5 has the seeds 0 to 24, and 25"):
        make_splits("cluster_cv5x5", SAMPL, [25])


def test_folds_of_whole_groups_stay_as_they_were_recorded() -> None:
    """Recorded by this test with rdkit 2026.9.1 and numpy 2.4.6: a seed must give the same folds in later versions."""
    digests = {kind: [split.sha256[:12] for split in make_splits(kind, SAMPL, [0, 7])] for kind in _RECORDED}
    assert digests == _RECORDED


_RECORDED = {"scaffold_cv5x5": ["8abd9a19e0da", "7917f16da11e"], "cluster_cv5x5": ["42c345969b0a", "2fd195fdb308"]}


def test_a_given_split_follows_the_parts() -> None:
    parts = ["test", "train", "train", "valid", "test"]
    split = _make_split("given", ["C"] * 5, parts=parts)
    assert _parts(split) == [[1, 2], [3], [0, 4]]
    assert split.labels().tolist() == parts
    assert list(split.parts) == ["train", "valid", "test"]
    with pytest.raises(DataError, match="both test and test_a"):
        _make_split("given", ["C"] * 4, parts=["train", "valid", "test", "test_a"])
    with pytest.raises(DataError, match="leaves valid empty"):
        _make_split("given", ["C"] * 2, parts=["train", "test"])
    with pytest.raises(DataError, match="leaves test empty"):
        _make_split("given", ["C"] * 2, parts=["train", "valid"])
    with pytest.raises(SettingError):
        _make_split("given", ["C"] * 2)


def test_several_test_sets_together_are_the_test_part() -> None:
    parts = ["test_b", "train", "test_a", "valid", "test_b"]
    split = _make_split("given", ["C"] * 5, parts=parts)
    assert split.test.tolist() == [0, 2, 4]
    assert {name: rows.tolist() for name, rows in split.test_sets.items()} == {"test_a": [2], "test_b": [0, 4]}
    assert split.labels().tolist() == parts
    assert split.sizes == {"train": 1, "valid": 1, "test": 3, "test_a": 1, "test_b": 2}


def test_without_a_valid_part_a_tenth_of_train_becomes_valid() -> None:
    parts = ["train"] * 40 + ["test"] * 9
    first, repeated, other = make_splits("given", ["C"] * 49, [1, 1, 2], parts=parts)
    assert first.sizes == {"train": 36, "valid": 4, "test": 9}
    assert first.test.tolist() == list(range(40, 49))
    assert first.sha256 == repeated.sha256 != other.sha256
    assert _make_split("given", ["C"] * 12, parts=[*["train"] * 9, *["test"] * 3]).sizes["valid"] == 1


_REPLICATES = ["C" * (1 + number // 3) + "O" for number in range(60)]
"""Twenty structures, three rows of each."""


def test_replicates_are_held_out_together_where_the_test_asks_for_new_structures() -> None:
    parts = ["train"] * 48 + ["test"] * 12
    split = _make_split("given", _REPLICATES, parts=parts, folds=4)
    assert sorted(len(fold) for fold in split.folds) == [12, 12, 12, 12]
    for rows in (split.valid, *split.folds):
        digits = rows // 3
        assert all(np.isin(3 * number + np.arange(3), rows).all() for number in digits)
    assert split.valid.tolist() == _make_split("given", _REPLICATES, parts=parts).valid.tolist() != []
    learnt = splits.with_test_learned(split, _REPLICATES, 0)
    assert all(np.isin(3 * (fold // 3) + 1, fold).all() for fold in learnt.folds)
    # of a test of structures that are known, rows are held out as they come: here two of three rows of a structure
    known = _make_split("given", _REPLICATES, parts=["train", "train", "test"] * 20, folds=4)
    assert any((np.bincount(fold // 3) == 1).any() for fold in known.folds)


def test_without_replicates_a_given_split_is_as_it_was() -> None:
    smiles, parts = ["C" * number + "O" for number in range(1, 41)], ["train"] * 30 + ["test"] * 10
    first = _make_split("given", smiles, seed=3, parts=parts, folds=3)
    order = np.random.default_rng(3).permutation(30)
    assert first.valid.tolist() == sorted(order[:3].tolist())
    folds = np.array_split(np.random.default_rng([3, 1]).permutation(30), 3)
    assert [fold.tolist() for fold in first.folds] == [sorted(fold.tolist()) for fold in folds]


def test_held_out_rows_of_groups_are_about_as_many_as_asked_for() -> None:
    groups = [[0, 1, 2], [3], [4, 5, 6, 7], [8, 9]]
    for seed in range(20):
        train, valid = splits.hold_out(np.arange(10), 3, seed, groups)
        assert sorted([*train, *valid]) == list(range(10)) and 1 <= len(valid) <= 3
        assert all(len(set(group) & set(valid.tolist())) in (0, len(group)) for group in groups)
    assert splits.hold_out(np.arange(7), 1, 0, [[0, 1, 2], [3, 4, 5, 6]])[1].tolist() == [0, 1, 2]


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.2), (0.9, 0.1, 0.0), (1.2, -0.1, -0.1)])
def test_fractions_that_do_not_add_up_are_an_error(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(SettingError, match="add up to 1"):
        _make_split("random", ["C"] * 100, fractions=fractions)


def test_other_fractions_an_empty_part_and_an_unknown_kind() -> None:
    assert _make_split("random", ["C"] * 20, fractions=(0.5, 0.25, 0.25)).sizes == {"train": 10, "valid": 5, "test": 5}
    with pytest.raises(DataError, match="random split of 5 molecules leaves valid empty"):
        _make_split("random", ["C"] * 5)
    rings = [f"{'C' * n}c1ccccc1" for n in range(1, 86)]
    with pytest.raises(DataError, match=r"leaves valid empty: 85 of them stay together; --fractions may help"):
        _make_split("scaffold", [*rings, *(f"{'C' * n}C1CC1" for n in range(1, 16))])
    with pytest.raises(SettingError, match="random, scaffold, scaffold_moleculenet, cluster, given, cv5x5, scaf"):
        _make_split("kennard", ["C"] * 50)


def test_the_digest_is_of_the_molecules_in_each_part() -> None:
    split = Split("random", np.array([0, 1]), np.array([2]), np.array([3]))
    assert split.sha256 == Split("given", np.array([0, 1]), np.array([2]), np.array([3])).sha256
    assert split.sha256 != Split("random", np.array([0, 1]), np.array([3]), np.array([2])).sha256
    assert split.sha256 != Split("random", np.array([0]), np.array([1, 2]), np.array([3])).sha256


@pytest.mark.parametrize("kind", ["random", "cv5x5", "scaffold", "scaffold_moleculenet", "cluster", "scaffold_cv5x5"])
def test_inner_folds_divide_train_and_valid_as_the_split_divides_all(kind: str) -> None:
    smiles = SAMPL[:200]
    plain, split = _make_split(kind, smiles), _make_split(kind, smiles, folds=4)
    assert _parts(plain) == _parts(split) and plain.sha256 == split.sha256
    learned = sorted([*plain.train, *plain.valid])
    assert sorted(chain(*split.folds)) == learned == split.learned.tolist() == split.held_out.tolist()
    for number, fold in enumerate(split.folds):
        member = split.of_member(number)
        assert member.valid.tolist() == fold.tolist() and member.test.tolist() == plain.test.tolist()
        assert sorted([*member.train, *member.valid]) == learned and not member.folds
        assert (split.fold_of[np.isin(split.learned, fold)] == number).all()
        if kind.startswith("scaffold"):
            inside, outside = (
                {MurckoScaffold.MurckoScaffoldSmiles(smiles[i]) for i in rows} - {""} for rows in (fold, member.train)
            )
            assert not inside & outside
    assert list(split.measured) == ["valid", "test"] and list(plain.measured) == ["train", "valid", "test"]
    assert plain.of_member(0) is plain and (plain.learned is plain.train and plain.held_out is plain.valid)


def test_too_few_molecules_for_the_inner_folds_are_an_error() -> None:
    with pytest.raises(DataError, match="too few for 30 inner folds"):
        _make_split("random", SAMPL[:20], folds=30)
