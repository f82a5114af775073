"""Descriptors compared with direct calls of RDKit, and the scaling compared with scipy's ranks."""

import shutil
from pathlib import Path

import joblib
import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import Descriptors, rdFingerprintGenerator
from scipy.stats import spearmanr
from sklearn.preprocessing import QuantileTransformer

from kflm2.errors import SettingError
from kflm2.featurize import descriptors
from kflm2.featurize.descriptors import (
    DescriptorScaler,
    compute_descriptors,
    descriptor_names,
    descriptors_and_counts,
    rdkit_names,
)
from kflm2.featurize.xtb import XTB_COLUMNS, compute_xtb

SMILES = ["CCO", "c1ccccc1C(=O)O", "C", "CCO", "CC(C)Cc1ccc(C)cc1"]


def test_rdkit_descriptors_equal_direct_calls() -> None:
    values = compute_descriptors("rdkit", SMILES, progress=False)
    assert values.shape == (5, len(rdkit_names()))
    for name in ("MolWt", "TPSA", "MolLogP", "RingCount"):
        expected = [getattr(Descriptors, name)(Chem.MolFromSmiles(smiles)) for smiles in SMILES]
        np.testing.assert_allclose(values[:, rdkit_names().index(name)], expected, rtol=1e-6)
    np.testing.assert_array_equal(values[0], values[3])


def test_all_descriptors_equal_those_of_rdkits_own_function() -> None:
    smiles = ["CC(C)Cc1ccc(C)cc1", "[Na+].[Cl-]", "C" * 60, "*C"]
    values = compute_descriptors("rdkit", smiles, progress=False)
    for row, text in zip(values, smiles, strict=True):
        expected = Descriptors.CalcMolDescriptors(Chem.MolFromSmiles(text), missingVal=np.nan)
        np.testing.assert_array_equal(row, np.array(list(expected.values())).astype(np.float32))


