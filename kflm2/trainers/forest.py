"""A random forest that predicts classes beside the neural network, from the inputs of the support vector machine.

Out-of-fold predictions are those of one forest for each inner fold; other molecules are predicted by one that has
learnt from all folds. They are grown by scikit-learn. Only arrays are kept of the trees, so that a bundle needs no
pickle.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from kflm2.data.splits import Split
from kflm2.featurize.features import Features
from kflm2.trainers.voters import drawn_rows, inputs

TREES = 200
_LEAF = np.iinfo(np.uint16).max
"""In place of a column, at a leaf."""
_MOST_TREES, _DEEPEST = 1000, 1000
"""Of a forest that is read from a file, so that an untrusted one cannot take much time and memory."""
_ROWS = 256
"""Molecules that are predicted at once."""
_Tree = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Columns, values and jumps of a tree's nodes, see ForestVoter."""


@dataclass(frozen=True)
class ForestVoter:
    """F random forests of T trees for each of K targets.

    Each has learnt from all inner folds but one; or there is one, F is 1, which has learnt from all.
    """

    column: np.ndarray
    """(N,) uint16 of each node of all trees: the input that it looks at; 65,535 at a leaf."""
    value: np.ndarray
    """(N,) float32 the largest value for which it goes on with the next node; at a leaf the share of class 1."""
    jump: np.ndarray
    """(N,) uint16 how many nodes on it goes else; 0 at a leaf."""
    roots: np.ndarray
    """(T, F, K) int64 first node of each tree."""
    counts: np.ndarray
    """(C,) float32 mean Morgan counts of the molecules that were learnt from."""
    widths: tuple[int, int]
    """Columns of the scaled descriptors, and of the scaled covariates; the counts are between them."""
    name: ClassVar[str] = "forest"

    def predict(self, scaled: Features) -> np.ndarray:
        """(F, n, K) probabilities of class 1."""
        assert scaled.descriptors is not None
        count, (_, forests, targets) = len(scaled.descriptors), self.roots.shape
        out = np.empty((forests, count, targets))
        for start in range(0, count, _ROWS):
            rows = slice(start, start + _ROWS)
            out[:, rows] = self._shares(_joined(scaled, rows))
        return out

    def _shares(self, x: np.ndarray) -> np.ndarray:
        """(F, n, K) means over the trees of the shares of class 1 at the leaves to which (n, P) inputs come."""
        count, (trees, forests, targets) = len(x), self.roots.shape
        row, out = np.arange(count).repeat(trees), np.empty((forests, count, targets))
        for forest, k in np.ndindex(forests, targets):
            node = np.tile(self.roots[:, forest, k], count)
            moving = np.arange(len(node))
            while len(moving):
                moving = moving[self.column[node[moving]] != _LEAF]
                at = node[moving]
                small = x[row[moving], self.column[at]] <= self.value[at]
                node[moving] = at + np.where(small, 1, self.jump[at])
            out[forest, :, k] = self.value[node].reshape(count, trees).mean(axis=1, dtype=np.float64)
        return out

    def _depth(self) -> int:
        """Steps from a root to the deepest leaf; not counted on beyond _DEEPEST."""
        depth, at = 0, np.unique(self.roots)
        while len(at := at[self.column[at] != _LEAF]) and depth <= _DEEPEST:
            depth, at = depth + 1, np.unique(np.concatenate([at + 1, at + self.jump[at]]))
        return depth

    @property
    def least(self) -> float:
        """Half of a tree's vote: a smaller probability the trees cannot tell from 0."""
        return 0.5 / len(self.roots)

    def baseline(self, covariates: np.ndarray | None = None) -> np.ndarray:
        """(F, K) predictions of median descriptors and mean counts.

        Args:
            covariates: (1, W) that are read beside them; None for none.
        """
        beside = np.zeros((1, 0)) if covariates is None else covariates
        x = np.concatenate([np.zeros((1, self.widths[0])), self.counts[None], beside], axis=1, dtype=np.float32)
        return self._shares(x)[:, 0]

    def arrays(self) -> dict[str, np.ndarray]:
        """Name -> array, from which `from_arrays` restores the voter."""
        return {name: getattr(self, name) for name in ("column", "value", "jump", "roots", "counts")}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], targets: int, widths: tuple[int, int, int]) -> "ForestVoter":
        """Restore a voter of one forest.

        Args:
            arrays: of `arrays`.
            targets: K.
            widths: of scaled descriptors, counts and scaled covariates.

        Raises:
            ValueError: the arrays do not go together, lead out of themselves or too deep.
            KeyError, TypeError: one is missing.
        """
        descriptors, counts, covariates = widths
        voter = cls(**arrays, widths=(descriptors, covariates))
        column, jump, nodes = voter.column, voter.jump, len(voter.column)
        kinds = {"column": np.uint16, "value": np.float32, "jump": np.uint16, "roots": np.int64, "counts": np.float32}
        sound = (
            all(getattr(voter, name).dtype == kind for name, kind in kinds.items())
            and column.shape == voter.value.shape == jump.shape == (nodes,)
            and voter.roots.ndim == 3
            and 0 < len(voter.roots) <= _MOST_TREES
            and voter.roots.shape[1:] == (1, targets)
            and voter.counts.shape == (counts,)
        )
        if sound:
            inner = column != _LEAF
            # every step goes on to a later node, so that each molecule comes to a leaf
            ahead = np.arange(nodes) + np.maximum(jump, 1)
            sound = bool(
                np.isfinite(voter.value).all()
                and np.isfinite(voter.counts).all()
                and ((voter.roots >= 0) & (voter.roots < nodes)).all()
                and (column[inner] < sum(widths)).all()
                and (jump[inner] > 0).all()
                and (ahead[inner] < nodes).all()
                and ((voter.value >= 0) & (voter.value <= 1))[~inner].all()
                and voter._depth() <= _DEEPEST
            )
        if not sound:
            raise ValueError("the voter forest is damaged")
        return voter


