"""Training loop of stage 2: from features to a fitted model that predicts in the units of the targets."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from kflm2.config.train import TrainingConfig
from kflm2.data.datasets import Task
from kflm2.data.splits import Split
from kflm2.errors import KFLM2Error
from kflm2.featurize.covariate_scaler import CovariateScaler
from kflm2.featurize.descriptors import DescriptorScaler
from kflm2.featurize.features import Features, Sizes
from kflm2.featurize.ragged import Ragged
from kflm2.model import FusedModel, StatesEncoder
from kflm2.trainers.baseline import RidgeBaseline
from kflm2.trainers.forest import ForestVoter
from kflm2.trainers.voters import SVMVoter

_PREDICT_BATCH = 256
_PREDICT_ITEMS = 1 << 16
"""Tokens and atoms that are predicted at once: ten times those of 256 ordinary molecules, in half a gigabyte."""
CLIP = 5.0
"""Largest norm of a step's gradients."""
_SCALE_ROWS = 2048
"""Maximum training molecules for the scaling of the states; more would need memory and change little."""


class TargetScaler:
    """Scales targets to mean 0 and standard deviation 1 over the training labels; classes are not changed."""

    def __init__(self, y_train: np.ndarray, task: Task, y_valid: np.ndarray | None = None) -> None:
        """Compute mean and std from (n, K) training targets only, NaN where missing.

        The std of a target whose training labels are all equal, which says nothing, is that of all labels, those of
        (m, K) validation too: in the target's own unit its loss could outweigh those of all other targets.

        Raises:
            KFLM2Error: a target has no label in the training part.
        """
        if (unlabelled := np.flatnonzero(np.isnan(y_train).all(axis=0))).size:
            raise KFLM2Error(f"target {unlabelled[0] + 1} has no label in the training part")
        targets = y_train.shape[1]
        self.mean, self.std = np.zeros(targets), np.ones(targets)
        if task == "regression":
            self.mean = np.nanmean(y_train, axis=0)
            both = y_train if y_valid is None else np.concatenate([y_train, y_valid])
            # the standard deviation of equal numbers may be a rounding error, and their range is not
            for labels in (both, y_train):
                varies = np.nanmax(labels, axis=0) > np.nanmin(labels, axis=0)
                self.std = np.where(varies, np.nanstd(labels, axis=0), self.std)

    @classmethod
    def from_moments(cls, mean: np.ndarray, std: np.ndarray) -> "TargetScaler":
        """A scaler with given (K,) means and standard deviations."""
        scaler = cls.__new__(cls)
        scaler.mean, scaler.std = mean, std
        return scaler

    def scale(self, y: np.ndarray) -> np.ndarray:
        """(n, K) in the targets' units to (n, K) scaled."""
        return (y - self.mean) / self.std

    def restore(self, y: np.ndarray) -> np.ndarray:
        """(n, K) scaled to (n, K) in the targets' units."""
        return y * self.std + self.mean


