"""Settings as JSON values and as arguments, and the checks that stages share."""

from pathlib import Path
from typing import Any

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
        ("check_positive", {"alpha": float("nan")}, {"alpha": 1}, "alpha is nan; it must be positive"),
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


def test_a_string_is_taken_for_a_path_and_anything_else_is_refused() -> None:
    config = TrainConfig.of("crossAtt", dataset="SAMPL", out="x", save="y")
    assert (config.out / "z", config.save) == (Path("x/z"), Path("y"))
    with pytest.raises(SettingError, match="csv is 3; give a path"):
        TrainConfig(csv=3)
