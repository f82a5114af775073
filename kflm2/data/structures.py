"""Structures of molecules, however their SMILES are written: identity, scaffold, standard form, duplicates."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import rdkit
from rdkit import Chem
from rdkit.Chem.MolStandardize import rdMolStandardize
from rdkit.Chem.Scaffolds import MurckoScaffold

from kflm2.data.molecules import MAX_ATOMS, Molecules, Rejection, parse_smiles, rdkit_errors, without_map_numbers
from kflm2.errors import MoleculeError
from kflm2.files import cached_json, sha256_texts
from kflm2.progress import Progress

VERSION = 2
"""Of the standard forms and of the reasons for refusal; a change of either needs a new one."""
Standardization = Literal["canonical", "none", "parent", "tautomer"]

# RDKit's defaults choose the larger fragment even if it is the inorganic acid, and merge enantiomers.
_OPTIONS = {"preferOrganic": True, "tautomerRemoveSp3Stereo": False, "tautomerRemoveBondStereo": False}
_PARAMETERS = rdMolStandardize.CleanupParameters()
for _name, _value in _OPTIONS.items():
    setattr(_PARAMETERS, _name, _value)
_METAL_BOND = Chem.MolFromSmarts(rdMolStandardize.MetalDisconnector().MetalNof)


def identity(smiles: str) -> str:
    """Standard InChIKey of a valid SMILES, the same for all SMILES of a structure.

    Tautomers that differ by the position of a mobile hydrogen (amide, azole) have the same key; keto and enol forms
    differ. A molecule without an InChIKey (dummy atoms) is identified by its canonical SMILES.
    """
    mol = parse_smiles(smiles)
    with rdkit_errors("identify it"):
        return Chem.MolToInchiKey(mol) or Chem.MolToSmiles(mol)


def skeletons(smiles: str) -> set[str]:
    """Skeleton of each organic component of a valid SMILES; of the whole where it has none.

    A skeleton is the first block of a standard InChIKey: which atoms are bonded, with how many hydrogens. Salts,
    charges, stereoisomers and isotopes of a molecule have the same one.
    """
    with rdkit_errors("identify it"):
        return set(map(_skeleton, _components(smiles)))


def _components(smiles: str) -> list[Chem.Mol]:
    """The organic components of a valid SMILES, the largest first; the whole where there is none."""
    mol = _without_metal_bonds(parse_smiles(smiles))
    parts = [part for part in Chem.GetMolFrags(mol, asMols=True) if _is_organic(part.GetAtoms())]
    return sorted(parts, key=lambda part: -part.GetNumHeavyAtoms()) or [mol]


def _skeleton(mol: Chem.Mol) -> str:
    return Chem.MolToInchiKey(mol)[:14] or Chem.MolToSmiles(mol, isomericSmiles=False)


def degree_counts(smiles: str) -> set[str]:
    """How many atoms of each element and degree each component of `skeletons` has, hydrogens left out.

    It is equal where a skeleton is equal, and seldom elsewhere, and takes a fifth of the time.
    """
    mol = _without_metal_bonds(parse_smiles(smiles))
    atoms = list(mol.GetAtoms())
    if any(atom.GetAtomicNum() == 1 for atom in atoms):
        mol = Chem.RemoveAllHs(mol, sanitize=False)
        atoms = list(mol.GetAtoms())
    components = [[atoms[i] for i in part] for part in Chem.GetMolFrags(mol)]
    organic = [Counter(f"{a.GetSymbol()}{a.GetDegree()}" for a in part) for part in components if _is_organic(part)]
    # of an inorganic salt not even the bonds are sure
    all_counts = organic or [Counter(atom.GetSymbol() for atom in atoms)]
    return {" ".join(f"{kind}x{count}" for kind, count in sorted(counts.items())) for counts in all_counts}


def _is_organic(atoms: Iterable[Chem.Atom]) -> bool:
    return any(atom.GetAtomicNum() == 6 for atom in atoms)


def _without_metal_bonds(mol: Chem.Mol) -> Chem.Mol:
    """The molecule with ions in place of bonds between metals and O, N, F, as other SMILES of a salt have them."""
    if mol.HasSubstructMatch(_METAL_BOND):
        with rdkit_errors("identify it"):
            mol = rdMolStandardize.MetalDisconnector().Disconnect(mol)
            Chem.SanitizeMol(mol)
    return mol


def structure_digests(smiles: Sequence[str]) -> list[str]:
    """A short digest of each structure, equal for all SMILES of it; of a million, two agree with p = 0.2 %."""

    return _of_each("structures", smiles, lambda text: hashlib.sha256(identity(text).encode()).hexdigest()[:12])


def main_skeletons(smiles: Sequence[str]) -> list[str]:
    """The skeleton (see skeletons) of the largest organic component of each: equal for salts of a molecule."""

    def skeleton(text: str) -> str:
        with rdkit_errors("identify it"):
            return _skeleton(_components(text)[0])

    return _of_each("main_skeletons", smiles, skeleton)


def _of_each(name: str, smiles: Sequence[str], function: Callable[[str], str]) -> list[str]:
    """A text of each molecule, from the cache where it was computed for the same table."""

    def compute() -> list[str]:
        return [function(text) for text in Progress(smiles, desc=name, unit="mol", leave=False, delay=2)]

    texts: list[str] = cached_json(name, {"rdkit": rdkit.__version__, "smiles": sha256_texts(smiles)}, compute)
    return texts


def murcko_scaffold(smiles: str) -> str:
    """Bemis-Murcko scaffold as SMILES without chirality (J. Med. Chem. 1996, 39, 2887); '' for an acyclic molecule."""
    return MurckoScaffold.MurckoScaffoldSmiles(mol=parse_smiles(smiles), includeChirality=False)


def duplicates(smiles: Sequence[str]) -> list[list[int]]:
    """Indices of the molecules of each structure that occurs more than once, by first occurrence."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, digest in enumerate(structure_digests(smiles)):
        groups[digest].append(index)
    return [group for group in groups.values() if len(group) > 1]