@dataclass
class FittedModel:
    """One trained model, with the scaling of its targets."""

    model: FusedModel
    scaler: TargetScaler
    task: Task
    device: torch.device
    best_epoch: int
    """Counted from 1."""
    history: dict[str, list[float]] = field(default_factory=dict)
    """Loss of each epoch: `train` (with dropout, during training) and `valid`."""
    seconds: float = 0.0
    """That the training took."""
    variance: float | None = None
    """Share of the variance of the LLM's states that their principal components kept, where it was trained on these."""

    def predict(self, features: Features) -> np.ndarray:
        """Predict all molecules of the features.

        Returns:
            (n, K) in the targets' units; the probability of class 1 for classification.
        """
        return self.predict_with_fused(features)[0]

    def predict_with_fused(self, features: Features) -> tuple[np.ndarray, np.ndarray]:
        """The same, and the (n, H) float32 output of the fusion."""
        y_pred, _, fused = self.predict_by_heads(features)
        return y_pred, fused

    def predict_by_heads(self, features: Features) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same, with the (V, n, K) predictions of each head by itself in between."""
        outputs, heads, fused = _outputs(self.model, features, np.arange(_count(features)), self.device)
        return self._restored(outputs), self._restored(heads), fused

    def _restored(self, outputs: np.ndarray) -> np.ndarray:
        out = self.scaler.restore(outputs)
        return 1 / (1 + np.exp(-out)) if self.task == "classification" else out

    def hidden(self, features: Features, view: str | None = None) -> dict[str, np.ndarray]:
        """(n, H) float32 vectors of each view and of the fusion, or of one view; see FusedModel.hidden."""
        self.model.eval()
        with torch.inference_mode():
            batches = [
                {
                    name: vectors.float().cpu().numpy()
                    for name, vectors in self.model.hidden(features.batch(rows, self.device), view).items()
                }
                for rows in _batches(np.arange(_count(features)), _items(features))
            ]
        return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


@dataclass(frozen=True)
class FoldOutputs:
    """What the models of F inner folds make of n molecules."""

    network: np.ndarray
    """(F, n, K) predictions of the neural networks."""
    heads: np.ndarray
    """(F, V, n, K) those of each of their heads."""
    voters: np.ndarray
    """(W, F, n, K) those of the voters, and of networks and voters behind a baseline; W may be 0."""
    fused: np.ndarray
    """(F, n, H) outputs of the networks' fusions."""

    def of_rows(self, rows: np.ndarray, fold: np.ndarray) -> "FoldOutputs":
        """Of each of m rows what the models of one fold make of it, as if there were no other fold.

        Args:
            rows: (m,)
            fold: (m,) which fold.
        """
        return FoldOutputs(
            self.network[fold, rows][None],
            self.heads[fold, :, rows].swapaxes(0, 1)[None],
            self.voters[:, fold, rows][:, None],
            self.fused[fold, rows][None],
        )

    def models(self) -> np.ndarray:
        """(1 + W, n, K) predictions of the network and of each voter, means over the folds."""
        return np.concatenate([self.network[None], self.voters]).mean(axis=1)

    def spread(self) -> np.ndarray:
        """(n, K) standard deviation of the heads' and the voters' predictions within a fold, mean over the folds."""
        return np.concatenate([self.heads.swapaxes(0, 1), self.voters]).std(axis=0).mean(axis=0)


