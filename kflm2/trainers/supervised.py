"""Stage 2's training loop: features to a fitted model that predicts in the targets' own units."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from kflm2.config.train import TrainingConfig
from kflm2.data.datasets import Task
from kflm2.data.splits import Split
from kflm2.errors import KFLM2Error
from kflm2.featurize.descriptors import DescriptorScaler
from kflm2.featurize.features import Features, Sizes
from kflm2.model import FusedModel

_PREDICT_BATCH = 256
_SCALE_ROWS = 2048
"""Training molecules from which the scaling of the states is learnt; more would tell no more and fill the memory."""


class TargetScaler:
    """Targets to mean 0 and standard deviation 1 over the training labels; classes stay as they are."""

    def __init__(self, y_train: np.ndarray, task: Task) -> None:
        """Learn from (n, K) training targets, NaN where missing, and from nothing else.

        Raises:
            KFLM2Error: a target has no label in the training part.
        """
        if (bare := np.flatnonzero(np.isnan(y_train).all(axis=0))).size:
            raise KFLM2Error(f"target {bare[0] + 1} has no label in the training part")
        targets = y_train.shape[1]
        self.mean, self.std = np.zeros(targets), np.ones(targets)
        if task == "regression":
            self.mean = np.nanmean(y_train, axis=0)
            std = np.nanstd(y_train, axis=0)
            self.std = np.where(std > 0, std, 1.0)

    @classmethod
    def of(cls, mean: np.ndarray, std: np.ndarray) -> "TargetScaler":
        """The scaler with these (K,) numbers."""
        own = cls.__new__(cls)
        own.mean, own.std = mean, std
        return own

    def scale(self, y: np.ndarray) -> np.ndarray:
        """(n, K) in units to (n, K) scaled."""
        return (y - self.mean) / self.std

    def restore(self, y: np.ndarray) -> np.ndarray:
        """(n, K) scaled to (n, K) in units."""
        return y * self.std + self.mean


@dataclass
class FittedModel:
    """One trained model, with what it needs to predict."""

    model: FusedModel
    scaler: TargetScaler
    task: Task
    device: torch.device
    best_epoch: int
    """From 1."""
    history: dict[str, list[float]] = field(default_factory=dict)
    """Loss after each epoch, `train` (with dropout, as it was trained) and `valid`."""

    def predict(self, features: Features) -> np.ndarray:
        """Predict all molecules of the features.

        Returns:
            (n, K) in the targets' units; for classes the probability of class 1.
        """
        out = self.scaler.restore(_outputs(self.model, features, np.arange(_count(features)), self.device))
        return 1 / (1 + np.exp(-out)) if self.task == "classification" else out

    def hidden(self, features: Features) -> dict[str, np.ndarray]:
        """(n, H) float32 states of each view and of the fusion; see FusedModel.hidden."""
        self.model.eval()
        with torch.inference_mode():
            parts = [
                {
                    name: states.float().cpu().numpy()
                    for name, states in self.model.hidden(features.batch(rows, self.device)).items()
                }
                for rows in _batches(np.arange(_count(features)))
            ]
        return {name: np.concatenate([own[name] for own in parts]) for name in parts[0]}


@dataclass(frozen=True)
class Ensemble:
    """The models of one run, whose mean predicts."""

    members: list[FittedModel]
    scale: DescriptorScaler | None
    """Learnt on the training rows; None where the models read no descriptors."""
    sizes: Sizes
    """Of the views as the models read them."""

    def scaled(self, features: Features) -> Features:
        """The features as the models read them, from those as they were computed."""
        if self.scale is None or features.descriptors is None:
            return features
        return replace(features, descriptors=self.scale(features.descriptors))

    def predict(self, scaled: Features) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the members, (n, K) each; see Fitted.predict."""
        each = np.stack([member.predict(scaled) for member in self.members])
        return each.mean(axis=0), each.std(axis=0)


def positive_weights(y_train: np.ndarray) -> np.ndarray:
    """(K,) negatives for each positive of (n, K) training classes; 1 where one of the two is missing."""
    positives, negatives = (y_train == 1).sum(axis=0), (y_train == 0).sum(axis=0)
    return np.where((positives > 0) & (negatives > 0), negatives / np.maximum(positives, 1), 1.0)


