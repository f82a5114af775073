"""Whether this RDKit computes what a model learnt from: tried with molecules, since the release alone does not tell.

Most releases change none of the numbers that a model reads; some change a few descriptors.
"""

import base64
import functools
import hashlib
from importlib.metadata import version
from typing import Any

import numpy as np

from kflm2 import resources
from kflm2.config.train import TrainConfig
from kflm2.data.molecules import parse_smiles
from kflm2.data.structures import Standardization, standard_smiles
from kflm2.featurize.descriptors import descriptor_rows, rdkit_names
from kflm2.featurize.graphs import graphs_of
from kflm2.files import sha256_texts

_TOLERANCE = 1e-5
"""Of a descriptor, relative; sums in another order differ by less."""


def rdkit_release() -> str:
    """The release of RDKit, such as 2026.9.1; conda writes it 2026.09.1."""
    return ".".join(part.lstrip("0") or "0" for part in version("rdkit").split("."))


def rdkit_values(config: TrainConfig) -> dict[str, str]:
    """What this RDKit computes of the reference molecules, as far as a model reads it.

    Returns:
        JSON: `release` of RDKit; `smiles`, `counts` and `graphs`, SHA-256 of the standard SMILES, of their Morgan
        counts, which the applicability domain reads too, and of their graphs; `descriptors`, float32 in base64.
    """
    smiles = _standard_smiles(config.standardize)
    values = {"release": rdkit_release(), "smiles": sha256_texts(smiles), "counts": _sha256(_values("morgan", smiles))}
    if "graph" in config.read_views:
        graphs = graphs_of(map(parse_smiles, smiles))
        values["graphs"] = _sha256(graphs.atoms.values, graphs.bonds.values, graphs.bond_features)
    if "rdkit" in config.read_descriptors:
        values["descriptors"] = base64.b64encode(_values("rdkit", smiles).astype("<f4").tobytes()).decode("ascii")
    return values


def differences(there: dict[str, Any], config: TrainConfig) -> list[str]:
    """What this RDKit computes otherwise than another one did.

    Args:
        there: rdkit_values of another RDKit.
        config: of the model.

    Returns:
        Names: of single descriptors, or of all values of a kind.

    Raises:
        ValueError: the values cannot be those of the reference molecules.
    """
    here = rdkit_values(config)
    if set(here) != set(there):
        raise ValueError("the values of the reference molecules are not those that its model reads")
    kinds = {"smiles": "standard SMILES", "counts": "Morgan counts", "graphs": "features of atoms and bonds"}
    names = [name for kind, name in kinds.items() if here.get(kind) != there.get(kind)]
    if "descriptors" in here:
        shape = (len(_standard_smiles(config.standardize)), len(rdkit_names()))
        ours, theirs = (
            np.frombuffer(base64.b64decode(values["descriptors"], validate=True), "<f4").reshape(shape)
            for values in (here, there)
        )
        equal = np.isclose(ours, theirs, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True).all(axis=0)
        names += [name for name, same in zip(rdkit_names(), equal, strict=True) if not same]
    return names


@functools.cache
def _standard_smiles(how: Standardization) -> tuple[str, ...]:
    lines = resources.packaged(resources.REFERENCE).read_text(encoding="utf-8").split()
    return tuple(standard_smiles(text, how) for text in lines)


@functools.cache
def _values(kind: str, smiles: tuple[str, ...]) -> np.ndarray:
    return descriptor_rows(kind, list(smiles))


def _sha256(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        # one type on every machine: the values are whole numbers
        digest.update(np.ascontiguousarray(array, dtype="<i4").tobytes())
    return digest.hexdigest()
