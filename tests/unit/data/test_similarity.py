"""Nearest neighbours and clusters, compared with RDKit's."""

import numpy as np
import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator
from rdkit.ML.Cluster import Butina

from kflm2.data import datasets
from kflm2.data.reading import read_table
from kflm2.data.similarity import butina, fingerprints, nearest, pack_bits, unpack_bits

SMILES = read_table(datasets.find("SAMPL")).smiles[::2]


def _distances() -> np.ndarray:
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    prints = [generator.GetFingerprint(Chem.MolFromSmiles(text)) for text in SMILES]
    return np.array([[1 - DataStructs.TanimotoSimilarity(a, b) for b in prints] for a in prints])


def test_the_nearest_is_the_most_similar() -> None:
    distances = _distances()
    index, similarity = nearest(fingerprints(SMILES[:40]), fingerprints(SMILES[40:]))
    np.testing.assert_array_equal(index, distances[:40, 40:].argmin(axis=1))
    np.testing.assert_allclose(similarity, 1 - distances[:40, 40:].min(axis=1))


@pytest.mark.parametrize("similarity", [0.35, 0.6, 0.0, 1.0])
def test_clusters_are_rdkits(similarity: float) -> None:
    n = len(SMILES)
    distances = _distances()
    flat = [distances[i, j] for i in range(n) for j in range(i)]
    expected = Butina.ClusterData(flat, n, 1 - similarity, isDistData=True)
    clusters = butina(fingerprints(SMILES), similarity)
    assert [sorted(cluster) for cluster in clusters] == [sorted(cluster) for cluster in expected]
    assert [cluster[0] for cluster in clusters] == [cluster[0] for cluster in expected]


def test_fingerprints_are_restored_from_their_bits() -> None:
    prints = fingerprints(["CCO", "c1ccccc1C(=O)O", "C"])
    array = pack_bits(prints)
    assert array.shape == (3, 256) and array.dtype == np.uint8
    assert [list(print_.GetOnBits()) for print_ in unpack_bits(array)] == [
        list(print_.GetOnBits()) for print_ in prints
    ]


@pytest.mark.parametrize("array", [np.zeros((2, 255), np.uint8), np.zeros((2, 256)), np.zeros(256, np.uint8)])
def test_bits_that_are_no_fingerprints_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="damaged"):
        unpack_bits(array)
