"""All views of a table's molecules, and batches of them as tensors."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kflm2.featurize.cache import StoredRows
from kflm2.featurize.graphs import Graphs
from kflm2.featurize.ragged import Ragged

if TYPE_CHECKING:  # a process that only reads molecules starts sooner without PyTorch
    import torch


@dataclass(frozen=True)
class Sizes:
    """Widths of the views; 0 for a view that is not used."""

    states: int = 0
    """D: hidden width of the LLM times the number of layers."""
    atoms: int = 0
    """F: number of atom features."""
    bonds: int = 0
    """G: number of bond features."""
    descriptors: int = 0
    """P: number of descriptors."""
    covariates: int = 0
    """W: number of columns of covariates."""


@dataclass(frozen=True)
class Batch:
    """The views of B molecules as tensors on one device; a view that is not used is None."""

    size: int
    """B."""
    states: "torch.Tensor | None" = None
    """(sum of T, D) states of all tokens, one molecule after another; one row per molecule if they are pooled."""
    states_mol: "torch.Tensor | None" = None
    """(sum of T,) index of the molecule of each row of states, ascending."""
    x: "torch.Tensor | None" = None
    """(N, F) atom features."""
    x_mol: "torch.Tensor | None" = None
    """(N,) index of the molecule of each atom, ascending."""
    edge_index: "torch.Tensor | None" = None
    """(2, E) from atom, to atom."""
    edge_attr: "torch.Tensor | None" = None
    """(E, G) bond features."""
    descriptors: "torch.Tensor | None" = None
    """(B, P) scaled descriptors."""
    covariates: "torch.Tensor | None" = None
    """(B, W) scaled covariates."""
    states_slots: "torch.Tensor | None" = None
    """(B, L) the rows of states of each molecule, -1 for none; None: they are found by states_mol."""
    x_slots: "torch.Tensor | None" = None
    """(B, L) the same of atoms."""


@dataclass(frozen=True)
class Features:
    """The views of n molecules, in row order; None for a view that the model does not use."""

    states: Ragged | StoredRows | None = None
    """n rows of (T, D) token states; T is 1 if they are pooled."""
    graphs: Graphs | None = None
    descriptors: np.ndarray | None = None
    """(n, P)"""
    counts: np.ndarray | None = None
    """(n, 2048) Morgan counts, for a support vector machine or a forest beside the model."""
    unscaled: np.ndarray | None = None
    """(n, L) descriptors that a ridge baseline reads, not scaled."""
    covariates: np.ndarray | None = None
    """(n, C) what stands beside the structure in the table; (n, W) when scaled."""
    minimol: np.ndarray | None = None
    """(n, 512) MiniMol's fingerprints, for a support vector machine beside the model."""

    def sizes(self) -> Sizes:
        """Widths of the views."""
        return Sizes(
            states=self.states.width if self.states else 0,
            atoms=self.graphs.atoms.width if self.graphs else 0,
            bonds=self.graphs.bond_features.shape[1] if self.graphs else 0,
            descriptors=self.descriptors.shape[1] if self.descriptors is not None else 0,
            covariates=self.covariates.shape[1] if self.covariates is not None else 0,
        )

    def subset(self, rows: np.ndarray) -> "Features":
        """The views of selected molecules."""
        return Features(
            self.states.subset(rows) if self.states is not None else None,
            self.graphs.subset(rows) if self.graphs is not None else None,
            self.descriptors[rows] if self.descriptors is not None else None,
            self.counts[rows] if self.counts is not None else None,
            self.unscaled[rows] if self.unscaled is not None else None,
            self.covariates[rows] if self.covariates is not None else None,
            self.minimol[rows] if self.minimol is not None else None,
        )

    def batch(self, rows: np.ndarray, device: "torch.device") -> Batch:
        """The views of selected molecules, in the order of `rows`."""
        import torch

        states = self.states.take(rows) if self.states else None
        graph = self.graphs.batch(rows) if self.graphs else None

        def tensor(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(device)

        return Batch(
            size=len(rows),
            states=tensor(states.values).float() if states else None,
            states_mol=tensor(_molecule_index(states.ptr)) if states else None,
            x=tensor(graph.x) if graph else None,
            x_mol=tensor(_molecule_index(graph.node_ptr)) if graph else None,
            edge_index=tensor(graph.edge_index) if graph else None,
            edge_attr=tensor(graph.edge_attr) if graph else None,
            descriptors=tensor(self.descriptors[rows]) if self.descriptors is not None else None,
            covariates=tensor(self.covariates[rows]) if self.covariates is not None else None,
        )


def _molecule_index(ptr: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(ptr) - 1), np.diff(ptr))
