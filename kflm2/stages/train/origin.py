"""A saved model that training goes on from."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kflm2.config.train import TrainConfig
from kflm2.data.splits import Split
from kflm2.data.structures import structure_digests
from kflm2.featurize.descriptors import DescriptorScaler
from kflm2.files import sha256_file
from kflm2.llm.resolve import LLMSource
from kflm2.model import FusedModel
from kflm2.predictor.bundle import LEARNT_BEFORE, WEIGHTS, Bundle
from kflm2.predictor.bundle_reader import load_bundle
from kflm2.resources import saved_model
from kflm2.results.schema import OriginRecord


@dataclass(frozen=True)
class Origin:
    """What is kept of a saved model."""

    models: tuple[FusedModel, ...]
    """Its networks."""
    scaler: DescriptorScaler | None
    """Of the descriptors, which the kept encoder expects."""
    source: LLMSource | None
    """Its LLM."""
    record: OriginRecord
    learnt: frozenset[str]
    """Digests of the structures that it learnt from, it and those that it went on from."""

    def model(self, number: int) -> FusedModel:
        """Where the model of an inner fold starts."""
        return self.models[number % len(self.models)]

    def known(self, digests: list[str], split: Split) -> OriginRecord:
        """The record, with how many molecules of a split it has learnt from.

        Args:
            digests: of the structures of all molecules.
            split: of these.
        """

        def count(parts: Iterable[np.ndarray]) -> int:
            return sum(digests[row] in self.learnt for rows in parts for row in rows)

        tests = [rows for part, rows in split.parts.items() if part.startswith("test")]
        return replace(self.record, known=count(tests), known_others=count([split.learned]))


def find_origin(config: TrainConfig, device: torch.device) -> Origin | None:
    """The saved model that the settings name; None where they name none.

    Raises:
        BundleError: it cannot be used.
        LLMError: its LLM is not here.
    """
    if config.from_ is None:
        return None
    folder = saved_model(config.from_).resolve()
    bundle = load_bundle(folder, None if config.llm == TrainConfig.llm else config.llm, device)
    return Origin(
        tuple(member.model for member in bundle.ensemble.members),
        bundle.ensemble.descriptor_scaler,
        bundle.source,
        _record(bundle, folder),
        frozenset([*structure_digests(bundle.domain.smiles), *map(str, bundle.provenance.get(LEARNT_BEFORE) or ())]),
    )


def _record(bundle: Bundle, folder: Path) -> OriginRecord:
    made: Any = bundle.provenance.get("dataset")
    dataset = made.get("name") if isinstance(made, dict) else None
    return OriginRecord(folder.name, sha256_file(folder / WEIGHTS), str(dataset or "unknown"), list(bundle.targets))