def test_descriptors_of_a_large_molecule_do_not_wait_for_ipc(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def ipc(mol: Chem.Mol) -> float:
        sizes.append(mol.GetNumAtoms())
        return 1.0

    functions = [(name, ipc if "Ipc" in name else function) for name, function in Descriptors.descList]
    monkeypatch.setattr(Descriptors, "descList", functions)
    values = compute_descriptors("rdkit", ["C" * 100, "C" * 101], progress=False)
    assert sizes == [100, 100]  # Ipc and AvgIpc of the smaller molecule; they take hours for 5,000 atoms
    assert np.isnan(values[:, rdkit_names().index("AvgIpc")]).tolist() == [False, True]


def test_morgan_counts_equal_direct_calls() -> None:
    values = compute_descriptors("morgan", ["CCCCCC", "C"], progress=False)
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    counts = generator.GetCountFingerprint(Chem.MolFromSmiles("CCCCCC")).GetNonzeroElements()
    assert {int(i): int(values[0, i]) for i in np.flatnonzero(values[0])} == counts
    assert values[0].max() > 1


def test_descriptors_have_the_names_of_their_columns() -> None:
    names, rdkit = descriptor_names("rdkit+morgan+xtb"), rdkit_names()
    values = compute_descriptors("rdkit+morgan+xtb", ["CCO"], progress=False)
    assert values.shape == (1, len(names)) and names[: len(rdkit)] == rdkit
    assert names[len(rdkit) + 123] == "Morgan bit 123" and names[-len(XTB_COLUMNS) :] == tuple(XTB_COLUMNS)
    np.testing.assert_array_equal(values[:, -len(XTB_COLUMNS) :], compute_xtb(["CCO"])[0])
    assert descriptor_names("none") == ()


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("kind", [kind for kind in descriptors.DESCRIPTOR_SETS if "taught" not in kind])
def test_without_the_cache_the_values_are_the_same(kind: str, counts: bool) -> None:
    smiles = ["CCO", "[CH3]"]
    values, morgan, failures = descriptors_and_counts(kind, counts, smiles)
    if kind == "none":
        assert values is None
    else:
        np.testing.assert_array_equal(values, compute_descriptors(kind, smiles, progress=False))
    if counts:
        np.testing.assert_array_equal(morgan, compute_descriptors("morgan", smiles, progress=False))
    else:
        assert morgan is None
    assert failures == (["", "radical"] if "xtb" in kind else [])


def test_rdkit_and_morgan_are_concatenated_and_cached() -> None:
    both = compute_descriptors("rdkit+morgan", SMILES, progress=False)
    parts = [compute_descriptors(kind, SMILES, progress=False) for kind in ("rdkit", "morgan")]
    np.testing.assert_array_equal(both, np.concatenate(parts, axis=1))
    np.testing.assert_array_equal(both, compute_descriptors("rdkit+morgan", SMILES, progress=False))


def test_several_processes_give_the_same_values_as_one(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    smiles = ["C" * n + end for n in range(1, 8) for end in ("O", "N", "c1ccccc1")]
    expected = compute_descriptors("rdkit", smiles, progress=False)
    shutil.rmtree(cache / "features")
    monkeypatch.setattr(descriptors, "_GROUP", 4)
    monkeypatch.setattr(descriptors, "_WORTH_PROCESSES", 2)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    np.testing.assert_array_equal(compute_descriptors("rdkit", smiles, progress=False), expected)


def test_the_error_for_an_unknown_set_lists_the_choices() -> None:
    with pytest.raises(SettingError, match="rdkit, morgan"):
        compute_descriptors("mordred", SMILES)


def test_scaler_keeps_ranks_within_bounds_and_drops_constants() -> None:
    rng = np.random.default_rng(0)
    train = np.stack([np.exp(5 * rng.normal(size=60)), np.full(60, 7.0), rng.integers(0, 3, 60)], axis=1)
    scaled = DescriptorScaler(train)(train)
    assert scaled.shape == (60, 2)
    assert np.abs(scaled).max() <= 3
    assert spearmanr(scaled[:, 0], train[:, 0]).statistic > 0.999
    assert abs(np.median(scaled[:, 0])) < 0.1


def test_scaler_uses_training_rows_only_and_accepts_values_outside_their_range() -> None:
    rng = np.random.default_rng(1)
    train = rng.normal(size=(50, 4))
    scaler = DescriptorScaler(train)
    outside = np.array([[1e30, -1e30, np.nan, train[0, 3]]])
    values = scaler(outside)
    assert values[0, :3].tolist() == [3.0, -3.0, 0.0]
    np.testing.assert_array_equal(scaler(np.concatenate([train, outside]))[:50], scaler(train))


def test_scaler_drops_a_column_of_missing_values() -> None:
    train = np.stack([np.full(9, np.nan), np.arange(9.0)], axis=1)
    assert DescriptorScaler(train)(train).shape == (9, 1)
    assert DescriptorScaler(train[:, :1])(train[:, :1]).shape == (9, 0)


@pytest.mark.parametrize("scale", [1.0, 1e-7, 1e8])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ranks_are_those_of_scikit_learn_to_the_last_bit(scale: float, dtype: type) -> None:
    rng = np.random.default_rng(0)
    values: np.ndarray = (rng.normal(size=(300, 6)) * scale).astype(dtype)
    values[:, 1] = np.round(values[:, 1] / scale) * scale  # repeated values
    values[:, 2] = (values[:, 2] > 0) * scale
    values[rng.random(values.shape) < 0.1] = np.nan
    scaler = DescriptorScaler(values[:80])
    quantiles = QuantileTransformer(n_quantiles=80, output_distribution="normal").fit(values[:80, scaler.columns])
    expected = np.nan_to_num(quantiles.transform(values[:, scaler.columns])).clip(-3, 3).astype(np.float32)
    np.testing.assert_array_equal(scaler(values), expected)
    np.testing.assert_array_equal(DescriptorScaler.from_arrays(scaler.arrays())(values), expected)