@dataclass(frozen=True)
class Ensemble:
    """The models of one run; their mean is the prediction."""

    members: list[FittedModel]
    descriptor_scaler: DescriptorScaler | None
    """Fitted on the training rows; None if the models do not use descriptors."""
    sizes: Sizes
    """Widths of the views, with scaled descriptors and covariates."""
    folds: bool = False
    """Whether each member is of an inner fold, and has not learnt from that fold."""
    voters: tuple[SVMVoter | ForestVoter, ...] = ()
    """Models of other kinds, each of all folds, or (what a run saves) one that has learnt from all of them."""
    weights: np.ndarray | None = None
    """(M, K) of all M kinds of models, in the order of `names`; None without inner folds."""
    covariate_scaler: CovariateScaler | None = None
    """Fitted on the training rows; None if the models read none."""
    baseline: RidgeBaseline | None = None
    """Predicts first; members and voters learnt what it leaves."""
    delta: "Ensemble | None" = None
    """The same members and voters once more, with a baseline; its weights are in those of this one."""

    def names(self, pipeline: str) -> tuple[str, ...]:
        """Names of the kinds of models: the network, the voters, and these once more behind a baseline."""
        names = (pipeline, *(voter.name for voter in self.voters))
        if self.baseline is not None:
            names = tuple(f"ridge+{name}" for name in names)
        return names if self.delta is None else (*names, *self.delta.names(pipeline))

    @property
    def all_members(self) -> list[FittedModel]:
        """The networks, those behind a baseline last."""
        return self.members if self.delta is None else [*self.members, *self.delta.members]

    def scale_features(self, features: Features, unscaled: Sequence[int] = ()) -> Features:
        """Features with unscaled descriptors and covariates to the input of the models; see scale_features."""
        return scale_features(features, self.descriptor_scaler, self.covariate_scaler, unscaled)

    def predict(self, scaled: Features) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the members' predictions, (n, K) each; see FittedModel.predict."""
        return self.predict_with_fused(scaled)[:2]

    def predict_with_fused(self, scaled: Features) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same, and the (n, H) output of the first member's fusion.

        With inner folds the standard deviation is that of the heads and voters of a fold (FoldOutputs.spread), which is
        known of an out-of-fold prediction too, for which only one fold's models may be asked.
        """
        if self.folds:
            outputs = self.fold_outputs(scaled)
            return *self.combined(outputs), outputs.fused[0]
        first, fused = self.members[0].predict_with_fused(scaled)
        y_pred = np.stack([first, *(member.predict(scaled) for member in self.members[1:])])
        if self.baseline is not None:
            y_pred = y_pred + self._base(scaled)
        return y_pred.mean(axis=0), y_pred.std(axis=0), fused

    def fold_outputs(self, scaled: Features) -> FoldOutputs:
        """What the members, and the voters, of each inner fold make of molecules."""
        parts = zip(*(member.predict_by_heads(scaled) for member in self.members), strict=True)
        network, heads, fused = (np.stack(part) for part in parts)
        # one that has learnt from all folds counts in each
        voters = [np.broadcast_to(voter.predict(scaled), network.shape) for voter in self.voters]
        if self.baseline is not None:
            base = self._base(scaled)
            network, heads, voters = network + base, heads + base[:, None], [values + base for values in voters]
        if self.delta is not None:
            other = self.delta.fold_outputs(scaled)
            voters += [other.network, *other.voters]
        return FoldOutputs(network, heads, np.stack(voters) if voters else np.zeros((0, *network.shape)), fused)

    def _base(self, scaled: Features) -> np.ndarray:
        """(F, n, K) predictions of the baseline."""
        assert self.baseline is not None and scaled.unscaled is not None
        return self.baseline.predict(scaled.unscaled)

    def combined(self, outputs: FoldOutputs) -> tuple[np.ndarray, np.ndarray]:
        """(n, K) weighted mean of the network's and the voters' predictions, and (n, K) standard deviation."""
        assert self.weights is not None
        return (self.weights[:, None] * outputs.models()).sum(axis=0), outputs.spread()


def scale_features(
    features: Features,
    scaler: DescriptorScaler | None,
    covariate_scaler: CovariateScaler | None,
    unscaled: Sequence[int],
) -> Features:
    """The input of the models.

    Args:
        features: with descriptors as computed, and covariates as CovariateScaler takes them.
        scaler: of the descriptors; None for a model without them.
        covariate_scaler: None for a model without covariates.
        unscaled: columns of the descriptors that a baseline reads as they are.
    """
    if covariate_scaler is not None and features.covariates is not None:
        features = replace(features, covariates=covariate_scaler(features.covariates))
    if scaler is None or features.descriptors is None:
        return features
    columns = features.descriptors[:, list(unscaled)] if len(unscaled) else None
    return replace(features, descriptors=scaler(features.descriptors), unscaled=columns)


def positive_weights(y_train: np.ndarray) -> np.ndarray:
    """(K,) negatives per positive of (n, K) training classes; 1 where a target has only one class."""
    positives, negatives = (y_train == 1).sum(axis=0), (y_train == 0).sum(axis=0)
    return np.where((positives > 0) & (negatives > 0), negatives / np.maximum(positives, 1), 1.0)


def masked_loss(
    output: torch.Tensor,
    target: torch.Tensor,
    task: Task,
    positive_weight: torch.Tensor | None = None,
    bounds: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean loss over the labels that are not missing: squared error, or cross-entropy on logits for classes.

    Where only a bound is known, the squared error counts if the output breaks it, and is 0 else: the bounded loss of
    chemprop (Heid et al., J. Chem. Inf. Model. 2024, 64, 9). Unlike Tobit's likelihood it needs no model of the noise.

    Args:
        output: (B, K)
        target: (B, K), NaN where the label is missing.
        task: of the targets.
        positive_weight: (K,) weight of a positive label; None for 1.
        bounds: (2, B, K) that the true value is not below, and not above, NaN where that is not known.
        weights: (B,) of the molecules, with mean 1 over all that is learnt from; None for 1. They make the loss of a
            batch larger or smaller, so that a molecule counts the same whichever others are in its batch; those of
            weight 0 are no part of it.

    Returns:
        A scalar; 0 if all labels are missing.
    """
    present = ~torch.isnan(target)
    # NaN must not enter the loss at all: 0 * NaN is NaN, in the gradient too
    filled = torch.where(present, target, 0.0)
    if task == "classification":
        loss = functional.binary_cross_entropy_with_logits(output, filled, reduction="none", pos_weight=positive_weight)
    else:
        loss = (output - filled) ** 2
    loss = loss * present
    if bounds is not None:
        known = ~torch.isnan(bounds)
        beyond = torch.stack([bounds[0] - output, output - bounds[1]])
        loss = loss + (torch.where(known, beyond, 0.0).clamp(min=0) ** 2).sum(dim=0)
        present = present | known.any(dim=0)
    if weights is not None:
        loss, present = loss * weights[:, None], present & (weights[:, None] > 0)
    return loss.sum() / present.sum().clamp(min=1)


