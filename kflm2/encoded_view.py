"""A view of molecules after its encoder, and what fusions do with its items: averages, and groups that attend.

Shapes: B molecules, L items of the longest molecule, H hidden width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch_geometric.utils import scatter, to_dense_batch

from kflm2.featurize.ragged import ragged_index


@dataclass(frozen=True)
class EncodedView:
    """One view of B molecules, encoded."""

    vector: torch.Tensor
    """(B, H)"""
    items: torch.Tensor | None = None
    """(sum of items, H), one molecule after another; None where the fusion does not need them. Any width W within a
    fusion."""
    mol: torch.Tensor | None = None
    """(sum of items,) index of the molecule of each item."""
    slots: torch.Tensor | None = None
    """(B, L) the items of each molecule, -1 for none, where they are known; see Batch."""

    def counts(self) -> torch.Tensor:
        """(B,) number of items of each molecule."""
        assert self.mol is not None
        return torch.bincount(self.mol, minlength=len(self.vector))

    def groups(self, rows: Sequence[np.ndarray], counts: np.ndarray) -> list["EncodedView"]:
        """A view of each group of molecules.

        Args:
            rows: (b,) molecules of each group.
            counts: (B,) number of items of each molecule.
        """
        assert self.items is not None
        device = self.items.device
        order = np.concatenate(rows)
        # sorted once and then cut: the gradient of a cut is a concatenation, that of a selection a sum over all items
        index, _ = ragged_index(np.concatenate([[0], counts.cumsum()]), order)
        items = self.items.index_select(0, torch.from_numpy(index).to(device))
        sizes = [len(group) for group in rows]
        vectors = self.vector.index_select(0, torch.from_numpy(order).to(device)).split(sizes)
        mol = torch.from_numpy(np.concatenate([np.repeat(np.arange(len(group)), counts[group]) for group in rows]))
        lengths = [int(counts[group].sum()) for group in rows]
        cut = zip(vectors, items.split(lengths), mol.to(device).split(lengths), strict=True)
        return [EncodedView(*parts) for parts in cut]

    def dense(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Items as (B, L, W) padded with finite numbers, and (B, L), True for a real item."""
        assert self.items is not None and self.mol is not None
        if self.slots is not None:
            items = self.items.index_select(0, self.slots.clamp(min=0).flatten())
            return items.unflatten(0, self.slots.shape), self.slots >= 0
        return to_dense_batch(self.items, self.mol, batch_size=len(self.vector))


def pool_mean(items: torch.Tensor, mol: torch.Tensor, size: int) -> torch.Tensor:
    """Average packed items, (sum of items, H) of `size` molecules, to (size, H)."""
    return scatter(items, mol, dim=0, dim_size=size, reduce="mean")


def masked_mean(items: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Average padded items (B, L, H) over those where mask (B, L) is True, to (B, H)."""
    weight = mask.unsqueeze(-1).to(items.dtype)
    return (items * weight).sum(dim=1) / weight.sum(dim=1)


_PAIRS_OF_A_GROUP = {"cpu": 20_000, "cuda": 2_000_000}
"""Pairs of items that cost about as much time as one more group of molecules, by type of device.

Of a CPU as measured with crossAtt; of a GPU, where a group is some hundred launches, a guess. Any other device counts
as a GPU.
"""


def attend_in_groups(
    views: Sequence[EncodedView], attend: Callable[[Sequence[EncodedView]], torch.Tensor]
) -> torch.Tensor:
    """Attend over groups of molecules of similar size; the result equals that of one batch.

    Attention pads to the longest molecule and costs its square in time and memory: one molecule of 900 tokens in a
    batch with thirty of 30 tokens would make the batch hundreds of times more expensive.

    Args:
        views: two views with items, which attend to each other, or one, which attends to itself.
        attend: function from views of b molecules to (b, ...).

    Returns:
        (B, ...)
    """
    if views[0].slots is not None:  # of many models at once, in which one large molecule costs little
        return attend(views)
    counts = [view.counts().cpu().numpy() for view in views]
    device = views[0].vector.device
    groups = similar_sizes(counts[0], counts[-1], _PAIRS_OF_A_GROUP.get(device.type, _PAIRS_OF_A_GROUP["cuda"]))
    if len(groups) <= 1:
        return attend(views)
    parts = zip(*(view.groups(groups, count) for view, count in zip(views, counts, strict=True)), strict=True)
    out = torch.cat([attend(group) for group in parts])
    return out.index_select(0, torch.from_numpy(np.concatenate(groups).argsort()).to(device))


def similar_sizes(first: np.ndarray, second: np.ndarray, cost: int) -> list[np.ndarray]:
    """Groups of molecules for which padding to the longest of a group costs least.

    In the order of the first counts the best groups are found exactly (dynamic programming).

    Args:
        first: (B,) items of each molecule.
        second: (B,) items of each molecule that those are paired with.
        cost: of a group, in pairs of items.

    Returns:
        Rows of each group, ascending.
    """
    order = np.argsort(first, kind="stable")
    longest, other = first[order], second[order]
    least = np.zeros(len(order) + 1)
    starts = np.zeros(len(order) + 1, dtype=int)
    for end in range(1, len(order) + 1):
        widest = np.maximum.accumulate(other[:end][::-1])[::-1]
        total = least[:end] + np.arange(end, 0, -1) * longest[end - 1] * widest + cost
        starts[end] = total.argmin()
        least[end] = total[starts[end]]
    groups, end = [], len(order)
    while end:
        groups.append(np.sort(order[starts[end] : end]))
        end = starts[end]
    return groups
