"""Applicability domain: whether a molecule is like the training molecules, by structure and in the fused space."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.neighbors import NearestNeighbors

from kflm2.data.molecules import elements_of, parse_smiles
from kflm2.data.similarity import Fingerprints, fingerprints, nearest
from kflm2.metrics.conformal import _TINY

_NEIGHBOURS = 5
_MOST_SCORED = 1000
"""Molecules of an inner fold that are scored at most, evenly spaced; more take minutes and change little."""
_INSIDE = 0.95
"""Share of the validation molecules within each bound of the domain."""


@dataclass(frozen=True)
class DomainScores:
    """Similarity and distance of n molecules to the training part."""

    nearest: np.ndarray
    """(n,) index of the most similar training molecule."""
    similarity: np.ndarray
    """(n,) its Tanimoto similarity (Morgan, radius 2, 2,048 bits)."""
    distance: np.ndarray
    """(n,) mean distance to the five nearest training molecules in the fused space, in standard deviations."""
    inside: np.ndarray
    """(n,) whether both are within the bounds set on the validation part, and no element is new."""


class ApplicabilityDomain:
    """The training part, and bounds of the similarity and the distance to it."""

    def __init__(
        self,
        smiles: Sequence[str],
        vectors: np.ndarray,
        least_similarity: float,
        most_distance: float,
        prints: Fingerprints | None = None,
        elements: frozenset[int] | None = None,
    ):
        """Set the training part and the bounds.

        Args:
            smiles: n training molecules; none where only their fingerprints are known.
            vectors: (n, H) their fused states.
            least_similarity: lower bound of DomainScores.similarity.
            most_distance: upper bound of DomainScores.distance.
            prints: n fingerprints of the molecules; default computed from the SMILES.
            elements: of the molecules; default those of the SMILES, if there are any.
        """
        self.smiles, self.vectors = list(smiles), vectors
        self.least_similarity, self.most_distance = least_similarity, most_distance
        self.prints = fingerprints(smiles) if prints is None else prints
        if elements is None and smiles:
            elements = frozenset[int]().union(*(elements_of(parse_smiles(text)) for text in smiles))
        self.elements = elements
        """Atomic numbers, without hydrogen; None where they are not known."""
        self._mean, std = vectors.mean(axis=0), vectors.std(axis=0)
        self._std = np.where(std > _TINY, std, 1.0)
        self._tree = NearestNeighbors(n_neighbors=min(_NEIGHBOURS, len(vectors))).fit(self._scaled(vectors))

    @staticmethod
    def fit(train: tuple[Sequence[str], np.ndarray], valid: tuple[Sequence[str], np.ndarray]) -> "ApplicabilityDomain":
        """Set the bounds so that 95 % of the validation part are within each.

        Args:
            train: SMILES and (n, H) fused states of the training part.
            valid: the same of the validation part.
        """
        unbounded = ApplicabilityDomain(*train, 0.0, np.inf)
        scores = unbounded.locate(fingerprints(valid[0]), valid[1])
        least_similarity = float(np.quantile(scores.similarity, 1 - _INSIDE))
        return ApplicabilityDomain(*train, least_similarity, float(np.quantile(scores.distance, _INSIDE)))

    @staticmethod
    def fit_folds(smiles: Sequence[str], fused: np.ndarray, fold: np.ndarray) -> "ApplicabilityDomain":
        """Set the bounds so that 95 % of the molecules are within each, scored by the models of their own inner fold.

        Args:
            smiles: n molecules.
            fused: (F, n, H) their fused states by the model of each fold, which did not learn from that fold.
            fold: (n,) number of the fold of each.
        """
        prints = fingerprints(smiles)
        similarity, distance = [], []
        for number, vectors in enumerate(fused):
            others, inside = fold != number, np.flatnonzero(fold == number)
            inside = inside[:: math.ceil(len(inside) / _MOST_SCORED)]
            learned = [prints[i] for i in np.flatnonzero(others)]
            domain = ApplicabilityDomain((), vectors[others], 0.0, np.inf, learned)
            scores = domain.locate([prints[i] for i in inside], vectors[inside])
            similarity.append(scores.similarity)
            distance.append(scores.distance)
        least_similarity = np.quantile(np.concatenate(similarity), 1 - _INSIDE)
        most_distance = np.quantile(np.concatenate(distance), _INSIDE)
        # a new molecule is scored by the first model, against all molecules
        return ApplicabilityDomain(smiles, fused[0], float(least_similarity), float(most_distance), prints)

    def without_smiles(self) -> "ApplicabilityDomain":
        """The same, with nothing but the fingerprints of the molecules."""
        bounds = self.least_similarity, self.most_distance
        return ApplicabilityDomain((), self.vectors, *bounds, self.prints, self.elements)

    def _scaled(self, vectors: np.ndarray) -> np.ndarray:
        return (vectors - self._mean) / self._std

    def locate(
        self, prints: Fingerprints, vectors: np.ndarray, elements: Sequence[frozenset[int]] | None = None
    ) -> DomainScores:
        """Score molecules against the training part and the bounds.

        Args:
            prints: n fingerprints.
            vectors: (n, H) fused states.
            elements: of n molecules, see elements_of; None where they do not matter.
        """
        index, similarity = nearest(prints, self.prints)
        # the root mean square over columns, so that the distance does not grow with the width H
        distance = self._tree.kneighbors(self._scaled(vectors))[0].mean(axis=1) / np.sqrt(vectors.shape[1])
        inside = (similarity >= self.least_similarity) & (distance <= self.most_distance)
        if elements is not None and self.elements is not None:
            inside &= [found <= self.elements for found in elements]
        return DomainScores(index, similarity, distance, inside)
