"""Models: one encoder per view, a fusion, a head.

An encoder turns a view (LLM states, graph, descriptors, covariates) into an `EncodedView`: one vector per molecule and,
for fusions with attention, the vectors of its items (tokens, atoms). Fusions read only `EncodedView`, so a new view
needs one encoder and one line in `build`.
Shapes: B molecules, T tokens, N atoms, L items of the longest molecule, H hidden width, K targets.
"""

import contextlib
import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional
from torch_geometric.nn import GCNConv, GINEConv
from torch_geometric.utils import scatter

from kflm2.config.pipelines import PIPELINES
from kflm2.config.train import Attend, ModelConfig
from kflm2.encoded_view import EncodedView, attend_in_groups, masked_mean, pool_mean
from kflm2.featurize.features import Batch, Sizes
from kflm2.scaling import PrincipalComponents, Standardize


class StatesEncoder(nn.Module):
    """The paper's embedding DNN, Linear(1024 -> H)(dropout(relu(Linear(D -> 1024)))), applied to each row of states."""

    def __init__(self, width: int, hidden: int, dropout: float, inner: int = 1024) -> None:
        super().__init__()
        self.scale = Standardize(width)
        self.components: PrincipalComponents | None = None
        self.reads_components = False
        """Whether the batches hold components already, as in training, in which they are computed once."""
        self.inner = nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Dropout(dropout))
        self.out = nn.Linear(inner, hidden)

    def use_components(self, components: int) -> None:
        """Give the first layer, with new random weights, that many principal components of the states in their place.

        With so few columns training is faster, and prediction too.
        """
        first = self.inner[0]
        assert isinstance(first, nn.Linear)
        device = first.weight.device
        self.components = PrincipalComponents(first.in_features, components).to(device)
        self.inner[0] = nn.Linear(components, first.out_features, device=device)

    def fit(self, rows: torch.Tensor) -> None:
        """Learn scales, and components, from (n, D) states of the training part."""
        self.scale.fit(rows)
        if self.components is not None:
            self.components.fit(self.scale(rows))

    def reduced(self, rows: torch.Tensor) -> torch.Tensor:
        """What the first layer reads of (n, D) states."""
        scaled = self.scale(rows)
        return scaled if self.components is None else self.components(scaled)

    def forward(self, batch: Batch, want_items: bool) -> EncodedView:
        assert batch.states is not None and batch.states_mol is not None
        inner = self.inner(batch.states if self.reads_components else self.reduced(batch.states))
        vector = self.out(pool_mean(inner, batch.states_mol, batch.size))
        return EncodedView(vector, self.out(inner) if want_items else None, batch.states_mol, batch.states_slots)


class GCNEncoder(nn.Module):
    """The paper's graph network: two GCN layers (Kipf and Welling 2017), F -> F -> 2F, mean over atoms, Linear to H."""

    def __init__(self, atoms: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = GCNConv(atoms, atoms)
        self.conv2 = GCNConv(atoms, 2 * atoms)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(2 * atoms, hidden)

    def forward(self, batch: Batch, want_items: bool) -> EncodedView:
        assert batch.x is not None and batch.x_mol is not None
        nodes = self.conv1(batch.x, batch.edge_index).relu()
        nodes = self.conv2(nodes, batch.edge_index)
        vector = self.out(self.dropout(pool_mean(nodes, batch.x_mol, batch.size)))
        return EncodedView(vector, self.out(self.dropout(nodes)) if want_items else None, batch.x_mol)


class GINEEncoder(nn.Module):
    """Graph isomorphism network with bond features (Hu et al. 2020): residual layers, mean and sum over atoms."""

    def __init__(self, atoms: int, bonds: int, hidden: int, dropout: float, width: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Linear(atoms, width)
        self.convs = nn.ModuleList(
            GINEConv(nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)), edge_dim=bonds)
            for _ in range(depth)
        )
        # not batch norm: it fails for a single atom, and predictions would depend on the other molecules of the batch
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(2 * width, hidden)
        self.item_out = nn.Linear(width, hidden)

    def forward(self, batch: Batch, want_items: bool) -> EncodedView:
        assert batch.x is not None and batch.x_mol is not None
        nodes = self.embed(batch.x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            nodes = nodes + self.dropout(conv(norm(nodes).relu(), batch.edge_index, batch.edge_attr))
        mean = pool_mean(nodes, batch.x_mol, batch.size)
        total = scatter(nodes, batch.x_mol, dim=0, dim_size=batch.size, reduce="sum") / 10
        vector = self.out(torch.cat([mean, total], dim=-1))
        return EncodedView(vector, self.item_out(nodes) if want_items else None, batch.x_mol, batch.x_slots)


class DescriptorEncoder(nn.Module):
    """Scaled descriptors (B, P) to (B, H)."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, hidden), nn.ReLU())

    def forward(self, batch: Batch, want_items: bool) -> EncodedView:
        assert batch.descriptors is not None
        return EncodedView(self.net(batch.descriptors))


class CovariateEncoder(nn.Module):
    """Scaled covariates (B, W) to (B, H)."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        # no dropout of the inputs: they are few, and each is a condition of the measurement
        self.net = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, hidden), nn.ReLU()
        )

    def forward(self, batch: Batch, want_items: bool) -> EncodedView:
        assert batch.covariates is not None
        return EncodedView(self.net(batch.covariates))


