"""RDKit's 2D descriptors, Morgan counts and xTB's numbers, the third view of a molecule."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import get_args

import joblib
import numpy as np
import rdkit
from rdkit import Chem, rdBase
from rdkit.Chem import Descriptors, rdFingerprintGenerator
from scipy.special import ndtri
from sklearn.preprocessing import QuantileTransformer

from kflm2.config.train import DescriptorSet
from kflm2.data.molecules import MAX_SMILES_LENGTH, parse_smiles
from kflm2.errors import one_of
from kflm2.featurize import xtb
from kflm2.featurize.cache import FeatureCache
from kflm2.featurize.ragged import Ragged
from kflm2.progress import Progress

DESCRIPTOR_SETS: tuple[str, ...] = get_args(DescriptorSet)
MORGAN_RADIUS = 2
MORGAN_BITS = 2048
_GROUP = 256
_WORTH_PROCESSES = 1024
"""From this number of molecules on, several processes are faster than one."""
VERSION = 2
"""Increase it when the meaning of the values changes, so that older ones in the cache are not read."""
_EXACT = 2.0**53
"""Largest integer up to which all are exact in float64."""
_MOST_ATOMS_OF_IPC = 100
"""Ipc's time grows with the fourth power of the atoms: 0.1 s for 100, 30 s for 600. From 90 atoms on none is exact in
the eleven datasets."""
_AT_THE_END = 1e-7
"""A value so near to the end of the training range is at the end, as scikit-learn has it."""
_IPC = ("Ipc", "AvgIpc")
_OF_ESTATE = ("MaxAbsEStateIndex", "MaxEStateIndex", "MinAbsEStateIndex", "MinEStateIndex")
"""Each computes the molecule's E-state indices anew, unless it is told not to."""


def rdkit_names() -> tuple[str, ...]:
    """Names of RDKit's 2D descriptors, in column order."""
    return tuple(name for name, _ in Descriptors.descList)


