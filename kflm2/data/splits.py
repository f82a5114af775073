"""Splits into train, valid and test: seeded, recorded, disjoint."""

import functools
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from kflm2.data.parts import CROSS_VALIDATIONS, FOLDS, PARTS, REPEATS, SPLITS, check_fractions
from kflm2.data.similarity import butina, fingerprints
from kflm2.data.structures import main_skeletons, murcko_scaffold, structure_digests
from kflm2.errors import DataError, SettingError, one_of
from kflm2.files import sha256_texts

Fractions = tuple[float, float, float]


@dataclass(frozen=True)
class Split:
    """Indices of the molecules in each part, ascending; every molecule is in exactly one part."""

    kind: str
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    test_sets: dict[str, np.ndarray] = field(default_factory=dict)
    """The test sets (test_set1, ...) that make up the test part, if there are several."""
    folds: tuple[np.ndarray, ...] = ()
    """Inner folds of train and valid together; () for none."""

    @property
    def parts(self) -> dict[str, np.ndarray]:
        """Name -> indices: train, valid, test, and the test sets if there are several."""
        return {**{part: getattr(self, part) for part in PARTS}, **self.test_sets}

    @property
    def sha256(self) -> str:
        """Digest of which molecule is in which part: equal for equal splits of any kind."""
        return sha256_texts(f"{part} {' '.join(map(str, getattr(self, part).tolist()))}" for part in PARTS)

    @property
    def sizes(self) -> dict[str, int]:
        """Molecules in each part."""
        return {part: len(rows) for part, rows in self.parts.items()}

    @property
    def learned(self) -> np.ndarray:
        """What the models of a run learn from: train; with inner folds valid too, each model all folds but its own."""
        return self.not_tested if self.folds else self.train

    @property
    def held_out(self) -> np.ndarray:
        """What a model of a run predicts without having learnt from it: valid; with inner folds train too."""
        return self.learned if self.folds else self.valid

    @property
    def not_tested(self) -> np.ndarray:
        """Train and valid together."""
        return np.sort(np.concatenate([self.train, self.valid]))

    @property
    def measured(self) -> dict[str, np.ndarray]:
        """The parts that have metrics: with inner folds there is no train, and valid is all that is held out."""
        if not self.folds:
            return self.parts
        return {"valid": self.held_out, **{part: rows for part, rows in self.parts.items() if part not in PARTS[:2]}}

    @property
    def fold_of(self) -> np.ndarray:
        """(len(learned),) number of the inner fold of each molecule."""
        numbers = np.concatenate([np.full(len(fold), number) for number, fold in enumerate(self.folds)])
        return numbers[np.argsort(np.concatenate(self.folds))]

    def of_member(self, number: int) -> "Split":
        """The split that a model of a run is trained on: with inner folds, its own fold is valid."""
        if not self.folds:
            return self
        valid = self.folds[number]
        return replace(self, train=np.setdiff1d(self.learned, valid), valid=valid, folds=())

    def labels(self) -> np.ndarray:
        """(n,) name of each molecule's part; test_NAME if there are several test sets."""
        names = np.empty(len(self.train) + len(self.valid) + len(self.test), dtype=object)
        for part, rows in self.parts.items():
            names[rows] = part
        return names


