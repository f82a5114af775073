"""Training of several models at once on a GPU: an operation is done once for all of them.

The networks of stage 2 are small: a GPU that trains one waits most of the time for the next operation. Here the weights
of M models of one shape are stacked, and `torch.func.vmap` makes of each operation one for all M. A model has its own
molecules, labels, scales and epoch, as in `supervised.fit`; only the random numbers of dropout are others.

Batches of different models must have one shape: each ends with an empty molecule of one token, one atom and one bond,
without a label, to which all that fills up is counted.

Shapes: M models, n molecules, B of a batch with the empty one, K targets.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from kflm2.config.pipelines import PIPELINES
from kflm2.config.train import TrainConfig, TrainingConfig
from kflm2.data.datasets import Task
from kflm2.data.splits import Split
from kflm2.errors import KFLM2Error
from kflm2.featurize.features import Batch, Features
from kflm2.featurize.ragged import ragged_index
from kflm2.model import FusedModel, StatesEncoder
from kflm2.trainers.supervised import (
    CLIP,
    FittedModel,
    TargetScaler,
    divergence,
    has_labels,
    masked_loss,
    optimizer_of,
    positive_weights,
    scale_rows,
    schedule_of,
    steps_of,
)

_PREDICT_BATCH = 64
"""Molecules of each model that are predicted at once; all are padded to the largest."""
_REDUCE_ROWS = 256
"""Molecules of which the components are computed at once."""


@dataclass(frozen=True)
class MemberData:
    """What one model learns from; see supervised.fit."""

    build: Callable[[], FusedModel]
    features: Features
    """Of all n molecules. States and graphs are those of every other model trained at once."""
    y_true: np.ndarray
    split: Split
    seed: int
    bounds: np.ndarray | None = None
    weights: np.ndarray | None = None


def can_train_together(config: TrainConfig) -> bool:
    """Whether models of these settings can.

    PyG's GCN must know how many loops it adds to the atoms, and PyTorch's attention module has no form for many models.
    """
    graphs = "graph" not in config.read_views or config.graph_encoder != "gcn"
    return graphs and PIPELINES[config.model].fusion != "separate"


def fit_together(
    members: Sequence[MemberData],
    task: Task,
    config: TrainingConfig,
    device: torch.device,
    after_epoch: Callable[[], object] = lambda: None,
    components: int = 0,
) -> list[FittedModel | KFLM2Error]:
    """Train M models at once; see supervised.fit, by which each is the same but for dropout's random numbers.

    Args:
        members: M, of equally many batches an epoch.
        task: of the targets.
        config: see TrainingConfig.
        device: to train on.
        after_epoch: called after each epoch of each model.
        components: see supervised.fit.

    Returns:
        The models; in place of one whose loss was not finite the error, so that the others are not lost.

    Raises:
        KFLM2Error: a target without a training label.
        torch.OutOfMemoryError: there are too many for the device.
    """
    start = time.perf_counter()
    labels = [_Labels.of(member, task, config) for member in members]
    models, reduced = [], []
    for member in members:
        torch.manual_seed(member.seed)
        model = member.build().to(device)
        encoder = model.use_components(components)
        model.fit_scales(member.features.batch(scale_rows(member.split.train), device))
        if encoder is not None:
            encoder.reads_components = True
            reduced.append(encoder)
        models.append(model)
    molecules = _Molecules(members, reduced, device)
    stacked = _Stacked(models)
    known = {name: _stack([part.known[name] for part in labels], device) for name in labels[0].known}

    def losses(outputs: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        """(M,) of (M, V, B, K) outputs."""
        picked = {name: values if name == "positive" else _rows_of(values, rows) for name, values in known.items()}
        return _losses(outputs, picked, task)

    optimizer = optimizer_of([{"params": list(stacked.weights.values())}], config)
    (steps,) = {steps_of(member.split, config) for member in members}
    schedule = schedule_of(optimizer, config, steps * config.epochs)
    valid = _filled([molecules.by_size(member.split.valid) for member in members], molecules.empty)
    orders = [np.random.default_rng(member.seed) for member in members]
    torch.manual_seed(members[0].seed)
    blind = [
        not has_labels(part.known["target"][member.split.valid]) for part, member in zip(labels, members, strict=True)
    ]
    best = _Best(stacked, config.patience, np.array(blind))
    for epoch in range(1, config.epochs + 1):
        stacked.module.train()
        total = torch.zeros(len(members), device=device)
        shuffled = [rng.permutation(member.split.train) for rng, member in zip(orders, members, strict=True)]
        parts = [np.array_split(order, steps) for order in shuffled]
        for step in zip(*parts, strict=True):
            rows = _filled(step, molecules.empty)
            loss = losses(stacked.outputs(molecules.batch(rows)), rows)
            optimizer.zero_grad()
            loss.sum().backward()
            _clip(stacked.weights.values())
            optimizer.step()
            schedule.step()
            total += loss.detach() * torch.tensor([len(part) for part in step], device=device)
        train_loss = total.cpu().numpy() / [len(order) for order in shuffled]
        valid_loss = losses(stacked.predict(molecules, valid), valid).cpu().numpy()
        for _ in range(best.record(epoch, train_loss, valid_loss)):
            after_epoch()
        if not best.learning.any():
            break
    seconds = (time.perf_counter() - start) / len(members)
    fitted: list[FittedModel | KFLM2Error] = []
    for i, (model, part) in enumerate(zip(models, labels, strict=True)):
        best.restore(i, model)
        encoder = model.states_encoder
        variance = None
        if encoder is not None and encoder.components is not None:
            encoder.reads_components = False
            variance = encoder.components.variance
        epoch, history = int(best.epoch[i]), best.history[i]
        trained = FittedModel(model, part.scaler, task, device, epoch, history, seconds, variance)
        fitted.append(best.diverged.get(i, trained))
    return fitted


@dataclass(frozen=True)
class _Labels:
    """What is known of one model's molecules, and of the empty one."""

    scaler: TargetScaler
    known: dict[str, np.ndarray]
    """target: (n + 1, K) scaled labels. Where there are any, bounds: (n + 1, 2, K) scaled; weights: (n + 1,); positive:
    (K,) weights of the positive labels."""

    @classmethod
    def of(cls, member: MemberData, task: Task, config: TrainingConfig) -> "_Labels":
        y_true, weights = member.y_true, member.weights
        if weights is not None:  # as in supervised.fit
            y_true, weights = np.where(weights[:, None] > 0, y_true, np.nan), np.append(weights, 0.0)
        scaler = TargetScaler(y_true[member.split.train], task, y_true[member.split.valid])
        nothing = np.full((1, y_true.shape[1]), np.nan)
        known = {"target": np.concatenate([scaler.scale(y_true), nothing])}
        if member.bounds is not None:
            known["bounds"] = np.stack(
                [np.concatenate([scaler.scale(side), nothing]) for side in member.bounds], axis=1
            )
        if weights is not None:
            known["weights"] = weights
        if task == "classification" and config.class_weight == "balanced":
            known["positive"] = positive_weights(y_true[member.split.train])
        return cls(scaler, known)


