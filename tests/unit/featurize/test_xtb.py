"""xTB: numbers of tblite called directly; the same for all SMILES of a molecule; failures with their reason."""

from typing import Any

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers
from scipy.constants import physical_constants
from tblite.interface import Calculator

from kflm2.data.corpus import randomized
from kflm2.errors import SettingError
from kflm2.featurize import xtb
from kflm2.featurize.xtb import XTB_COLUMNS, compute_xtb, count_failures, xtb_of

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
KCAL = 627.5094740631


def _value(values: np.ndarray, name: str) -> float:
    return float(values[list(XTB_COLUMNS).index(name)])


@pytest.mark.parametrize("smiles", ["CCO", "CC(=O)[O-]", "c1ccsc1"])
def test_values_are_those_of_tblite(smiles: str) -> None:
    mol = Chem.AddHs(Chem.MolFromSmiles(Chem.MolToSmiles(Chem.MolFromSmiles(smiles))))
    parameters: Any = rdDistGeom.ETKDGv3()
    parameters.randomSeed = 20
    rdDistGeom.EmbedMolecule(mol, parameters)
    rdForceFieldHelpers.MMFFOptimizeMolecule(mol, maxIters=500)
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    bohr = physical_constants["Bohr radius"][0] * 1e10
    results = {}
    for solvent in ("gas", "water", "hexane"):
        calculator = Calculator(
            "GFN2-xTB", numbers, mol.GetConformer().GetPositions() / bohr, charge=float(Chem.GetFormalCharge(mol))
        )
        calculator.set("verbosity", 0)
        if solvent != "gas":
            calculator.add("alpb-solvation", solvent)
        results[solvent] = calculator.singlepoint().dict()
    gas, result = results["gas"], xtb_of(smiles)
    assert not result.failure
    for solvent in ("water", "hexane"):
        free = (float(results[solvent]["energy"]) - float(gas["energy"])) * KCAL
        assert _value(result.values, f"xtb_dG_{solvent}") == pytest.approx(free, abs=1e-3)
    dipole = np.linalg.norm(gas["dipole"]) * physical_constants["atomic unit of electric dipole mom."][0] / 3.33564e-30
    assert _value(result.values, "xtb_dipole") == pytest.approx(dipole, abs=1e-3)
    occupied = gas["orbital-occupations"] > 1
    homo = gas["orbital-energies"][occupied].max() * physical_constants["Hartree energy in eV"][0]
    assert _value(result.values, "xtb_HOMO") == pytest.approx(homo, abs=1e-3)
    hydrogens = numbers == 1
    assert _value(result.values, "xtb_min_charge") == pytest.approx(gas["charges"][~hydrogens].min(), abs=1e-4)


def test_known_facts_of_small_molecules() -> None:
    water, methane = xtb_of("O").values, xtb_of("C").values
    # experiment: -6.3 and +2.0 kcal/mol, 1.85 Debye
    assert _value(water, "xtb_dG_water") < -5 < 0 < _value(methane, "xtb_dG_water") + 1
    assert 1.5 < _value(water, "xtb_dipole") < 2.5 and _value(methane, "xtb_dipole") == pytest.approx(0, abs=0.05)
    assert _value(water, "xtb_gap") == pytest.approx(_value(water, "xtb_LUMO") - _value(water, "xtb_HOMO"), abs=1e-3)


def test_all_smiles_of_a_molecule_give_the_same_bits() -> None:
    expected = xtb_of(ASPIRIN).values
    for seed in range(4):
        np.testing.assert_array_equal(xtb_of(randomized(ASPIRIN, seed)).values, expected)
    mapped = Chem.MolFromSmiles(ASPIRIN)
    for atom in mapped.GetAtoms():
        atom.SetAtomMapNum(20 - atom.GetIdx())
    np.testing.assert_array_equal(xtb_of(Chem.MolToSmiles(mapped)).values, expected)


def test_another_conformer_changes_solvation_less_than_molecules_differ() -> None:
    """The noise of one conformer, on flexible molecules."""
    smiles = ["CCCCCCO", "OCCCCN", "CCOC(=O)CCC", "CC(C)CC(=O)O", "NCCc1ccccc1"]
    values = np.array([[_value(xtb_of(text, seed).values, "xtb_dG_water") for seed in (1, 2, 3)] for text in smiles])
    assert values.std(axis=1).max() < values.mean(axis=1).std()


@pytest.mark.parametrize(
    ("smiles", "failure"),
    [
        ("CCO.Cl", "several components"),
        ("C" * 70, "too many atoms"),
        ("[CH3]", "radical"),
        ("C*", "element"),
        ("[U]", "element"),
    ],
)
def test_a_molecule_that_cannot_be_computed_is_missing_with_the_reason(smiles: str, failure: str) -> None:
    result = xtb_of(smiles)
    assert result.failure == failure and np.isnan(result.values).all()


@pytest.mark.parametrize("smiles", ["[He]", "[Na+]", "[H][H]", "C[Si](C)(C)C", "F[P-](F)(F)(F)(F)F"])
def test_unusual_molecules_can_be_computed(smiles: str) -> None:
    result = xtb_of(smiles)
    assert not result.failure and np.isfinite(_value(result.values, "xtb_dG_water"))


def test_values_are_cached_and_failures_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    smiles = ["CCO", "[CH3]", "CCO.Cl", "C[CH2]", "CC"]
    values, failures = compute_xtb(smiles, progress=False)
    np.testing.assert_array_equal(values[0], xtb_of("CCO").values)
    assert failures == ["", "radical", "several components", "radical", ""]
    assert count_failures(failures) == "3 of 5 molecules have no xTB values (2 radical, 1 several components)"
    assert count_failures(["", ""]) == ""
    monkeypatch.setattr(xtb, "xtb_of", lambda _: pytest.fail("computed again"))
    np.testing.assert_array_equal(compute_xtb(smiles, progress=False)[0], values)


def test_several_processes_give_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    smiles = ["C" * n + end for n in range(1, 5) for end in ("O", "N", "Cl")]
    one = np.concatenate([rows for _, rows in xtb.xtb_groups(smiles)])
    monkeypatch.setattr(xtb, "_GROUP", 3)
    monkeypatch.setattr(xtb, "_WORTH_PROCESSES", 2)
    monkeypatch.setattr(xtb, "cpu_count", lambda: 2)
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in xtb.xtb_groups(smiles)]), one)


def test_without_tblite_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xtb.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SettingError, match=r"pip install \"kflm2\[physics\]\""):
        compute_xtb(["CCO"])