def standard_smiles(smiles: str, how: Standardization, max_atoms: int = MAX_ATOMS) -> str:
    """Canonical SMILES of a molecule's standard form (RDKit's MolStandardize).

    Args:
        smiles: valid.
        how: `canonical`, the molecule as it is, without atom map numbers; `parent`, its largest organic fragment,
            cleaned up and neutralized; `tautomer`, the canonical tautomer of that, with its stereochemistry; `none`,
            the unchanged SMILES.
        max_atoms: atoms without hydrogens that are allowed.

    Raises:
        MoleculeError: it has no standard form.
    """
    return smiles if how == "none" else standard_molecule(smiles, how, max_atoms)[0]


def standard_molecule(smiles: str, how: Standardization, max_atoms: int = MAX_ATOMS) -> tuple[str, Chem.Mol]:
    """The same, with RDKit's molecule of it."""
    mol = parse_smiles(smiles, max_atoms)
    if how == "none":
        return smiles, mol
    with rdkit_errors("standardize it"):
        if how == "canonical":
            without_map_numbers(mol)
        else:
            mol = rdMolStandardize.ChargeParent(mol, _PARAMETERS)
        if how == "tautomer":
            # RDKit stops after 1,000 changes: ten seconds for the largest molecules
            mol = rdMolStandardize.TautomerEnumerator(_PARAMETERS).Canonicalize(mol)
        text = Chem.MolToSmiles(mol)
    return text, parse_smiles(text, max_atoms)  # the result must pass the same checks


def standardize(molecules: Molecules, how: Standardization) -> Molecules:
    """Molecules with every SMILES in its standard form; a molecule without one is rejected."""
    if how == "none":
        return molecules
    smiles = molecules.smiles
    key: dict[str, object] = {
        "version": VERSION,
        "how": how,
        "options": _OPTIONS,
        "rdkit": rdkit.__version__,
        "smiles": sha256_texts(smiles),
    }
    results = cached_json(
        "standard",
        key,
        lambda: [
            _standard_or_reason(text, how)
            for text in Progress(smiles, desc=f"standardize: {how}", unit="mol", leave=False, delay=2)
        ],
    )
    reasons = {index: reason for index, (_, reason) in enumerate(results) if reason}
    return replace(molecules, smiles=[text for text, _ in results]).reject(reasons)


def _standard_or_reason(smiles: str, how: Standardization) -> tuple[str, str]:
    """The standard form and '', or the unchanged SMILES and the reason why it has none."""
    try:
        return standard_smiles(smiles, how), ""
    except MoleculeError as error:
        return smiles, str(error)