class Concat(nn.Module):
    """Concatenation of n views: dropout(Linear(nH -> H)) of their vectors."""

    needs_items = False

    def __init__(self, views: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Linear(views * hidden, hidden), nn.Dropout(dropout))

    def forward(self, views: list[EncodedView]) -> torch.Tensor:
        return self.mix(torch.cat([view.vector for view in views], dim=-1))


class Weighted(nn.Module):
    """Weighted concatenation: sum of w_i z_i, with weights per molecule from an MLP on all vectors.

    For two views the weights are sigmoid(MLP) and 1 - sigmoid(MLP), as in the paper. The code uses a softmax with one
    score fixed at 0, which is the same for two views and also works for more.
    """

    needs_items = False

    def __init__(self, views: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(views * hidden, hidden), nn.ReLU(), nn.Linear(hidden, views - 1))
        self.mix = nn.Sequential(nn.Linear(hidden, hidden), nn.Dropout(dropout))

    def weights(self, views: list[EncodedView]) -> torch.Tensor:
        """(B, views), positive, adding up to 1."""
        scores = self.score(torch.cat([view.vector for view in views], dim=-1))
        return torch.cat([scores, scores.new_zeros(len(scores), 1)], dim=-1).softmax(dim=-1)

    def forward(self, views: list[EncodedView]) -> torch.Tensor:
        stacked = torch.stack([view.vector for view in views], dim=1)
        return self.mix((self.weights(views).unsqueeze(-1) * stacked).sum(dim=1))


class SeparateAttention(nn.Module):
    """Attention concatenation: self-attention within each view, then concatenation of the outputs.

    `items` attends over tokens and over atoms. `pooled` is the form of the original code, a sequence of one vector: its
    softmax is always 1, so it is a linear map, not attention. A view without items (descriptors) is not
    changed.
    """

    def __init__(self, attending: list[bool], hidden: int, dropout: float, heads: int, attend: Attend) -> None:
        super().__init__()
        self.needs_items = attend == "items"
        self.attention = nn.ModuleList(
            nn.MultiheadAttention(hidden, heads, batch_first=True) if attends else nn.Identity()
            for attends in attending
        )
        self.mix = nn.Sequential(nn.Linear(len(attending) * hidden, hidden), nn.Dropout(dropout))

    def forward(self, views: list[EncodedView]) -> torch.Tensor:
        attended = [self._self_attention(*pair) for pair in zip(self.attention, views, strict=True)]
        return self.mix(torch.cat(attended, dim=-1))

    def _self_attention(self, attention: nn.Module, view: EncodedView) -> torch.Tensor:
        if isinstance(attention, nn.Identity):
            return view.vector
        if not self.needs_items:
            sequence = view.vector.unsqueeze(1)
            return attention(sequence, sequence, sequence, need_weights=False)[0].squeeze(1)

        def attend(views: Sequence[EncodedView]) -> torch.Tensor:
            items, mask = views[0].dense()
            out, _ = attention(items, items, items, key_padding_mask=~mask, need_weights=False)
            return masked_mean(out, mask)

        return attend_in_groups([view], attend)


