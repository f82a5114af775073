"""One molecule has one graph and one row of descriptors, however its SMILES is written."""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from kflm2.data.molecules import parse_smiles
from kflm2.data.structures import standard_smiles
from kflm2.featurize.descriptors import descriptor_rows, rdkit_names
from kflm2.featurize.graphs import build_graphs

ROOT = Path(__file__).parents[3]
PECULIAR = (
    "CO",
    "C",
    "[2H]OC",
    "C[N+](C)(C)CC(=O)[O-]",
    "C[C@H](N)C(=O)O",
    "F/C=C\\Cl",
    "C[S@](=O)c1ccccc1",
    "O=[N+]([O-])c1ccc2[nH]ccc2c1",
    "C1CC[C@H]2CCCC[C@@H]2C1",
    "[Na+].[Cl-]",
    "[CH3:7][OH:2]",
    "CC1(C)SC2C(NC(=O)Cc3ccccc3)C(=O)N2C1C(=O)O",
    "C/N=C/c1ccccc1",
    "[O-][n+]1ccccc1",
    "FB(F)c1ccsc1",
    "Cc1ccc(S(=O)(=O)[O-])cc1.Cc1ccc(S(=O)(=O)[OH+][Pd-2]23[N+](C)(C)CC[N+]2(C)CC[N+]3(C)C)cc1",
    "CCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCC",
)


def _molecules() -> list[str]:
    with open(ROOT / "dataset" / "SAMPL.csv", encoding="utf-8", newline="") as file:
        measured = [row["smiles"] for row in csv.DictReader(file)]
    with open(ROOT / "dataset" / "zinc_sample.smi", encoding="utf-8") as file:
        druglike = [line.split()[0] for line in file]
    return [*PECULIAR, *measured[::9], *druglike[::60]]


def _writings(smiles: str, rng: np.random.Generator) -> Iterator[str]:
    """The same molecule with its atoms in random order, in brackets, kekulized, and with its hydrogens as atoms."""
    mol = Chem.MolFromSmiles(smiles)
    for options in ({}, {"allHsExplicit": True}, {"kekuleSmiles": True}, {"kekuleSmiles": True, "allHsExplicit": True}):
        renumbered = Chem.RenumberAtoms(mol, rng.permutation(mol.GetNumAtoms()).tolist())
        yield Chem.MolToSmiles(renumbered, canonical=False, **options)
    with_hydrogens = Chem.AddHs(mol)
    order = rng.permutation(with_hydrogens.GetNumAtoms()).tolist()
    yield Chem.MolToSmiles(Chem.RenumberAtoms(with_hydrogens, order), canonical=False)


def _graph(smiles: str) -> tuple[Counter[bytes], Counter[tuple[bytes, bytes, bytes]]]:
    """Atoms, and bonds with the atoms at their ends, in no order."""
    graphs = build_graphs([smiles])
    atoms = graphs.atoms.values
    bonds = zip(graphs.bonds.values, graphs.bond_features, strict=True)
    ends = Counter((atoms[a].tobytes(), atoms[b].tobytes(), features.tobytes()) for (a, b), features in bonds)
    return Counter(row.tobytes() for row in atoms), ends


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    rng = np.random.default_rng(0)
    return [(smiles, text) for smiles in _molecules() for text in _writings(smiles, rng)]


def test_every_writing_has_the_same_graph(pairs: list[tuple[str, str]]) -> None:
    assert len(pairs) > 800
    assert sum("[OH]" in text for _, text in pairs) > 20
    assert sum("[H]" in text for _, text in pairs) > 100
    for smiles, text in pairs:
        assert _graph(text) == _graph(smiles), text


def test_every_writing_has_the_same_descriptors(pairs: list[tuple[str, str]]) -> None:
    # the same molecules are not computed again for each of their writings
    some = pairs[: 5 * len(PECULIAR)] + pairs[5 * len(PECULIAR) :: 3]
    expected, values = (descriptor_rows("rdkit+morgan", list(texts)) for texts in zip(*some, strict=True))
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-5)


def test_every_writing_has_the_same_canonical_smiles(pairs: list[tuple[str, str]]) -> None:
    """The LLM reads it by default, and so cannot tell writings apart."""
    for smiles, text in pairs:
        canonical = standard_smiles(text, "canonical")
        assert canonical == standard_smiles(smiles, "canonical")
        assert canonical == standard_smiles(canonical, "canonical")
        parse_smiles(canonical)
    assert standard_smiles("[CH3:7][OH:2]", "canonical") == "CO"


def test_what_is_too_large_for_exact_arithmetic_is_missing() -> None:
    """Ipc of a long chain differs between two orders of its atoms by more than its size."""
    names = rdkit_names()
    small, large = descriptor_rows("rdkit", ["CCO", "C" * 90])
    for name in ("Ipc", "AvgIpc"):
        assert np.isfinite(small[names.index(name)])
        assert np.isnan(large[names.index(name)])
