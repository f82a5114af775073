"""Predictions from SMILES, with their uncertainty and the applicability domain."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from kflm2.data.corpus import randomized
from kflm2.data.molecules import MAX_ATOMS
from kflm2.errors import SettingError
from kflm2.featurize.embeddings import Pooling
from kflm2.featurize.features import Features
from kflm2.featurize.ragged import Ragged
from kflm2.featurize.taught import with_taught
from kflm2.metrics.applicability_domain import DomainScores
from kflm2.metrics.conformal import CONFIDENCE
from kflm2.predictor.bundle import Bundle
from kflm2.predictor.featurizer import MoleculeFeaturizer, ReadMolecules

TOO_LONG = "longer than the LLM's context"
MAX_TOKENS = 2048
"""Tokens of a molecule. 2,048 take the embedded LLM a few seconds on two cores."""


@dataclass(frozen=True)
class Predictions:
    """Predictions of n molecules, in input order; NaN and False for those whose status is not ok."""

    status: list[str]
    """(n,) ok, or the reason why there is no prediction."""
    y_pred: np.ndarray
    """(n, K) in the targets' units; for classification the calibrated probability of class 1."""
    std: np.ndarray
    """(n, K) standard deviation; see Ensemble.predict_with_fused."""
    intervals: np.ndarray | None
    """(n, K, 2) lower and upper bounds; None for classification."""
    sets: np.ndarray | None
    """(n, K, 2) whether class 0, and class 1, is in the set; None for regression."""
    predicted_class: np.ndarray | None
    """(n, K) 0 or 1, by the thresholds chosen on validation; None for regression."""
    domain: DomainScores
    nearest: list[str]
    """(n,) SMILES of the most similar training molecule; '' without a prediction."""
    writings_std: np.ndarray | None = None
    """(n, K) standard deviation of the predictions over the writings of each molecule; None for one writing."""
    outside: list[str] | None = None
    """(n,) covariates outside the range of training, empty where there are none; None for a model that reads none."""
    xtb: list[str] | None = None
    """(n,) why a molecule has no xTB values, empty where it has; None for a model that reads none."""


