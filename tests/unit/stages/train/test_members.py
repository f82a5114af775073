"""Models of runs that are trained at once, in a memory that has room for some of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from kflm2.config.train import TrainConfig
from kflm2.data.splits import Split, with_folds
from kflm2.errors import KFLM2Error
from kflm2.stages.train import members as module
from kflm2.stages.train.members import Member, fit_all, fit_member, fit_members, scaled_features, training_weights
from kflm2.stages.train.prepared import Prepared, prepare
from kflm2.trainers.supervised import FittedModel, divergence
from kflm2.trainers.together import fit_together

ROOT = Path(__file__).parents[4]
CPU, GPU = torch.device("cpu"), torch.device("cuda")
MEMBERS = [Member(seed, number) for seed in range(2) for number in range(4)]


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """Of 60 molecules; runs of four networks, without dropout."""
    pd.read_csv(ROOT / "dataset" / "SAMPL.csv").head(60).to_csv(tmp_path / "my.csv", index=False)
    settings = {"views": ("graph", "descriptors"), "ensemble": 4, "epochs": 2, "dropout": 0.0, "view_dropout": 0.0}
    return TrainConfig.of("crossAtt", csv=tmp_path / "my.csv", target_columns=("expt",), **settings).resolved()


@pytest.fixture
def prepared(config: TrainConfig) -> Prepared:
    """Its views."""
    return prepare(config, CPU)


@pytest.fixture
def splits() -> dict[int, Split]:
    """The networks of the second run have two batches an epoch, and those of the first one."""
    rows = np.random.default_rng(0).permutation(60)
    parts = {0: (rows[:30], rows[30:36]), 1: (rows[:50], rows[50:56])}
    whole = {seed: Split("random", *part, rows[56:]) for seed, part in parts.items()}
    return {seed: with_folds(split, 4, seed) for seed, split in whole.items()}


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many networks were tried at once on what stands for a GPU: it has room for two, and notices in epoch 2."""
    sizes: list[int] = []

    def on_the_cpu(
        members: Any, task: Any, config: Any, device: torch.device, after_epoch: Any, components: int
    ) -> list[FittedModel | KFLM2Error]:
        assert device.type == "cuda"
        sizes.append(len(members))
        if len(members) > 2:
            for _ in members:
                after_epoch()
            raise torch.OutOfMemoryError("no room")
        return fit_together(members, task, config, CPU, after_epoch, components)

    monkeypatch.setattr(module, "fit_together", on_the_cpu)
    return sizes


def test_a_gpu_trains_as_many_models_at_once_as_have_room(
    config: TrainConfig, prepared: Prepared, splits: dict[int, Split], groups: list[int]
) -> None:
    counted: list[int] = []
    fitted = list(fit_all(config, prepared, splits, GPU, MEMBERS, counted.append))
    # the runs differ in their number of batches
    assert groups == [4, 2, 2, 4, 2, 2]
    assert sum(counted) == len(MEMBERS) * config.epochs
    for member, model in zip(MEMBERS, fitted, strict=True):
        features, _ = scaled_features(config, prepared, splits[member.seed])
        expected = fit_member(config, prepared, splits, CPU, member).predict(features)
        np.testing.assert_allclose(model.predict(features), expected, atol=1e-3 * expected.std())


def test_a_model_whose_loss_is_not_finite_does_not_take_the_runs_before_it_along(
    config: TrainConfig, prepared: Prepared, splits: dict[int, Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    def second_run_diverges(members: Any, *_: Any) -> list[Any]:
        return [divergence(7) if len(member.split.train) > 30 else member for member in members]

    monkeypatch.setattr(module, "fit_together", second_run_diverges)
    models = fit_members(config, prepared, splits, GPU, MEMBERS)
    for _ in range(4):
        next(models)
    with pytest.raises(KFLM2Error, match="diverged in epoch 7"):
        next(models)


def test_with_the_setting_jobs_a_gpu_trains_in_processes_too(
    config: TrainConfig, prepared: Prepared, splits: dict[int, Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, bool]] = []

    def run_jobs(_: Any, tasks: Any, jobs: int, forked: bool, *__: Any) -> Any:
        asked.append((jobs, forked))
        yield from tasks

    monkeypatch.setattr(module, "run_jobs", run_jobs)
    list(fit_all(replace(config, jobs=3), prepared, splits, GPU, MEMBERS, lambda _: None))
    assert asked == [(3, False)]


def test_molecules_of_weight_zero_do_not_move_the_weights_of_the_others(prepared: Prepared) -> None:
    """They scale neither the loss of a network nor the penalty of a support vector machine."""
    molecules = replace(prepared.molecules, weights=np.array([4.0, 2, 0, 0, 2, 4, 9, 9]))
    split = Split("random", np.arange(4), np.array([4, 5]), np.array([6, 7]))
    weights = training_weights(molecules, split)
    assert weights is not None and weights[:6].tolist() == pytest.approx([4 / 3, 2 / 3, 0, 0, 2 / 3, 4 / 3])
