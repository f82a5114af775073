"""Similarity of molecules: Tanimoto similarity of Morgan fingerprints, nearest neighbours, clusters."""

from collections.abc import Iterable, Sequence

import numpy as np
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from kflm2.data.molecules import parse_smiles

CLUSTER_SIMILARITY = 0.35
"""Lowest Tanimoto similarity of a molecule to the centre of its cluster."""

_BITS = 2048

Fingerprints = list[DataStructs.ExplicitBitVect]


def fingerprints(smiles: Sequence[str]) -> Fingerprints:
    """Morgan fingerprints of valid SMILES, radius 2, 2,048 bits, chirality ignored."""
    return fingerprints_of(map(parse_smiles, smiles))


def fingerprints_of(mols: Iterable[Chem.Mol]) -> Fingerprints:
    """Morgan fingerprints of RDKit molecules, as in fingerprints."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=_BITS)
    return [generator.GetFingerprint(mol) for mol in mols]


def pack_bits(prints: Fingerprints) -> np.ndarray:
    """(n, 256) uint8: the bits of n fingerprints."""
    bits = np.zeros((len(prints), _BITS), dtype=np.uint8)
    for row, print_ in zip(bits, prints, strict=True):
        row[list(print_.GetOnBits())] = 1
    return np.packbits(bits, axis=1)


def unpack_bits(array: np.ndarray) -> Fingerprints:
    """The fingerprints of `pack_bits`.

    Raises:
        ValueError: it is no such array.
    """
    if array.ndim != 2 or array.shape[1] != _BITS // 8 or array.dtype != np.uint8:
        raise ValueError("the fingerprints are damaged")
    prints = []
    for row in array:
        print_ = DataStructs.ExplicitBitVect(_BITS)
        print_.SetBitsFromList(np.flatnonzero(np.unpackbits(row)).tolist())
        prints.append(print_)
    return prints


def nearest(queries: Fingerprints, references: Fingerprints) -> tuple[np.ndarray, np.ndarray]:
    """The most similar reference of each query.

    Returns:
        (n,) its index, the first of equals, and (n,) its Tanimoto similarity.
    """
    index, similarity = np.zeros(len(queries), dtype=int), np.zeros(len(queries))
    for i, query in enumerate(queries):
        similarities = np.array(DataStructs.BulkTanimotoSimilarity(query, references))
        index[i] = similarities.argmax()
        similarity[i] = similarities[index[i]]
    return index, similarity


def most_similar(query: DataStructs.ExplicitBitVect, references: Fingerprints, number: int) -> list[int]:
    """Indices of the references most similar to a query, the most similar first; equals in their order."""
    similarities = np.array(DataStructs.BulkTanimotoSimilarity(query, references))
    return np.argsort(-similarities, kind="stable")[:number].tolist()


def butina(prints: Fingerprints, similarity: float = CLUSTER_SIMILARITY) -> list[list[int]]:
    """Cluster molecules around centres (D. Butina, J. Chem. Inf. Comput. Sci. 1999, 39, 747).

    The molecule with the most neighbours is the first centre, and its cluster is all its neighbours; the next centre
    is the unassigned molecule with the most neighbours (not counted again), and so on. RDKit's Butina.ClusterData
    gives the same clusters but needs all distances at once, which for 40,000 molecules is tens of gigabytes; here only
    neighbours are stored.

    Args:
        prints: n fingerprints.
        similarity: Tanimoto similarity from which two molecules are neighbours.

    Returns:
        Clusters of indices, the centre first; every molecule is in exactly one.
    """
    neighbours: list[list[int]] = [[] for _ in prints]
    for i in range(1, len(prints)):
        # distances, not similarities, are compared as in RDKit's clustering: equal to the last bit
        distances = 1 - np.array(DataStructs.BulkTanimotoSimilarity(prints[i], prints[:i]))
        for j in np.flatnonzero(distances <= 1 - similarity).tolist():
            neighbours[i].append(j)
            neighbours[j].append(i)
    unassigned = [True] * len(prints)
    clusters = []
    for centre in sorted(range(len(prints)), key=lambda i: (len(neighbours[i]), i), reverse=True):
        if unassigned[centre]:
            cluster = [centre, *(i for i in neighbours[centre] if unassigned[i])]
            for i in cluster:
                unassigned[i] = False
            clusters.append(cluster)
    return clusters