class _Molecules:
    """The views of all molecules, and of the empty one behind them, on the device."""

    def __init__(self, members: Sequence[MemberData], encoders: Sequence[StatesEncoder], device: torch.device) -> None:
        """Copy them to the device.

        Args:
            members: M.
            encoders: of each, where they read components of the states; else none.
            device: to train on.
        """
        first = members[0].features
        self.device = device
        self.empty = len(members[0].y_true)
        self.states_ptr, self.atoms_ptr, self.bonds_ptr = None, None, None
        if first.states is not None:
            self.states_ptr = _with_empty(np.concatenate([[0], np.cumsum(first.states.lengths)]))
            self.states = self._states(first, encoders)
        if first.graphs is not None:
            graphs = first.graphs
            self.atoms_ptr, self.bonds_ptr = _with_empty(graphs.atoms.ptr), _with_empty(graphs.bonds.ptr)
            self.atoms, self.bonds, self.bond_features = (
                torch.from_numpy(np.concatenate([values, np.zeros_like(values, shape=(1, values.shape[1]))])).to(device)
                for values in (graphs.atoms.values, graphs.bonds.values, graphs.bond_features)
            )
        self.columns: dict[str, torch.Tensor] = {}
        for name in ("descriptors", "covariates"):
            values = [getattr(member.features, name) for member in members]
            if values[0] is not None:
                shape = (len(values), self.empty + 1, max(table.shape[1] for table in values))
                self.columns[name] = torch.zeros(shape, device=device)
                for filled, table in zip(self.columns[name], values, strict=True):
                    filled[:-1, : table.shape[1]] = torch.from_numpy(table)

    def _states(self, features: Features, encoders: Sequence[StatesEncoder]) -> torch.Tensor:
        """(1 or M, rows of states + 1, width): components differ between the models, states do not."""
        assert features.states is not None and self.states_ptr is not None
        count = self.states_ptr[-1]
        values = None
        for rows in np.array_split(np.arange(self.empty), math.ceil(self.empty / _REDUCE_ROWS)):
            states = torch.from_numpy(features.states.take(rows).values).to(self.device)
            with torch.inference_mode():
                parts = [encoder.reduced(states.float()) for encoder in encoders] or [states]
            if values is None:
                shape = (len(parts), count, parts[0].shape[1])
                values = torch.zeros(shape, dtype=parts[0].dtype, device=self.device)
            for i, part in enumerate(parts):
                values[i, self.states_ptr[rows[0]] : self.states_ptr[rows[-1] + 1]] = part
        assert values is not None
        return values

    def by_size(self, rows: np.ndarray) -> np.ndarray:
        """Molecules ordered by their number of items, so that batches of them need little padding."""
        ptr = self.atoms_ptr if self.atoms_ptr is not None else self.states_ptr
        return rows if ptr is None else rows[np.diff(ptr)[rows].argsort(kind="stable")]

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """The fields of a Batch, each of all models: (M, ...).

        Args:
            rows: (M, B), in the last column the empty molecule.
        """
        views: dict[str, torch.Tensor] = {}
        models = torch.arange(len(rows), device=self.device)[:, None]
        if self.states_ptr is not None:
            index, mol, start, lengths = self._packed(self.states_ptr, rows)
            views["states"] = self.states[models if len(self.states) > 1 else 0, index].float()
            views["states_mol"] = mol
            views["states_slots"] = _slots(start, lengths)
        if self.atoms_ptr is not None and self.bonds_ptr is not None:
            index, mol, start, lengths = self._packed(self.atoms_ptr, rows)
            views["x"], views["x_mol"], views["x_slots"] = self.atoms[index].float(), mol, _slots(start, lengths)
            index, mol, _, _ = self._packed(self.bonds_ptr, rows)
            views["edge_index"] = (self.bonds[index] + start.gather(1, mol)[..., None]).movedim(-1, 1)
            views["edge_attr"] = self.bond_features[index].float()
        for name, table in self.columns.items():
            views[name] = _rows_of(table, rows)
        return views

    def _packed(self, ptr: np.ndarray, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, np.ndarray]:
        """The items of molecules.

        Args:
            ptr: (n + 2,) boundaries of all molecules' items.
            rows: (M, B)

        Returns:
            (M, I) the items of each model's molecules, one molecule after another, then the empty one's for as long as
            the longest; (M, I) the molecule of each; (M, B) where each molecule's items begin; (M, B) how many it has.
        """
        models, count = rows.shape
        items, cuts = ragged_index(ptr, rows.ravel())
        lengths = np.diff(cuts).reshape(rows.shape)
        totals = lengths.sum(axis=1)
        start = cuts[:-1].reshape(rows.shape)
        place = (np.repeat(np.arange(models), totals), np.arange(len(items)) - np.repeat(start[:, 0], totals))
        index = np.full((models, totals.max()), ptr[-2])
        index[place] = items
        mol = np.full(index.shape, count - 1)
        mol[place] = np.repeat(np.tile(np.arange(count), models), lengths.ravel())
        tensors = (torch.from_numpy(values).to(self.device) for values in (index, mol, start - start[:, :1]))
        return *tensors, lengths  # type: ignore[return-value]


