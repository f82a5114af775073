"""Mean features of atoms and bonds, from which a graph is explained."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kflm2.data.molecules import parse_smiles
from kflm2.featurize.graphs import graphs_of

_AVERAGED = 1000
"""Largest number of molecules, about, whose atoms and bonds are averaged; more take seconds and change little."""


@dataclass(frozen=True)
class AverageAtom:
    """Mean features of the atoms, and of the bonds, of the training molecules."""

    atom: np.ndarray
    """(F,)"""
    bond: np.ndarray
    """(G,); 0 if there is no bond."""

    @classmethod
    def of(cls, smiles: Sequence[str]) -> "AverageAtom":
        """Averages over the atoms of valid SMILES; of many, over about 1,000 of them, evenly spaced."""
        graphs = graphs_of(parse_smiles(text) for text in smiles[:: max(1, len(smiles) // _AVERAGED)])
        bonds = max(1, len(graphs.bond_features))
        return cls(graphs.atoms.values.mean(axis=0), graphs.bond_features.sum(axis=0) / bonds)