class CrossAttention(nn.Module):
    """Our fusion: tokens attend to atoms and atoms to tokens; the attention outputs are added to the views' vectors.

    They are multiplied by gates that start at zero, so that training starts from the views alone and the states, which
    are much wider, cannot dominate the graph before they carry information.
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
        """Create the layers.

        Args:
            views: number of views.
            crossing: whether the first two views have items and attend to each other; false in ablations without
                tokens or atoms.
            hidden: H.
            dropout: rate for the output.
            heads: number of attention heads.
            gate_first: multiply the first view's vector by a gate that starts at zero.
            view_dropout: share of molecules for which a view's vector is set to zero in training.
        """
        super().__init__()
        self.needs_items = crossing
        self.view_dropout = view_dropout
        self.first_gate = nn.Parameter(torch.zeros(hidden)) if gate_first else None
        if crossing:
            self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(2))
            self.attention = nn.ModuleList(nn.MultiheadAttention(hidden, heads, batch_first=True) for _ in range(2))
            self.gates = nn.Parameter(torch.zeros(2, hidden))
        self.mix = nn.Sequential(
            nn.LayerNorm(views * hidden), nn.Linear(views * hidden, hidden), nn.ReLU(), nn.Dropout(dropout)
        )

    def forward(self, views: list[EncodedView]) -> torch.Tensor:
        vectors = [view.vector for view in views]
        if self.needs_items:
            attended = attend_in_groups(self._projected(views[:2]), self._cross_attention).unbind(dim=1)
            vectors[:2] = [
                vector + gate * out for vector, gate, out in zip(vectors, self.gates, attended, strict=False)
            ]
        if self.first_gate is not None:
            vectors[0] = self.first_gate * vectors[0]
        return self.mix(self._drop_views(torch.stack(vectors, dim=1)).flatten(start_dim=1))

    def _drop_views(self, vectors: torch.Tensor) -> torch.Tensor:
        """Set random vectors of (B, views, H) to zero in training, but never all views of a molecule."""
        if not (self.training and self.view_dropout):
            return vectors
        mask = torch.rand(vectors.shape[:2], device=vectors.device) >= self.view_dropout
        mask |= ~mask.any(dim=1, keepdim=True)
        return vectors * mask.unsqueeze(-1)

    def attention_maps(self, views: Sequence[EncodedView]) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention weights between the first two views, mean over heads.

        Args:
            views: the first two views of B molecules, with up to L and M items.

        Returns:
            (B, L, M) weights of the first view's items (queries) on the second's (keys), and (B, M, L) the other
            direction. The row of a real item sums to 1, with 0 at padding; the row of a padding item is all 0.
        """
        normalized = (
            replace(view, items=norm(view.items)).dense() for norm, view in zip(self.norms, views, strict=True)
        )
        (first, first_mask), (second, second_mask) = normalized
        _, first_to_second = self.attention[0](first, second, second, key_padding_mask=~second_mask)
        _, second_to_first = self.attention[1](second, first, first, key_padding_mask=~first_mask)
        return first_to_second * first_mask.unsqueeze(-1), second_to_first * second_mask.unsqueeze(-1)

    def _projected(self, views: Sequence[EncodedView]) -> list[EncodedView]:
        """The views with queries, keys and values (3H) of each item, before padding multiplies the items.

        Queries use the weights of attention i, in which this view asks; keys and values those of attention 1 - i, in
        which it answers. The weights of the queries are divided by the root of a head's width: they are fewer numbers
        than the scores.
        """
        projected = []
        for i, (norm, view) in enumerate(zip(self.norms, views, strict=True)):
            asking, answering = self._attention(i), self._attention(1 - i)
            hidden, scale = asking.embed_dim, math.sqrt(asking.embed_dim // asking.num_heads)
            weight = torch.cat([asking.in_proj_weight[:hidden] / scale, answering.in_proj_weight[hidden:]])
            bias = torch.cat([asking.in_proj_bias[:hidden] / scale, answering.in_proj_bias[hidden:]])
            projected.append(replace(view, items=functional.linear(norm(view.items), weight, bias)))
        return projected

    def _attention(self, i: int) -> nn.MultiheadAttention:
        attention = self.attention[i]
        assert isinstance(attention, nn.MultiheadAttention)
        return attention

    def _cross_attention(self, projected: Sequence[EncodedView]) -> torch.Tensor:
        """(b, 2, H): tokens attending to atoms and atoms attending to tokens, each averaged over the items."""
        heads = self._attention(0).num_heads
        parts, masks = [], []
        for view in projected:
            items, mask = view.dense()
            # (b, L, 3H) to queries, keys and values (b, heads, L, H / heads)
            parts.append(items.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4))
            masks.append(mask)
        outputs = []
        for i in range(2):
            _, keys, values = parts[1 - i]
            mean = _mean_attention(parts[i][0], masks[i], keys, values, masks[1 - i])
            outputs.append(self._attention(i).out_proj(mean.flatten(start_dim=1)))
        return torch.stack(outputs, dim=1)


