"""Whether a molecule is like those a model was trained on, by structure and by what the model makes of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.neighbors import NearestNeighbors

from kflm2.data.similarity import Fingerprints, fingerprints, nearest
from kflm2.metrics.conformal import _TINY

_NEIGHBOURS = 5
_INSIDE = 0.95
"""Share of the validation molecules that each bound of the domain lets in."""


@dataclass(frozen=True)
class DomainScores:
    """Where molecules lie, seen from the training part."""

    nearest: np.ndarray
    """(n,) index of the most similar training molecule."""
    similarity: np.ndarray
    """(n,) its Tanimoto similarity (Morgan, radius 2, 2,048 bits)."""
    distance: np.ndarray
    """(n,) mean distance to the five nearest training molecules in the fused space, in standard deviations."""
    inside: np.ndarray
    """(n,) whether both are as usual in the validation part."""


class ApplicabilityDomain:
    """The training part as a yardstick: by structure, and by what the model makes of it."""

    def __init__(self, smiles: Sequence[str], vectors: np.ndarray, least_similarity: float, most_distance: float):
        """Take the training part and the bounds.

        Args:
            smiles: n training molecules.
            vectors: (n, H) fused states of these.
            least_similarity: bound of DomainScores.similarity.
            most_distance: bound of DomainScores.distance.
        """
        self.smiles, self.vectors = list(smiles), vectors
        self.least_similarity, self.most_distance = least_similarity, most_distance
        self._prints = fingerprints(smiles)
        self._mean, std = vectors.mean(axis=0), vectors.std(axis=0)
        self._std = np.where(std > _TINY, std, 1.0)
        self._tree = NearestNeighbors(n_neighbors=min(_NEIGHBOURS, len(vectors))).fit(self._scaled(vectors))

    @staticmethod
    def fit(train: tuple[Sequence[str], np.ndarray], valid: tuple[Sequence[str], np.ndarray]) -> "ApplicabilityDomain":
        """Set the bounds so that each lets in 95 % of the validation part.

        Args:
            train: SMILES and (n, H) fused states.
            valid: of the validation part.
        """
        free = ApplicabilityDomain(*train, 0.0, np.inf)
        places = free.locate(fingerprints(valid[0]), valid[1])
        least = float(np.quantile(places.similarity, 1 - _INSIDE))
        return ApplicabilityDomain(*train, least, float(np.quantile(places.distance, _INSIDE)))

    def _scaled(self, vectors: np.ndarray) -> np.ndarray:
        return (vectors - self._mean) / self._std

    def locate(self, prints: Fingerprints, vectors: np.ndarray) -> DomainScores:
        """Where molecules lie.

        Args:
            prints: n fingerprints.
            vectors: (n, H) fused states.
        """
        index, similarity = nearest(prints, self._prints)
        # the mean over columns, so that the number does not grow with the model's width
        distance = self._tree.kneighbors(self._scaled(vectors))[0].mean(axis=1) / np.sqrt(vectors.shape[1])
        inside = (similarity >= self.least_similarity) & (distance <= self.most_distance)
        return DomainScores(index, similarity, distance, inside)
