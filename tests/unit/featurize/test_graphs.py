"""Graphs compared with the molecules in RDKit."""

import numpy as np
import pytest
from rdkit import Chem

from kflm2.errors import MoleculeError
from kflm2.featurize.graphs import ATOM_FEATURES, BOND_FEATURES, build_graphs, graphs_of

SMILES = [
    "CC(=O)Oc1ccccc1C(=O)O",
    "C",
    "C#N",
    "[Na+].[Cl-]",
    "F/C=C\\Cl",
    "C[C@H](N)C(=O)O",
    "O=S(=O)(O)c1ccc2[nH]ccc2c1",
]


def _active(row: np.ndarray, names: tuple[str, ...]) -> set[str]:
    return {name for name, bit in zip(names, row, strict=True) if bit}


def test_bonds_are_the_adjacency_matrix_in_both_directions() -> None:
    graphs = build_graphs(SMILES)
    for i, smiles in enumerate(SMILES):
        mol = Chem.MolFromSmiles(smiles)
        graph = graphs.batch(np.array([i]))
        dense = np.zeros((mol.GetNumAtoms(), mol.GetNumAtoms()))
        for start, end in graph.edge_index.T:
            dense[start, end] += 1
        np.testing.assert_array_equal(dense, Chem.GetAdjacencyMatrix(mol))


def test_both_directions_of_a_bond_have_the_same_features() -> None:
    graph = build_graphs(["C=CC#N"]).batch(np.array([0]))
    by_pair = {(int(a), int(b)): row for (a, b), row in zip(graph.edge_index.T, graph.edge_attr, strict=True)}
    for (a, b), row in by_pair.items():
        np.testing.assert_array_equal(row, by_pair[b, a])
    kinds = [
        _active(by_pair[i, i + 1], BOND_FEATURES) & {"bond SINGLE", "bond DOUBLE", "bond TRIPLE"} for i in range(3)
    ]
    assert kinds == [{"bond DOUBLE"}, {"bond SINGLE"}, {"bond TRIPLE"}]


def test_atom_features_equal_rdkits_properties() -> None:
    graphs = build_graphs(SMILES)
    for i, smiles in enumerate(SMILES):
        x = graphs.batch(np.array([i])).x
        for atom, row in zip(Chem.MolFromSmiles(smiles).GetAtoms(), x, strict=True):
            expected = {
                f"element {atom.GetSymbol()}",
                f"degree {atom.GetDegree()}",
                f"hydrogens {atom.GetTotalNumHs()}",
                f"charge {atom.GetFormalCharge()}",
            }
            active = _active(row, ATOM_FEATURES)
            assert expected <= active
            assert ("aromatic" in active, "in ring" in active) == (atom.GetIsAromatic(), atom.IsInRing())
            # one bin of each of the six tables, and the two flags
            assert len(active - {"aromatic", "in ring"}) == 6


def test_values_that_no_table_lists_are_other() -> None:
    x = build_graphs(["[U+3]", "F[S](F)(F)(F)(F)F", "[CH4]"]).batch(np.array([0, 1, 2])).x
    assert {"element other", "charge other", "hybridization other"} <= _active(x[0], ATOM_FEATURES)
    assert "degree 6" in _active(x[2], ATOM_FEATURES)
    assert not {name for name in _active(x[-1], ATOM_FEATURES) if name.endswith("other") and "hybrid" not in name}
    ylide = Chem.MolFromSmiles("CC->[Fe]")
    bond = graphs_of([ylide]).batch(np.array([0]))
    assert "bond other" in _active(bond.edge_attr[-1], BOND_FEATURES)


def test_a_molecule_of_one_atom_has_no_bonds() -> None:
    graph = build_graphs(["C", "CC", "O"]).batch(np.array([0, 2]))
    assert graph.x.shape == (2, len(ATOM_FEATURES))
    assert graph.edge_index.shape == (2, 0)
    assert graph.edge_attr.shape == (0, len(BOND_FEATURES))
    assert graph.node_ptr.tolist() == [0, 1, 2]


def test_a_batch_contains_its_molecules_one_after_another() -> None:
    graphs = build_graphs(SMILES)
    rows = np.array([5, 0, 1, 5])
    batch = graphs.batch(rows)
    start = 0
    edge_start = 0
    for position, row in enumerate(rows):
        single = graphs.batch(np.array([row]))
        assert batch.node_ptr[position] == start
        np.testing.assert_array_equal(batch.x[start : start + len(single.x)], single.x)
        edge_end = edge_start + single.edge_index.shape[1]
        np.testing.assert_array_equal(batch.edge_index[:, edge_start:edge_end], single.edge_index + start)
        np.testing.assert_array_equal(batch.edge_attr[edge_start:edge_end], single.edge_attr)
        start += len(single.x)
        edge_start = edge_end
    assert batch.node_ptr[-1] == start == len(batch.x)
    assert batch.edge_index.shape[1] == edge_start


@pytest.mark.parametrize("smiles", ["C[C@H](N)C(=O)O", "F/C=C\\Cl", "C[C@@H]1CC[C@H](O)CC1", "CC(=O)Oc1ccccc1C(=O)O"])
def test_renumbering_the_atoms_only_permutes_the_rows(smiles: str) -> None:
    mol = Chem.MolFromSmiles(smiles)
    order = np.random.default_rng(3).permutation(mol.GetNumAtoms())
    renumbered = Chem.RenumberAtoms(mol, order.tolist())
    graph, permuted = (graphs_of([member]).batch(np.array([0])) for member in (mol, renumbered))
    np.testing.assert_array_equal(permuted.x, graph.x[order])
    new_index = np.argsort(order)
    bonds, permuted_bonds = (
        {(int(a), int(b)): row.tolist() for (a, b), row in zip(edge_index.T, edge_attr, strict=True)}
        for edge_index, edge_attr in (
            (new_index[graph.edge_index], graph.edge_attr),
            (permuted.edge_index, permuted.edge_attr),
        )
    )
    assert bonds == permuted_bonds


@pytest.mark.parametrize("smiles", ["C[C@H](N)C(=O)O", "F/C=C\\Cl", "C[C@@H]1CC[C@H](O)CC1", "C[S@](=O)c1ccccc1"])
def test_another_smiles_of_the_molecule_only_permutes_the_rows(smiles: str) -> None:
    """RDKit's clockwise and counter-clockwise tags depend on the SMILES; CIP labels depend on the molecule only."""
    mol = Chem.MolFromSmiles(smiles)
    random_smiles = {Chem.MolToSmiles(mol, doRandom=True) for _ in range(30)}
    assert len(random_smiles) > 3
    rows = {
        tuple(sorted(map(bytes, graph.atoms.values)) + sorted(map(bytes, graph.bond_features)))
        for graph in (build_graphs([text]) for text in random_smiles)
    }
    assert len(rows) == 1


def test_mirror_images_and_double_bond_isomers_differ() -> None:
    for pair in (("C[C@H](N)O", "C[C@@H](N)O"), ("F/C=C/Cl", "F/C=C\\Cl")):
        first, second = (build_graphs([smiles]).batch(np.array([0])) for smiles in pair)
        assert not (np.array_equal(first.x, second.x) and np.array_equal(first.edge_attr, second.edge_attr))


def test_an_invalid_smiles_is_an_error_not_an_empty_graph() -> None:
    with pytest.raises(MoleculeError, match="cannot read"):
        build_graphs(["CC", "C(C"])
