"""What each molecule of a table is: structure, size, mixture, undefined stereo."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import rdkit
from rdkit import Chem
from tqdm import tqdm

from kflm2.data.molecules import parse_smiles
from kflm2.data.structures import identity
from kflm2.files import keep_json, sha256_texts


@dataclass(frozen=True)
class MoleculeFacts:
    """What each molecule of a table is."""

    structure: list[str]
    """(n,) InChIKey, or canonical SMILES where InChI has none."""
    canonical: list[str]
    """(n,) canonical SMILES."""
    atoms: np.ndarray
    """(n,) heavy atoms."""
    mixture: np.ndarray
    """(n,) whether it is of several fragments: a salt or a mixture."""
    undefined: np.ndarray
    """(n,) whether a stereo centre or double bond is left undefined."""

    @staticmethod
    def of(smiles: Sequence[str]) -> "MoleculeFacts":
        """Compute, or read from the cache, the facts of valid SMILES."""

        rows = keep_json(
            "facts",
            {"rdkit": rdkit.__version__, "smiles": sha256_texts(smiles)},
            lambda: [_fact(text) for text in tqdm(smiles, desc="audit", unit="mol", leave=False)],
        )
        structure, canonical, atoms, mixture, undefined = zip(*rows, strict=True)
        return MoleculeFacts(list(structure), list(canonical), np.array(atoms), np.array(mixture), np.array(undefined))

    def groups(self) -> list[np.ndarray]:
        """Indices of the molecules of one structure, for every structure that stands more than once."""
        found = pd.Series(range(len(self.structure))).groupby(self.structure, sort=False)
        return [rows.to_numpy() for _, rows in found if len(rows) > 1]


def _fact(smiles: str) -> tuple[str, str, int, bool, bool]:
    mol = parse_smiles(smiles)
    undefined = any(info.specified == Chem.StereoSpecified.Unspecified for info in Chem.FindPotentialStereo(mol))
    return identity(smiles), Chem.MolToSmiles(mol), mol.GetNumAtoms(), "." in smiles, undefined
