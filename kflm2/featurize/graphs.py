"""Molecular graphs: atoms and bonds as one-hot features, all molecules of a dataset packed in flat arrays."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import rdkit
from rdkit import Chem
from rdkit.Chem.rdchem import BondStereo, BondType, ChiralType, HybridizationType

from kflm2.data.molecules import parse_smiles
from kflm2.featurize.cache import cached_arrays
from kflm2.featurize.ragged import Ragged, ragged_index
from kflm2.files import sha256_texts

# The elements of the original featurization. A value that a table does not list gets the last bin, 'other'.
ELEMENTS = (
    "C N O S F Si P Cl Br Mg Na Ca Fe As Al I B V K Tl Yb Sb Sn Ag Pd Co Se Ti Zn H Li Ge Cu Au Ni Cd In Mn Zr Cr Pt"
    " Hg Pb"
).split()


def _bins(*values: object) -> dict:
    return {value: index for index, value in enumerate(values)}


_ELEMENT = _bins(*(Chem.GetPeriodicTable().GetAtomicNumber(symbol) for symbol in ELEMENTS))
_DEGREE = _bins(*range(7))
_HYBRIDIZATION = _bins(
    HybridizationType.SP, HybridizationType.SP2, HybridizationType.SP3, HybridizationType.SP3D, HybridizationType.SP3D2
)
# All hydrogens of an atom. The original featurization also has the implicit valence, which differs between CO and
# [CH3][OH]: hydrogens in brackets are not implicit.
_HYDROGENS = _bins(*range(5))
_NEUTRAL = 128  # added to charges, since features are collected as unsigned bytes
_CHARGE = _bins(*(_NEUTRAL + charge for charge in (-2, -1, 0, 1, 2)))
# CIP labels, not RDKit's clockwise and counter-clockwise tags, which depend on the order of atoms in the SMILES
_CHIRALITY = _bins(0, 1, 2)
_CIP = {"R": 1, "S": 2}
_BOND = _bins(BondType.SINGLE, BondType.DOUBLE, BondType.TRIPLE, BondType.AROMATIC)
_STEREO = _bins(BondStereo.STEREONONE, BondStereo.STEREOE, BondStereo.STEREOZ)
_OTHER = 255

# Bond types by bond order: reading the order from RDKit is three times faster than reading the type. Dative bonds have
# order 1 too, but they involve a metal or boron; in molecules with such atoms the type is read.
_BY_ORDER = {1.0: BondType.SINGLE, 2.0: BondType.DOUBLE, 3.0: BondType.TRIPLE, 1.5: BondType.AROMATIC}
_NO_DATIVE = {1, 6, 7, 8, 9, 14, 15, 16, 17, 33, 34, 35, 53}

_ATOM_TABLES = (_ELEMENT, _DEGREE, _HYBRIDIZATION, _HYDROGENS, _CHARGE, _CHIRALITY)
_BOND_TABLES = (_BOND, _STEREO)


def _names(prefix: str, values: Iterable[object]) -> list[str]:
    return [f"{prefix} {value}" for value in (*values, "other")]


ATOM_FEATURES: tuple[str, ...] = (
    *_names("element", ELEMENTS),
    *_names("degree", _DEGREE),
    *_names("hybridization", _HYBRIDIZATION),
    *_names("hydrogens", _HYDROGENS),
    *_names("charge", (-2, -1, 0, 1, 2)),
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


VERSION = 2
"""Increase it when the meaning of the features changes, so that older ones in the cache are not read."""


@dataclass(frozen=True)
class GraphBatch:
    """Graphs of B molecules as one disconnected graph of N atoms and E directed bonds."""

    x: np.ndarray
    """(N, F) float32 atom features."""
    edge_index: np.ndarray
    """(2, E) int64: from atom, to atom."""
    edge_attr: np.ndarray
    """(E, G) float32 bond features."""
    node_ptr: np.ndarray
    """(B + 1,) int64: the atoms of molecule i are node_ptr[i]:node_ptr[i + 1]."""


@dataclass(frozen=True)
class Graphs:
    """Graphs of n molecules in flat arrays; one-hot features are stored as bytes."""

    atoms: Ragged
    """values (N, F) uint8."""
    bonds: Ragged
    """values (E, 2) int32: from atom, to atom, numbered within the molecule; each bond is stored in both directions."""
    bond_features: np.ndarray
    """(E, G) uint8, in the order of bonds.values."""

    def __len__(self) -> int:
        return len(self.atoms)

    def batch(self, rows: np.ndarray) -> GraphBatch:
        """Graphs of selected molecules, joined into one."""
        atoms = self.atoms.take(rows)
        index, edge_ptr = ragged_index(self.bonds.ptr, rows)
        offsets = np.repeat(atoms.ptr[:-1], np.diff(edge_ptr))
        return GraphBatch(
            x=atoms.values.astype(np.float32),
            edge_index=self.bonds.values[index].T + offsets,
            edge_attr=self.bond_features[index].astype(np.float32),
            node_ptr=atoms.ptr,
        )

    def subset(self, rows: np.ndarray) -> "Graphs":
        """Graphs of selected molecules."""
        return Graphs(
            self.atoms.take(rows), self.bonds.take(rows), self.bond_features[ragged_index(self.bonds.ptr, rows)[0]]
        )


def build_graphs(smiles: Sequence[str]) -> Graphs:
    """Graphs of valid SMILES, heavy atoms as nodes, read from the cache or computed.

    Args:
        smiles: n SMILES; the cache is used for the same SMILES in the same order.

    Returns:
        n graphs. A molecule of one atom has no bonds.

    Raises:
        MoleculeError: RDKit cannot read a SMILES.
    """
    parts = {"graphs": VERSION, "rdkit": rdkit.__version__, "smiles": sha256_texts(smiles)}

    def compute() -> dict[str, np.ndarray]:
        graphs = graphs_of(parse_smiles(text) for text in smiles)
        return {
            "atoms": graphs.atoms.values,
            "node_ptr": graphs.atoms.ptr,
            "bonds": graphs.bonds.values,
            "edge_ptr": graphs.bonds.ptr,
            "bond_features": graphs.bond_features,
        }

    arrays = cached_arrays("graphs", parts, compute)
    return Graphs(
        atoms=Ragged(arrays["atoms"], arrays["node_ptr"]),
        bonds=Ragged(arrays["bonds"], arrays["edge_ptr"]),
        bond_features=arrays["bond_features"],
    )


def graphs_of(mols: Iterable[Chem.Mol]) -> Graphs:
    """Graphs of RDKit molecules; see build_graphs."""
    # Features are collected as small integers and mapped to bins at the end, in numpy. GetAtomWithIdx is twice as fast
    # as GetAtoms, and RDKit's enumerations, which are slow to read, are read only where they can matter.
    atoms: list[int] = []
    bonds: list[int] = []
    ends: list[int] = []
    node_ptr, edge_ptr = [0], [0]
    for mol in mols:
        count = mol.GetNumAtoms()
        no_dative = True
        for atom in map(mol.GetAtomWithIdx, range(count)):
            number = atom.GetAtomicNum()
            degree = atom.GetDegree()
            no_dative &= number in _NO_DATIVE
            atoms += (
                number,
                degree,
                atom.GetHybridization(),
                atom.GetTotalNumHs(),
                atom.GetFormalCharge() + _NEUTRAL,
                # a carbon with two neighbours or fewer is no stereocentre
                _chirality(atom) if degree > 2 or number != 6 else 0,
                atom.GetIsAromatic(),
                atom.IsInRing(),
            )
        for bond in map(mol.GetBondWithIdx, range(mol.GetNumBonds())):
            bond_type = _BY_ORDER.get(bond.GetBondTypeAsDouble(), _OTHER) if no_dative else bond.GetBondType()
            ends += (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())
            bonds += (
                bond_type,
                bond.GetStereo() if bond_type == BondType.DOUBLE else BondStereo.STEREONONE,
                bond.GetIsConjugated(),
                bond.IsInRing(),
            )
        node_ptr.append(node_ptr[-1] + count)
        edge_ptr.append(2 * (len(ends) // 2))
    pairs = np.array(ends, dtype=np.int32).reshape(-1, 2)
    return Graphs(
        atoms=Ragged(_one_hot(atoms, _ATOM_TABLES), np.array(node_ptr)),
        bonds=Ragged(np.stack([pairs, pairs[:, ::-1]], axis=1).reshape(-1, 2), np.array(edge_ptr)),
        bond_features=np.repeat(_one_hot(bonds, _BOND_TABLES), 2, axis=0),
    )


def _chirality(atom: Chem.Atom) -> int:
    if atom.GetChiralTag() == ChiralType.CHI_UNSPECIFIED:
        return 0
    return _CIP.get(atom.GetProp("_CIPCode"), _OTHER) if atom.HasProp("_CIPCode") else _OTHER


def _one_hot(values: list[int], tables: tuple[dict, ...]) -> np.ndarray:
    """One-hot features as bytes.

    Args:
        values: for each atom or bond, one value per table and then two 0/1 flags.
        tables: value -> bin.

    Returns:
        (rows, bins of all tables + 2) uint8; in each row one bin of each table is 1.
    """
    columns = np.frombuffer(bytes(values), dtype=np.uint8).reshape(-1, len(tables) + 2)
    offsets = np.cumsum([0, *(len(table) + 1 for table in tables)])
    out = np.zeros((len(columns), offsets[-1] + 2), dtype=np.uint8)
    rows = np.arange(len(columns))
    for column, (table, offset) in enumerate(zip(tables, offsets[:-1], strict=True)):
        bins = np.full(256, len(table))  # values that are not listed get the last bin
        bins[[int(value) for value in table]] = range(len(table))
        out[rows, offset + bins[columns[:, column]]] = 1
    out[:, offsets[-1] :] = columns[:, len(tables) :]
    return out