def descriptor_names(kind: str, taught: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Names of the columns of a descriptor set, in their order; `taught` are those of the LLM's head."""
    names = {
        "rdkit": rdkit_names(),
        "morgan": tuple(f"Morgan bit {bit}" for bit in range(MORGAN_BITS)),
        "xtb": tuple(xtb.XTB_COLUMNS),
        "taught": taught,
    }
    return tuple(name for part in kind.split("+") if part != "none" for name in names[part])


def without(kind: str, *left_out: str) -> str:
    """The descriptor set without some of its parts."""
    return "+".join(part for part in kind.split("+") if part not in left_out) or "none"


def compute_descriptors(kind: str, smiles: list[str], progress: bool = True) -> np.ndarray:
    """Descriptors of valid SMILES, read from the cache or computed.

    Args:
        kind: `rdkit` (P = 217 with RDKit 2026.9), `morgan` (P = 2,048 counts, radius 2), `xtb` (see xtb.XTB_COLUMNS) or
            several of them in this order, joined by +.
        smiles: n SMILES.
        progress: show a progress bar while computing.

    Returns:
        (n, P) float32; NaN where a descriptor cannot be computed.

    Raises:
        SettingError: unknown kind, or xtb without tblite.
        MoleculeError: RDKit cannot read a SMILES.
    """
    one_of("descriptor set", kind, [name for name in DESCRIPTOR_SETS[1:] if "taught" not in name])
    columns = []
    if (plain := without(kind, "xtb")) != "none":
        columns.append(_cached_descriptors(plain, smiles, progress))
    if "xtb" in kind:
        columns.append(xtb.compute_xtb(smiles, progress)[0])
    return np.concatenate(columns, axis=1)


def _cached_descriptors(kind: str, smiles: list[str], progress: bool) -> np.ndarray:
    cache = FeatureCache(f"descriptors-{kind}", {"descriptors": kind, "rdkit": rdkit.__version__, "version": VERSION})

    def compute(missing: list[str]) -> Iterator[tuple[list[str], Ragged]]:
        with Progress(total=len(missing), desc=f"{kind} descriptors", unit="mol", disable=not progress) as bar:
            for group, values in descriptor_groups(kind, missing):
                bar.update(len(group))
                yield group, Ragged(values, np.arange(len(group) + 1))

    return cache.get(smiles, compute).values


def descriptor_groups(kind: str, smiles: list[str]) -> Iterator[tuple[list[str], np.ndarray]]:
    """Groups of SMILES with their descriptors, in order; many SMILES are computed with one process per core."""
    groups = [smiles[start : start + _GROUP] for start in range(0, len(smiles), _GROUP)]
    processes = joblib.cpu_count() if len(smiles) >= _WORTH_PROCESSES else 1
    parallel = joblib.Parallel(n_jobs=processes, return_as="generator")
    yield from zip(groups, parallel(joblib.delayed(descriptor_rows)(kind, group) for group in groups), strict=True)


def descriptors_and_counts(
    kind: str, counts: bool, smiles: list[str]
) -> tuple[np.ndarray | None, np.ndarray | None, list[str]]:
    """(n, P) descriptors, and (n, 2048) Morgan counts, of valid SMILES, computed without the cache.

    Args:
        kind: see compute_descriptors; none for no descriptors.
        counts: whether the counts are wanted too.
        smiles: n SMILES.

    Returns:
        The descriptors, the counts, and n reasons why xTB's are missing, empty where they are not; [] without xTB.
    """
    plain = without(kind, "xtb")
    wanted = {"none": "morgan", "rdkit": "rdkit+morgan"}.get(plain, plain) if counts else plain
    if not smiles or (wanted == "none" and "xtb" not in kind):
        return None, None, []
    columns, morgan, failures = [], None, list[str]()
    if wanted != "none":
        values = np.concatenate([rows for _, rows in descriptor_groups(wanted, smiles)])
        morgan = values[:, -MORGAN_BITS:] if counts else None
        if plain != "none":
            columns.append(values[:, :-MORGAN_BITS] if wanted != plain else values)
    if "xtb" in kind:
        values, failures = xtb.compute_uncached(smiles)
        columns.append(values)
    return np.concatenate(columns, axis=1) if columns else None, morgan, failures


def descriptor_rows(kind: str, smiles: list[str]) -> np.ndarray:
    """(n, P) descriptors of valid SMILES, computed without the cache; see compute_descriptors."""
    return np.stack([_row(kind, text) for text in smiles])


def _canonical(smiles: str) -> Chem.Mol:
    """The molecule of a valid SMILES, with its atoms in canonical order.

    Partial charges of complexes of metals depend on the order of the atoms, up to whether they can be computed.
    """
    # how many atoms are allowed was decided where the SMILES came in
    mol = parse_smiles(smiles, max_atoms=MAX_SMILES_LENGTH)
    text = Chem.MolToSmiles(mol)
    if text == smiles:
        return mol
    with rdBase.BlockLogs():
        canonical = Chem.MolFromSmiles(text)
    return mol if canonical is None else canonical


def _row(kind: str, smiles: str) -> np.ndarray:
    mol = _canonical(smiles)
    columns: list[np.ndarray] = []
    if "rdkit" in kind:
        by_name = _rdkit_descriptors(mol)
        # Both come from the coefficients of the characteristic polynomial, which are integers. Where these are no
        # longer exact, rounding errors are as large as the values.
        if not by_name["Ipc"] < _EXACT:
            by_name |= dict.fromkeys(_IPC, np.nan)
        values = np.array(list(by_name.values()), dtype=np.float64)
        # values are stored as float32; a value beyond its range (Ipc of large molecules) is treated as missing
        values[~(np.abs(values) <= np.finfo(np.float32).max)] = np.nan
        columns.append(values.astype(np.float32))
    if "morgan" in kind:
        generator = rdFingerprintGenerator.GetMorganGenerator(radius=MORGAN_RADIUS, fpSize=MORGAN_BITS)
        columns.append(generator.GetCountFingerprintAsNumPy(mol).astype(np.float32))
    return np.concatenate(columns)


def _rdkit_descriptors(mol: Chem.Mol) -> dict[str, float]:
    """RDKit's 2D descriptors by name, in column order; NaN where RDKit cannot compute one."""
    skipped = _IPC if mol.GetNumAtoms() > _MOST_ATOMS_OF_IPC else ()
    values = dict.fromkeys(rdkit_names(), np.nan)
    with warnings.catch_warnings(), rdBase.BlockLogs():
        warnings.simplefilter("ignore", RuntimeWarning)  # a descriptor of a one-atom molecule may divide by zero
        for name, function in Descriptors.descList:
            # as in RDKit's CalcMolDescriptors, which has no choice of descriptors
            with contextlib.suppress(Exception):
                if name in _OF_ESTATE:
                    values[name] = function(mol, force=False)
                elif name not in skipped:
                    values[name] = function(mol)
    return values


class DescriptorScaler:
    """Maps descriptors to their ranks among the training molecules, as quantiles of a standard normal distribution.

    Ranks, because descriptors differ in scale by many decades and have long tails. A value outside the training range
    becomes the end of the range; a missing value becomes 0, the median; a column that is constant in training is
    dropped.
    """

    def __init__(self, train: np.ndarray) -> None:
        """Compute the ranks from (n, P) training rows only."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a column of NaN only
            value_range = np.nanmax(train, axis=0) - np.nanmin(train, axis=0)
        self.columns = np.flatnonzero(np.nan_to_num(value_range) > 0)
        self._ranks = QuantileTransformer(
            n_quantiles=min(1000, len(train)), output_distribution="normal", random_state=0
        )
        if len(self.columns):
            self._ranks.fit(train[:, self.columns])

    def arrays(self) -> dict[str, np.ndarray]:
        """Arrays from which `from_arrays` restores the scaler."""
        quantiles = self._ranks.quantiles_ if len(self.columns) else np.zeros((0, 0), dtype=np.float32)
        return {"columns": self.columns, "quantiles": quantiles}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "DescriptorScaler":
        """Restore a scaler from the arrays of `arrays`."""
        scaler = cls.__new__(cls)
        scaler.columns, quantiles = arrays["columns"], arrays["quantiles"]
        scaler._ranks = QuantileTransformer(n_quantiles=len(quantiles), output_distribution="normal", random_state=0)
        # the attributes that fit sets
        scaler._ranks.quantiles_, scaler._ranks.references_ = quantiles, np.linspace(0, 1, len(quantiles))
        scaler._ranks.n_quantiles_, scaler._ranks.n_features_in_ = quantiles.shape
        return scaler

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """(n, P) descriptors to (n, P') float32; P' columns vary in training."""
        if not len(self.columns):
            return np.zeros((len(values), 0), dtype=np.float32)
        # the extreme ranks (5.2 sigma) would outweigh all other values
        return np.nan_to_num(ndtri(self._uniform(values[:, self.columns]))).clip(-3, 3).astype(np.float32)

    def _uniform(self, values: np.ndarray) -> np.ndarray:
        """(n, P') ranks from 0 to 1, as QuantileTransformer has them before it makes them normal.

        Its own transform calls scipy.stats for each column, which for a batch of 32 takes ten times as long.
        """
        quantiles, references = self._ranks.quantiles_, self._ranks.references_
        ranks = np.empty_like(values)
        for k, column in enumerate(quantiles.T):
            # of a value that is several quantiles, the middle one
            lowest = np.interp(-values[:, k], -column[::-1], -references[::-1])
            ranks[:, k] = 0.5 * (np.interp(values[:, k], column, references) - lowest)
        ranks[values + _AT_THE_END > quantiles[-1]] = 1
        ranks[values - _AT_THE_END < quantiles[0]] = 0
        return ranks
