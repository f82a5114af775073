"""The models of runs: what each learns from, and their training, in processes or at once on a GPU."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from kflm2.config.train import TrainConfig
from kflm2.data.molecules import Molecules
from kflm2.data.splits import Split
from kflm2.errors import DataError, KFLM2Error
from kflm2.featurize.covariate_scaler import CovariateScaler
from kflm2.featurize.descriptors import DescriptorScaler
from kflm2.featurize.features import Features
from kflm2.featurize.taught import names_of
from kflm2.model import build
from kflm2.stages.train.prepared import Prepared
from kflm2.trainers.baseline import RidgeBaseline, baseline_columns, fit_baseline
from kflm2.trainers.jobs import default_jobs, run_jobs
from kflm2.trainers.supervised import FittedModel, fit, scale_features, steps_of
from kflm2.trainers.together import MemberData, can_train_together, fit_together

AT_ONCE = 32
"""Networks that a GPU trains at once, in whole runs: more save little time, and a run waits for all of them."""


class Member(NamedTuple):
    """One model of one run."""

    seed: int
    """Of the run."""
    number: int
    """From the number of folds on they learn what the baseline leaves, once more of the same folds."""

    def __str__(self) -> str:
        return f"seed {self.seed}" + (f", model {self.number + 1}" if self.number else "")


def fit_all(
    config: TrainConfig,
    prepared: Prepared,
    splits: Mapping[int, Split],
    device: torch.device,
    members: Sequence[Member],
    after_epoch: Callable[[int], object],
) -> Generator[FittedModel, None, None]:
    """Train models: on a CPU, or where `jobs` is set, in processes, else by fit_members. Close it; see run_jobs.

    Args:
        config: see TrainConfig.
        prepared: the molecules and their views.
        splits: seed -> split.
        device: to train on.
        members: which models.
        after_epoch: called with the number of epochs that were trained since the last call.
    """
    if device.type != "cpu" and config.jobs is None:
        yield from fit_members(config, prepared, splits, device, members, lambda: after_epoch(1))
        return
    work = functools.partial(fit_member, config, prepared, splits, device)
    jobs = config.jobs or default_jobs(config.threads)
    forked = device.type == "cpu" and config.threads == 1
    with contextlib.closing(run_jobs(work, members, jobs, forked, after_epoch)) as models:
        yield from models


def fit_members(
    config: TrainConfig,
    prepared: Prepared,
    splits: Mapping[int, Split],
    device: torch.device,
    members: Sequence[Member],
    after_epoch: Callable[[], object] = lambda: None,
) -> Iterator[FittedModel]:
    """Train models in one process; on a GPU many at once.

    There the random numbers of dropout depend on which are trained at once; so do the models.

    Args:
        config: see TrainConfig.
        prepared: the molecules and their views.
        splits: seed -> split.
        device: to train on.
        members: which models.
        after_epoch: called after each epoch of each model.
    """
    if device.type != "cuda" or prepared.origin is not None or not can_train_together(config):
        yield from (fit_member(config, prepared, splits, device, member, after_epoch) for member in members)
        return
    count = max(AT_ONCE // config.networks, 1) * config.networks
    for start in range(0, len(members), count):
        for model in _fit_at_once(config, prepared, splits, device, members[start : start + count], after_epoch):
            if isinstance(model, KFLM2Error):
                raise model
            yield model


def _fit_at_once(
    config: TrainConfig,
    prepared: Prepared,
    splits: Mapping[int, Split],
    device: torch.device,
    members: Sequence[Member],
    after_epoch: Callable[[], object],
) -> list[FittedModel | KFLM2Error]:
    """Train those with equally many batches at once, and fewer where the GPU has no room; see fit_members."""
    scaled = {seed: scaled_features(config, prepared, splits[seed])[0] for seed in {member.seed for member in members}}
    data = [member_data(config, prepared, splits, member, scaled[member.seed]) for member in members]
    by_steps: dict[int, list[int]] = {}
    for i, member in enumerate(data):
        by_steps.setdefault(steps_of(member.split, config), []).append(i)
    waiting, models = list(by_steps.values()), dict[int, FittedModel | KFLM2Error]()
    made = counted = 0  # epochs of an attempt, and those that were counted in an attempt that had no room

    def count() -> None:
        nonlocal made, counted
        made += 1
        if counted:
            counted -= 1
        else:
            after_epoch()

    while waiting:
        rows, made, trained = waiting.pop(), 0, None
        if len(rows) == 1:  # by itself it needs no padding
            models[rows[0]] = fit_member(config, prepared, splits, device, members[rows[0]], count)
            continue
        task, components = prepared.molecules.dataset.task, config.states_components
        with contextlib.suppress(torch.OutOfMemoryError):
            trained = fit_together([data[i] for i in rows], task, config, device, count, components)
        if trained is None:
            torch.cuda.empty_cache()
            counted += made
            half = -(-len(rows) // 2)
            waiting += [rows[half:], rows[:half]]
        else:
            models.update(zip(rows, trained, strict=True))
    return [models[i] for i in range(len(members))]


def fit_member(
    config: TrainConfig,
    prepared: Prepared,
    splits: Mapping[int, Split],
    device: torch.device,
    member: Member,
    after_epoch: Callable[[], object] = lambda: None,
) -> FittedModel:
    """Train one model; the same bits in any process.

    Args:
        config: see TrainConfig.
        prepared: the molecules and their views.
        splits: seed -> split.
        device: to train on.
        member: which model.
        after_epoch: called after each epoch.
    """
    features, _ = scaled_features(config, prepared, splits[member.seed])
    data = member_data(config, prepared, splits, member, features)
    with limited_threads(config.threads):
        return fit(
            data.build,
            data.features,
            data.y_true,
            data.split,
            prepared.molecules.dataset.task,
            config,
            seed=data.seed,
            device=device,
            after_epoch=after_epoch,
            components=config.states_components,
            bounds=data.bounds,
            weights=data.weights,
            origin=None if prepared.origin is None else prepared.origin.model(member.number % config.members),
        )


def member_data(
    config: TrainConfig, prepared: Prepared, splits: Mapping[int, Split], member: Member, features: Features
) -> MemberData:
    """What a model learns from; features: those of scaled_features. See fit_member."""
    whole, (delta, number) = splits[member.seed], divmod(member.number, config.members)
    split, sizes, molecules = whole.of_member(number), features.sizes(), prepared.molecules
    y_true, bounds, weights = molecules.y_true, molecules.bounds, training_weights(molecules, whole)
    if delta or config.baseline_model == "ridge":
        baseline = fit_ridge(config, features, molecules, whole)
        assert features.unscaled is not None
        base = baseline.predict(features.unscaled)[number]
        y_true, bounds = y_true - base, None if bounds is None else bounds - base
    return MemberData(
        lambda: build(config.model, sizes, y_true.shape[1], config),
        features,
        y_true,
        split,
        # members of one run differ from each other and from all other runs' members
        seed=member.seed * 1000 + number,
        bounds=bounds,
        weights=weights,
    )


def fit_ridge(config: TrainConfig, features: Features, molecules: Molecules, split: Split) -> RidgeBaseline:
    """The ridge of each fold, of the molecules that its network learns from."""
    assert features.unscaled is not None
    rows = [split.of_member(number).train for number in range(config.members)]
    return fit_baseline(features.unscaled, molecules.y_true, rows, training_weights(molecules, split))


def training_weights(molecules: Molecules, split: Split) -> np.ndarray | None:
    """(n,) weights of the molecules, with mean 1 over those above 0 that are learnt from; None for 1."""
    if molecules.weights is None:
        return None
    weights = molecules.weights
    for part in (split.train, split.valid, *split.folds):
        if len(part) and not weights[part].any():
            raise DataError(
                "a part that is learnt from, or by which the epoch is chosen, has molecules of weight 0 only"
            )
    learned = weights[split.learned]
    return weights / learned[learned > 0].mean()


def scaled_features(
    config: TrainConfig, prepared: Prepared, split: Split
) -> tuple[Features, tuple[DescriptorScaler | None, CovariateScaler | None]]:
    """Features as the models of a split read them, and what scaled descriptors and covariates."""
    features, unscaled = prepared.features, list[int]()
    # of inner folds all share one scaler, which sees no label
    descriptor_scaler, covariate_scaler = None, None
    learned = prepared.molecules.counted(split.learned)
    if features.covariates is not None:
        columns = prepared.molecules.covariate_columns
        covariate_scaler = CovariateScaler.fit(columns, features.covariates[learned])
        features = dataclasses.replace(features, covariates=covariate_scaler.of_table(columns, features.covariates))
    if features.descriptors is not None:
        descriptor_scaler = None if prepared.origin is None else prepared.origin.scaler
        descriptor_scaler = descriptor_scaler or DescriptorScaler(features.descriptors[learned])
        unscaled = baseline_columns(config, names_of(config.read_descriptors, prepared.source))
    scaled = scale_features(features, descriptor_scaler, covariate_scaler, unscaled)
    return scaled, (descriptor_scaler, covariate_scaler)


@contextlib.contextmanager
def limited_threads(number: int) -> Iterator[None]:
    """CPU threads of torch inside a block; the LLM before it uses all there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
