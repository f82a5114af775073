"""What chemists compute: RDKit's 2D descriptors and Morgan counts, as a third view of a molecule."""

import warnings
from collections.abc import Iterator

import joblib
import numpy as np
import rdkit
from rdkit.Chem import Descriptors, rdFingerprintGenerator
from sklearn.preprocessing import QuantileTransformer
from tqdm import tqdm

from kflm2.data.molecules import parse_smiles
from kflm2.errors import one_of
from kflm2.featurize.cache import FeatureCache
from kflm2.featurize.ragged import Ragged

DESCRIPTOR_SETS = ("none", "rdkit", "morgan", "rdkit+morgan")
MORGAN_RADIUS = 2
MORGAN_BITS = 2048
_GROUP = 256
_WORTH_PROCESSES = 1024
"""Molecules from which on the start of further processes pays."""


def rdkit_names() -> tuple[str, ...]:
    """Names of RDKit's 2D descriptors, in column order."""
    return tuple(name for name, _ in Descriptors.descList)


def compute_descriptors(kind: str, smiles: list[str], progress: bool = True) -> np.ndarray:
    """Descriptors of valid SMILES, from the cache where they are there.

    Args:
        kind: `rdkit` (P = 217 with RDKit 2026.9), `morgan` (P = 2,048 counts, radius 2) or `rdkit+morgan`.
        smiles: n SMILES.
        progress: show a bar while computing.

    Returns:
        (n, P) float32; NaN where RDKit cannot compute one.

    Raises:
        SettingError: unknown kind.
        MoleculeError: RDKit cannot read a SMILES.
    """
    one_of("descriptor set", kind, DESCRIPTOR_SETS[1:])
    cache = FeatureCache(f"descriptors-{kind}", {"descriptors": kind, "rdkit": rdkit.__version__})

    def compute(missing: list[str]) -> Iterator[tuple[list[str], Ragged]]:
        with tqdm(total=len(missing), desc=f"{kind} descriptors", unit="mol", disable=not progress) as bar:
            for group, values in descriptor_groups(kind, missing):
                bar.update(len(group))
                yield group, Ragged(values, np.arange(len(group) + 1))

    return cache.get(smiles, compute).values


def descriptor_groups(kind: str, smiles: list[str]) -> Iterator[tuple[list[str], np.ndarray]]:
    """Groups of SMILES with their descriptors, in order; of many, in as many processes as there are cores."""
    groups = [smiles[start : start + _GROUP] for start in range(0, len(smiles), _GROUP)]
    processes = joblib.cpu_count() if len(smiles) >= _WORTH_PROCESSES else 1
    work = joblib.Parallel(n_jobs=processes, return_as="generator")
    yield from zip(groups, work(joblib.delayed(descriptor_rows)(kind, group) for group in groups), strict=True)


def descriptor_rows(kind: str, smiles: list[str]) -> np.ndarray:
    """(n, P) descriptors of valid SMILES, computed here and now; see compute_descriptors."""
    return np.stack([_row(kind, text) for text in smiles])


def _row(kind: str, smiles: str) -> np.ndarray:
    mol = parse_smiles(smiles)
    columns: list[np.ndarray] = []
    if "rdkit" in kind:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a descriptor of a one-atom molecule may divide by zero
            values = np.array(list(Descriptors.CalcMolDescriptors(mol, missingVal=np.nan).values()), dtype=np.float64)
        # float32 is what is kept; what does not fit (Ipc of large molecules) is as good as missing
        values[~(np.abs(values) <= np.finfo(np.float32).max)] = np.nan
        columns.append(values.astype(np.float32))
    if "morgan" in kind:
        generator = rdFingerprintGenerator.GetMorganGenerator(radius=MORGAN_RADIUS, fpSize=MORGAN_BITS)
        columns.append(generator.GetCountFingerprintAsNumPy(mol).astype(np.float32))
    return np.concatenate(columns)


class DescriptorScaler:
    """Descriptors to ranks among the training molecules, spread as a standard normal.

    Ranks, because descriptors differ in scale by many decades and have long tails. A value outside the training range
    becomes the range's end; a missing one 0, the median; a column that is constant in training is left out.
    """

    def __init__(self, train: np.ndarray) -> None:
        """Learn the ranks from (n, P) training rows, and from nothing else."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a column that is NaN throughout
            spread = np.nanmax(train, axis=0) - np.nanmin(train, axis=0)
        self.columns = np.flatnonzero(np.nan_to_num(spread) > 0)
        self._ranks = QuantileTransformer(
            n_quantiles=min(1000, len(train)), output_distribution="normal", random_state=0
        )
        if len(self.columns):
            self._ranks.fit(train[:, self.columns])

    def arrays(self) -> dict[str, np.ndarray]:
        """What must be kept of it."""
        quantiles = self._ranks.quantiles_ if len(self.columns) else np.zeros((0, 0), dtype=np.float32)
        return {"columns": self.columns, "quantiles": quantiles}

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> "DescriptorScaler":
        """The scaler whose arrays these are."""
        own = cls.__new__(cls)
        own.columns, quantiles = arrays["columns"], arrays["quantiles"]
        own._ranks = QuantileTransformer(n_quantiles=len(quantiles), output_distribution="normal", random_state=0)
        # what fit would have set
        own._ranks.quantiles_, own._ranks.references_ = quantiles, np.linspace(0, 1, len(quantiles))
        own._ranks.n_quantiles_, own._ranks.n_features_in_ = quantiles.shape
        return own

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """(n, P) descriptors to (n, P') float32, the columns that vary in training."""
        if not len(self.columns):
            return np.zeros((len(values), 0), dtype=np.float32)
        ranks = self._ranks.transform(values[:, self.columns])
        # the normal's far ends (5.2 sigma) would outweigh all else
        return np.nan_to_num(ranks).clip(-3, 3).astype(np.float32)
