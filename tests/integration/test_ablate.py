"""An ablation as people run it, on a tiny LLM: every choice of views on the same splits, none trained twice."""

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest

from kflm2.cli import stages
from kflm2.config.ablate import AblateConfig
from kflm2.errors import SettingError
from kflm2.stages import ablate as ablation

PARTS = (
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


def _config(tmp_path: Path, llm: Path, **values: object) -> AblateConfig:
    config = AblateConfig.of(
        "crossAtt",
        **{
            "dataset": "SAMPL",
            "limit": 40,
            "epochs": 1,
            "runs": 3,
            "llm": str(llm),
            "graph_width": 8,
            "states_width": 8,
            "hidden": 8,
            "practical": 0.1,
            "out": tmp_path / "results",
            **values,
        },
    )
    config.check()
    return config


@pytest.mark.usefixtures("no_llms")
def test_every_choice_of_views_is_trained_once_and_compared(
    tiny_decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = _config(tmp_path, tiny_decoder)
    assert tuple(ablation.variants(config)) == PARTS
    ablation.run(config)
    folder = tmp_path / "results" / "SAMPL"
    figures = pd.read_csv(tmp_path / "results" / "crossAtt-ablation" / "SAMPL" / "figures.csv")
    assert set(figures["method"]) == set(PARTS)
    assert "9 methods on the same 3 runs (random)" in capsys.readouterr().out
    for name, llm, views in (
        ("LLM", "tiny_decoder", ["states"]),
        ("LLM-random_LLM", "tiny_decoder_random", ["states"]),
        ("graph+descriptors", None, ["graph", "descriptors"]),
        ("all", "tiny_decoder", None),
    ):
        made = json.loads((folder / f"crossAtt-{name}" / "random-1" / "result.json").read_text())
        assert (made["llm"] and made["llm"]["name"]) == llm
        assert made["config"]["views"] == (views or [])
    # each view says something: leaving one out changes what comes out
    assert figures.groupby("method")["RMSE"].mean().nunique() == len(PARTS)

    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}

    # a run that was killed is made again, and only that one
    before = times()
    gone = folder / "crossAtt-graph" / "random-2" / "result.json"
    gone.unlink()
    ablation.run(config)
    assert [path for path, at in times().items() if before[path] != at] == [gone]
    # other settings are other runs; those of seeds that are not asked for stay behind and are not compared
    ablation.run(dataclasses.replace(config, epochs=2, seed=1, runs=3))
    assert "9 methods on the same 3 runs (random)" in capsys.readouterr().out
    assert all(
        json.loads(path.read_text())["config"]["epochs"] == (1 if "random-0" in str(path) else 2) for path in times()
    )


@pytest.mark.usefixtures("embedded")
def test_what_stage_1_taught_is_held_against_what_the_llm_knew(tmp_path: Path) -> None:
    more = {"llm": "SmolLM2_135M", "layers": "last", "out": tmp_path}
    config = AblateConfig.of("combined", dataset="SAMPL", practical=0.1, **more)
    found = ablation.variants(config)
    assert list(found) == [
        "LLM",
        "LLM, untaught LLM",
        "LLM, random LLM",
        "graph",
        "all",
        "all, untaught LLM",
        "all, random LLM",
    ]
    # the layer at which the adapter cuts the LLM, whatever a word such as last would mean without it
    assert found["all"] == {"layers": "12"}
    assert found["all, untaught LLM"] == {"layers": "12", "adapter": "none"}
    placebo = {"views": ("states",), "layers": "12", "adapter": "none", "llm": "random:SmolLM2_135M"}
    assert found["LLM, random LLM"] == placebo
    assert found["graph"] == {"views": ("graph",)}
    # a pipeline that reads the base LLM always has nothing that was taught
    base = AblateConfig.of("combined_base", dataset="SAMPL", practical=0.1, llm="SmolLM2_135M", descriptors="rdkit")
    assert "LLM, untaught LLM" not in ablation.variants(base)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "SAMPL"], "say with --practical, before any metric is read"),
        (["--dataset", "SAMPL", "--practical", "-1"], "practical is -1.0; it must be a number, 0 or more"),
        (["--dataset", "SAMPL", "--practical", "nan"], "practical is nan; it must be a number, 0 or more"),
        (["--dataset", "SAMPL", "--practical", "0.1", "--runs", "2"], "runs is 2; at least 3 are needed"),
        (["--dataset", "SAMPL", "--practical", "0.1", "--name", ".."], "name '..' is no name of a folder"),
        (["--dataset", "SAMPL", "--practical", "0.1", "--model", "gcn_indepent"], "reads graph alone"),
        (["--dataset", "SAMPL", "--practical", "0.1", "--views", "graph"], "views is what an ablation chooses"),
    ],
)
def test_bad_words_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        stages.ablate.from_command_line(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_view_that_is_not_read_cannot_be_chosen() -> None:
    for model, views, message in (
        ("combined", ("descriptors",), "combined does not read descriptors here; it reads states, graph"),
        ("gcn_indepent", ("states",), "gcn_indepent does not read states here; it reads graph"),
    ):
        with pytest.raises(SettingError, match=message):
            AblateConfig.of(model, dataset="SAMPL", views=views, practical=0.1).check()
