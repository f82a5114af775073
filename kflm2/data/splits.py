"""Splits into train, valid and test: seeded, recorded, disjoint."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from rdkit.Chem.Scaffolds import MurckoScaffold

from kflm2.data.molecules import parse_smiles
from kflm2.data.parts import PARTS, check_fractions
from kflm2.errors import DataError, SettingError, one_of
from kflm2.files import sha256_texts

KINDS = ("random", "scaffold", "given")


@dataclass(frozen=True)
class Split:
    """Indices of the molecules in each part, ascending; together every molecule once."""

    kind: str
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray

    @property
    def sha256(self) -> str:
        """Digest of which molecule is in which part: equal for equal splits, whatever made them."""
        return sha256_texts(f"{part} {' '.join(map(str, getattr(self, part).tolist()))}" for part in PARTS)

    @property
    def sizes(self) -> dict[str, int]:
        """Molecules in each part."""
        return {part: len(getattr(self, part)) for part in PARTS}

    def labels(self) -> np.ndarray:
        """(n,) the part's name of each molecule."""
        names = np.empty(sum(self.sizes.values()), dtype=object)
        for part in PARTS:
            names[getattr(self, part)] = part
        return names


def make_split(
    kind: str,
    smiles: list[str],
    seed: int,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    parts: list[str] | None = None,
) -> Split:
    """Split n molecules.

    Args:
        kind: `random`; `scaffold`, no Bemis-Murcko scaffold in two parts; or `given`, by `parts`.
        smiles: (n,) valid SMILES.
        seed: of the shuffle; the same seed gives the same split. A given split has none.
        fractions: of train, valid and test.
        parts: (n,) train, valid or test, for `given`.

    Raises:
        SettingError: unknown kind, or fractions that are not positive or do not add up to 1.
        DataError: a part would be empty, or a given part has another name.
    """
    one_of("split", kind, KINDS)
    check_fractions(fractions)
    if kind == "given":
        if parts is None:
            raise SettingError("a given split needs the part of each molecule")
        split = _given(parts)
    elif kind == "scaffold":
        split = _scaffold(smiles, seed, fractions)
    else:
        split = _random(len(smiles), seed, fractions)
    for part, size in split.sizes.items():
        if size == 0:
            raise DataError(f"{kind} split of {len(smiles)} molecules leaves {part} empty")
    return split


def _cuts(n: int, fractions: tuple[float, float, float]) -> tuple[int, int]:
    """Sizes of train and valid; floor as in DeepChem, but by a margin so that 0.8 * 10 is 8."""
    return int(fractions[0] * n + 1e-9), int(fractions[1] * n + 1e-9)


def _random(n: int, seed: int, fractions: tuple[float, float, float]) -> Split:
    order = np.random.default_rng(seed).permutation(n)
    n_train, n_valid = _cuts(n, fractions)
    train, valid, test = np.split(order, [n_train, n_train + n_valid])
    return Split("random", np.sort(train), np.sort(valid), np.sort(test))


def murcko_scaffold(smiles: str) -> str:
    """Bemis-Murcko scaffold as SMILES without chirality (J. Med. Chem. 1996, 39, 2887); '' for an acyclic molecule."""
    return MurckoScaffold.MurckoScaffoldSmiles(mol=parse_smiles(smiles), includeChirality=False)


def _scaffold(smiles: list[str], seed: int, fractions: tuple[float, float, float]) -> Split:
    """Balanced scaffold split as in D-MPNN (J. Chem. Inf. Model. 2019, 59, 3370).

    Scaffolds with more molecules than half of valid or test go first, so to train; the rest follow in random order,
    each whole into the first part that has room. All acyclic molecules count as one scaffold, as in MoleculeNet.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for index, text in enumerate(smiles):
        groups[murcko_scaffold(text)].append(index)
    n_train, n_valid = _cuts(len(smiles), fractions)
    n_test = len(smiles) - n_train - n_valid
    large = [group for group in groups.values() if len(group) > min(n_valid, n_test) / 2]
    small = [group for group in groups.values() if len(group) <= min(n_valid, n_test) / 2]
    rng = np.random.default_rng(seed)
    ordered = [pool[i] for pool in (large, small) for i in rng.permutation(len(pool))]

    train: list[int] = []
    valid: list[int] = []
    test: list[int] = []
    for group in ordered:
        if len(train) + len(group) <= n_train:
            train += group
        elif len(valid) + len(group) <= n_valid:
            valid += group
        else:
            test += group
    return Split("scaffold", *(np.sort(np.array(part, dtype=int)) for part in (train, valid, test)))


def _given(parts: list[str]) -> Split:
    for index, part in enumerate(parts):
        if part not in PARTS:
            raise DataError(f"molecule {index + 1}: part {part!r} is none of train, valid, test")
    return Split("given", *(np.array([i for i, own in enumerate(parts) if own == part], dtype=int) for part in PARTS))