class _Stacked:
    """M models as one, whose weights have a first axis more.

    Where some read fewer descriptors, their weights are filled up with zeros, and stay zero: what they would multiply
    is zero too.
    """

    def __init__(self, models: Sequence[FusedModel]) -> None:
        self.module = _Heads(models[0])
        heads = [_Heads(model) for model in models]
        self.weights = _stacked([dict(part.named_parameters()) for part in heads])
        self.buffers = _stacked([dict(part.named_buffers()) for part in heads])
        for weight in self.weights.values():
            weight.requires_grad_()

    def outputs(self, views: dict[str, torch.Tensor]) -> torch.Tensor:
        """(M, V, B, K) outputs of the heads."""

        def one(weights: object, buffers: object, views: dict[str, torch.Tensor]) -> torch.Tensor:
            outputs: torch.Tensor = functional_call(self.module, (weights, buffers), (views,))  # type: ignore[arg-type]
            return outputs

        together = torch.vmap(one, randomness="different")
        outputs: torch.Tensor = together(self.weights, self.buffers, views)
        return outputs

    def predict(self, molecules: _Molecules, rows: np.ndarray) -> torch.Tensor:
        """(M, 1, B, K) mean of the heads."""
        self.module.eval()
        outputs = []
        with torch.no_grad():
            for start in range(0, rows.shape[1] - 1, _PREDICT_BATCH):
                part = rows[:, start : min(start + _PREDICT_BATCH, rows.shape[1] - 1)]
                views = molecules.batch(np.concatenate([part, rows[:, -1:]], axis=1))
                outputs.append(self.outputs(views)[:, :, :-1].mean(dim=1, keepdim=True))
        return torch.cat([*outputs, torch.zeros_like(outputs[0][:, :, :1])], dim=2)


