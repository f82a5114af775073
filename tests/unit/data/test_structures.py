"""Structures independent of their SMILES: identity, standard form, merged duplicates, and every row counted."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rdkit import Chem

from kflm2.data import structures
from kflm2.data.datasets import Dataset, File, Task, locate
from kflm2.data.molecules import Molecules
from kflm2.data.reading import read_table
from kflm2.data.structures import (
    deduplicate,
    degree_counts,
    duplicates,
    identity,
    skeletons,
    standard_smiles,
    standardize,
)
from kflm2.errors import DataError, MoleculeError


def _molecules(
    folder: Path, rows: list[tuple[str, ...]], task: Task = "regression", parts: list[str] | None = None
) -> Molecules:
    """A table of rows (SMILES, targets...), '' for a missing label."""
    count = len(rows[0]) - 1
    names = [f"y{i}" for i in range(count)]
    lines = [",".join(["smiles", *names, "part"])]
    lines += [",".join([*row, part]) for row, part in zip(rows, parts or [""] * len(rows), strict=True)]
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    dataset = Dataset("table", (File(folder / "table.csv"),), tuple(names), task=task)
    return read_table(dataset, "part" if parts else None)


def test_identity_depends_on_the_structure_not_on_the_smiles() -> None:
    mol = Chem.MolFromSmiles("C[C@H](N)C(=O)O")
    variants = {Chem.MolToSmiles(mol, doRandom=True, canonical=False) for _ in range(20)}
    assert len(variants) > 5
    assert len({identity(text) for text in variants}) == 1
    assert identity("C[C@H](N)C(=O)O") != identity("C[C@@H](N)C(=O)O") != identity("CC(N)C(=O)O")
    assert identity("CC(=O)C") != identity("CCC=O")


def test_a_molecule_without_an_inchikey_is_identified_by_its_canonical_smiles() -> None:
    assert identity("*CO") == identity("OC*") == Chem.MolToSmiles(Chem.MolFromSmiles("*CO"))
    assert identity("*CO") != identity("*CN")
    assert duplicates(["*CO", "*CN", "CC", "OC*"]) == [[0, 3]]


@pytest.mark.parametrize(
    ("smiles", "parent"),
    [
        ("CC(=O)[O-].[Na+]", "CC(=O)O"),
        ("C[NH3+].[Cl-]", "CN"),
        ("OCC", "CCO"),
        ("c1ccccc1.O", "c1ccccc1"),
        ("C[N+](=O)[O-]", "C[N+](=O)[O-]"),
        ("C[N+](C)(C)C.[Br-]", "C[N+](C)(C)C"),
        # the acid is the larger fragment but inorganic
        ("CN.OS(=O)(=O)O", "CN"),
        ("C[C@H](N)C(=O)O.Cl", "C[C@H](N)C(=O)O"),
    ],
)
def test_the_parent_is_the_largest_organic_fragment_neutralized(smiles: str, parent: str) -> None:
    assert standard_smiles(smiles, "parent") == Chem.CanonSmiles(parent)
    assert standard_smiles(smiles, "none") == smiles
    assert standard_smiles(parent, "parent") == Chem.CanonSmiles(parent)


def test_a_skeleton_is_the_same_for_salts_ions_stereoisomers_and_isotopes() -> None:
    alanine = skeletons("CC(N)C(=O)O")
    assert len(alanine) == 1
    for text in (
        "C[C@H](N)C(=O)O",
        "C[C@@H]([NH3+])C([O-])=O",
        "CC(N)C(=O)O[Na]",
        "CC(N)C(=O)[O-].[K+]",
        "CC(N)C(=O)O.Cl",
        "[13CH3]C(N)C(=O)O",
        "[2H]OC(=O)C(C)N",
    ):
        assert skeletons(text) == alanine, text
        assert degree_counts(text) == degree_counts("CC(N)C(=O)O"), text
    assert skeletons("CC(N)C(=O)O.CCO") == alanine | skeletons("CCO")
    assert skeletons("CC(N)C(=O)OC").isdisjoint(alanine)
    assert len(skeletons("[Na+].[Cl-]")) == len(skeletons("*CC")) == 1


def test_molecules_of_a_skeleton_have_the_same_degree_counts() -> None:
    dataset, _ = locate("SAMPL")
    counts: dict[str, set[str]] = {}
    for text in read_table(dataset).smiles:
        (skeleton,) = skeletons(text)
        (count,) = degree_counts(text)
        for other in Chem.MolToRandomSmilesVect(Chem.MolFromSmiles(text), 2, randomSeed=1):
            assert skeletons(other) == {skeleton}
            counts.setdefault(skeleton, {count}).update(degree_counts(other))
    assert all(len(values) == 1 for values in counts.values())
    assert len({value for values in counts.values() for value in values}) > 0.6 * len(counts)


def test_both_tautomers_have_the_same_standard_form() -> None:
    keto, enol = "O=c1cccc[nH]1", "Oc1ccccn1"
    assert standard_smiles(keto, "parent") != standard_smiles(enol, "parent")
    assert standard_smiles(keto, "tautomer") == standard_smiles(enol, "tautomer")
    with pytest.raises(MoleculeError):
        standard_smiles("C(", "parent")


@pytest.mark.parametrize("smiles", ["C[C@H](N)C(=O)O", "CC(C)Cc1ccc([C@H](C)C(=O)O)cc1", "C/C=C/C(C)=O"])
def test_the_tautomer_keeps_stereochemistry(smiles: str) -> None:
    assert standard_smiles(smiles, "tautomer") == Chem.CanonSmiles(smiles)


def test_standard_forms_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    molecules = _molecules(tmp_path, [("CC(=O)[O-].[Na+]", "1"), ("OCC", "2")])
    first = standardize(molecules, "parent")
    assert first.smiles == ["CC(=O)O", "CCO"]
    monkeypatch.delattr(structures, "standard_smiles")
    assert standardize(molecules, "parent").smiles == first.smiles
    with pytest.raises(NameError):
        standardize(molecules, "tautomer")


def test_the_first_row_of_a_structure_gets_the_mean_of_its_labels(tmp_path: Path) -> None:
    rows = [("CCO", "1", "5"), ("CN", "7", "8"), ("OCC", "4", ""), ("C(O)C", "", "6")]
    merged = deduplicate(_molecules(tmp_path, rows))
    assert merged.smiles == ["CCO", "CN"]
    np.testing.assert_array_equal(merged.y_true, [[2.5, 5.5], [7.0, 8.0]])
    assert [(rejection.row, rejection.reason) for rejection in merged.rejected] == [
        (3, "same structure as row 1, which stands for it"),
        (4, "same structure as row 1, which stands for it"),
    ]


def test_rows_of_a_structure_at_other_conditions_are_not_duplicates(tmp_path: Path) -> None:
    lines = [
        "CCO,1,7,A,train",
        "OCC,3,7.0,a,train",
        "CCO,5,4,A,test",
        "CCO,6,,A,train",
        "C(O)C,8,,A,test",
        "CC,9,7,B,train",
    ]
    (tmp_path / "own.csv").write_text("\n".join(["smiles,y,pH,assay,part", *lines]) + "\n")
    dataset = Dataset("own", (File(tmp_path / "own.csv"),), ("y",))
    molecules = read_table(dataset, "part", feature_columns=("pH", "assay"))
    merged = deduplicate(molecules)
    assert merged.rows.tolist() == [1, 3, 5, 6]
    assert merged.y_true[:, 0].tolist() == [2, 5, 8, 9]
    assert merged.covariates is not None
    np.testing.assert_array_equal(merged.covariates[:, 0], [7, 4, np.nan, 7])
    assert [(row.row, row.reason) for row in merged.rejected] == [
        (2, "same structure as row 1, which stands for it"),
        (4, "same structure as row 5 in test"),
    ]


def test_classes_that_contradict_each_other_are_dropped(tmp_path: Path) -> None:
    rows = [("CCO", "1", "0"), ("CN", "0", "1"), ("OCC", "0", "0"), ("NC", "1", "0"), ("CC", "1", "1"), ("CC", "", "1")]
    merged = deduplicate(_molecules(tmp_path, rows, "classification"))
    assert merged.smiles == ["CCO", "CC"]
    np.testing.assert_array_equal(merged.y_true, [[np.nan, 0.0], [1.0, 1.0]])
    assert [(rejection.row, rejection.reason.partition(" (")[0]) for rejection in merged.rejected] == [
        (2, "labels of one structure contradict"),
        (3, "same structure as row 1, which stands for it"),
        (4, "labels of one structure contradict"),
        (6, "same structure as row 5, which stands for it"),
    ]


def test_with_given_parts_no_test_structure_is_trained_on(tmp_path: Path) -> None:
    rows = [("CCO", "1"), ("OCC", "2"), ("CN", "3"), ("NC", "5"), ("CS", "1"), ("SC", "2"), ("C", "1"), ("C", "9")]
    parts = ["train", "test", "train", "train", "valid", "train", "test_a", "test_b"]
    merged = deduplicate(_molecules(tmp_path, rows, parts=parts))
    assert merged.rows.tolist() == [2, 3, 5, 7, 8]
    assert merged.y_true[:, 0].tolist() == [2.0, 4.0, 1.0, 1.0, 9.0]
    assert {rejection.row: rejection.reason for rejection in merged.rejected} == {
        1: "same structure as row 2 in test",
        4: "same structure as row 3, which stands for it",
        6: "same structure as row 5 in valid",
    }


def test_no_molecule_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of 2 rows"):
        deduplicate(_molecules(tmp_path, [("CN", "1"), ("NC", "0")], "classification"))


POOL = ["CCO", "OCC", "CC(=O)[O-].[Na+]", "CC(=O)O", "C(", "", "O=c1cccc[nH]1", "Oc1ccccn1", "[Na+].[Cl-]", "*C"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(POOL), st.sampled_from(["0", "1", ""])), min_size=1, max_size=12),
    st.sampled_from(["none", "parent", "tautomer"]),
    st.sampled_from(["regression", "classification"]),
)
def test_no_row_disappears_without_being_counted(
    tmp_path: Path, rows: list[tuple[str, str]], how: str, task: Task
) -> None:
    try:
        molecules = deduplicate(standardize(_molecules(tmp_path, rows, task), how))
    except DataError:
        with pytest.raises(DataError, match=f"none of {len(rows)} rows"):
            deduplicate(standardize(_molecules(tmp_path, rows, task), how))
        return
    rejected_rows = [rejection.row for rejection in molecules.rejected]
    assert molecules.read == len(rows)
    assert sorted([*molecules.rows.tolist(), *rejected_rows]) == list(range(1, len(rows) + 1))
    assert len({identity(text) for text in molecules.smiles}) == len(molecules.smiles)
    assert not np.isnan(molecules.y_true).any()
