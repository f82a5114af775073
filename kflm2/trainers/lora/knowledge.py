"""What an LLM learns of a molecule beside its SMILES: RDKit's descriptors, and tables of numbers such as xTB's."""

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import joblib
import numpy as np

from kflm2.data.knowledge import KnowledgeTable, find_table
from kflm2.errors import DataError
from kflm2.featurize.descriptors import DescriptorScaler, descriptor_rows, rdkit_names

DESCRIPTORS = "descriptors"


@dataclass(frozen=True)
class Source:
    """One kind of knowledge."""

    name: str
    names: tuple[str, ...]
    """(P,) of its columns that vary."""
    weight: float
    """Of its loss."""
    columns: slice
    """Of KnowledgeTargets that are its own."""
    values: "_Ranks"
    """n SMILES -> (n, P) ranks with mean 0 and std 1, NaN where nothing is known."""
    table: KnowledgeTable | None
    """None for RDKit's descriptors."""


class KnowledgeTargets:
    """What is known of molecules, as ranks among molecules of a corpus or a table, with mean 0 and std 1 there."""

    def __init__(self, words: Sequence[str], weights: Sequence[float], sample: list[str]) -> None:
        """Compute ranks, means and standard deviations.

        Args:
            words: `descriptors`, `xtb` for the table in the repository, or files of tables.
            weights: of the losses, one a word, or one for all.
            sample: SMILES of the corpus, for the ranks of the descriptors.

        Raises:
            DataError: a table cannot be read, or two have a name in common.
        """
        self.sources: list[Source] = []
        start = 0
        compute: Callable[[list[str]], np.ndarray]
        for number, word in enumerate(words):
            if word == DESCRIPTORS:
                name, names, table, compute = DESCRIPTORS, rdkit_names(), None, _Descriptors()
                known: np.ndarray = compute(sample)
            else:
                table = KnowledgeTable.read(find_table(word))
                name, names, compute = table.name, table.columns, table.rows_of
                known = table.values
            ranks = _Ranks(compute, known)
            chosen = tuple(names[column] for column in ranks.columns)
            weight = weights[number if len(weights) > 1 else 0]
            self.sources.append(Source(name, chosen, weight, slice(start, start + len(chosen)), ranks, table))
            start += len(chosen)
        self.size = start
        """P: number of all columns."""
        for kind, given in (("file name", [source.name for source in self.sources]), ("column", self.table_names())):
            if repeated := sorted({name for name in given if given.count(name) > 1}):
                raise DataError(f"knowledge: two tables have the same {kind} {repeated[0]}; rename one")

    def shares(self, smiles: list[str]) -> dict[str, float]:
        """Table -> share of the molecules that are in it."""
        return {
            source.name: float(np.mean(~np.isnan(source.table.rows_of(smiles)).all(axis=1)))
            for source in self.sources
            if source.table is not None
        }

    def table_arrays(self) -> dict[str, np.ndarray]:
        """What turns the head's outputs for the columns of tables into their units; see featurize.taught."""
        tables = [source for source in self.sources if source.table is not None]
        if not tables:
            return {}
        columns = [np.arange(source.columns.start, source.columns.stop) for source in tables]
        # tables of few molecules have fewer quantiles
        count = max(len(source.values.quantiles) for source in tables)
        quantiles = [_resampled(source.values.quantiles, count) for source in tables]
        return {
            "table.columns": np.concatenate(columns),
            "table.quantiles": np.concatenate(quantiles, axis=1).astype(np.float32),
            "table.mean": np.concatenate([source.values.mean for source in tables]).astype(np.float32),
            "table.std": np.concatenate([source.values.std for source in tables]).astype(np.float32),
        }

    def table_names(self) -> list[str]:
        """Names of the columns of tables, in the order of table_arrays."""
        return [name for source in self.sources if source.table is not None for name in source.names]

    def __call__(self, smiles: list[str]) -> np.ndarray:
        """(n, P) float32, NaN where nothing is known."""
        return np.concatenate([source.values(smiles) for source in self.sources], axis=1)


def _resampled(quantiles: np.ndarray, count: int) -> np.ndarray:
    """(count, P) quantiles, by linear interpolation."""
    old, new = np.linspace(0, 1, len(quantiles)), np.linspace(0, 1, count)
    return np.stack([np.interp(new, old, column) for column in quantiles.T], axis=1)


_SMALL = 1e-3
"""A column whose values are nearer to each other than this is brought to a spread of 1."""


class _Ranks:
    """Values as ranks of a normal distribution, with mean 0 and std 1 in a sample."""

    def __init__(self, compute: Callable[[list[str]], np.ndarray], known: np.ndarray) -> None:
        spread = np.nanmax(known, axis=0, initial=-np.inf) - np.nanmin(known, axis=0, initial=np.inf)
        # of a constant in mol/L all values would be the same for the scaler, to which 1e-7 is nothing
        self._unit = np.where((spread > 0) & (spread < _SMALL), spread, 1.0)
        self._compute, self._scaler = compute, DescriptorScaler(known / self._unit)
        ranks = self._missing(known, self._scaler(known / self._unit))
        # ranks of counts, which are mostly zero, do not have mean 0 and std 1
        self.mean, self.std = np.nanmean(ranks, axis=0), np.nanstd(ranks, axis=0) + 1e-6
        arrays = self._scaler.arrays()
        self.columns = arrays["columns"]
        """Indices of those that vary in the sample."""
        self.quantiles = arrays["quantiles"] * self._unit[self.columns]
        """(Q, P) of the sample."""

    def __call__(self, smiles: list[str]) -> np.ndarray:
        values = self._compute(smiles)
        # without clipping, a value that is rare in the sample would outweigh all others
        scaled = ((self._scaler(values / self._unit) - self.mean) / self.std).clip(-5, 5)
        return self._missing(values, scaled).astype(np.float32)

    def _missing(self, values: np.ndarray, ranks: np.ndarray) -> np.ndarray:
        return np.where(np.isnan(values[:, self._scaler.columns]), np.nan, ranks)


class _Descriptors:
    """RDKit's descriptors, computed in processes."""

    def __init__(self) -> None:
        # the cores are shared with the other training processes
        self.processes = max(1, joblib.cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))

    def __call__(self, smiles: list[str]) -> np.ndarray:
        chunks = [list(chunk) for chunk in np.array_split(np.array(smiles, dtype=object), self.processes) if len(chunk)]
        parallel = joblib.Parallel(n_jobs=self.processes)
        return np.concatenate(parallel(joblib.delayed(_worker_descriptors)(os.getpid(), chunk) for chunk in chunks))


def _worker_descriptors(parent: int, smiles: list[str]) -> np.ndarray:
    """Descriptors, computed in a process that ignores Ctrl-C; its parent handles it and writes a checkpoint."""
    if os.getpid() != parent:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return descriptor_rows("rdkit", smiles)
