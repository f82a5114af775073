"""Facts about each molecule of a table: structure, size, mixture, undefined stereo."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import rdkit
from rdkit import Chem

from kflm2.data.molecules import parse_smiles
from kflm2.data.structures import identity
from kflm2.files import cached_json, sha256_texts
from kflm2.progress import Progress


@dataclass(frozen=True)
class MoleculeFacts:
    """Facts about each molecule of a table."""

    structure: list[str]
    """(n,) InChIKey, or canonical SMILES if InChI gives none."""
    canonical: list[str]
    """(n,) canonical SMILES."""
    atoms: np.ndarray
    """(n,) number of heavy atoms."""
    mixture: np.ndarray
    """(n,) whether it has several fragments: a salt or a mixture."""
    undefined: np.ndarray
    """(n,) whether a stereo centre or double bond is undefined."""

    @staticmethod
    def of(smiles: Sequence[str]) -> "MoleculeFacts":
        """Facts about valid SMILES, read from the cache or computed."""

        rows = cached_json(
            "facts",
            {"rdkit": rdkit.__version__, "smiles": sha256_texts(smiles)},
            lambda: [_fact(text) for text in Progress(smiles, desc="audit", unit="mol", leave=False)],
        )
        structure, canonical, atoms, mixture, undefined = zip(*rows, strict=True)
        return MoleculeFacts(list(structure), list(canonical), np.array(atoms), np.array(mixture), np.array(undefined))

    def groups(self) -> list[np.ndarray]:
        """Indices of the molecules of each structure that occurs more than once."""
        groups = pd.Series(range(len(self.structure))).groupby(self.structure, sort=False)
        return [index.to_numpy() for _, index in groups if len(index) > 1]


def _fact(smiles: str) -> tuple[str, str, int, bool, bool]:
    mol = parse_smiles(smiles)
    undefined = any(info.specified == Chem.StereoSpecified.Unspecified for info in Chem.FindPotentialStereo(mol))
    return identity(smiles), Chem.MolToSmiles(mol), mol.GetNumAtoms(), "." in smiles, undefined
