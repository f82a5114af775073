"""Every setting of vectors for a model of one's own. Nothing heavy is imported here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from kflm2.config.base import StreamConfig
from kflm2.errors import SettingError

VectorName = Literal["fused", "states", "graph"]


@dataclass(frozen=True)
class EmbedConfig(StreamConfig):
    """Which vectors of what, and where to."""

    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("vectors.parquet")
    """File for the vectors, .parquet. After a kill the same command goes on where it was."""
    vectors: VectorName = "fused"
    """fused: the output of the fusion, from which the prediction is made; states: the LLM's hidden states, mean over
    the tokens, unchanged by any network; graph: the vector of the graph encoder. Of several networks each has learnt
    axes of its own, so that a mean of their vectors has no meaning: fused and graph are of the first network."""
    dtype: Literal["float32", "float16"] = "float32"
    """Numbers of a vector. float16 takes half the space and rounds to three digits; what is beyond its range of
    +-65,504, as a few columns of an LLM can be, is cut to it."""

    @property
    def reads_features(self) -> bool:
        """The LLM and the graph encoder read the structure alone."""
        return self.vectors == "fused"

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            SettingError: the first one found.
        """
        super().check()
        if self.shard is not None and self.out == EmbedConfig.out:
            raise SettingError("--shard needs --out, a file of its own to write")
        if self.engine == "local" and self.out.suffix.lower() != ".parquet":
            raise SettingError(f"out {self.out}: vectors are written as .parquet")
