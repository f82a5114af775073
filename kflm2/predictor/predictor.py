"""SMILES to predictions that say how far they can be trusted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rdkit import Chem

from kflm2.config.train import wants_tokens
from kflm2.data.molecules import parse_smiles
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


@dataclass(frozen=True)
class Predicted:
    """What is said of n molecules, in the order asked; NaN and False for those with another status than ok."""

    status: list[str]
    """ok, or why there is no prediction."""
    y_pred: np.ndarray
    """(n, K) in the targets' units; for classes the calibrated probability of class 1."""
    std: np.ndarray
    """(n, K) standard deviation of the ensemble's members."""
    intervals: np.ndarray | None
    """(n, K, 2) for regression."""
    sets: np.ndarray | None
    """(n, K, 2) whether class 0, and class 1, is possible, for classes."""
    called: np.ndarray | None
    """(n, K) 0 or 1, by the thresholds chosen on validation, for classes."""
    places: DomainScores
    nearest: list[str]
    """(n,) SMILES of the most similar training molecule; '' without a prediction."""


class Predictor:
    """A bundle at work."""

    def __init__(self, bundle: Bundle, device: torch.device | None = None) -> None:
        """Take a bundle.

        Args:
            bundle: whose models predict.
            device: of the LLM; the bundle was put on one when it was loaded. Default the CPU.
        """
        self.bundle = bundle
        self._embedder = Embedder(bundle.source, device or torch.device("cpu")) if bundle.source is not None else None

    def predict(self, smiles: Sequence[str], confidence: float = CONFIDENCE) -> Predicted:
        """Predict molecules; one that cannot be read gets a status that says why.

        Args:
            smiles: n SMILES.
            confidence: of intervals and sets, in (0, 1).
        """
        status = [OK] * len(smiles)
        standard: dict[int, str] = {}
        mols: dict[int, Chem.Mol] = {}
        for i, text in enumerate(smiles):
            try:
                standard[i] = standard_smiles(text.strip(), self.bundle.config.standardize)
                mols[i] = parse_smiles(standard[i])
            except MoleculeError as error:
                status[i] = str(error)
        rows, states = self._states({i: standard[i] for i in mols})
        for i in mols.keys() - set(rows):
            status[i] = TOO_LONG
        return self._assemble(status, rows, [standard[i] for i in rows], [mols[i] for i in rows], states, confidence)

    def _states(self, smiles: dict[int, str]) -> tuple[list[int], Ragged | None]:
        """The numbers whose SMILES fit into the LLM's context, and the states of these."""
        if self._embedder is None or not smiles:
            return list(smiles), None
        pooling: Pooling = "tokens" if wants_tokens(self.bundle.config) else "mean"
        states = self._embedder.compute(list(smiles.values()), pooling)
        fits = np.flatnonzero(states.lengths)
        rows = list(smiles)
        return [rows[i] for i in fits], states.subset(fits)

    def _features(self, smiles: list[str], mols: list[Chem.Mol], states: Ragged | None) -> Features:
        """The views as the models read them."""
        config, read = self.bundle.config, self.bundle.config.read_views
        descriptors = None
        if "descriptors" in read:
            descriptors = np.concatenate([values for _, values in descriptor_groups(config.descriptors, smiles)])
        graphs = graphs_of(mols) if "graph" in read else None
        return self.bundle.ensemble.scaled(Features(states, graphs, descriptors))

    def _assemble(
        self,
        status: list[str],
        rows: list[int],
        smiles: list[str],
        mols: list[Chem.Mol],
        states: Ragged | None,
        confidence: float,
    ) -> Predicted:
        bundle, count, targets = self.bundle, len(status), len(self.bundle.targets)

        def spread_out(values: np.ndarray, fill: float | bool) -> np.ndarray:
            whole = np.full((count, *values.shape[1:]), fill, dtype=values.dtype)
            whole[rows] = values
            return whole

        if not rows:
            nothing = np.full((count, targets), np.nan)
            places = DomainScores(np.zeros(count, int), nothing[:, 0], nothing[:, 0], np.zeros(count, bool))
            empty = np.zeros((count, targets, 2), dtype=bool)
            regression = bundle.task == "regression"
            return Predicted(
                status,
                nothing,
                nothing,
                np.full((count, targets, 2), np.nan) if regression else None,
                None if regression else empty,
                None if regression else nothing,
                places,
                [""] * count,
            )
        features = self._features(smiles, mols, states)
        raw, std = bundle.ensemble.predict(features)
        found = bundle.domain.locate(fingerprints_of(mols), bundle.ensemble.members[0].hidden(features)["fused"])
        nearest = [""] * count
        for row, index in zip(rows, found.nearest, strict=True):
            nearest[row] = bundle.domain.smiles[index]
        intervals, sets, called = None, None, None
        if bundle.task == "regression":
            intervals = spread_out(bundle.calibration.intervals(raw, std, confidence), np.nan)
        else:
            sets = spread_out(bundle.calibration.sets(raw, confidence), False)
            called = spread_out((raw >= bundle.thresholds).astype(float), np.nan)
        return Predicted(
            status,
            spread_out(bundle.calibration.calibrated(raw), np.nan),
            spread_out(std, np.nan),
            intervals,
            sets,
            called,
            DomainScores(
                spread_out(found.nearest, 0),
                spread_out(found.similarity, np.nan),
                spread_out(found.distance, np.nan),
                spread_out(found.inside, False),
            ),
            nearest,
        )
