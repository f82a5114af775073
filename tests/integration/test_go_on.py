"""Training that goes on from a saved model, on another table and target."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from kflm2 import api
from kflm2.cli import stages
from kflm2.data.structures import structure_digests
from kflm2.predictor.bundle_reader import load_bundle
from kflm2.predictor.predictor import Predictor


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[pd.DataFrame, pd.DataFrame]:
    """500 molecules of SAMPL in first.csv; in second.csv the others and 20 of them, with a target that follows expt."""
    sampl = pd.read_csv(Path(__file__).parents[2] / "dataset" / "SAMPL.csv").sample(frac=1, random_state=0)
    first, second = sampl[:500], pd.concat([sampl[:20], sampl[500:]])
    second["other"] = 1 - 2 * second["expt"]
    monkeypatch.chdir(tmp_path)
    first.to_csv("first.csv", index=False)
    second.to_csv("second.csv", index=False)
    return first, second


def _train(table: str, target: str, *options: str) -> None:
    stages.train.from_command_line(["--csv", table, "--target-columns", target, "--runs", "1", *options])


def _rmse(name: str) -> float:
    """Mean over the runs."""
    results = [json.loads(path.read_text()) for path in Path(f"results/second/{name}").glob("*/result.json")]
    return float(np.mean([result["metrics"]["test"]["RMSE"] for result in results]))


def test_what_was_learnt_of_one_target_helps_with_another(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    graph = ["--model", "gcn_indepent", "--graph-encoder", "gine", "--hidden", "64", "--schedule", "onecycle"]
    _train("first.csv", "expt", *graph, "--epochs", "30", "--ensemble", "1", "--save", "first")
    few = ["--fractions", "0.3", "0.1", "0.6", "--epochs", "60", "--batch-size", "16", "--runs", "2"]
    _train("second.csv", "other", *graph, *few, "--name", "scratch")
    _train("second.csv", "other", "--schedule", "onecycle", "--from", "first", *few, "--name", "from")
    assert _rmse("from") < 0.8 * _rmse("scratch")


@pytest.mark.parametrize("rate", ["0", "0.1"])
def test_encoders_are_kept_and_heads_are_new(
    tables: tuple[pd.DataFrame, pd.DataFrame], tiny_decoder: Path, capsys: pytest.CaptureFixture[str], rate: str
) -> None:
    small = ["--epochs", "2", "--ensemble", "2", "--states-components", "4", "--llm", str(tiny_decoder)]
    _train("first.csv", "expt", *small, "--limit", "60", "--save", "first")
    before = {path: path.read_bytes() for path in Path("first").rglob("*") if path.is_file()}
    small = ["--epochs", "2", "--ensemble", "2", "--limit", "60", "--llm", str(tiny_decoder)]
    _train("second.csv", "other", *small, "--from", "first", "--encoder-rate", rate, "--save", "second")
    assert before == {path: path.read_bytes() for path in Path("first").rglob("*") if path.is_file()}

    first, second = (load_file(f"{name}/weights.safetensors") for name in ("first", "second"))
    encoders = [name for name in first if name.startswith("member.1.encoders.")]
    learnt = [name for name in encoders if "scale" not in name and "components" not in name]
    assert len(learnt) > 10 and any("components" in name for name in encoders)
    for name in encoders:
        close = np.abs(first[name] - second[name]).max() <= 2e-3  # at most a few steps of 1e-4
        assert close if rate != "0" or name not in learnt else np.array_equal(first[name], second[name]), name
    assert all(np.array_equal(first[name], second[name]) for name in encoders if name not in learnt)
    if rate != "0":
        assert not all(np.array_equal(first[name], second[name]) for name in learnt)
    assert not np.array_equal(first["member.1.head.weight"], second["member.1.head.weight"])
    assert np.array_equal(first["descriptors.quantiles"], second["descriptors.quantiles"])

    result = json.loads(Path("results/second/crossAtt-saved/random-0/result.json").read_text())
    seen = set(pd.read_csv("first/training.csv")["smiles"])
    predictions = pd.read_csv("results/second/crossAtt-saved/random-0/predictions.csv")
    tested = predictions.loc[predictions["part"] == "test", "smiles"]
    assert result["origin"]["known"] == sum(smiles in seen for smiles in tested)
    others = predictions.loc[predictions["part"] != "test", "smiles"]
    assert result["origin"]["known_others"] == sum(smiles in seen for smiles in others) > 0
    assert result["origin"]["targets"] == ["expt"] and result["origin"]["dataset"] == "first"
    assert f"had learnt from {result['origin']['known']} of {len(tested)} test molecules" in capsys.readouterr().out
    card = Path("second/README.md").read_text()
    assert "| goes on from | first of first (expt): its encoders" in card
    assert ("are as they were" in card) == (rate == "0")
    y_pred = Predictor(load_bundle(Path("second"), str(tiny_decoder))).predict(tested.tolist()).y_pred
    assert np.allclose(y_pred[:, 0], predictions.loc[predictions["part"] == "test", "y_pred_other"], atol=1e-3)


def test_what_cannot_be_gone_on_from_is_refused_in_a_line(
    tables: tuple[pd.DataFrame, pd.DataFrame], capsys: pytest.CaptureFixture[str]
) -> None:
    graph = ["--model", "gcn_indepent", "--epochs", "1", "--limit", "40"]
    _train("first.csv", "expt", *graph, "--ensemble", "1", "--save", "first")
    shutil.copytree("first", "broken")
    metadata = json.loads(Path("broken/bundle.json").read_text())
    metadata["config"]["hidden"] = "many"
    Path("broken/bundle.json").write_text(json.dumps(metadata))

    def error(*options: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            _train("second.csv", "other", "--epochs", "1", *options)
        assert stopped.value.code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    assert "hidden is 32, and in first it is 16" in error("--from", "first", "--hidden", "32")
    assert "model is crossAtt, and in first it is gcn_indepent" in error("--from", "first", "--model", "crossAtt")
    assert "nothing is no folder that `kflm2 train --save` wrote" in error("--from", "nothing")
    assert "setting hidden is 'many'" in error("--from", "broken")
    assert "first is the model to go on from" in error("--from", "first", "--save", "first")
    assert "--layers does not go with --from" in error("--from", "first", "--layers", "last")
    assert "name it by --from" in error("--encoder-rate", "0.5")

    # runs that went on from another model are not taken for these
    _train("second.csv", "other", "--epochs", "1", "--limit", "40", "--from", "first", "--name", "runs")
    _train("first.csv", "expt", *graph, "--ensemble", "1", "--seed", "1", "--save", "another")
    capsys.readouterr()
    assert "model that it goes on from" in error("--from", "another", "--limit", "40", "--name", "runs")


def test_columns_beside_the_structure_may_be_new(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    graph = ["--model", "gcn_indepent", "--epochs", "1", "--limit", "40"]
    _train("first.csv", "expt", *graph, "--ensemble", "1", "--save", "first")
    table = pd.read_csv("second.csv")
    table["pH"] = np.arange(len(table)) % 7
    table.to_csv("second.csv", index=False)
    few = ["--epochs", "1", "--limit", "40", "--ensemble", "1", "--encoder-rate", "0"]
    _train("second.csv", "other", *few, "--from", "first", "--feature-columns", "pH", "--save", "second")
    first, second = (load_file(f"{name}/weights.safetensors") for name in ("first", "second"))
    kept = [name for name in first if name.startswith("member.0.encoders.graph.")]
    assert kept and all(np.array_equal(first[name], second[name]) for name in kept)
    assert any(name.startswith("member.0.encoders.covariates.") for name in second)
    # what the first one had learnt is known of the second one too
    assert {*structure_digests(pd.read_csv("first/training.csv")["smiles"].tolist())} == {
        *json.loads(Path("second/bundle.json").read_text())["made"]["learnt_before"]
    }
    # and from there on with the same columns, or without them
    _train("second.csv", "expt", *few, "--from", "second", "--feature-columns", "pH", "--name", "third")
    _train("second.csv", "expt", *few, "--from", "second", "--name", "fourth", "--save", "fourth")
    assert not any("covariates" in name for name in load_file("fourth/weights.safetensors") if "voter" not in name)


def test_views_that_were_chosen_go_with_columns_or_without_them(
    tables: tuple[pd.DataFrame, pd.DataFrame], capsys: pytest.CaptureFixture[str]
) -> None:
    first = tables[0].assign(pH=np.arange(500) % 7)
    first.to_csv("first.csv", index=False)
    few = ["--epochs", "1", "--limit", "40", "--ensemble", "1"]
    columns = ["--feature-columns", "pH"]
    for name, views, own in (("without", ["graph"], []), ("with", ["graph", "covariates"], columns)):
        _train("first.csv", "expt", *few, *own, "--views", *views, "--name", name, "--save", name)
        for more in ([], columns):
            _train("first.csv", "expt", *few, "--from", name, *more, "--name", f"{name}-{len(more)}", "--again")
            assert "not read" not in capsys.readouterr().out
            result = json.loads(Path(f"results/first/{name}-{len(more)}/random-0/result.json").read_text())
            assert result["config"]["views"] == (["graph", "covariates"] if more else ["graph"])
    # what is asked for and left out is said
    _train("first.csv", "expt", *few, *columns, "--views", "graph", "--name", "unread")
    assert "they are not read, as --views leaves covariates out" in capsys.readouterr().out


def test_a_notebook_goes_on_from_a_model_and_other_stages_refuse_its_settings(
    tables: tuple[pd.DataFrame, pd.DataFrame], capsys: pytest.CaptureFixture[str]
) -> None:
    graph = ["--model", "gcn_indepent", "--epochs", "1", "--limit", "40"]
    _train("first.csv", "expt", *graph, "--ensemble", "1", "--save", "first")
    result = api.train(tables[1][:40], targets="other", from_="first", epochs=1, ensemble=1, out="made")
    assert result.model.predictor.bundle.config.model == "gcn_indepent"
    (settings,) = Path("made").rglob("result.json")
    for stage in (stages.ablate, stages.tune):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            stage.from_command_line(["--config", str(settings), "--csv", "second.csv"])
        assert (
            capsys.readouterr().err == "error: the settings go on from first (from); a search or an ablation cannot\n"
        )
