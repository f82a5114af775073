"""`kflm2 ablate` on a tiny LLM: every combination of views on the same splits, none trained twice."""

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest

from kflm2.cli import stages
from kflm2.config.ablate import AblateConfig
from kflm2.errors import SettingError
from kflm2.stages import ablate

VARIANTS = (
    "LLM",
    "LLM, random LLM",
    "graph",
    "descriptors",
    "LLM+graph",
    "LLM+descriptors",
    "graph+descriptors",
    "all",
    "all, random LLM",
)


def _config(tmp_path: Path, llm: Path, model: str = "crossAtt", **values: object) -> AblateConfig:
    config = AblateConfig.of(
        model,
        **{
            "dataset": "SAMPL",
            "limit": 40,
            "epochs": 1,
            "runs": 3,
            "ensemble": 2,
            "llm": str(llm),
            "graph_width": 8,
            "states_width": 8,
            "hidden": 8,
            "practical": 0.1,
            "weights": "equal",  # networks that learn this little would get none beside the support vector machine
            "out": tmp_path / "results",
            **values,
        },
    )
    config.check()
    return config


@pytest.mark.usefixtures("no_llms")
def test_every_combination_of_views_is_trained_once_and_compared(
    tiny_decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = _config(tmp_path, tiny_decoder)
    assert tuple(ablate.variants(config)) == VARIANTS
    ablate.run(config)
    folder = tmp_path / "results" / "SAMPL"
    metrics = pd.read_csv(tmp_path / "results" / "crossAtt-ablation" / "SAMPL" / "figures.csv")
    assert set(metrics["method"]) == set(VARIANTS)
    assert "9 methods on the same 3 runs (random)" in capsys.readouterr().out
    for name, llm, views in (
        ("LLM", "tiny_decoder", ["states"]),
        ("LLM-random_LLM", "tiny_decoder_random", ["states"]),
        ("graph+descriptors", None, ["graph", "descriptors"]),
        ("all", "tiny_decoder", None),
    ):
        result = json.loads((folder / f"crossAtt-{name}" / "random-1" / "result.json").read_text())
        assert (result["llm"] and result["llm"]["name"]) == llm
        assert result["config"]["views"] == (views or [])
    # every view contributes: without it the metric differs
    assert metrics.groupby("method")["RMSE"].mean().nunique() == len(VARIANTS)


@pytest.mark.usefixtures("no_llms")
def test_runs_are_kept_repeated_and_replaced(tiny_decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = _config(tmp_path, tiny_decoder, model="combined", inner="holdout", ensemble=1, voters=())
    assert tuple(ablate.variants(config)) == ("LLM", "LLM, random LLM", "graph", "all", "all, random LLM")
    ablate.run(config)
    folder = tmp_path / "results" / "SAMPL"

    def modification_times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}

    # a deleted run is repeated, and only that one
    before = modification_times()
    deleted = folder / "combined-graph" / "random-2" / "result.json"
    deleted.unlink()
    ablate.run(config)
    assert [path for path, time in modification_times().items() if before[path] != time] == [deleted]
    # runs of other settings are not replaced unasked
    before = modification_times()
    other = dataclasses.replace(config, epochs=2, seed=1, runs=3)
    with pytest.raises(SettingError, match=r"holds 3 runs of other settings or data \(epochs 1, not 2\): --out OUT"):
        ablate.run(other)
    assert modification_times() == before
    capsys.readouterr()
    ablate.run(dataclasses.replace(other, again=True))
    assert "5 methods on the same 3 runs (random)" in capsys.readouterr().out
    results = [json.loads(path.read_text()) for path in modification_times()]
    assert {(result["seed"], result["config"]["epochs"]) for result in results} == {(1, 2), (2, 2), (3, 2)}
    # runs of seeds that are not requested stay and are not compared
    ablate.run(dataclasses.replace(other, seed=2))
    assert "5 methods on the same 3 runs (random)" in capsys.readouterr().out
    assert {json.loads(path.read_text())["seed"] for path in modification_times()} == {1, 2, 3, 4}


@pytest.mark.usefixtures("embedded")
def test_the_variants_of_a_pipeline_that_reads_an_adapter(tmp_path: Path) -> None:
    settings = {"llm": "SmolLM2_135M", "layers": "last", "out": tmp_path}
    config = AblateConfig.of("combined", dataset="SAMPL", practical=0.1, **settings)
    variants = ablate.variants(config)
    assert list(variants) == [
        "LLM",
        "LLM, untaught LLM",
        "LLM, random LLM",
        "graph",
        "all",
        "all, untaught LLM",
        "all, random LLM",
    ]
    # the adapter's layer in all variants; without the adapter, `last` would be another layer
    assert variants["all"] == {"layers": "12"}
    assert variants["all, untaught LLM"] == {"layers": "12", "adapter": "none"}
    random_llm = {"views": ("states",), "layers": "12", "adapter": "none", "llm": "random:SmolLM2_135M"}
    assert variants["LLM, random LLM"] == random_llm
    assert variants["graph"] == {"views": ("graph",)}
    # a pipeline that always reads the base LLM has no variant without an adapter
    base = AblateConfig.of("combined_base", dataset="SAMPL", practical=0.1, llm="SmolLM2_135M", descriptors="rdkit")
    assert "LLM, untaught LLM" not in ablate.variants(base)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "SAMPL"], "say with --practical, before any metric is read"),
        (["--dataset", "SAMPL", "--practical", "-1"], "practical is -1.0; it must be a number, 0 or more"),
        (["--dataset", "SAMPL", "--practical", "nan"], "practical is nan; it must be a number, 0 or more"),
        (["--dataset", "SAMPL", "--practical", "0.1", "--runs", "2"], "runs is 2; at least 3 are needed"),
        (["--dataset", "SAMPL", "--practical", "0.1", "--name", ".."], "name '..' is no name of a folder"),
        (["--dataset", "SAMPL", "--practical", "0.1", "--model", "gcn_indepent"], "reads graph alone"),
        (["--dataset", "SAMPL", "--practical", "0.1", "--views", "graph"], "views is what an ablation chooses"),
        (["--dataset", "SAMPL", "--practical", "0.1", "--save", "model"], "an ablation keeps no model"),
    ],
)
def test_an_invalid_option_ends_with_status_2_and_a_message(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stop:
        stages.ablate.from_command_line(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_views_that_the_pipeline_does_not_read_are_refused() -> None:
    for model, views, message in (
        ("combined", ("descriptors",), "combined does not read descriptors here; it reads states, graph"),
        ("gcn_indepent", ("states",), "gcn_indepent does not read states here; it reads graph"),
    ):
        with pytest.raises(SettingError, match=message):
            AblateConfig.of(model, dataset="SAMPL", views=views, practical=0.1).check()


@pytest.mark.usefixtures("no_llms")
def test_of_physics_the_numbers_and_the_ridge_are_left_out(tiny_decoder: Path, tmp_path: Path) -> None:
    config = _config(tmp_path, tiny_decoder, descriptors="rdkit+xtb", baseline_model="auto")
    variants = ablate.variants(config)
    assert set(variants) == {*VARIANTS, "all, without ridge", "all, without xTB"}
    for name, changes in variants.items():
        variant = config.train_config(**changes, name="a")
        variant.check()
        has_ridge = name != "all, without ridge" and ("descriptors" in name or name.startswith("all"))
        assert (variant.baseline_model == "auto") == (has_ridge and name != "all, without xTB")
    assert variants["all, without xTB"]["descriptors"] == "rdkit"


@pytest.mark.usefixtures("no_llms")
@pytest.mark.parametrize(("descriptors", "ridge"), [("rdkit+taught", "ridge"), ("taught", "none")])
def test_what_the_llm_was_taught_goes_with_the_llm(
    tiny_decoder: Path, tmp_path: Path, descriptors: str, ridge: str
) -> None:
    config = _config(tmp_path, tiny_decoder, descriptors=descriptors, baseline_model=ridge)
    variants = ablate.variants(config)
    assert ("descriptors" in variants) == (descriptors != "taught")
    for name, changes in variants.items():
        variant = config.train_config(**changes, name="a")
        variant.check()
        without_llm = "states" not in variant.read_views or variant.adapter == "none"
        assert not (without_llm and "taught" in variant.read_descriptors), name