def masked_loss(
    output: torch.Tensor, target: torch.Tensor, task: Task, positive_weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean over the labels that are there: squared error, or cross-entropy on logits for classes.

    Args:
        output: (B, K)
        target: (B, K), NaN where the label is missing.
        task: of the targets.
        positive_weight: (K,) how often a positive label counts; None counts it once.

    Returns:
        A scalar; 0 when no label is there.
    """
    present = ~torch.isnan(target)
    # NaN must not enter the loss at all: 0 * NaN is NaN, in the gradient too
    clean = torch.where(present, target, 0.0)
    if task == "classification":
        each = functional.binary_cross_entropy_with_logits(output, clean, reduction="none", pos_weight=positive_weight)
    else:
        each = (output - clean) ** 2
    return (each * present).sum() / present.sum().clamp(min=1)


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
) -> FittedModel:
    """Train on the training part and keep the weights that were best on validation; test is not looked at.

    Args:
        build: makes the model, its initial weights drawn from torch's generator.
        features: of all n molecules.
        y_true: (n, K) targets in their units, NaN where missing.
        split: train teaches, valid chooses.
        task: of the targets.
        config: see TrainingConfig; `ensemble` is the caller's business.
        seed: of weights, dropout and order; on a CPU the same seed gives the same bits.
        device: to train on.
        after_epoch: called after each epoch.

    Raises:
        KFLM2Error: a target without a training label, or a loss that is no longer finite.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    scaler = TargetScaler(y_true[split.train], task)
    target = torch.from_numpy(scaler.scale(y_true)).float().to(device)
    model = build().to(device)
    model.fit_scales(features.batch(split.train[:: math.ceil(len(split.train) / _SCALE_ROWS)], device))
    weight = None
    if task == "classification" and config.class_weight == "balanced":
        weight = torch.from_numpy(positive_weights(y_true[split.train])).float().to(device)

    # AdamW with no decay is Adam
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    steps = math.ceil(len(split.train) / config.batch_size)
    schedule = _schedule(optimizer, config, steps * config.epochs)
    history: dict[str, list[float]] = {"train": [], "valid": []}
    best_loss, best_epoch, best_state = math.inf, 0, copy.deepcopy(model.state_dict())
    for epoch in range(1, config.epochs + 1):
        model.train()
        total = 0.0
        order = rng.permutation(split.train)
        for rows in np.array_split(order, steps):
            head_outputs = model.head_outputs(features.batch(rows, device))
            # a loss for each vote, not for their mean: what one view gets wrong no other should learn to make up for
            loss = torch.stack([masked_loss(vote, target[rows], task, weight) for vote in head_outputs]).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows)
        output = torch.from_numpy(_outputs(model, features, split.valid, device)).to(device)
        valid = masked_loss(output, target[split.valid], task, weight).item()
        if not math.isfinite(total + valid):
            raise KFLM2Error(f"training diverged in epoch {epoch}: the loss is not finite; try a smaller learning rate")
        history["train"].append(total / len(order))
        history["valid"].append(valid)
        if valid < best_loss:
            best_loss, best_epoch, best_state = valid, epoch, copy.deepcopy(model.state_dict())
        after_epoch()
        if config.patience and epoch - best_epoch >= config.patience:
            break
    model.load_state_dict(best_state)
    return FittedModel(model, scaler, task, device, best_epoch, history)


def _schedule(
    optimizer: torch.optim.Optimizer, config: TrainingConfig, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if config.schedule == "onecycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=config.learning_rate, total_steps=steps, pct_start=0.2, cycle_momentum=False
        )
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


def _count(features: Features) -> int:
    views = (features.states, features.graphs, features.descriptors)
    return next(len(view) for view in views if view is not None)


def _outputs(model: FusedModel, features: Features, rows: np.ndarray, device: torch.device) -> np.ndarray:
    """(len(rows), K) float64 raw outputs of the model."""
    model.eval()
    with torch.inference_mode():
        return np.concatenate(
            [model(features.batch(chosen, device)).double().cpu().numpy() for chosen in _batches(rows)]
        )


def _batches(rows: np.ndarray) -> Iterator[np.ndarray]:
    yield from (rows[start : start + _PREDICT_BATCH] for start in range(0, len(rows), _PREDICT_BATCH))
