"""Predictions from SMILES, with their uncertainty and the applicability domain."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rdkit import Chem

from kflm2.data.molecules import MAX_ATOMS, parse_smiles
from kflm2.data.similarity import fingerprints_of
from kflm2.data.structures import standard_smiles
from kflm2.errors import MoleculeError
from kflm2.featurize.descriptors import descriptor_groups
from kflm2.featurize.embeddings import Embedder, Pooling
from kflm2.featurize.features import Features
from kflm2.featurize.graphs import graphs_of
from kflm2.featurize.ragged import Ragged
from kflm2.metrics.applicability_domain import DomainScores
from kflm2.metrics.conformal import CONFIDENCE
from kflm2.predictor.bundle import Bundle

OK = "ok"
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
    """(n, K) standard deviation of the ensemble's members."""
    intervals: np.ndarray | None
    """(n, K, 2) lower and upper bounds; None for classification."""
    sets: np.ndarray | None
    """(n, K, 2) whether class 0, and class 1, is in the set; None for regression."""
    predicted_class: np.ndarray | None
    """(n, K) 0 or 1, by the thresholds chosen on validation; None for regression."""
    domain: DomainScores
    nearest: list[str]
    """(n,) SMILES of the most similar training molecule; '' without a prediction."""


class Predictor:
    """Predicts with the models of a bundle."""

    def __init__(
        self,
        bundle: Bundle,
        device: torch.device | None = None,
        max_atoms: int = MAX_ATOMS,
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        """Set the bundle, the LLM's device, and how large a molecule may be.

        Args:
            bundle: whose models predict.
            device: of the LLM, default the CPU; the models are on the device that load_bundle got.
            max_atoms: atoms of a molecule, without hydrogens.
            max_tokens: tokens of a SMILES, if the models read an LLM.
        """
        self.bundle, self.max_atoms, self.max_tokens = bundle, max_atoms, max_tokens
        self._embedder = Embedder(bundle.source, device or torch.device("cpu")) if bundle.source is not None else None

    def predict(self, smiles: Sequence[str], confidence: float = CONFIDENCE) -> Predictions:
        """Predict molecules; a SMILES that cannot be read has the reason as its status.

        Args:
            smiles: n SMILES.
            confidence: of intervals and sets, in (0, 1).
        """
        status = [OK] * len(smiles)
        standard: dict[int, str] = {}
        mols: dict[int, Chem.Mol] = {}
        for i, text in enumerate(smiles):
            try:
                standard[i] = standard_smiles(text.strip(), self.bundle.config.standardize, self.max_atoms)
                mols[i] = parse_smiles(standard[i], self.max_atoms)
            except MoleculeError as error:
                status[i] = str(error)
        small = self._within_max_tokens({i: standard[i] for i in mols}, status)
        rows, states = self._states(small)
        for i in small.keys() - set(rows):
            status[i] = TOO_LONG
        return self._assemble(status, rows, [standard[i] for i in rows], [mols[i] for i in rows], states, confidence)

    def _within_max_tokens(self, smiles: dict[int, str], status: list[str]) -> dict[int, str]:
        """The SMILES of at most max_tokens tokens; the others get their status."""
        if self._embedder is None or not smiles:
            return smiles
        counts = dict(zip(smiles, self._embedder.token_counts(list(smiles.values())), strict=True))
        for i, count in counts.items():
            if count > self.max_tokens:
                status[i] = f"too large: {count} tokens; {self.max_tokens} are read at most"
        return {i: text for i, text in smiles.items() if counts[i] <= self.max_tokens}

    def _states(self, smiles: dict[int, str]) -> tuple[list[int], Ragged | None]:
        """The indices of the SMILES that fit into the LLM's context, and their hidden states."""
        if self._embedder is None or not smiles:
            return list(smiles), None
        pooling: Pooling = "tokens" if self.bundle.config.wants_tokens else "mean"
        states = self._embedder.embed_uncached(list(smiles.values()), pooling)
        fits = np.flatnonzero(states.lengths)
        rows = list(smiles)
        return [rows[i] for i in fits], states.subset(fits)

    def _features(self, smiles: list[str], mols: list[Chem.Mol], states: Ragged | None) -> Features:
        """The scaled input features of the models."""
        config, views = self.bundle.config, self.bundle.config.read_views
        descriptors = None
        if "descriptors" in views:
            descriptors = np.concatenate([values for _, values in descriptor_groups(config.descriptors, smiles)])
        graphs = graphs_of(mols) if "graph" in views else None
        return self.bundle.ensemble.scale_features(Features(states, graphs, descriptors))

    def _assemble(
        self,
        status: list[str],
        rows: list[int],
        smiles: list[str],
        mols: list[Chem.Mol],
        states: Ragged | None,
        confidence: float,
    ) -> Predictions:
        """Predictions of all molecules, from the features of those in `rows`."""
        bundle, count, targets = self.bundle, len(status), len(self.bundle.targets)

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
            )
        features = self._features(smiles, mols, states)
        raw, std = bundle.ensemble.predict(features)
        domain = bundle.domain.locate(fingerprints_of(mols), bundle.ensemble.members[0].hidden(features)["fused"])
        nearest = [""] * count
        for row, index in zip(rows, domain.nearest, strict=True):
            nearest[row] = bundle.domain.smiles[index]
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
        )
