"""Models: one encoder a view, a fusion, a head.

A view (LLM states, graph, descriptors) becomes an `Encoded`: a vector for the molecule and, where a fusion attends, the
items it was made of (tokens, atoms). Fusions know only `Encoded`, so a new view is one encoder and one line in `build`.
Sizes: B molecules, T tokens, N atoms, L items of one molecule at most, H hidden, K targets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch_geometric.nn import GCNConv, GINEConv
from torch_geometric.utils import scatter, to_dense_batch

from kflm2.config.pipelines import PIPELINES
from kflm2.config.train import Attend, ModelConfig
from kflm2.featurize.features import Batch, Sizes


@dataclass(frozen=True)
class Encoded:
    """One view of B molecules."""

    vector: torch.Tensor
    """(B, H)"""
    items: torch.Tensor | None = None
    """(sum of items, H), one molecule after another, where a fusion asked for them."""
    mol: torch.Tensor | None = None
    """(sum of items,) which molecule an item belongs to."""

    def counts(self) -> torch.Tensor:
        """(B,) items of each molecule."""
        assert self.mol is not None
        return torch.bincount(self.mol, minlength=len(self.vector))

    def take(self, rows: torch.Tensor) -> "Encoded":
        """Some of the molecules; rows (b,) ascending."""
        assert self.items is not None and self.mol is not None
        place = self.mol.new_full((len(self.vector),), -1)
        place[rows] = torch.arange(len(rows), device=rows.device)
        mol = place[self.mol]
        return Encoded(self.vector[rows], self.items[mol >= 0], mol[mol >= 0])

    def dense(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Items as (B, L, H) padded with zeros, and (B, L), True for a real item."""
        assert self.items is not None and self.mol is not None
        return to_dense_batch(self.items, self.mol, batch_size=len(self.vector))


def pool_mean(items: torch.Tensor, mol: torch.Tensor, size: int) -> torch.Tensor:
    """Average packed items, (sum of items, H) of `size` molecules, to (size, H)."""
    return scatter(items, mol, dim=0, dim_size=size, reduce="mean")


def masked_mean(items: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Average padded items (B, L, H) over those that mask (B, L) says are real, to (B, H)."""
    weight = mask.unsqueeze(-1).to(items.dtype)
    return (items * weight).sum(dim=1) / weight.sum(dim=1)


_SHORT = 128
"""Items that a molecule of ordinary size has at most."""


def in_groups(views: Sequence[Encoded], attend: Callable[[Sequence[Encoded]], torch.Tensor]) -> torch.Tensor:
    """Attend over molecules of like size together; the result is that of attending over all at once.

    Attention pads to the longest molecule and costs its square. Among drugs one of 900 tokens among thirty of 30 would
    cost hundreds of times what they need, in time and in memory.

    Args:
        views: with items.
        attend: b molecules to (b, ...).

    Returns:
        (B, ...)
    """
    longest = torch.stack([view.counts() for view in views]).amax(dim=0)
    if longest.max() <= _SHORT:
        return attend(views)
    octave = (longest / _SHORT).log2().ceil().clamp(min=0)
    groups = [(octave == own).nonzero().squeeze(-1) for own in octave.unique()]
    out = torch.cat([attend([view.take(rows) for view in views]) for rows in groups])
    return out[torch.cat(groups).argsort()]


class Standardize(nn.Module):
    """Subtract the mean and divide by the standard deviation of the training rows, column by column."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def fit(self, rows: torch.Tensor) -> None:
        """Learn from (n, width) rows of the training part; a constant column is only centred."""
        std, mean = torch.std_mean(rows, dim=0, correction=0)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-6 * (1 + mean.abs()), std, 1.0))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        # LLM states have a few columns with rare huge values; 5 sigma tells them apart well enough
        return ((rows - self.mean) / self.std).clamp(-5, 5)


class StatesEncoder(nn.Module):
    """The paper's embedding DNN, Linear(1024 -> H)(dropout(relu(Linear(D -> 1024)))), on each row of states."""

    def __init__(self, width: int, hidden: int, dropout: float, inner: int = 1024) -> None:
        super().__init__()
        self.scale = Standardize(width)
        self.inner = nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Dropout(dropout))
        self.out = nn.Linear(inner, hidden)

    def forward(self, batch: Batch, want_items: bool) -> Encoded:
        assert batch.states is not None and batch.states_mol is not None
        inner = self.inner(self.scale(batch.states))
        vector = self.out(pool_mean(inner, batch.states_mol, batch.size))
        return Encoded(vector, self.out(inner) if want_items else None, batch.states_mol)


