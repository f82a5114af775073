"""KFLM2: molecular properties from an LLM's reading of SMILES fused with a graph neural network."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kflm2.api import load as load
    from kflm2.api import train as train

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`kflm2.train` and `kflm2.load`; they import torch, so not before they are asked for."""
    if name not in ("load", "train"):
        raise AttributeError(f"module 'kflm2' has no attribute {name!r}")
    from kflm2 import api

    return getattr(api, name)
