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
from kflm2.data.structures import Standardization, identity, standard_smiles
from kflm2.errors import MoleculeError
from kflm2.featurize.descriptors import descriptor_rows, rdkit_names
from kflm2.featurize.graphs import graphs_of
from kflm2.files import sha256_texts

_TOLERANCE = 1e-5
"""Of a descriptor, relative, and absolute near zero; sums in another order differ by less."""
_KINDS = {
    "structures": "standard forms",
    "smiles": "standard SMILES",
    "counts": "Morgan counts",
    "graphs": "features of atoms and bonds",
}
"""Names of what is kept as a SHA-256."""


def rdkit_release() -> str:
    """The release of RDKit, such as 2026.9.1; conda writes it 2026.09.1."""
    return ".".join(part.lstrip("0") or "0" for part in version("rdkit").split("."))


def rdkit_values(config: TrainConfig, packed: bool) -> dict[str, str]:
    """What this RDKit computes for the reference molecules, as far as a model reads it.

    It takes half a second once a process; with canonical tautomers (`--standardize tautomer`) some seconds.

    Args:
        config: of the model.
        packed: whether it keeps fingerprints instead of SMILES.

    Returns:
        JSON: `release` of RDKit, and the SHA-256 of the `molecules`' file and of their `structures` in standard form;
        `smiles` of these for a model that reads the LLM's states; `graphs`; `counts` for a support vector machine or
        a forest, and for fingerprints; and `descriptors`, float32 in base64, to name those that differ.
    """
    lines = _lines()
    values = {"release": rdkit_release(), "molecules": sha256_texts(lines)}
    standard = _standard(config.standardize)
    values["structures"] = sha256_texts([key for _, key in standard])
    if "states" in config.read_views:
        values["smiles"] = sha256_texts([text for text, _ in standard])
    if "graph" in config.read_views:
        graphs = graphs_of(map(parse_smiles, lines))
        values["graphs"] = _sha256(graphs.atoms.values, graphs.bonds.values, graphs.bond_features)
    if packed or config.reads_counts:
        values["counts"] = _sha256(_values("morgan"))
    if "rdkit" in config.read_descriptors:
        values["descriptors"] = base64.b64encode(_values("rdkit").astype("<f4").tobytes()).decode("ascii")
    return values


def differences(there: dict[str, Any], config: TrainConfig, packed: bool) -> list[str] | None:
    """What this RDKit computes differently from another one.

    Args:
        there: rdkit_values of another RDKit.
        config: of the model.
        packed: see rdkit_values.

    Returns:
        Names: of single descriptors, or of all values of a kind. None if they cannot be compared, since they are of
        other molecules or not complete.

    Raises:
        ValueError: the descriptors are damaged.
    """
    here = rdkit_values(config, packed)
    if here["molecules"] != there.get("molecules") or set(here) - set(there):
        return None
    names = [name for kind, name in _KINDS.items() if kind in here and here[kind] != there[kind]]
    if "descriptors" in here:
        ours, theirs = (
            np.frombuffer(base64.b64decode(values["descriptors"], validate=True), "<f4").reshape(-1, len(rdkit_names()))
            for values in (here, there)
        )
        if len(ours) != len(theirs):
            raise ValueError(f"descriptors of {len(theirs)} molecules, not of {len(ours)}")
        equal = np.isclose(ours, theirs, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True).all(axis=0)
        names += [name for name, same in zip(rdkit_names(), equal, strict=True) if not same]
    return names


def count() -> int:
    """Number of reference molecules."""
    return len(_lines())


@functools.cache
def _lines() -> list[str]:
    return resources.packaged(resources.REFERENCE).read_text(encoding="utf-8").split()


@functools.cache
def _standard(how: Standardization) -> list[tuple[str, str]]:
    """Standard SMILES of each reference molecule, and what its structure is known by."""
    pairs = []
    for text in _lines():
        try:
            standard = standard_smiles(text, how)
            pairs.append((standard, identity(standard)))
        except MoleculeError:  # another RDKit may refuse one; no model must be lost by that
            pairs.append(("!", "!"))
    return pairs


@functools.cache
def _values(kind: str) -> np.ndarray:
    return descriptor_rows(kind, _lines())


def _sha256(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        # one type on every machine: the values are whole numbers
        digest.update(np.ascontiguousarray(array, dtype="<i4").tobytes())
    return digest.hexdigest()