def fit(
    build: Callable[[], FusedModel],
    features: Features,
    y_true: np.ndarray,
    split: Split,
    task: Task,
    config: TrainingConfig,
    seed: int,
    device: torch.device,
    after_epoch: Callable[[], object] = lambda: None,
    components: int = 0,
    bounds: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    origin: FusedModel | None = None,
) -> FittedModel:
    """Train on the training part and return the weights with the best validation loss; the test part is not used.

    Args:
        build: builds the model; its initial weights are drawn from torch's global generator.
        features: of all n molecules.
        y_true: (n, K) targets in their units, NaN where missing.
        split: `train` is for training, `valid` chooses the epoch.
        task: of the targets.
        config: see TrainingConfig; the caller trains the members of an ensemble.
        seed: of weights, dropout and order; on a CPU the same seed gives the same bits.
        device: to train on.
        after_epoch: called after each epoch.
        components: principal components of the LLM's states that the first layer learns from; 0 for the states.
        bounds: (2, n, K) of labels of which only a bound is known, in the units of the targets; see masked_loss.
        weights: (n,) of the molecules, with mean 1 over those that are learnt from; None for 1.
        origin: a trained model whose encoders, with their scales and components, and whose fusion are gone on from.

    Raises:
        KFLM2Error: a target without a training label, or a loss that is not finite.
    """
    start = time.perf_counter()
    if weights is not None:  # a label of weight 0 must not move the scale of the targets either
        y_true = np.where(weights[:, None] > 0, y_true, np.nan)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    scaler = TargetScaler(y_true[split.train], task, y_true[split.valid])

    def loss_of(output: torch.Tensor, rows: np.ndarray) -> torch.Tensor:
        return masked_loss(
            output,
            target[rows],
            task,
            weight,
            None if limits is None else limits[:, rows],
            None if importance is None else importance[rows],
        )

    def on_device(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).float().to(device)

    target = on_device(scaler.scale(y_true))
    limits = None if bounds is None else on_device(scaler.scale(bounds))
    importance = None if weights is None else on_device(weights)
    model = build().to(device)
    if origin is None:
        reduced = model.use_components(components)
        model.fit_scales(features.batch(scale_rows(split.train), device))
    else:
        reduced = model.go_on_from(origin)
    if reduced is not None:
        features = replace(features, states=_reduced(features, reduced, device))
        reduced.reads_components = True
    weight = None
    if task == "classification" and config.class_weight == "balanced":
        weight = on_device(positive_weights(y_true[split.train]))

    optimizer = optimizer_of(_parameter_groups(model, config, kept=origin is not None), config)
    steps = steps_of(split, config)
    schedule = schedule_of(optimizer, config, steps * config.epochs)
    history: dict[str, list[float]] = {"train": [], "valid": []}
    best_loss, best_epoch, best_state = math.inf, 0, copy.deepcopy(model.state_dict())
    blind = not has_labels(y_true[split.valid])
    for epoch in range(1, config.epochs + 1):
        model.train()
        total_loss = 0.0
        order = rng.permutation(split.train)
        for rows in np.array_split(order, steps):
            head_outputs = model.head_outputs(features.batch(rows, device))
            # a loss for each head, not for their mean, so that no head learns to correct the errors of another
            loss = torch.stack([loss_of(output, rows) for output in head_outputs]).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            total_loss += loss.item() * len(rows)
        valid_output = torch.from_numpy(_outputs(model, features, split.valid, device)[0]).to(device)
        valid_loss = loss_of(valid_output, split.valid).item()
        if not math.isfinite(total_loss + valid_loss):
            raise divergence(epoch)
        history["train"].append(total_loss / len(order))
        history["valid"].append(valid_loss)
        if blind or valid_loss < best_loss:
            best_loss, best_epoch, best_state = valid_loss, epoch, copy.deepcopy(model.state_dict())
        after_epoch()
        if config.patience and epoch - best_epoch >= config.patience:
            break
    model.load_state_dict(best_state)
    variance = None
    if reduced is not None and reduced.components is not None:
        reduced.reads_components = False
        variance = None if origin is not None else reduced.components.variance
    return FittedModel(model, scaler, task, device, best_epoch, history, time.perf_counter() - start, variance)


def has_labels(y_valid: np.ndarray) -> bool:
    """Whether validation can choose an epoch; without an exact label the last one is taken.

    The loss of no label is 0, and that of bounds alone is 0 as soon as all are kept, which may be so by chance.
    """
    return not np.isnan(y_valid).all()


def scale_rows(train: np.ndarray) -> np.ndarray:
    """The training molecules from which the scales of the states are learnt."""
    return train[:: math.ceil(len(train) / _SCALE_ROWS)]