class Predictor:
    """Predicts with the models of a bundle."""

    def __init__(
        self,
        bundle: Bundle,
        device: torch.device | None = None,
        max_atoms: int = MAX_ATOMS,
        max_tokens: int = MAX_TOKENS,
        writings: int = 1,
    ) -> None:
        """Set the bundle, the LLM's device, and how large a molecule may be.

        Args:
            bundle: whose models predict.
            device: of the LLM, default the CPU; the models are on the device that load_bundle got.
            max_atoms: atoms of a molecule, without hydrogens.
            max_tokens: tokens of a SMILES, if the models read an LLM.
            writings: SMILES of each molecule that the LLM reads, the standard one and random ones; predictions are
                averaged over them.

        Raises:
            SettingError: several writings, where the models read no LLM.
        """
        config = bundle.config
        if writings > 1 and bundle.source is None:
            raise SettingError("writings: the model reads no LLM; to it all writings of a molecule are the same")
        self.writings = writings
        self.bundle, self.device, self.max_tokens = bundle, device or torch.device("cpu"), max_tokens
        self.featurizer = MoleculeFeaturizer(
            config.standardize,
            config.read_views,
            config.read_descriptors,
            config.read_voters,
            max_atoms,
            bundle.covariates,
        )
        self._embedder = bundle.embedder(self.device)
        self._head = bundle.head()

    def predict(
        self,
        smiles: Sequence[str],
        confidence: float = CONFIDENCE,
        cells: Sequence[Sequence[str]] | None = None,
    ) -> Predictions:
        """Predict molecules; a SMILES that cannot be read has the reason as its status.

        Args:
            smiles: n SMILES.
            confidence: of intervals and sets, in (0, 1).
            cells: of each the cells of the columns that the model reads beside the structure.

        Raises:
            DataError: no cells, and the model needs them.
        """
        return self.predict_read(self.featurizer(smiles, cells), confidence)

    def predict_read(self, read: ReadMolecules, confidence: float) -> Predictions:
        """Predict molecules that the featurizer has read; see predict."""
        read, first = self.read_states(read, self.pooling)
        return self._assemble(read, [first, *self._of_random_writings(read.smiles)], confidence)

    @property
    def pooling(self) -> Pooling:
        """How the models read the LLM's states."""
        return "tokens" if self.bundle.config.wants_tokens else "mean"

    def read_states(self, read: ReadMolecules, pooling: Pooling) -> tuple[ReadMolecules, Ragged | None]:
        """Let the LLM read the molecules.

        Returns:
            The molecules without those that are too long for it, which get their status; and a row of states of each
            of them, None where the models read no LLM or no molecule is left.
        """
        read = self._within_max_tokens(read)
        if self._embedder is None or not read.rows:
            return read, None
        states = self._embedder.embed_uncached(read.smiles, pooling)
        read = read.without({int(i): TOO_LONG for i in np.flatnonzero(states.lengths == 0)})
        return read, states.subset(np.flatnonzero(states.lengths)) if read.rows else None

    def _of_random_writings(self, smiles: list[str]) -> list[Ragged | None]:
        """States of random SMILES of the molecules, the same ones in every call; of the given one where too long."""
        states: list[Ragged | None] = []
        for number in range(1, self.writings if smiles else 1):
            assert self._embedder is not None
            texts = [randomized(text, number) for text in smiles]
            counts, fits = self._embedder.token_counts(texts), self._embedder.fits(texts)
            usable = [fit and count <= self.max_tokens for fit, count in zip(fits, counts, strict=True)]
            texts = [new if use else old for new, old, use in zip(texts, smiles, usable, strict=True)]
            states.append(self._embedder.embed_uncached(texts, self.pooling))
        return states

    def _within_max_tokens(self, read: ReadMolecules) -> ReadMolecules:
        """Without the molecules of more than max_tokens tokens, which get their status."""
        if self._embedder is None or not read.rows:
            return read
        return read.without(
            {
                i: f"too large: {count} tokens; {self.max_tokens} are read at most"
                for i, count in enumerate(self._embedder.token_counts(read.smiles))
                if count > self.max_tokens
            }
        )

    def scaled(self, features: Features, states: Ragged | None) -> Features:
        """The input of the models, from the features of molecules and the states of one writing of them."""
        return self.bundle.scale_features(with_taught(replace(features, states=states), self._head))

    def _assemble(self, read: ReadMolecules, states: list[Ragged | None], confidence: float) -> Predictions:
        """Predictions of all molecules, from the features of those that could be read; states of each writing."""
        bundle, status, rows = self.bundle, read.status, read.rows
        count, targets = len(status), len(bundle.targets)

        def expand(values: np.ndarray, fill: float | bool) -> np.ndarray:
            expanded = np.full((count, *values.shape[1:]), fill, dtype=values.dtype)
            expanded[rows] = values
            return expanded

        if not rows:
            nan = np.full((count, targets), np.nan)
            domain = DomainScores(np.zeros(count, int), nan[:, 0], nan[:, 0], np.zeros(count, bool))
            regression = bundle.task == "regression"
            return Predictions(
                status,
                nan,
                nan,
                np.full((count, targets, 2), np.nan) if regression else None,
                None if regression else np.zeros((count, targets, 2), dtype=bool),
                None if regression else nan,
                domain,
                [""] * count,
                nan if self.writings > 1 else None,
                [""] * count if read.outside is not None else None,
                [""] * count if read.xtb is not None else None,
            )
        features = self.scaled(read.features, states[0])
        raw, std, fused = bundle.ensemble.predict_with_fused(features)
        writings_std = None
        if self.writings > 1:
            further = [bundle.ensemble.predict(self.scaled(read.features, one)) for one in states[1:]]
            values = np.stack([raw, *(y_pred for y_pred, _ in further)])
            raw, std = values.mean(axis=0), np.mean([std, *(spread for _, spread in further)], axis=0)
            writings_std = expand(values.std(axis=0), np.nan)
        domain = bundle.domain.locate(read.fingerprints, fused, read.elements)
        nearest = [""] * count
        if bundle.domain.smiles:  # a model that was packed to be given away has none
            for row, index in zip(rows, domain.nearest, strict=True):
                nearest[row] = bundle.domain.smiles[index]

        def expand_texts(texts: list[str] | None) -> list[str] | None:
            by_row = dict(zip(rows, texts or (), strict=False))
            return None if texts is None else [by_row.get(row, "") for row in range(count)]

        intervals, sets, predicted_class = None, None, None
        if bundle.task == "regression":
            intervals = expand(bundle.calibration.intervals(raw, std, confidence), np.nan)
        else:
            sets = expand(bundle.calibration.sets(raw, confidence), False)
            predicted_class = expand((raw >= bundle.thresholds).astype(float), np.nan)
        return Predictions(
            status,
            expand(bundle.calibration.calibrated(raw), np.nan),
            expand(std, np.nan),
            intervals,
            sets,
            predicted_class,
            DomainScores(
                expand(domain.nearest, 0),
                expand(domain.similarity, np.nan),
                expand(domain.distance, np.nan),
                expand(domain.inside, False),
            ),
            nearest,
            writings_std,
            expand_texts(read.outside),
            expand_texts(read.xtb),
        )