class GCNEncoder(nn.Module):
    """The paper's graph network: two GCN layers (Kipf and Welling 2017), F -> F -> 2F, mean over atoms, Linear to H."""

    def __init__(self, atoms: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = GCNConv(atoms, atoms)
        self.conv2 = GCNConv(atoms, 2 * atoms)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(2 * atoms, hidden)

    def forward(self, batch: Batch, want_items: bool) -> Encoded:
        assert batch.x is not None and batch.x_mol is not None
        nodes = self.conv1(batch.x, batch.edge_index).relu()
        nodes = self.conv2(nodes, batch.edge_index)
        vector = self.out(self.dropout(pool_mean(nodes, batch.x_mol, batch.size)))
        return Encoded(vector, self.out(self.dropout(nodes)) if want_items else None, batch.x_mol)


class GINEEncoder(nn.Module):
    """Graph isomorphism network with bond features (Hu et al. 2020): residual layers, mean and sum over atoms."""

    def __init__(self, atoms: int, bonds: int, hidden: int, dropout: float, width: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Linear(atoms, width)
        self.convs = nn.ModuleList(
            GINEConv(nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)), edge_dim=bonds)
            for _ in range(depth)
        )
        # not a batch norm: it fails on a batch of one atom, and makes molecules depend on their neighbours in a batch
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(2 * width, hidden)
        self.item_out = nn.Linear(width, hidden)

    def forward(self, batch: Batch, want_items: bool) -> Encoded:
        assert batch.x is not None and batch.x_mol is not None
        nodes = self.embed(batch.x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            nodes = nodes + self.dropout(conv(norm(nodes).relu(), batch.edge_index, batch.edge_attr))
        mean = pool_mean(nodes, batch.x_mol, batch.size)
        total = scatter(nodes, batch.x_mol, dim=0, dim_size=batch.size, reduce="sum") / 10
        vector = self.out(torch.cat([mean, total], dim=-1))
        return Encoded(vector, self.item_out(nodes) if want_items else None, batch.x_mol)


class DescriptorEncoder(nn.Module):
    """Scaled descriptors (B, P) to (B, H)."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, hidden), nn.ReLU())

    def forward(self, batch: Batch, want_items: bool) -> Encoded:
        assert batch.descriptors is not None
        return Encoded(self.net(batch.descriptors))


class Concat(nn.Module):
    """Concatenation: dropout(Linear(nH -> H)) of the views' vectors."""

    needs_items = False

    def __init__(self, views: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Linear(views * hidden, hidden), nn.Dropout(dropout))

    def forward(self, views: list[Encoded]) -> torch.Tensor:
        return self.mix(torch.cat([view.vector for view in views], dim=-1))


class Weighted(nn.Module):
    """Weighted concatenation: sum of w_i z_i, the weights of each molecule from an MLP on all vectors.

    For two views w = sigmoid(MLP), 1 - w, as in the paper; the softmax against a fixed 0 is the same for two and
    serves more.
    """

    needs_items = False

    def __init__(self, views: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(views * hidden, hidden), nn.ReLU(), nn.Linear(hidden, views - 1))
        self.mix = nn.Sequential(nn.Linear(hidden, hidden), nn.Dropout(dropout))

    def weights(self, views: list[Encoded]) -> torch.Tensor:
        """(B, views), positive, adding up to 1."""
        scores = self.score(torch.cat([view.vector for view in views], dim=-1))
        return torch.cat([scores, scores.new_zeros(len(scores), 1)], dim=-1).softmax(dim=-1)

    def forward(self, views: list[Encoded]) -> torch.Tensor:
        stacked = torch.stack([view.vector for view in views], dim=1)
        return self.mix((self.weights(views).unsqueeze(-1) * stacked).sum(dim=1))


class SeparateAttention(nn.Module):
    """Attention concatenation: each view attends to itself, and what comes out is concatenated.

    `items` attends over tokens and over atoms. `pooled` is the original's form, a sequence of one vector: its softmax
    is always 1, so that it is a linear map and no attention. A view without items (descriptors) passes as it is.
    """

    def __init__(self, attending: list[bool], hidden: int, dropout: float, heads: int, attend: Attend) -> None:
        super().__init__()
        self.needs_items = attend == "items"
        self.attention = nn.ModuleList(
            nn.MultiheadAttention(hidden, heads, batch_first=True) if own else nn.Identity() for own in attending
        )
        self.mix = nn.Sequential(nn.Linear(len(attending) * hidden, hidden), nn.Dropout(dropout))

    def forward(self, views: list[Encoded]) -> torch.Tensor:
        return self.mix(torch.cat([self._attended(*pair) for pair in zip(self.attention, views, strict=True)], dim=-1))

    def _attended(self, attention: nn.Module, view: Encoded) -> torch.Tensor:
        if isinstance(attention, nn.Identity):
            return view.vector
        if not self.needs_items:
            one = view.vector.unsqueeze(1)
            return attention(one, one, one, need_weights=False)[0].squeeze(1)

        def attend(views: Sequence[Encoded]) -> torch.Tensor:
            items, mask = views[0].dense()
            out, _ = attention(items, items, items, key_padding_mask=~mask, need_weights=False)
            return masked_mean(out, mask)

        return in_groups([view], attend)


class CrossAttention(nn.Module):
    """Ours: tokens attend to atoms and atoms to tokens; what each learns from the other joins the views' vectors.

    What crosses enters through gates that start at zero, so that training starts from the plain views, and the wide
    states cannot drown the graph before they have something to say.
    """

    def __init__(
        self,
        views: int,
        crossing: bool,
        hidden: int,
        dropout: float,
        heads: int,
        gate_first: bool = False,
        view_dropout: float = 0.0,
    ) -> None:
        """Join views.

        Args:
            views: how many.
            crossing: whether the first two have items; an ablation may leave one of these, or none.
            hidden: H.
            dropout: of attention weights and of the mix.
            heads: of attention.
            gate_first: let the first view's vector in through a gate that starts at zero.
            view_dropout: share of molecules for which a view's vector is hidden in training.
        """
        super().__init__()
        self.needs_items = crossing
        self.view_dropout = view_dropout
        self.first_gate = nn.Parameter(torch.zeros(hidden)) if gate_first else None
        if crossing:
            self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(2))
            self.attention = nn.ModuleList(
                nn.MultiheadAttention(hidden, heads, dropout=dropout, batch_first=True) for _ in range(2)
            )
            self.gates = nn.Parameter(torch.zeros(2, hidden))
        self.mix = nn.Sequential(
            nn.LayerNorm(views * hidden), nn.Linear(views * hidden, hidden), nn.ReLU(), nn.Dropout(dropout)
        )

    def forward(self, views: list[Encoded]) -> torch.Tensor:
        vectors = [view.vector for view in views]
        if self.needs_items:
            crossed = in_groups(views[:2], self._crossed).unbind(dim=1)
            vectors[:2] = [own + gate * learnt for own, gate, learnt in zip(vectors, self.gates, crossed, strict=False)]
        if self.first_gate is not None:
            vectors[0] = self.first_gate * vectors[0]
        return self.mix(self._hide(torch.stack(vectors, dim=1)).flatten(start_dim=1))

    def _hide(self, vectors: torch.Tensor) -> torch.Tensor:
        """(B, views, H) with some of them zero in training, never all of a molecule."""
        if not (self.training and self.view_dropout):
            return vectors
        shown = torch.rand(vectors.shape[:2], device=vectors.device) >= self.view_dropout
        shown |= ~shown.any(dim=1, keepdim=True)
        return vectors * shown.unsqueeze(-1)

    def maps(self, views: Sequence[Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
        """Who attends to whom, mean over heads.

        Args:
            views: the two that cross, of B molecules with up to L and M items.

        Returns:
            (B, L, M) from the first view's items to the second's, and (B, M, L) back. The row of a real item adds up to
            1 and holds 0 for padding; that of padding is 0 throughout.
        """
        (first, first_mask), (second, second_mask) = self._normed(views)
        _, there = self.attention[0](first, second, second, key_padding_mask=~second_mask)
        _, back = self.attention[1](second, first, first, key_padding_mask=~first_mask)
        return there * first_mask.unsqueeze(-1), back * second_mask.unsqueeze(-1)

    def _normed(self, views: Sequence[Encoded]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Each view's items (b, L, H), normed, and which of them are real."""
        dense = (view.dense() for view in views)
        return [(norm(items), mask) for norm, (items, mask) in zip(self.norms, dense, strict=True)]

    def _crossed(self, views: Sequence[Encoded]) -> torch.Tensor:
        """(b, 2, H): what the tokens learn from the atoms, and the atoms from the tokens."""
        (first, first_mask), (second, second_mask) = self._normed(views)
        sides = (
            self._cross(0, first, first_mask, second, second_mask),
            self._cross(1, second, second_mask, first, first_mask),
        )
        return torch.stack(sides, dim=1)

    def _cross(
        self, side: int, queries: torch.Tensor, real: torch.Tensor, keys: torch.Tensor, keys_real: torch.Tensor
    ) -> torch.Tensor:
        out, _ = self.attention[side](queries, keys, keys, key_padding_mask=~keys_real, need_weights=False)
        return masked_mean(out, real)


class Single(nn.Module):
    """One view alone: its vector as it is."""

    needs_items = False

    def forward(self, views: list[Encoded]) -> torch.Tensor:
        return views[0].vector


class FusedModel(nn.Module):
    """Encoders, one a view, a fusion and a linear head; and voices, where views predict by themselves too."""

    def __init__(
        self,
        encoders: dict[str, nn.Module],
        fusion: nn.Module,
        hidden: int,
        targets: int,
        auxiliary_heads: dict[str, nn.Module] | None = None,
    ) -> None:
        """Put a model together.

        Args:
            encoders: of the views, in their order.
            fusion: of these.
            hidden: H.
            targets: K.
            voices: view -> what predicts (B, K) from its vector (B, H) alone.
        """
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.fusion = fusion
        self.head = nn.Linear(hidden, targets)
        self.auxiliary_heads = nn.ModuleDict(auxiliary_heads or {})

    def fit_scales(self, train: Batch) -> None:
        """Learn the scaling of the states from a batch of all training molecules."""
        for encoder in self.encoders.values():
            if isinstance(encoder, StatesEncoder) and train.states is not None:
                encoder.scale.fit(train.states)

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B, K) scaled targets, or logits for classes."""
        return self.head_outputs(batch).mean(dim=0)

    def head_outputs(self, batch: Batch) -> torch.Tensor:
        """(V, B, K) what the fusion predicts, and each voice."""
        views = self.encode(batch)
        alone = [
            self.auxiliary_heads[name](view.vector)
            for name, view in zip(self.encoders, views, strict=True)
            if name in self.auxiliary_heads
        ]
        return torch.stack([self.head(self.fusion(views)), *alone])

    def encode(self, batch: Batch) -> list[Encoded]:
        """The views as the fusion sees them."""
        return [encoder(batch, self.fusion.needs_items) for encoder in self.encoders.values()]

    def hidden(self, batch: Batch) -> dict[str, torch.Tensor]:
        """(B, H) of each view by itself, and of all under `fused`, which the head reads."""
        views = self.encode(batch)
        own = {name: view.vector for name, view in zip(self.encoders, views, strict=True)}
        return {**own, "fused": self.fusion(views)}


def build(model: str, sizes: Sizes, targets: int, config: ModelConfig) -> FusedModel:
    """Make a model with fresh weights.

    Args:
        model: a key of MODELS.
        sizes: widths of the views that are read.
        targets: K.
        config: see ModelConfig.
    """
    hidden, dropout = config.hidden, config.dropout
    encoders: dict[str, nn.Module] = {}
    if sizes.states:
        encoders["states"] = StatesEncoder(sizes.states, hidden, dropout, config.states_width)
    if sizes.atoms:
        encoders["graph"] = (
            GCNEncoder(sizes.atoms, hidden, dropout)
            if config.graph_encoder == "gcn"
            else GINEEncoder(sizes.atoms, sizes.bonds, hidden, dropout, config.graph_width, config.graph_depth)
        )
    if sizes.descriptors:
        encoders["descriptors"] = DescriptorEncoder(sizes.descriptors, hidden, dropout)
    fusion = _fusion(PIPELINES[model].fusion, tuple(encoders), config)
    auxiliary_heads: dict[str, nn.Module] = {}
    if len(encoders) > 1:  # one view alone is all that the fusion says
        auxiliary_heads = {name: _auxiliary_head(hidden, dropout, targets) for name in encoders if name in config.vote}
    return FusedModel(encoders, fusion, hidden, targets, auxiliary_heads)


def _auxiliary_head(hidden: int, dropout: float, targets: int) -> nn.Module:
    return nn.Sequential(
        nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, targets)
    )


def _fusion(name: str, names: tuple[str, ...], config: ModelConfig) -> nn.Module:
    views, hidden, dropout = len(names), config.hidden, config.dropout
    attending = [view != "descriptors" for view in names]
    if name == "cross":
        gate_first = config.gate_states and names[0] == "states" and views > 1
        return CrossAttention(
            views, sum(attending) == 2, hidden, dropout, config.heads, gate_first, config.view_dropout
        )
    if name == "separate":
        return SeparateAttention(attending, hidden, dropout, config.heads, config.attend)
    if name == "weighted" and views > 1:
        return Weighted(views, hidden, dropout)
    # one view that descriptors join is no longer alone
    return Concat(views, hidden, dropout) if views > 1 else Single()