def deduplicate(molecules: Molecules) -> Molecules:
    """One molecule per structure: its first row, with the merged labels of all its rows.

    Rows of a structure whose covariates differ, such as the pH, are not duplicates. Regression labels are averaged, by
    their weights; bounds of a structure that has no exact label are joined to the narrowest. Weights are averaged.
    Classes that contradict each other become a missing label, and a structure without any label left is rejected. If
    the parts are given, rows of one structure are merged only within train, within valid and within each test set; a
    structure in a test set is rejected from train and valid, and one in valid from train, so that no test molecule is
    trained on.
    """
    y_true = molecules.y_true.copy()
    bounds = None if molecules.bounds is None else molecules.bounds.copy()
    weights = None if molecules.weights is None else molecules.weights.copy()
    reasons: dict[int, str] = {}
    merged: list[np.ndarray] = []
    for group in _duplicate_rows(molecules):
        reasons |= _duplicates_of_later_part(molecules, group)
        remaining = [i for i in group if i not in reasons]
        for indices in _by_part(molecules, remaining):
            first = indices[0]
            first_row = int(molecules.rows[first])
            # a row of weight 0 says nothing, unless all of them have it
            counted = indices if weights is None else [i for i in indices if weights[i]] or indices
            merged.append(molecules.y_true[counted])
            shares = np.ones(len(counted)) if weights is None or not weights[counted].any() else weights[counted]
            y_true[first] = _merged_labels(y_true[counted], shares, molecules.dataset.task == "classification")
            if bounds is not None:
                bounds[:, first] = np.where(np.isnan(y_true[first]), _narrowest(bounds[:, counted]), np.nan)
            if weights is not None:
                weights[first] = weights[counted].mean()
            contradiction = bool(np.isnan(y_true[first]).all()) and (bounds is None or np.isnan(bounds[:, first]).all())
            for i in indices if contradiction else indices[1:]:
                reasons[i] = (
                    f"labels of one structure contradict (row {first_row})"
                    if contradiction
                    else (f"same structure as row {first_row}, which stands for it")
                )
    keep = [i for i in range(len(y_true)) if i not in reasons]
    rejected = [Rejection(int(molecules.rows[i]), molecules.smiles[i], reason) for i, reason in reasons.items()]
    notes = (*molecules.notes, *_replicates(molecules, merged))
    return replace(molecules, y_true=y_true, bounds=bounds, weights=weights, notes=notes).take(keep, rejected)


def _duplicate_rows(molecules: Molecules) -> list[list[int]]:
    """Indices of the rows of each structure, and of each of its covariates, of which there is more than one."""
    groups = duplicates(molecules.smiles)
    if molecules.covariates is None:
        return groups
    alike: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    for number, group in enumerate(groups):
        for i in group:
            # as bytes, since a missing value is equal to a missing one
            alike[number, (molecules.covariates[i] + 0.0).tobytes()].append(i)
    return [group for group in alike.values() if len(group) > 1]


def _narrowest(bounds: np.ndarray) -> np.ndarray:
    """(2, rows, K) bounds of one structure to (2, K); NaN where they contradict."""
    lower = np.fmax.reduce(bounds[0], axis=0)
    upper = np.fmin.reduce(bounds[1], axis=0)
    return np.where(lower > upper, np.nan, np.stack([lower, upper]))


def _replicates(molecules: Molecules, merged: Sequence[np.ndarray]) -> Iterator[str]:
    """How much the measurements of one structure differ, a line a target; merged: (rows, K) labels of structures."""
    if molecules.dataset.task == "classification":
        return
    for k, target in enumerate(molecules.dataset.targets):
        groups = [labels[~np.isnan(labels[:, k]), k] for labels in merged]
        groups = [labels for labels in groups if len(labels) > 1]
        if groups:
            squares = sum(len(labels) * labels.var() for labels in groups)
            std = math.sqrt(squares / sum(len(labels) - 1 for labels in groups))
            yield (
                f"replicates of {len(groups)} structures, {target}: standard deviation {std:.3g}"
                f"{f' {molecules.dataset.unit}' if molecules.dataset.unit else ''}; their mean is taken"
            )


def _merged_labels(labels: np.ndarray, weights: np.ndarray, is_classification: bool) -> np.ndarray:
    """(rows, K) labels of one structure, with positive weights (rows,), to (K,)."""
    if is_classification:
        agree = np.fmin.reduce(labels, axis=0) == np.fmax.reduce(labels, axis=0)
        return np.where(agree, np.fmin.reduce(labels, axis=0), np.nan)
    total = (weights[:, None] * ~np.isnan(labels)).sum(axis=0)
    return np.where(total, np.nansum(weights[:, None] * labels, axis=0) / np.where(total, total, 1), np.nan)


def _by_part(molecules: Molecules, group: list[int]) -> list[list[int]]:
    if molecules.parts is None:
        return [group]
    parts: dict[str, list[int]] = defaultdict(list)
    for i in group:
        parts[molecules.parts[i]].append(i)
    return list(parts.values())


def _duplicates_of_later_part(molecules: Molecules, group: list[int]) -> dict[int, str]:
    """Index -> reason, of the molecules of one structure that is also in a later part (order: train, valid, test)."""
    if molecules.parts is None:
        return {}
    ranks = [
        ("train", "valid").index(part) if part in ("train", "valid") else 2
        for part in (molecules.parts[i] for i in group)
    ]
    last = max(ranks)
    duplicate = group[ranks.index(last)]
    reason = f"same structure as row {int(molecules.rows[duplicate])} in {molecules.parts[duplicate]}"
    return {i: reason for i, rank in zip(group, ranks, strict=True) if rank < last}
