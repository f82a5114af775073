"""What a molecule is, however it is written: identity, scaffold, standard form, duplicates."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import rdkit
from rdkit import Chem, rdBase
from rdkit.Chem.MolStandardize import rdMolStandardize
from rdkit.Chem.Scaffolds import MurckoScaffold
from tqdm import tqdm

from kflm2.data.molecules import Molecules, Rejection, parse_smiles
from kflm2.errors import MoleculeError
from kflm2.files import keep_json, sha256_texts

Standardization = Literal["none", "parent", "tautomer"]

# RDKit's own defaults take the larger fragment even where it is the inorganic acid, and make enantiomers one.
_OPTIONS = {"preferOrganic": True, "tautomerRemoveSp3Stereo": False, "tautomerRemoveBondStereo": False}
_PARAMETERS = rdMolStandardize.CleanupParameters()
for _name, _value in _OPTIONS.items():
    setattr(_PARAMETERS, _name, _value)


def identity(smiles: str) -> str:
    """Standard InChIKey of a valid SMILES, the same for every way to write a structure.

    Tautomers that differ in where a mobile hydrogen sits (amide, azole) have the same one; keto and enol forms differ.
    A molecule that InChI has none for (dummy atoms) goes by its canonical SMILES.
    """
    mol = parse_smiles(smiles)
    with rdBase.BlockLogs():
        return Chem.MolToInchiKey(mol) or Chem.MolToSmiles(mol)


def murcko_scaffold(smiles: str) -> str:
    """Bemis-Murcko scaffold as SMILES without chirality (J. Med. Chem. 1996, 39, 2887); '' for an acyclic molecule."""
    return MurckoScaffold.MurckoScaffoldSmiles(mol=parse_smiles(smiles), includeChirality=False)


def duplicates(smiles: Sequence[str]) -> list[list[int]]:
    """Indices of molecules of one structure, for every structure that stands more than once; in order of the first."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, text in enumerate(smiles):
        groups[identity(text)].append(index)
    return [group for group in groups.values() if len(group) > 1]


def standard_smiles(smiles: str, how: Standardization) -> str:
    """Canonical SMILES of a molecule's standard form (RDKit's MolStandardize).

    Args:
        smiles: valid.
        how: `parent`, the largest organic fragment, cleaned up and uncharged; `tautomer`, its canonical tautomer too,
            stereochemistry kept; `none`, the SMILES as it is.

    Raises:
        MoleculeError: it has none.
    """
    if how == "none":
        return smiles
    mol = parse_smiles(smiles)
    with rdBase.BlockLogs():
        try:
            mol = rdMolStandardize.ChargeParent(mol, _PARAMETERS)
            if how == "tautomer":
                mol = rdMolStandardize.TautomerEnumerator(_PARAMETERS).Canonicalize(mol)
            text = Chem.MolToSmiles(mol)
        except (ValueError, RuntimeError) as error:
            raise MoleculeError(f"it cannot be standardized: {str(error).splitlines()[0]}") from None
    parse_smiles(text)  # what comes out goes through the same door
    return text


def standardize(molecules: Molecules, how: Standardization) -> Molecules:
    """Every SMILES in its standard form; a molecule that has none is rejected."""
    if how == "none":
        return molecules
    smiles = molecules.smiles
    parts: dict[str, object] = {
        "how": how,
        "options": _OPTIONS,
        "rdkit": rdkit.__version__,
        "smiles": sha256_texts(smiles),
    }
    pairs = keep_json(
        "standard",
        parts,
        lambda: [_tried(text, how) for text in tqdm(smiles, desc=f"standardize: {how}", unit="mol", leave=False)],
    )
    reasons = {index: why for index, (_, why) in enumerate(pairs) if why}
    return replace(molecules, smiles=[text for text, _ in pairs]).reject(reasons)


def _tried(smiles: str, how: Standardization) -> tuple[str, str]:
    """The standard form, or the SMILES as it is and why it has none."""
    try:
        return standard_smiles(smiles, how), ""
    except MoleculeError as error:
        return smiles, str(error)


def deduplicate(molecules: Molecules) -> Molecules:
    """One molecule a structure: the first of its rows, with what the labels of all of them come to.

    That is the mean for regression. Classes that contradict each other become a missing label, and a structure that
    is left without any label is rejected. Where the parts are given, rows of one structure are joined within train,
    within valid and within each test set only; one that stands in a test set as well is rejected from train and valid,
    and one in valid from train, so that nothing is trained on what it is tested with.
    """
    y_true = molecules.y_true.copy()
    rejected: dict[int, str] = {}
    for group in duplicates(molecules.smiles):
        rejected |= _across_parts(molecules, group)
        left = [i for i in group if i not in rejected]
        for same in _by_part(molecules, left):
            first = int(molecules.rows[same[0]])
            y_true[same[0]] = _joined(y_true[same], molecules.dataset.task == "classification")
            contradiction = bool(np.isnan(y_true[same[0]]).all())
            for i in same if contradiction else same[1:]:
                rejected[i] = (
                    f"labels of one structure contradict (row {first})"
                    if contradiction
                    else (f"same structure as row {first}, which stands for it")
                )
    keep = [i for i in range(len(y_true)) if i not in rejected]
    more = [Rejection(int(molecules.rows[i]), molecules.smiles[i], why) for i, why in rejected.items()]
    return replace(molecules, y_true=y_true).take(keep, more)


def _joined(labels: np.ndarray, classes: bool) -> np.ndarray:
    """(rows, K) labels of one structure to (K,)."""
    count = (~np.isnan(labels)).sum(axis=0)
    mean = np.where(count, np.nansum(labels, axis=0) / np.maximum(count, 1), np.nan)
    return np.where((mean == 0) | (mean == 1), mean, np.nan) if classes else mean


def _by_part(molecules: Molecules, group: list[int]) -> list[list[int]]:
    if molecules.parts is None:
        return [group]
    parts: dict[str, list[int]] = defaultdict(list)
    for i in group:
        parts[molecules.parts[i]].append(i)
    return list(parts.values())


def _across_parts(molecules: Molecules, group: list[int]) -> dict[int, str]:
    """Rows of one structure that a later part (train, valid, test) has too."""
    if molecules.parts is None:
        return {}
    order = [
        ("train", "valid").index(part) if part in ("train", "valid") else 2
        for part in (molecules.parts[i] for i in group)
    ]
    last = max(order)
    keeper = group[order.index(last)]
    reason = f"same structure as row {int(molecules.rows[keeper])} in {molecules.parts[keeper]}"
    return {i: reason for i, rank in zip(group, order, strict=True) if rank < last}