def make_splits(
    kind: str,
    smiles: list[str],
    seeds: Iterable[int],
    fractions: Fractions = (0.8, 0.1, 0.1),
    parts: list[str] | None = None,
    folds: int = 0,
    together: list[list[int]] | None = None,
) -> list[Split]:
    """Split n molecules, once for each seed; the same seed gives the same split.

    Args:
        kind: `random`; `scaffold`, whole Bemis-Murcko scaffolds in random order (the balanced form of D-MPNN);
            `scaffold_moleculenet`, whole scaffolds, the largest to train (one split, whatever the seed); `cluster`,
            whole Butina clusters of Morgan fingerprints in random order; `given`, by `parts`; `cv5x5`, five-fold
            cross-validation five times over, where seed 7 is fold 2 of repeat 1; `scaffold_cv5x5`, the same with whole
            scaffolds, acyclic molecules by cluster; `cluster_cv5x5`, with whole clusters. In the whole-group forms all
            molecules of one structure stay together, however their SMILES are written.
        smiles: (n,) valid SMILES.
        seeds: one per split; for a cross-validation 0 to 24.
        fractions: of train, valid and test. A given split uses only the fraction of valid, if `parts` has no valid;
            a cross-validation uses only the ratio of train and valid.
        parts: (n,) train, valid, and test or test_NAME for several test sets, for `given`.
        folds: number of inner folds of train and valid; of whole groups where the parts are.
        together: groups of all molecules that a `random` split keeps whole; default none.

    Raises:
        SettingError: unknown kind, or fractions that are not positive or do not add up to 1.
        DataError: a part or an inner fold would be empty, or given parts are named both test and test_NAME.
    """
    one_of("split", kind, SPLITS)
    check_fractions(fractions)
    n, seeds = len(smiles), list(seeds)
    groups = groups_of(kind, smiles)
    if kind == "given":
        if parts is None:
            raise SettingError("a given split needs the part of each molecule")
        splits = [_given(parts, seed, fractions, smiles) for seed in seeds]
    elif kind == "random":
        splits = [
            _random(n, seed, fractions) if together is None else _balanced(kind, together, n, seed, fractions)
            for seed in seeds
        ]
    elif kind == "cv5x5":
        splits = [_fold(n, seed, fractions) for seed in seeds]
    else:
        assert groups is not None
        if kind == "scaffold_moleculenet":
            split = _largest_first(groups, n, fractions)
            splits = [split for _ in seeds]
        elif kind in CROSS_VALIDATIONS:
            splits = [_group_fold(kind, groups, n, seed, fractions) for seed in seeds]
        else:
            splits = [_balanced(kind, groups, n, seed, fractions) for seed in seeds]
    for split in splits:
        for part, size in split.sizes.items():
            if size == 0:
                largest = 0 if groups is None else max(map(len, groups))
                why = f": {largest} of them stay together" if largest > 1 else ""
                raise DataError(f"{kind} split of {n} molecules leaves {part} empty{why}; --fractions may help")
    if not folds:
        return splits
    return [
        with_folds(split, folds, seed, inner_groups(split, smiles, folds))
        for seed, split in zip(seeds, splits, strict=True)
    ]


def groups_of(kind: str, smiles: list[str]) -> list[list[int]] | None:
    """The molecules that a kind of split keeps together; None where it keeps none."""
    return None if kind in ("given", "random", "cv5x5") else _groups_of(kind, tuple(smiles))


def inner_groups(split: Split, smiles: list[str], folds: int) -> list[list[int]] | None:
    """The molecules that inner folds keep together: those that the parts do, or the rows of a structure."""
    if split.kind != "given":
        return groups_of(split.kind, smiles)
    return structure_groups(smiles, split.not_tested, split.test, folds)


def structure_groups(
    smiles: Sequence[str], learned: Iterable[int], tested: Collection[int] = (), least: int = 2
) -> list[list[int]] | None:
    """The rows of each structure, where they must be held out together; None where they need not.

    Where replicates are learnt from, and the test asks for new structures, a model that is judged by rows of structures
    that it knows looks much better than it is: epochs, weights and intervals would be chosen on such rows.

    Args:
        smiles: (n,)
        learned: rows that are learnt from or held out.
        tested: rows of the test part; none where it is not known what the model will be asked for.
        least: structures that are needed, as many as there are folds.

    Returns:
        None where no structure is learnt twice, most of the test part is of structures that are learnt, too, or there
        are too few.
    """
    digests = structure_digests(smiles)
    groups: dict[str, list[int]] = defaultdict(list)
    for index in learned:
        groups[digests[index]].append(int(index))
    known = sum(digests[index] in groups for index in tested)
    if 2 * known > len(tested) or len(groups) < least or all(len(group) == 1 for group in groups.values()):
        return None
    return list(groups.values())