def steps_of(split: Split, config: TrainingConfig) -> int:
    """Batches of an epoch."""
    return math.ceil(len(split.train) / config.batch_size)


def divergence(epoch: int) -> KFLM2Error:
    """The error of a loss that is not finite."""
    return KFLM2Error(f"training diverged in epoch {epoch}: the loss is not finite; try a smaller learning rate")


def _reduced(features: Features, encoder: StatesEncoder, device: torch.device) -> Ragged:
    """The principal components of all molecules' states."""
    assert features.states is not None
    ptr = np.concatenate([[0], np.cumsum(features.states.lengths)])
    assert encoder.components is not None
    # filled in place: of 40,000 molecules token by token this is half a gigabyte
    values = np.empty((ptr[-1], encoder.components.directions.shape[1]), dtype=np.float32)
    with torch.inference_mode():
        for rows in np.array_split(np.arange(len(ptr) - 1), math.ceil((len(ptr) - 1) / _PREDICT_BATCH)):
            states = torch.from_numpy(features.states.take(rows).values).to(device).float()
            values[ptr[rows[0]] : ptr[rows[-1] + 1]] = encoder.reduced(states).cpu().numpy()
    return Ragged(values, ptr)


def _parameter_groups(model: FusedModel, config: TrainingConfig, kept: bool) -> list[dict[str, Any]]:
    """All weights, in groups of one learning rate; kept: whether the encoders are of a trained model."""
    if not kept:
        return [{"params": list(model.parameters())}]
    encoders = [encoder for name, encoder in model.encoders.items() if name != "covariates"]  # those are new
    slow = {weight for encoder in encoders for weight in encoder.parameters()}
    rest = {"params": [weight for weight in model.parameters() if weight not in slow]}
    if not config.encoder_rate:
        for weight in slow:
            weight.requires_grad_(False)
        return [rest]
    # in the order of the model: a set has none, and sums of gradients would differ in the last bits
    ordered = [weight for weight in model.parameters() if weight in slow]
    return [rest, {"params": ordered, "lr": config.encoder_rate * config.learning_rate}]


def optimizer_of(groups: list[dict[str, Any]], config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW, which without weight decay is Adam."""
    return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def schedule_of(
    optimizer: torch.optim.Optimizer, config: TrainingConfig, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning rate of that many steps."""
    # the only step of a training would be the last one of a cycle, at which the rate is 0
    if config.schedule == "onecycle" and steps > 1:
        # of 5 steps the rise of a fifth would have no length, by which torch divides
        rise = 0.25 if steps == 5 else 0.2
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=steps,
            pct_start=rise,
            cycle_momentum=False,
        )
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


def _count(features: Features) -> int:
    views = (features.states, features.graphs, features.descriptors, features.covariates)
    return next(len(view) for view in views if view is not None)


def _items(features: Features) -> np.ndarray:
    """(n,) tokens plus atoms of each molecule, on which the memory of a forward pass depends."""
    views = [features.states, features.graphs.atoms if features.graphs else None]
    lengths = [view.lengths for view in views if view is not None]
    return np.sum(lengths, axis=0) if lengths else np.ones(_count(features), dtype=np.int64)


def _outputs(
    model: FusedModel, features: Features, rows: np.ndarray, device: torch.device
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outputs of the model for m rows, scaled targets or logits.

    Returns:
        (m, K) float64 mean of the heads, (V, m, K) float64 heads, and (m, H) float32 fused vectors.
    """
    model.eval()
    outputs, by_head, vectors = [], [], []
    with torch.inference_mode():
        for batch_rows in _batches(rows, _items(features)):
            heads, fused = model.outputs_and_fused(features.batch(batch_rows, device))
            outputs.append(heads.mean(dim=0).double().cpu().numpy())
            by_head.append(heads.double().cpu().numpy())
            vectors.append(fused.float().cpu().numpy())
    return np.concatenate(outputs), np.concatenate(by_head, axis=1), np.concatenate(vectors)


def _batches(rows: np.ndarray, items: np.ndarray) -> Iterator[np.ndarray]:
    """Consecutive rows: at most _PREDICT_BATCH, and at most _PREDICT_ITEMS items or one row."""
    start, total = 0, 0
    for i, count in enumerate(items[rows].tolist()):
        total += count
        if i > start and (i - start == _PREDICT_BATCH or total > _PREDICT_ITEMS):
            yield rows[start:i]
            start, total = i, count
    if start < len(rows):
        yield rows[start:]
