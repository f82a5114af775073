"""Molecular graphs: atoms and bonds as one-hot features, a whole dataset packed in flat arrays."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from rdkit import Chem
from rdkit.Chem.rdchem import BondStereo, BondType, ChiralType, HybridizationType, ValenceType

from kflm2.data.molecules import parse_smiles
from kflm2.featurize.ragged import Ragged, ragged_index

# The elements of the original featurization. Whatever a table does not list falls into its 'other' bin, its last.
ELEMENTS = (
    "C N O S F Si P Cl Br Mg Na Ca Fe As Al I B V K Tl Yb Sb Sn Ag Pd Co Se Ti Zn H Li Ge Cu Au Ni Cd In Mn Zr Cr Pt"
    " Hg Pb"
).split()


def _bins(*values: object) -> dict:
    return {value: bin_ for bin_, value in enumerate(values)}


_ELEMENT = _bins(*(Chem.GetPeriodicTable().GetAtomicNumber(symbol) for symbol in ELEMENTS))
_DEGREE = _bins(*range(7))
_VALENCE = _bins(*range(7))
_HYBRIDIZATION = _bins(
    HybridizationType.SP, HybridizationType.SP2, HybridizationType.SP3, HybridizationType.SP3D, HybridizationType.SP3D2
)
_HYDROGENS = _bins(*range(5))
_CHARGE = _bins(-2, -1, 0, 1, 2)
# CIP labels, not RDKit's clockwise and counter-clockwise tags: those change when the atoms are numbered anew
_CHIRALITY = _bins("", "R", "S")
_BOND = _bins(BondType.SINGLE, BondType.DOUBLE, BondType.TRIPLE, BondType.AROMATIC)
_STEREO = _bins(BondStereo.STEREONONE, BondStereo.STEREOE, BondStereo.STEREOZ)

_ATOM_TABLES = (_ELEMENT, _DEGREE, _VALENCE, _HYBRIDIZATION, _HYDROGENS, _CHARGE, _CHIRALITY)
_BOND_TABLES = (_BOND, _STEREO)


def _names(title: str, shown: Iterable[object]) -> list[str]:
    return [f"{title} {value}" for value in (*shown, "other")]


ATOM_FEATURES: tuple[str, ...] = (
    *_names("element", ELEMENTS),
    *_names("degree", _DEGREE),
    *_names("implicit valence", _VALENCE),
    *_names("hybridization", _HYBRIDIZATION),
    *_names("hydrogens", _HYDROGENS),
    *_names("charge", _CHARGE),
    *_names("chirality", ("none", "R", "S")),
    "aromatic",
    "in ring",
)
BOND_FEATURES: tuple[str, ...] = (
    *_names("bond", _BOND),
    *_names("stereo", ("none", "E", "Z")),
    "conjugated",
    "in ring",
)


def _offsets(tables: tuple[dict, ...]) -> np.ndarray:
    return np.cumsum([0, *(len(table) + 1 for table in tables)])


_ATOM_OFFSETS = _offsets(_ATOM_TABLES)
_BOND_OFFSETS = _offsets(_BOND_TABLES)


@dataclass(frozen=True)
class GraphBatch:
    """Graphs of B molecules as one disconnected graph of N atoms and E directed bonds."""

    x: np.ndarray
    """(N, F) float32 atom features."""
    edge_index: np.ndarray
    """(2, E) int64, from atom, to atom."""
    edge_attr: np.ndarray
    """(E, G) float32 bond features."""
    node_ptr: np.ndarray
    """(B + 1,) int64, the atoms of molecule i are node_ptr[i]:node_ptr[i + 1]."""


@dataclass(frozen=True)
class Graphs:
    """Graphs of n molecules in flat arrays; one-hot features rest as bytes."""

    atoms: Ragged
    """values (N, F) uint8."""
    bonds: Ragged
    """values (E, 2) int32: from, to, numbered within the molecule; each bond stands in both directions."""
    bond_features: np.ndarray
    """(E, G) uint8, beside bonds.values."""

    def __len__(self) -> int:
        return len(self.atoms)

    def batch(self, rows: np.ndarray) -> GraphBatch:
        """Cut the graphs of some molecules out as one."""
        atoms = self.atoms.take(rows)
        index, edge_ptr = ragged_index(self.bonds.ptr, rows)
        shift = np.repeat(atoms.ptr[:-1], np.diff(edge_ptr))
        return GraphBatch(
            x=atoms.values.astype(np.float32),
            edge_index=self.bonds.values[index].T + shift,
            edge_attr=self.bond_features[index].astype(np.float32),
            node_ptr=atoms.ptr,
        )


def build_graphs(smiles: Iterable[str]) -> Graphs:
    """Graphs of valid SMILES, heavy atoms as nodes.

    Args:
        smiles: n SMILES.

    Returns:
        n graphs. A molecule of one atom has no bonds.

    Raises:
        MoleculeError: RDKit cannot read one of them.
    """
    return graphs_of(parse_smiles(text) for text in smiles)


def graphs_of(mols: Iterable[Chem.Mol]) -> Graphs:
    """Graphs of RDKit molecules; see build_graphs."""
    atoms: list[tuple] = []
    bonds: list[tuple] = []
    node_ptr, edge_ptr = [0], [0]
    for mol in mols:
        # one tuple an atom and one C++ call a feature; all the one-hot work is done at once, in numpy, at the end
        atoms += [
            (
                _ELEMENT.get(atom.GetAtomicNum(), len(_ELEMENT)),
                _DEGREE.get(atom.GetDegree(), len(_DEGREE)),
                _VALENCE.get(atom.GetValence(ValenceType.IMPLICIT), len(_VALENCE)),
                _HYBRIDIZATION.get(atom.GetHybridization(), len(_HYBRIDIZATION)),
                _HYDROGENS.get(atom.GetTotalNumHs(), len(_HYDROGENS)),
                _CHARGE.get(atom.GetFormalCharge(), len(_CHARGE)),
                _chirality(atom) if atom.GetChiralTag() != ChiralType.CHI_UNSPECIFIED else 0,
                atom.GetIsAromatic(),
                atom.IsInRing(),
            )
            for atom in mol.GetAtoms()
        ]
        bonds += [
            (
                bond.GetBeginAtomIdx(),
                bond.GetEndAtomIdx(),
                _BOND.get(bond.GetBondType(), len(_BOND)),
                _STEREO.get(bond.GetStereo(), len(_STEREO)),
                bond.GetIsConjugated(),
                bond.IsInRing(),
            )
            for bond in mol.GetBonds()
        ]
        node_ptr.append(len(atoms))
        edge_ptr.append(2 * len(bonds))
    atom_codes = np.array(atoms, dtype=np.int64).reshape(-1, len(_ATOM_TABLES) + 2)
    bond_codes = np.array(bonds, dtype=np.int64).reshape(-1, len(_BOND_TABLES) + 4)
    ends = bond_codes[:, :2].astype(np.int32)
    both_ways = np.stack([ends, ends[:, ::-1]], axis=1).reshape(-1, 2)
    return Graphs(
        atoms=Ragged(_one_hot(atom_codes, _ATOM_OFFSETS), np.array(node_ptr)),
        bonds=Ragged(both_ways, np.array(edge_ptr)),
        bond_features=np.repeat(_one_hot(bond_codes[:, 2:], _BOND_OFFSETS), 2, axis=0),
    )


def _chirality(atom: Chem.Atom) -> int:
    label = atom.GetProp("_CIPCode") if atom.HasProp("_CIPCode") else "other"
    return _CHIRALITY.get(label, len(_CHIRALITY))


def _one_hot(codes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Codes (n, len(offsets) - 1 + flags) to bytes: one 1 in each table's bins, then the 0/1 flags as they are."""
    tables = len(offsets) - 1
    out = np.zeros((len(codes), offsets[-1] + codes.shape[1] - tables), dtype=np.uint8)
    out[np.arange(len(codes))[:, None], codes[:, :tables] + offsets[:-1]] = 1
    out[:, offsets[-1] :] = codes[:, tables:]
    return out