def hold_out(
    rows: Sequence[int] | np.ndarray, count: int, seed: int, groups: list[list[int]] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw so many rows, or somewhat fewer, of whole groups; returns the others, and these."""
    rng = np.random.default_rng(seed)
    if groups is None:
        order = rng.permutation(rows)
        return order[count:], order[:count]
    train: list[int] = []
    valid: list[int] = []
    for i in rng.permutation(len(groups)):
        (valid if len(valid) + len(groups[i]) <= count else train).extend(groups[i])
    if count and not valid:
        valid = min(groups, key=len)
        train = [index for group in groups if group is not valid for index in group]
    return np.array(train, dtype=int), np.array(valid, dtype=int)


@functools.lru_cache(maxsize=1)
def _groups_of(kind: str, smiles: tuple[str, ...]) -> list[list[int]]:
    # kept, since each run of a command asks again for those of its table, which take minutes for 50,000 molecules
    if kind == "scaffold_cv5x5":
        keys: Sequence[Hashable] = _scaffolds_and_clusters(smiles)
    elif kind in ("cluster", "cluster_cv5x5"):
        keys = _clusters(smiles)
    else:
        keys = [murcko_scaffold(text) for text in smiles]
    return _groups(keys, smiles)


def with_test_learned(split: Split, smiles: list[str], seed: int) -> Split:
    """The split whose models learn from the test part too: it joins train, and inner folds are made anew."""
    none = np.zeros(0, dtype=int)
    train = np.sort(np.concatenate([split.train, split.test]))
    whole = replace(split, train=train, test=none, test_sets={}, folds=())
    if not split.folds:
        return whole
    groups = groups_of(split.kind, smiles)
    if split.kind == "given" and inner_groups(split, smiles, len(split.folds)) is not None:  # as it was measured
        groups = structure_groups(smiles, whole.not_tested)
    return with_folds(whole, len(split.folds), seed, groups)


def with_folds(split: Split, count: int, seed: int, groups: list[list[int]] | None = None) -> Split:
    """A split with inner folds.

    Args:
        split: whose train and valid parts are divided.
        count: of folds.
        seed: of the split.
        groups: molecules that stay together; default none do.

    Raises:
        DataError: a fold would be empty.
    """
    learned = split.not_tested
    rng = np.random.default_rng([seed, 1])
    if groups is None:
        folds = np.array_split(rng.permutation(learned), count)
    else:
        inside = set(learned.tolist())
        parts = [part for group in groups if (part := [index for index in group if index in inside])]
        whole = _whole_folds(parts, len(learned), rng, count)
        folds = [np.array([index for group in fold for index in group], dtype=int) for fold in whole]
    if not all(map(len, folds)):
        raise DataError(f"{split.kind} split: train and valid are too few for {count} inner folds (--ensemble)")
    return replace(split, folds=tuple(map(np.sort, folds)))


def _part_sizes(n: int, fractions: Fractions) -> tuple[int, int]:
    """Sizes of train and valid; rounded down as in DeepChem, with a margin so that 0.8 * 10 is 8."""
    return int(fractions[0] * n + 1e-9), int(fractions[1] * n + 1e-9)


Rows = Sequence[int] | np.ndarray


def _split(kind: str, train: Rows, valid: Rows, test: Rows) -> Split:
    parts = [np.sort(np.array(rows, dtype=int)) for rows in (train, valid, test)]
    return Split(kind, parts[0], parts[1], parts[2])


def _random(n: int, seed: int, fractions: Fractions) -> Split:
    order = np.random.default_rng(seed).permutation(n)
    n_train, n_valid = _part_sizes(n, fractions)
    return _split("random", order[:n_train], order[n_train : n_train + n_valid], order[n_train + n_valid :])


def _fold(n: int, seed: int, fractions: Fractions) -> Split:
    """Fold seed % 5 of repeat seed // 5 is the test part; valid is drawn from the rest."""
    repeat, fold = _repeat_and_fold("cv5x5", seed)
    folds = np.array_split(np.random.default_rng(repeat).permutation(n), FOLDS)
    rest = np.concatenate([rows for i, rows in enumerate(folds) if i != fold])
    n_valid = _valid_size(len(rest), fractions)
    rest = np.random.default_rng([repeat, fold]).permutation(rest)
    return _split("cv5x5", rest[n_valid:], rest[:n_valid], folds[fold])


def _repeat_and_fold(kind: str, seed: int) -> tuple[int, int]:
    if not 0 <= seed < FOLDS * REPEATS:
        raise SettingError(f"{kind} has the seeds 0 to {FOLDS * REPEATS - 1}, and {seed} is none of them")
    return divmod(seed, FOLDS)


def _valid_size(rest: int, fractions: Fractions) -> int:
    """Size of valid among the molecules that a fold leaves."""
    return int(rest * fractions[1] / (fractions[0] + fractions[1]) + 1e-9)


def _group_fold(kind: str, groups: list[list[int]], n: int, seed: int, fractions: Fractions) -> Split:
    """As _fold with whole groups, in valid too, so that validation is as hard as the test.

    Valid takes, in random order, each group for which it has room. Where it has room for none, it is the smallest one.
    """
    repeat, fold = _repeat_and_fold(kind, seed)
    folds = _whole_folds(groups, n, np.random.default_rng(repeat))
    rest = [group for i, members in enumerate(folds) if i != fold for group in members]
    n_valid = _valid_size(sum(map(len, rest)), fractions)
    valid: list[int] = []
    train: list[int] = []
    for i in np.random.default_rng([repeat, fold]).permutation(len(rest)):
        (valid if len(valid) + len(rest[i]) <= n_valid else train).extend(rest[i])
    if not valid and len(rest) > 1:
        valid = min(rest, key=len)
        train = [index for group in rest if group is not valid for index in group]
    return _split(kind, train, valid, [index for group in folds[fold] for index in group])


def _whole_folds(
    groups: list[list[int]], n: int, rng: np.random.Generator, count: int = FOLDS
) -> list[list[list[int]]]:
    """Folds of whole groups, of nearly equal size.

    The largest group comes first, equal ones in random order, and each goes into a random fold that has room for it,
    so that large groups meet others in every repeat and small ones fill the folds up. A group that is larger than its
    fold's share of the molecules is a fold by itself; the others are shared by the other folds.
    """
    queue = sorted((groups[i] for i in rng.permutation(len(groups))), key=len, reverse=True)
    alone: list[list[list[int]]] = []
    left = n
    while queue and len(alone) < count - 1 and len(queue[0]) > left / (count - len(alone)):
        left -= len(queue[0])
        alone.append([queue.pop(0)])
    shared: list[list[list[int]]] = [[] for _ in range(count - len(alone))]
    room = np.full(len(shared), -(-left // len(shared)))
    for group in queue:
        fitting = np.flatnonzero(room >= len(group))
        fold = int(rng.choice(fitting) if len(fitting) else room.argmax())
        shared[fold].append(group)
        room[fold] -= len(group)
    folds = [*alone, *shared]
    return [folds[i] for i in rng.permutation(count)]


def _groups(keys: Sequence[Hashable], smiles: Sequence[str]) -> list[list[int]]:
    """Molecules linked by a shared key or skeleton, directly or through others; groups by their first molecule.

    By skeleton, since a charge or a salt may change the scaffold: the same drug would be on both sides.
    """
    nodes: dict[Hashable, int] = {}
    edges = [
        (index, nodes.setdefault(key, len(smiles) + len(nodes)))
        for column in (keys, [("skeleton", skeleton) for skeleton in main_skeletons(smiles)])
        for index, key in enumerate(column)
    ]
    size = len(smiles) + len(nodes)
    graph = coo_array((np.ones(len(edges), dtype=bool), np.array(edges).T), shape=(size, size))
    groups: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(connected_components(graph, directed=False)[1][: len(smiles)]):
        groups[label].append(index)
    return list(groups.values())


def _scaffolds_and_clusters(smiles: Sequence[str]) -> list[Hashable]:
    """(n,) scaffold of each molecule; of an acyclic one, which has none, the number of its cluster among these."""
    keys: list[Hashable] = [murcko_scaffold(text) for text in smiles]
    acyclic = [index for index, key in enumerate(keys) if not key]
    for index, cluster in zip(acyclic, _clusters([smiles[index] for index in acyclic]), strict=True):
        keys[index] = cluster
    return keys


def _clusters(smiles: Sequence[str]) -> list[int]:
    """(n,) cluster number of each molecule."""
    keys = [0] * len(smiles)
    for number, cluster in enumerate(butina(fingerprints(smiles))):
        for index in cluster:
            keys[index] = number
    return keys


def _balanced(kind: str, groups: list[list[int]], n: int, seed: int, fractions: Fractions) -> Split:
    """Assign whole groups to parts as in D-MPNN (J. Chem. Inf. Model. 2019, 59, 3370).

    Groups larger than half of valid or test come first, and so into train; the others follow in random order, each
    into the first part with enough room. All acyclic molecules are one scaffold, as in MoleculeNet.
    """
    n_train, n_valid = _part_sizes(n, fractions)
    half = min(n_valid, n - n_train - n_valid) / 2
    large = [group for group in groups if len(group) > half]
    small = [group for group in groups if len(group) <= half]
    rng = np.random.default_rng(seed)
    train: list[int] = []
    valid: list[int] = []
    test: list[int] = []
    for group in [pool[i] for pool in (large, small) for i in rng.permutation(len(pool))]:
        if len(train) + len(group) <= n_train:
            train += group
        elif len(valid) + len(group) <= n_valid:
            valid += group
        else:
            test += group
    return _split(kind, train, valid, test)


def _largest_first(groups: list[list[int]], n: int, fractions: Fractions) -> Split:
    """Assign whole scaffolds by descending size, then descending index, as in MoleculeNet (Chem. Sci. 2018, 9, 513)."""
    n_train, _ = _part_sizes(n, fractions)
    train: list[int] = []
    valid: list[int] = []
    test: list[int] = []
    for group in sorted(groups, key=lambda group: (len(group), group[0]), reverse=True):
        if len(train) + len(group) <= n_train:
            train += group
        elif len(train) + len(valid) + len(group) <= int((fractions[0] + fractions[1]) * n + 1e-9):
            valid += group
        else:
            test += group
    return _split("scaffold_moleculenet", train, valid, test)


def _given(parts: list[str], seed: int, fractions: Fractions, smiles: Sequence[str]) -> Split:
    """The given parts; without a valid part its fraction is drawn from train."""
    rows: dict[str, list[int]] = {part: [] for part in PARTS[:2]}
    for index, part in enumerate(parts):
        rows.setdefault(part, []).append(index)
    train, valid = rows.pop("train"), rows.pop("valid")
    if not valid:
        n_valid = max(int(fractions[1] * len(train) + 1e-9), int(len(train) > 1))
        groups = structure_groups(smiles, train, [index for indices in rows.values() for index in indices])
        train, valid = (part.tolist() for part in hold_out(train, n_valid, seed, groups))
    tests = {name: np.array(rows[name], dtype=int) for name in sorted(rows)}
    if "test" in tests and len(tests) > 1:
        raise DataError(f"parts are named both test and {sorted(tests)[1]}: test is what all test sets are together")
    split = _split("given", train, valid, [index for indices in tests.values() for index in indices])
    return split if len(tests) < 2 else Split("given", split.train, split.valid, split.test, tests)