def _mean_attention(
    queries: torch.Tensor, query_mask: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, key_mask: torch.Tensor
) -> torch.Tensor:
    """(b, heads, w): the attention output averaged over the queries, before the output projection.

    The weights are averaged, rather than the values that they mix: the same by linearity, at half the cost. A mask is
    added, since masked_fill takes longer than the softmax.

    Args:
        queries: (b, heads, L, w), divided by the root of w.
        query_mask: (b, L), False at padding.
        keys: (b, heads, M, w)
        values: (b, heads, M, w)
        key_mask: (b, M)
    """
    hide = torch.zeros_like(key_mask, dtype=queries.dtype).masked_fill(~key_mask, -math.inf)
    weights = (queries @ keys.transpose(2, 3) + hide[:, None, None]).softmax(dim=-1)
    share = query_mask / query_mask.sum(dim=1, keepdim=True)
    return (share[:, None, None] @ weights @ values).squeeze(2)


class Single(nn.Module):
    """A single view: its vector, unchanged."""

    needs_items = False

    def forward(self, views: list[EncodedView]) -> torch.Tensor:
        return views[0].vector


class FusedModel(nn.Module):
    """One encoder per view, a fusion and a linear head; optional auxiliary heads predict from one view each.

    Covariates are read beside each of these views: without the pH, say, none could predict.
    """

    def __init__(
        self,
        encoders: dict[str, nn.Module],
        fusion: nn.Module,
        hidden: int,
        targets: int,
        auxiliary_heads: dict[str, nn.Module] | None = None,
    ) -> None:
        """Combine the parts of a model.

        Args:
            encoders: view -> encoder, in the order of the views.
            fusion: combines the encoded views.
            hidden: H.
            targets: K.
            auxiliary_heads: view -> module that predicts (B, K) from this view's vector (B, H), to which that of the
                covariates is joined where there are any.
        """
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.fusion = fusion
        self.head = nn.Linear(hidden, targets)
        self.auxiliary_heads = nn.ModuleDict(auxiliary_heads or {})

    @property
    def states_encoder(self) -> StatesEncoder | None:
        """The encoder of the LLM's states, where they are read."""
        return next((encoder for encoder in self.encoders.values() if isinstance(encoder, StatesEncoder)), None)

    def use_components(self, components: int) -> StatesEncoder | None:
        """Read principal components of the LLM's states, where there are more columns than that.

        Args:
            components: 0 for none.

        Returns:
            The encoder that reads them; None where all states are read, or none.
        """
        encoder = self.states_encoder
        if encoder is None or not 0 < components < len(encoder.scale.mean):
            return None
        encoder.use_components(components)
        return encoder

    def go_on_from(self, other: "FusedModel") -> StatesEncoder | None:
        """Take the encoders and the fusion of a trained model with the same settings; the heads are not changed.

        The encoder of the covariates is new, as these are the table's own; and so is the fusion, where only one of the
        two models reads covariates.

        Returns:
            The encoder that reads principal components of the LLM's states; None where all states are read, or none.
        """
        mine, components = self.states_encoder, getattr(other.states_encoder, "components", None)
        if mine is not None and components is not None:
            mine.use_components(components.directions.shape[1])
        for name, encoder in self.encoders.items():
            if name != "covariates":
                encoder.load_state_dict(other.encoders[name].state_dict())
        if list(self.encoders) == list(other.encoders):
            self.fusion.load_state_dict(other.fusion.state_dict())
        return mine if components is not None else None

    def fit_scales(self, train: Batch) -> None:
        """Compute the scaling of the states, and their components, from a batch of training molecules."""
        if (encoder := self.states_encoder) is not None and train.states is not None:
            encoder.fit(train.states)

    def forward(self, batch: Batch) -> torch.Tensor:
        """(B, K) scaled targets, or logits for classes: the mean of all heads."""
        return self.head_outputs(batch).mean(dim=0)

    def head_outputs(self, batch: Batch) -> torch.Tensor:
        """(V, B, K) outputs of the main head and of each auxiliary head."""
        return self.outputs_and_fused(batch)[0]

    def outputs_and_fused(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(V, B, K) head_outputs, and (B, H) output of the fusion; see hidden."""
        views = self.encode(batch)
        fused = self.fusion(views)
        vectors = {name: view.vector for name, view in zip(self.encoders, views, strict=True)}
        auxiliary = [
            self.auxiliary_heads[name](torch.cat([vectors[part] for part in _read_by_head(name, vectors)], dim=-1))
            for name in vectors
            if name in self.auxiliary_heads
        ]
        return torch.stack([self.head(fused), *auxiliary]), fused

    def encode(self, batch: Batch) -> list[EncodedView]:
        """The encoded views, which are the input of the fusion."""
        return [encoder(batch, self.fusion.needs_items) for encoder in self.encoders.values()]

    def hidden(self, batch: Batch, view: str | None = None) -> dict[str, torch.Tensor]:
        """(B, H) vector of each view, and under `fused` the output of the fusion, which the head reads.

        Args:
            batch: of B molecules.
            view: the only one wanted; then the batch needs no other one. None for all.
        """
        if view is not None:
            return {view: self.encoders[view](batch, False).vector}
        views = self.encode(batch)
        vectors = {name: view.vector for name, view in zip(self.encoders, views, strict=True)}
        return {**vectors, "fused": self.fusion(views)}


def _read_by_head(view: str, encoders: Iterable[str]) -> tuple[str, ...]:
    """The views that the auxiliary head of a view reads."""
    return (view, "covariates") if "covariates" in encoders and view != "covariates" else (view,)


def build(model: str, sizes: Sizes, targets: int, config: ModelConfig) -> FusedModel:
    """Build a model with random initial weights.

    Args:
        model: a key of PIPELINES.
        sizes: widths of the views; 0 for a view that is not used.
        targets: K.
        config: see ModelConfig.
    """
    hidden, dropout = config.hidden, config.dropout
    encoders: dict[str, nn.Module] = {}
    if sizes.states:
        encoders["states"] = StatesEncoder(sizes.states, hidden, dropout, config.states_width)
    if sizes.atoms:
        with _no_generated_files():
            encoders["graph"] = (
                GCNEncoder(sizes.atoms, hidden, dropout)
                if config.graph_encoder == "gcn"
                else GINEEncoder(sizes.atoms, sizes.bonds, hidden, dropout, config.graph_width, config.graph_depth)
            )
    if sizes.descriptors:
        encoders["descriptors"] = DescriptorEncoder(sizes.descriptors, hidden, dropout)
    if sizes.covariates:
        encoders["covariates"] = CovariateEncoder(sizes.covariates, hidden, dropout)
    fusion = _fusion(PIPELINES[model].fusion, tuple(encoders), config)
    auxiliary_heads: dict[str, nn.Module] = {}
    if len(encoders) > 1:  # with a single view the main head already predicts from it alone
        auxiliary_heads = {
            name: _auxiliary_head(len(_read_by_head(name, encoders)) * hidden, hidden, dropout, targets)
            for name in encoders
            if name in config.vote
        }
    return FusedModel(encoders, fusion, hidden, targets, auxiliary_heads)


@contextlib.contextmanager
def _no_generated_files() -> Iterator[None]:
    """Delete the Python files that torch_geometric generates and imports when a convolution is made.

    It writes them to the folder for temporary files, and would leave them there, new ones for each process.
    """
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="kflm2-") as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before


def _auxiliary_head(width: int, hidden: int, dropout: float, targets: int) -> nn.Module:
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, targets)
    )


def _fusion(name: str, names: tuple[str, ...], config: ModelConfig) -> nn.Module:
    views, hidden, dropout = len(names), config.hidden, config.dropout
    attending = [view in ("states", "graph") for view in names]
    if name == "cross":
        gate_first = config.gate_states and names[0] == "states" and views > 1
        return CrossAttention(
            views, sum(attending) == 2, hidden, dropout, config.heads, gate_first, config.view_dropout
        )
    if name == "separate":
        return SeparateAttention(attending, hidden, dropout, config.heads, config.attend)
    if name == "weighted" and views > 1:
        return Weighted(views, hidden, dropout)
    # a single-view pipeline has two views when descriptors or covariates are added
    return Concat(views, hidden, dropout) if views > 1 else Single()
