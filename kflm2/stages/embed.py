"""Vectors of molecules from a saved model, for anyone's own model: one output row per input row, as predictions."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from kflm2.config.embed import EmbedConfig, VectorName
from kflm2.errors import SettingError
from kflm2.predictor.bundle import Bundle
from kflm2.predictor.chunks import ChunkModel, ChunkReader, ReadChunk
from kflm2.predictor.featurizer import MoleculeFeaturizer, ReadMolecules
from kflm2.predictor.output import load_predictor, open_input, write_rows
from kflm2.predictor.predictor import Predictor
from kflm2.predictor.ray_engine import write_folder
from kflm2.predictor.readers import MoleculeReader

_VIEWS: dict[VectorName, str] = {"states": "LLM", "graph": "graph"}
"""Vectors of one view, and what a model without it does not read."""


def run(config: EmbedConfig) -> int:
    """Write one row with a vector per input row.

    Args:
        config: checked.

    Returns:
        Number of rows without a vector.

    Raises:
        KFLM2Error: model or input cannot be used, or the output cannot be written to its end.
    """
    settings = ("embed", config.vectors, config.dtype)
    if config.engine == "ray":
        return write_folder(config, load, settings)
    return write_rows(config, load(config), settings)


def load(config: EmbedConfig, reader: MoleculeReader | None = None) -> "ChunkEmbedder":
    """Load the saved model, for the rows of a reader; None: of the input that the settings name."""
    reader = reader or open_input(config)
    predictor = load_predictor(config)
    check_vectors(config.vectors, predictor.bundle)
    read = ChunkReader(reader, featurizer(config.vectors, predictor))
    return ChunkEmbedder(read, predictor, config.vectors, np.dtype(config.dtype))


def check_vectors(vectors: VectorName, bundle: Bundle) -> None:
    """Refuse vectors of a view that the models of a bundle do not read.

    Raises:
        SettingError: they do not read it.
    """
    if vectors in _VIEWS and vectors not in bundle.config.read_views:
        there = " or ".join(["fused", *(name for name in _VIEWS if name in bundle.config.read_views)])
        raise SettingError(f"vectors {vectors}: the model reads no {_VIEWS[vectors]}; give --vectors {there}")


def featurizer(vectors: VectorName, predictor: Predictor) -> MoleculeFeaturizer:
    """What reads of a SMILES all that these vectors need, and no more."""
    if vectors in _VIEWS:
        return replace(predictor.featurizer, views=(vectors,), descriptors="none", voters=(), covariates=None)
    return replace(predictor.featurizer, voters=())


@dataclass(frozen=True)
class ChunkEmbedder(ChunkModel):
    """Makes the vectors of the rows of a chunk."""

    predictor: Predictor
    vectors: VectorName
    dtype: np.dtype

    DOING, DONE = "embedding", "embedded"

    @property
    def device(self) -> torch.device:
        """Of the LLM and the networks."""
        return self.predictor.device

    def table(self, done: ReadChunk) -> pd.DataFrame:
        """Columns `smiles`, `status`, and `vector`: (D,) numbers, None where the status is not ok."""
        read, values = self._vectors(done.read)
        limits = np.finfo(self.dtype)
        vectors: list[np.ndarray | None] = [None] * len(read.status)
        for row, vector in zip(read.rows, values.clip(limits.min, limits.max).astype(self.dtype), strict=True):
            vectors[row] = vector
        return pd.DataFrame(
            {
                "smiles": np.array(done.smiles, dtype=object),
                "status": np.array(read.status, dtype=object),
                "vector": pd.Series(vectors, dtype=object),
            }
        )

    def arrow_types(self) -> dict[str, Any]:
        """The column of vectors is of lists of fixed size."""
        import pyarrow as pa

        return {"vector": pa.list_(pa.from_numpy_dtype(self.dtype), self.width)}

    @property
    def width(self) -> int:
        """D."""
        bundle = self.predictor.bundle
        return bundle.ensemble.sizes.states if self.vectors == "states" else bundle.config.hidden

    def _vectors(self, read: ReadMolecules) -> tuple[ReadMolecules, np.ndarray]:
        """The molecules that have a vector, and their (m, D) float32 vectors."""
        states = None
        if self.vectors != "graph":
            read, states = self.predictor.read_states(
                read, "mean" if self.vectors == "states" else self.predictor.pooling
            )
        if not read.rows:
            return read, np.zeros((0, self.width), np.float32)
        if self.vectors == "states":
            assert states is not None
            return read, states.values
        # of one network: each has learnt axes of its own
        network = self.predictor.bundle.ensemble.members[0]
        if self.vectors == "graph":
            return read, network.hidden(read.features, "graph")["graph"]
        return read, network.hidden(self.predictor.scaled(read.features, states))["fused"]