class _Best:
    """What M models learnt so far: their losses, the weights of their best epochs, and which still learn."""

    def __init__(self, stacked: _Stacked, patience: int, blind: np.ndarray) -> None:
        """Begin.

        Args:
            stacked: the models.
            patience: epochs without a better one after which a model stops; 0 for never.
            blind: (M,) whether validation cannot choose the epoch, see has_labels.
        """
        self.stacked, self.patience, self.blind = stacked, patience, blind
        self.weights = {name: weight.detach().clone() for name, weight in stacked.weights.items()}
        count = len(next(iter(self.weights.values())))
        self.history = [{"train": list[float](), "valid": list[float]()} for _ in range(count)]
        self.loss, self.epoch = np.full(count, math.inf), np.zeros(count, dtype=int)
        self.learning = np.ones(count, dtype=bool)
        self.diverged: dict[int, KFLM2Error] = {}

    def record(self, epoch: int, train_loss: np.ndarray, valid_loss: np.ndarray) -> int:
        """Take in an epoch's (M,) losses, of the models that learn; returns how many these are."""
        for i in np.flatnonzero(self.learning & ~np.isfinite(train_loss + valid_loss)).tolist():
            self.diverged[i], self.learning[i] = divergence(epoch), False
        better = self.learning & (self.blind | (valid_loss < self.loss))
        self.loss[better], self.epoch[better] = valid_loss[better], epoch
        for name, weight in self.stacked.weights.items():
            which = torch.from_numpy(np.flatnonzero(better)).to(weight.device)
            self.weights[name][which] = weight.detach()[which]
        learnt = np.flatnonzero(self.learning).tolist()
        for i in learnt:
            self.history[i]["train"].append(float(train_loss[i]))
            self.history[i]["valid"].append(float(valid_loss[i]))
        if self.patience:
            self.learning &= epoch - self.epoch < self.patience
        return len(learnt)

    def restore(self, i: int, model: FusedModel) -> None:
        """Give a model the weights of its best epoch."""
        with torch.no_grad():
            for name, weight in _Heads(model).named_parameters():
                weight.copy_(self.weights[name][i][tuple(slice(length) for length in weight.shape)])


class _Heads(nn.Module):
    """A model that takes the fields of a batch."""

    def __init__(self, model: FusedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, views: dict[str, torch.Tensor]) -> torch.Tensor:
        """(V, B, K)."""
        size = next(views[name] for name in ("states_slots", "x_slots", "descriptors", "covariates") if name in views)
        return self.model.head_outputs(Batch(size=len(size), **views))


def _losses(outputs: torch.Tensor, known: dict[str, torch.Tensor], task: Task) -> torch.Tensor:
    """(M,) losses, of each model the mean of its heads', of (M, V, B, K) outputs."""

    def one(heads: torch.Tensor, known: dict[str, torch.Tensor]) -> torch.Tensor:
        bounds = known["bounds"].movedim(1, 0) if "bounds" in known else None
        rest = (known.get("positive"), bounds, known.get("weights"))
        return torch.stack([masked_loss(head, known["target"], task, *rest) for head in heads]).mean()

    losses: torch.Tensor = torch.vmap(one)(outputs, known)
    return losses


def _clip(weights: Iterable[torch.Tensor]) -> None:
    """nn.utils.clip_grad_norm_ of each model."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norms = torch.stack([gradient.flatten(start_dim=1).norm(dim=1) for gradient in gradients]).norm(dim=0)
    factor = (CLIP / (norms + 1e-6)).clamp(max=1)
    for gradient in gradients:
        gradient.mul_(factor.view(-1, *(1,) * (gradient.dim() - 1)))


def _filled(parts: Sequence[np.ndarray], empty: int) -> np.ndarray:
    """Rows of each model's molecules as (M, B), filled up with the empty molecule, which each has at the end."""
    rows = np.full((len(parts), 1 + max(map(len, parts))), empty)
    for row, part in zip(rows, parts, strict=True):
        row[: len(part)] = part
    return rows


def _padded(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack tensors that may be of unequal width, filled up with zeros."""
    width = max(tensor.shape[-1] for tensor in tensors)
    return torch.stack([functional.pad(tensor, (0, width - tensor.shape[-1])) for tensor in tensors])


def _stacked(parts: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: _padded([part[name].detach() for part in parts]) for name in parts[0]}


def _with_empty(ptr: np.ndarray) -> np.ndarray:
    """Boundaries of items, with those of the empty molecule, which has one."""
    return np.append(ptr, ptr[-1] + 1)


def _slots(start: torch.Tensor, lengths: np.ndarray) -> torch.Tensor:
    """(M, B, L) which item comes where when each molecule has as many as the longest; -1 for none."""
    place = torch.arange(int(lengths.max()), device=start.device)
    return torch.where(place < torch.from_numpy(lengths).to(start.device)[..., None], start[..., None] + place, -1)


def _stack(values: Sequence[np.ndarray], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.stack(values)).float().to(device)


def _rows_of(table: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
    """(M, B, ...) rows of a table (M, n + 1, ...)."""
    return table[torch.arange(len(rows), device=table.device)[:, None], torch.from_numpy(rows).to(table.device)]
