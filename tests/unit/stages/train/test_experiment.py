"""Models of a run that are trained at once, in a memory that has room for some of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from kflm2.config.train import TrainConfig
from kflm2.data.splits import make_splits
from kflm2.stages.train import experiment
from kflm2.stages.train.experiment import Member, fit_member, fit_members, prepare, scaled_features
from kflm2.trainers.supervised import FittedModel
from kflm2.trainers.together import fit_together

ROOT = Path(__file__).parents[4]
CPU = torch.device("cpu")


def test_a_gpu_trains_as_many_models_at_once_as_have_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pd.read_csv(ROOT / "dataset" / "SAMPL.csv").head(60).to_csv(tmp_path / "my.csv", index=False)
    settings = {"views": ("graph", "descriptors"), "ensemble": 4, "epochs": 2, "dropout": 0.0, "view_dropout": 0.0}
    config = TrainConfig.of("crossAtt", csv=tmp_path / "my.csv", target_columns=("expt",), **settings).resolved()
    prepared = prepare(config, CPU)
    (split,) = make_splits("random", prepared.molecules.smiles, [0], config.fractions, folds=config.folds)
    sizes: list[int] = []

    def on_the_cpu(members: Any, task: Any, config: Any, device: torch.device, *rest: Any) -> list[FittedModel]:
        assert device.type == "cuda"
        sizes.append(len(members))
        if len(members) > 2:
            raise torch.OutOfMemoryError("no room")
        return fit_together(members, task, config, CPU, *rest)

    monkeypatch.setattr(experiment, "fit_together", on_the_cpu)
    members = [Member(0, number) for number in range(4)]
    counted: list[int] = []
    fitted = list(fit_members(config, prepared, {0: split}, torch.device("cuda"), members, lambda: counted.append(1)))
    assert sizes == [4, 2, 2] and len(counted) == 8
    features, _ = scaled_features(config, prepared, split)
    for member, model in zip(members, fitted, strict=True):
        expected = fit_member(config, prepared, {0: split}, CPU, member).predict(features)
        np.testing.assert_allclose(model.predict(features), expected, atol=1e-3 * expected.std())
