"""How alike molecules are: Tanimoto similarity of Morgan fingerprints, nearest neighbours, clusters."""

from collections.abc import Iterable, Sequence

import numpy as np
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator

from kflm2.data.molecules import parse_smiles

CLUSTER_SIMILARITY = 0.35
"""Tanimoto similarity from which a molecule may belong to a cluster's centre."""

Fingerprints = list[DataStructs.ExplicitBitVect]


def fingerprints(smiles: Sequence[str]) -> Fingerprints:
    """Morgan fingerprints of valid SMILES, radius 2, 2,048 bits, chirality ignored."""
    return fingerprints_of(map(parse_smiles, smiles))


def fingerprints_of(mols: Iterable[Chem.Mol]) -> Fingerprints:
    """The same of RDKit molecules."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    return [generator.GetFingerprint(mol) for mol in mols]


def nearest(queries: Fingerprints, references: Fingerprints) -> tuple[np.ndarray, np.ndarray]:
    """The reference most like each query.

    Returns:
        (n,) its index, the first of several, and (n,) its Tanimoto similarity.
    """
    index, similarity = np.zeros(len(queries), dtype=int), np.zeros(len(queries))
    for place, query in enumerate(queries):
        values = np.array(DataStructs.BulkTanimotoSimilarity(query, references))
        index[place] = values.argmax()
        similarity[place] = values[index[place]]
    return index, similarity


def most_similar(query: DataStructs.ExplicitBitVect, references: Fingerprints, number: int) -> list[int]:
    """Indices of the references most like a query, the most similar one first; of equals the first."""
    similarities = np.array(DataStructs.BulkTanimotoSimilarity(query, references))
    return np.argsort(-similarities, kind="stable")[:number].tolist()


def butina(prints: Fingerprints, similarity: float = CLUSTER_SIMILARITY) -> list[list[int]]:
    """Cluster molecules around centres (D. Butina, J. Chem. Inf. Comput. Sci. 1999, 39, 747).

    The molecule with the most neighbours is the first centre and takes them along, then the one with the most of those
    that are left by the first count, and so on. RDKit's own Butina.ClusterData gives the same clusters but wants all
    distances at once, which for 40,000 molecules is tens of gigabytes; here only neighbours are kept.

    Args:
        prints: n fingerprints.
        similarity: Tanimoto similarity that makes neighbours.

    Returns:
        Clusters of indices, the centre first; every molecule is in one.
    """
    near: list[list[int]] = [[] for _ in prints]
    for i in range(1, len(prints)):
        # distances, not similarities, are compared, as RDKit's own clustering does: equal to the last bit
        distances = 1 - np.array(DataStructs.BulkTanimotoSimilarity(prints[i], prints[:i]))
        for j in np.flatnonzero(distances <= 1 - similarity).tolist():
            near[i].append(j)
            near[j].append(i)
    free = [True] * len(prints)
    clusters = []
    for centre in sorted(range(len(prints)), key=lambda i: (len(near[i]), i), reverse=True):
        if free[centre]:
            cluster = [centre, *(i for i in near[centre] if free[i])]
            for i in cluster:
                free[i] = False
            clusters.append(cluster)
    return clusters