def fit_forest(
    scaled: Features,
    y_true: np.ndarray,
    split: Split,
    seed: int,
    weights: np.ndarray | None = None,
    threads: int = 1,
) -> tuple[ForestVoter, ForestVoter]:
    """Fit the forests of all inner folds and targets.

    Args:
        scaled: of all n molecules, as the models read them, with descriptors and counts.
        y_true: (n, K) classes 0 and 1, NaN where the label is missing.
        split: with inner folds.
        seed: of the trees, and of the molecules that are drawn where there are too many.
        weights: (n,) of the molecules; one of weight 0 is not learnt from. None for 1.
        threads: that grow trees; the trees are the same for any number.

    Returns:
        The forests that lack a fold each, and the one that learnt from all.
    """
    if weights is not None:
        y_true = np.where(weights[:, None] > 0, y_true, np.nan)
    rows = drawn_rows(split, ~np.isnan(y_true), seed)
    fold = split.fold_of[np.searchsorted(split.learned, rows)]
    x, labels = _joined(scaled, rows), y_true[rows]
    targets, folds = labels.shape[1], len(split.folds)
    descriptors, counts = inputs("forest", scaled)
    widths = descriptors.shape[1], x.shape[1] - descriptors.shape[1] - counts.shape[1]

    def grown(number: int, k: int) -> list[_Tree]:
        # the last number is no fold's, so that forest sees all
        seen = (fold != number) & ~np.isnan(labels[:, k])
        if not seen.any() or np.ptp(labels[seen, k]) == 0:  # of more molecules than are drawn none may have a label
            return [_leaf(labels[seen, k].mean() if seen.any() else 0.5)] * TREES
        forest = RandomForestClassifier(TREES, random_state=seed % 2**32, n_jobs=threads)
        forest.fit(x[seen], labels[seen, k], None if weights is None else weights[rows[seen]])
        return [_nodes(tree.tree_) for tree in forest.estimators_]

    def voter(numbers: range) -> ForestVoter:
        forests = [[grown(number, k) for k in range(targets)] for number in numbers]
        trees = [part[number] for number in range(TREES) for forest in forests for part in forest]
        first = np.cumsum([0, *(len(column) for column, _, _ in trees[:-1])]).reshape(TREES, len(numbers), targets)
        column, value, jump = (np.concatenate([tree[i] for tree in trees]) for i in range(3))
        return ForestVoter(column, value, jump, first, counts[rows].mean(axis=0, dtype=np.float32), widths)

    return voter(range(folds)), voter(range(folds, folds + 1))


def _joined(scaled: Features, rows: np.ndarray | slice) -> np.ndarray:
    """(m, P + C + W) float32 descriptors, counts and covariates of some molecules."""
    parts = [*inputs("forest", scaled), *(() if scaled.covariates is None else (scaled.covariates,))]
    return np.concatenate([part[rows] for part in parts], axis=1, dtype=np.float32)


def _leaf(share: float) -> _Tree:
    """A tree that gives every molecule the same."""
    return np.full(1, _LEAF, np.uint16), np.full(1, share, np.float32), np.zeros(1, np.uint16)


def _nodes(tree: Any) -> _Tree:
    """Those of a tree of scikit-learn, which numbers the child of the smaller values next to its parent."""
    number = np.arange(tree.node_count)
    inner = tree.children_left >= 0
    if (tree.children_left[inner] != number[inner] + 1).any():
        raise RuntimeError("this scikit-learn orders the nodes of a tree in another way")
    share = tree.value[:, 0, 1] / tree.value[:, 0].sum(axis=1)
    # it compares float32 inputs with float64 thresholds between two of them: rounded up, the larger one would be passed
    threshold = tree.threshold.astype(np.float32)
    threshold = np.where(threshold > tree.threshold, np.nextafter(threshold, np.float32(-np.inf)), threshold)
    return (
        np.where(inner, tree.feature, _LEAF).astype(np.uint16),
        np.where(inner, threshold, share).astype(np.float32),
        np.where(inner, tree.children_right - number, 0).astype(np.uint16),
    )
