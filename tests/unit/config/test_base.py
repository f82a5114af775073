"""Settings as JSON values and as arguments, and the checks that stages share."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kflm2.cli.stages import STAGES
from kflm2.config import base
from kflm2.config.finetune import FinetuneConfig
from kflm2.config.prompt import PromptConfig
from kflm2.config.train import TrainConfig
from kflm2.errors import SettingError


def test_settings_survive_the_way_over_json_and_arguments() -> None:
    config = TrainConfig.of(
        "crossAtt", csv=Path("own.csv"), target_columns=("a", "b"), task="classification", deduplicate=True,
        fractions=(0.7, 0.2, 0.1), learning_rate=2e-4, views=("graph", "descriptors"), out=Path("else where"), limit=5,
    )  # fmt: skip
    arguments = base.to_arguments(base.to_json(config))
    assert {"--kind", "--deduplicate", "--no-gate-states"} <= set(arguments) and "--task" not in arguments
    assert STAGES["train"].read(arguments, {}) == config


def test_settings_without_a_name_come_first() -> None:
    values = {"practical": ["0.1"], "results": ["a", "b"], "out": "c"}
    assert base.to_arguments(values, ("results",)) == ["a", "b", "--practical", "0.1", "--out", "c"]


def test_json_leaves_out_what_is_not_set_and_keeps_the_old_keys() -> None:
    values = base.to_json(PromptConfig(dataset="SAMPL", config=Path("file.json")))
    assert values["writings"] == 5 and values["out"] == "results" and values["fractions"] == [0.8, 0.1, 0.1]
    assert not {"config", "csv", "kind", "task", "smiles_variants", "limit"} & set(values)


@pytest.mark.parametrize(
    ("check", "wrong", "right", "message"),
    [
        ("check_at_least", {"rank": 1}, {"rank": 2}, "rank is 1; it must be at least 2"),
        ("check_at_least", {"limit": 1}, {"limit": None}, "limit is 1; it must be at least 2"),
        (
            "check_below_one",
            {"dropout": 1.0},
            {"dropout": 0.0},
            "dropout is 1.0; it must be at least 0 and less than 1",
        ),
        (
            "check_positive",
            {"learning_rate": float("nan")},
            {"learning_rate": 1},
            "learning_rate is nan; it must be positive",
        ),
        ("check_not_negative", {"warmup": -0.1}, {"warmup": 0.0}, "warmup is -0.1; it must not be negative"),
    ],
)
def test_a_value_that_cannot_work_is_named(
    check: str, wrong: dict[str, Any], right: dict[str, Any], message: str
) -> None:
    (name,) = right
    low = (2,) if check == "check_at_least" else ()
    getattr(base, check)(FinetuneConfig(**right), *low, name)
    with pytest.raises(SettingError) as caught:
        getattr(base, check)(FinetuneConfig(**wrong), *low, name)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"graph_encoder": "gat"}, "graph_encoder is 'gat'; it must be one of gcn, gine"),
        ({"schedule": "cosine"}, "schedule is 'cosine'; it must be one of constant, onecycle"),
        ({"task": "regresion"}, "task is 'regresion'; it must be one of regression, classification"),
        ({"patience": "5"}, "patience is '5'; it must be a whole number"),
        ({"epochs": 2.5}, "epochs is 2.5; it must be a whole number"),
        ({"epochs": True}, "epochs is True; it must be a whole number"),
        ({"dropout": None}, "dropout is None; it must be a number"),
        ({"refit": 1}, "refit is 1; it must be true or false"),
        ({"layers": 6}, "layers is 6; it must be a word"),
        ({"voters": "svm"}, "voters is 'svm'; it must be a list, each of it one of svm, forest, llm, minimol"),
        ({"voters": ("rf",)}, "voters is ('rf',); it must be a list, each of it one of svm, forest, llm, minimol"),
        ({"fractions": (0.8, 0.2)}, "fractions is (0.8, 0.2); it must be a list of 3"),
        ({"out": "s3://bucket/results"}, "out is s3:/bucket/results, an address; give a path"),
    ],
)
def test_a_value_that_is_none_of_its_setting_is_refused_also_in_python(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError) as caught:
        TrainConfig.of(dataset="SAMPL", **values)
    assert str(caught.value) == message


def test_lists_and_numbers_of_numpy_are_taken_as_python_gives_them() -> None:
    config = TrainConfig.of(
        dataset="SAMPL",
        voters=["svm"],
        seed=np.int64(3),
        dropout=np.float32(0.5),
        epochs=np.int32(2),
        refit=np.bool_(1),
    )
    assert (config.voters, config.seed, config.dropout, config.epochs, config.refit) == (("svm",), 3, 0.5, 2, True)
    assert type(config.seed) is int and json.dumps(base.to_json(config))


def test_a_single_word_that_begins_with_a_dash_is_no_option() -> None:
    config = TrainConfig.of(csv="own.csv", target_columns=("-logS",), weight_column="-w", layers="-1,6")
    assert STAGES["train"].read(base.to_arguments(base.to_json(config)), {}) == config


def test_a_string_is_taken_for_a_path_and_anything_else_is_refused() -> None:
    config = TrainConfig.of("crossAtt", dataset="SAMPL", out="x", save="y")
    assert (config.out / "z", config.save) == (Path("x/z"), Path("y"))
    with pytest.raises(SettingError, match="csv is 3; it must be a path"):
        TrainConfig(csv=3)
