"""Training of several models at once: each comes out as by itself."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from kflm2.config.train import ModelConfig, TrainConfig, TrainingConfig
from kflm2.data.datasets import Task
from kflm2.data.splits import Split
from kflm2.errors import KFLM2Error
from kflm2.featurize.features import Features
from kflm2.featurize.graphs import build_graphs
from kflm2.featurize.ragged import Ragged
from kflm2.model import FusedModel, build
from kflm2.trainers.supervised import FittedModel, fit
from kflm2.trainers.together import MemberData, can_train_together, fit_together

N, TARGETS, COMPONENTS = 40, 2, 3
NO_DROPOUT = ModelConfig(
    states_width=16, dropout=0.0, view_dropout=0.0, graph_encoder="gine", graph_width=16, hidden=16
)
SETTINGS = TrainingConfig(epochs=4, batch_size=8, patience=2)
_gpu = (
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that torch can use"),
)
on_both = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=_gpu)])


def _features(columns: int = 5, covariates: bool = False) -> Features:
    rng = np.random.default_rng(0)
    smiles = ["C" * (1 + i % 7) + "NOS"[i % 3] + "C" * (i // 7) for i in range(N - 1)] + ["C"]  # one without a bond
    rows = [rng.normal(size=(1 + i % 4, 6)).astype(np.float16) for i in range(N)]
    return Features(
        states=Ragged.pack(rows),
        graphs=build_graphs(smiles),
        descriptors=rng.normal(size=(N, columns)).astype(np.float32),
        covariates=rng.normal(size=(N, 2)).astype(np.float32) if covariates else None,
    )


def _split(seed: int, train: int) -> Split:
    order = np.random.default_rng(seed).permutation(N)
    return Split("random", order[:train], order[train:34], order[34:])


def _members(model: str, config: ModelConfig, task: Task = "regression", **changes: Any) -> list[MemberData]:
    """Three models, which differ in their molecules, descriptors and labels."""
    y = np.random.default_rng(1).normal(loc=[5.0, -300.0], scale=[2.0, 40.0], size=(N, TARGETS))
    y[::5, 1] = np.nan
    if task == "classification":
        y = np.where(np.isnan(y), np.nan, y > [5.0, -300.0])
    members = []
    # of equally many batches, but not of equally many molecules, nor descriptors
    for seed, (train, columns) in enumerate([(28, 5), (27, 4), (28, 5)]):
        features = _features(columns, covariates=bool(changes.get("covariates")))
        if views := changes.get("views"):
            names = {"states": "states", "graph": "graphs", "descriptors": "descriptors"}
            features = Features(**{names[view]: getattr(features, names[view]) for view in views})
        sizes = features.sizes()

        def make(sizes=sizes) -> FusedModel:  # type: ignore[no-untyped-def]
            return build(model, sizes, TARGETS, config)

        bounds = weights = None
        if changes.get("bounds"):
            bounds = np.full((2, N, TARGETS), np.nan)
            bounds[0, ::7] = [6.0, -290.0]
        if changes.get("weights"):
            weights = np.random.default_rng(2).uniform(0.5, 1.5, N)
        members.append(
            MemberData(make, features, y + seed * (task == "regression"), _split(seed, train), seed, bounds, weights)
        )
    return members


def _together(
    members: list[MemberData],
    task: Task,
    config: TrainingConfig,
    device: str = "cpu",
    after_epoch: Callable[[], object] = lambda: None,
) -> list[FittedModel]:
    models = fit_together(members, task, config, torch.device(device), after_epoch, COMPONENTS)
    return [model for model in models if isinstance(model, FittedModel)]


def _alone(member: MemberData, task: Task, config: TrainingConfig = SETTINGS, device: str = "cpu") -> FittedModel:
    data = (member.features, member.y_true, member.split, task, config, member.seed, torch.device(device))
    return fit(member.build, *data, components=COMPONENTS, bounds=member.bounds, weights=member.weights)


@on_both
@pytest.mark.parametrize(
    ("model", "settings", "task", "changes"),
    [
        ("crossAtt", {"vote": ("states", "graph", "descriptors")}, "regression", {}),
        ("crossAtt", {}, "classification", {}),
        ("crossAtt", {}, "regression", {"bounds": True, "weights": True, "covariates": True}),
        ("combinedAtt", {}, "regression", {}),
        ("crossAtt", {}, "regression", {"views": ("graph", "descriptors")}),
        ("combined_base", {}, "regression", {"views": ("states",)}),
    ],
)
def test_models_trained_at_once_are_those_trained_one_by_one(
    device: str, model: str, settings: dict, task: Task, changes: dict
) -> None:
    members = _members(model, replace(NO_DROPOUT, **settings), task, **changes)
    counted: list[int] = []
    config = replace(SETTINGS, class_weight="balanced" if task == "classification" else "none")
    together = _together(members, task, config, device, lambda: counted.append(1))
    alone = [_alone(member, task, config, device) for member in members]
    assert len(counted) == sum(len(fitted.history["valid"]) for fitted in alone)
    for member, one, other in zip(members, alone, together, strict=True):
        assert other.best_epoch == one.best_epoch
        for name, losses in one.history.items():
            np.testing.assert_allclose(other.history[name], losses, rtol=1e-3)
        expected = one.predict(member.features)
        np.testing.assert_allclose(other.predict(member.features), expected, rtol=1e-3, atol=1e-3 * np.std(expected))


def test_a_model_without_labels_to_choose_by_takes_its_last_epoch() -> None:
    members = _members("crossAtt", NO_DROPOUT)
    y_true = members[1].y_true.copy()
    y_true[members[1].split.valid] = np.nan
    members[1] = replace(members[1], y_true=y_true)
    together = _together(members, "regression", SETTINGS)
    assert together[1].best_epoch == SETTINGS.epochs == _alone(members[1], "regression").best_epoch


def test_a_model_that_stops_early_keeps_its_best_weights_while_others_learn_on() -> None:
    members = _members("crossAtt", NO_DROPOUT)
    # labels that are noise to the second one: its first epochs are its best
    noise = np.random.default_rng(5).normal(size=(N, TARGETS)) * 100
    members[1] = replace(members[1], y_true=noise)
    config = replace(SETTINGS, epochs=12, patience=1, learning_rate=0.003)
    together = _together(members, "regression", config)
    alone = [_alone(member, "regression", config) for member in members]
    lengths = [len(fitted.history["valid"]) for fitted in together]
    assert len(set(lengths)) > 1 and lengths == [len(fitted.history["valid"]) for fitted in alone]
    for member, one, other in zip(members, alone, together, strict=True):
        expected = one.predict(member.features)
        np.testing.assert_allclose(other.predict(member.features), expected, atol=1e-3 * np.std(expected))


@on_both
def test_each_model_has_a_dropout_of_its_own(device: str) -> None:
    """Two models alike in all else learn differently, and drop as often as one by itself."""
    (member, *_) = _members("crossAtt", replace(NO_DROPOUT, dropout=0.5, view_dropout=0.3))
    config = replace(SETTINGS, epochs=6, patience=0)
    first, second = _together([member, member], "regression", config, device)
    assert first.history["valid"][0] != second.history["valid"][0]
    (plain,) = _together([_members("crossAtt", NO_DROPOUT)[0]], "regression", config, device)
    assert first.history["train"][-1] > plain.history["train"][-1]


def test_a_loss_that_is_not_finite_is_one_models_error() -> None:
    members = _members("crossAtt", NO_DROPOUT)
    descriptors = members[1].features.descriptors
    assert descriptors is not None
    members[1] = replace(members[1], features=replace(members[1].features, descriptors=descriptors * np.float32(1e30)))
    first, second, third = fit_together(members, "regression", SETTINGS, torch.device("cpu"), components=COMPONENTS)
    assert isinstance(second, KFLM2Error) and "training diverged in epoch 1" in str(second)
    for member, model in ((members[0], first), (members[2], third)):
        expected = _alone(member, "regression").predict(member.features)
        assert isinstance(model, FittedModel)
        np.testing.assert_allclose(model.predict(member.features), expected, atol=1e-3 * np.std(expected))


def test_what_cannot_be_trained_at_once() -> None:
    assert can_train_together(TrainConfig.of("crossAtt"))
    assert can_train_together(TrainConfig.of("combined_base"))
    assert not can_train_together(TrainConfig.of("gcn_indepent"))
    assert not can_train_together(TrainConfig.of("combinedSepAtt", graph_encoder="gine"))
