"""`kflm2 tune`: two processes share a study, one is killed; test labels have no effect; the nested search."""

import csv
import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import KFLM2, ROOT, kflm2, one_thread
from rdkit import Chem

from kflm2.cli import stages
from kflm2.cli.command import Stage
from kflm2.config.tune import TuneConfig
from kflm2.stages.tune import stage as tune_stage

SPACE = "[hidden]\nchoices = [8, 16, 32]\n[dropout]\nfrom = 0.0\nto = 0.5\n"


def _trials(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def test_two_processes_share_a_study_and_no_trial_of_a_killed_process_is_lost(tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text(SPACE)
    arguments = ["tune", "SAMPL", "--model", "gcn_indepent", "--limit", "80", "--epochs", "8", "--trials", "12"]
    arguments += ["--inner-splits", "2", "--space", "space.toml"]
    pipe = subprocess.PIPE
    killed, survivor = (
        subprocess.Popen([KFLM2, *arguments], cwd=tmp_path, env=one_thread(), stdout=pipe, stderr=pipe, text=True)
        for _ in range(2)
    )
    folder = tmp_path / "results" / "SAMPL" / "gcn_indepent" / "tune-tpe"
    deadline = time.monotonic() + 200
    # wait until the process is in a trial and others are finished, then kill it
    while time.monotonic() < deadline:
        journal = (folder / "study.journal").read_text() if (folder / "study.journal").exists() else ""
        if journal.count(f", {killed.pid}, ") + journal.count(f",{killed.pid},") >= 2:
            break
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    out, err = survivor.communicate(timeout=250)
    assert survivor.returncode == 0, err
    assert "12 trials: " in out
    trials = _trials(folder)
    assert len(trials) == 12
    assert {trial["state"] for trial in trials} <= {"complete", "pruned"}
    for name in ("importance.png", "parallel.png"):
        assert (folder / name).stat().st_size > 5000
    best_config = json.loads((folder / "best.json").read_text())
    best = json.loads((folder / "tune.json").read_text())["best"]
    assert best["RMSE"] == min(float(trial["RMSE"]) for trial in trials if trial["state"] == "complete")
    assert best_config["hidden"] == best["chosen"]["hidden"]
    # a limit is for trying a search out, and not for what is trained with its result
    assert "limit" not in best_config and best_config["runs"] == 1
    completed = kflm2("train", "--config", folder / "best.json", "--limit", 80, cwd=tmp_path)
    assert completed.returncode == 0, completed.stderr
    result = json.loads((tmp_path / "results" / "SAMPL" / "gcn_indepent" / "random-0" / "result.json").read_text())
    assert result["config"]["dropout"] == best["chosen"]["dropout"]


def test_test_labels_do_not_change_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.toml").write_text(SPACE)
    values = np.random.default_rng(0).normal(size=80)
    parts = ["train"] * 50 + ["valid"] * 15 + ["test"] * 15
    results = []
    for name, shift in (("a", 0.0), ("b", 1e6)):
        rows = [
            f"{'C' * (i % 9 + 1)}{'N' * (i % 4)}O,{values[i] + shift * (parts[i] == 'test')},{parts[i]}"
            for i in range(80)
        ]
        (tmp_path / f"{name}.csv").write_text("smiles,y,part\n" + "\n".join(rows) + "\n")
        config = TuneConfig.of(
            "gcn_indepent", csv=tmp_path / f"{name}.csv", target_columns=("y",), split_column="part", epochs=2,
            trials=4, inner_splits=2, space=tmp_path / "space.toml",
        )  # fmt: skip
        config.check()
        stages.tune(config)
        trials = _trials(tmp_path / "results" / name / "gcn_indepent" / "tune-tpe")
        results.append([{key: trial[key] for key in ("RMSE", "hidden", "dropout")} for trial in trials])
    assert results[0] == results[1]
    assert len(results[0]) == 4


@pytest.mark.parametrize("inner", ["folds", "holdout"])
def test_each_molecule_keeps_its_feature_columns(inner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The value depends on the pH alone."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.toml").write_text("[hidden]\nchoices = [32]\n")
    table = pd.read_csv(ROOT / "dataset" / "SAMPL.csv").head(120)[["smiles"]]
    table["pH"] = np.random.default_rng(0).uniform(2, 12, 120)
    table.assign(y=3 * table["pH"]).to_csv("a.csv", index=False)
    config = TuneConfig.of(
        "gcn_indepent", csv=tmp_path / "a.csv", target_columns=("y",), feature_columns=("pH",), epochs=60, trials=1,
        views=("graph", "covariates"), learning_rate=0.01, inner=inner, ensemble=3 if inner == "folds" else 1,
        descriptors="none", voters=(), inner_splits=1, space=tmp_path / "space.toml",
    )  # fmt: skip
    config.check()
    stages.tune(config)
    (trial,) = _trials(tmp_path / "results" / "a" / "gcn_indepent" / "tune-tpe")
    assert float(trial["RMSE"]) < 3  # the standard deviation is 8.7


@pytest.mark.parametrize("new", [True, False])
def test_replicates_stay_together_where_the_test_is_of_new_structures(
    new: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.toml").write_text("[hidden]\nchoices = [8]\n")
    rows = range(75)  # of a structure three, the test part first
    tested = [number < 15 if new else number % 5 == 0 for number in rows]
    table = {"smiles": [f"{'C' * (1 + number // 3)}O" for number in rows], "y": rows}
    pd.DataFrame({**table, "part": np.where(tested, "test", "train")}).to_csv("a.csv", index=False)
    seen: list[tune_stage.Objective] = []

    class Seen(tune_stage.Objective):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            seen.append(self)

    monkeypatch.setattr(tune_stage, "Objective", Seen)
    config = TuneConfig.of(
        "gcn_indepent", csv=tmp_path / "a.csv", target_columns=("y",), split_column="part", epochs=1, trials=1,
        inner_splits=3, space=tmp_path / "space.toml",
    )  # fmt: skip
    config.check()
    stages.tune(config)
    (objective,) = seen
    for split in objective.splits:
        structures = [{objective.molecules.smiles[row] for row in part} for part in split.parts.values()]
        shared = (structures[0] & structures[1]) | (structures[0] & structures[2]) | (structures[1] & structures[2])
        assert bool(shared) != new


def test_a_nested_search_chooses_settings_for_each_outer_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.toml").write_text("[hidden]\nchoices = [8, 16]\n")
    arguments = [
        "--dataset",
        "SAMPL",
        "--model",
        "gcn_indepent",
        "--limit",
        "60",
        "--epochs",
        "1",
        "--inner-splits",
        "1",
    ]
    stages.tune.from_command_line([*arguments, "--sampler", "grid", "--space", "grid.toml", "--nested", "2"])
    folder = tmp_path / "results" / "SAMPL" / "gcn_indepent" / "tune-grid"
    nested = json.loads((folder / "nested.json").read_text())
    assert [record["seed"] for record in nested["outer"]] == [0, 1]
    for record in nested["outer"]:
        outer_folder = folder / f"outer-{record['seed']}"
        assert len(_trials(outer_folder)) == 2
        result = json.loads(
            (outer_folder / "SAMPL" / "gcn_indepent" / f"random-{record['seed']}" / "result.json").read_text()
        )
        assert result["metrics"]["test"] == record["test"]
        assert result["config"]["hidden"] == record["chosen"]["hidden"]
    printed = capsys.readouterr().out
    assert "grid      2 of 2 combinations" in printed and "nested search: test RMSE" in printed
    line = _refused(stages.tune, capsys, *arguments, "--nested", "2", "--save", "model")
    assert "a model for each outer split; leave --save and --refit out" in line
    line = _refused(stages.tune, capsys, *arguments, "--nested", "2", "--split", "scaffold_moleculenet")
    assert "--nested 2: the split scaffold_moleculenet is the same for every seed" in line


SMALL = ("--dataset", "SAMPL", "--limit", "80", "--epochs", "1", "--inner-splits", "1", "--trials", "2")


def _tune(folder: Path, space: str, *arguments: str, model: str = "gcn_indepent") -> Path:
    """The folder of a search."""
    (folder / "space.toml").write_text(space)
    stages.tune.from_command_line([*SMALL, "--model", model, "--space", str(folder / "space.toml"), *arguments])
    return Path("results") / "SAMPL" / model / f"tune-{'grid' if 'grid' in arguments else 'tpe'}"


def _refused(stage: Stage, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The line on stderr of a command that ends with status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as error:
        stage.from_command_line(list(arguments))
    assert error.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_runs_whose_test_molecules_the_search_saw_are_refused_or_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    best = _tune(tmp_path, SPACE) / "best.json"
    arguments = ("--config", str(best), "--limit", "80")
    line = _refused(stages.train, capsys, *arguments, "--runs", "3")
    assert "of seed 1, 2 (random)" in line
    for way in ("--seed 0 --runs 1", "kflm2 tune --nested", "--development"):
        assert way in line
    assert not (tmp_path / "results" / "SAMPL" / "gcn_indepent" / "random-0").exists()

    stages.train.from_command_line([*arguments, "--runs", "3", "--development"])
    printed = capsys.readouterr().out
    folder = tmp_path / "results" / "SAMPL" / "gcn_indepent"
    tested = {}
    for seed in range(3):
        table = pd.read_csv(folder / f"random-{seed}" / "predictions.csv")
        smiles = table.loc[table["part"] == "test", "smiles"]
        tested[seed] = [Chem.MolToInchiKey(Chem.MolFromSmiles(text)) for text in smiles]
        record = json.loads((folder / f"random-{seed}" / "result.json").read_text())
        # all but the test part of seed 0 was seen
        share = sum(key not in tested[0] for key in tested[seed]) / len(tested[seed])
        assert (record["development"] or {"seen": 0.0})["seen"] == share
        assert (share > 0.5) == (seed > 0)
        (tmp_path / "again.json").write_text(json.dumps({**record["config"], "development": False}))
    # the settings in a result do not forget either
    line = _refused(stages.train, capsys, "--config", "again.json", "--runs", "2", "--seed", "0")
    assert "of seed 1 (random)" in line
    assert "development: the search saw" in printed and "in 2 of 3 runs" in printed
    stages.report.from_command_line([str(folder), "--out", "report.html"])
    assert "development: the search saw" not in capsys.readouterr().out
    assert "the search saw" in (tmp_path / "report.html").read_text().split('id="data"')[-1]

    stages.compare.from_command_line([str(folder), "--baselines", "mean", "--practical", "0.1"])
    assert "gcn_indepent: development: the search saw" in capsys.readouterr().out

    # without an option: the one run whose test molecules were set aside
    capsys.readouterr()
    stages.train.from_command_line([*arguments, "--name", "clean"])
    assert "development" not in capsys.readouterr().out
    clean = json.loads((tmp_path / "results" / "SAMPL" / "clean" / "random-0" / "result.json").read_text())
    assert clean["development"] is None
    assert [path.name for path in sorted((tmp_path / "results" / "SAMPL" / "clean").glob("random-*"))] == ["random-0"]


def test_what_an_earlier_search_saw_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    best = _tune(tmp_path, SPACE) / "best.json"
    second = _tune(tmp_path, SPACE, "--config", str(best), "--seed", "1", "--out", "second")
    assert second.name == "tune-tpe"
    again = tmp_path / "second" / "SAMPL" / "gcn_indepent" / "tune-tpe" / "best.json"
    assert json.loads(again.read_text())["search"]["seed"] == 1
    # the second search set the test part of seed 1 aside, but the first had seen it
    line = _refused(stages.train, capsys, "--config", str(again), "--limit", "80")
    assert "of seed 1 (random)" in line and "--seed 1 --runs 1" not in line
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps({**json.loads(best.read_text()), "search": {"seen": "ab"}}))
    assert "search is not what" in _refused(stages.train, capsys, "--config", str(broken))
    assert "no search chose" in _refused(stages.tune, capsys, "--config", str(best), "--nested", "2")


def test_a_setting_that_is_given_is_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    space = "[hidden]\nchoices = [8, 16]\n[epochs]\nchoices = [3, 4]\n"
    folder = _tune(tmp_path, space)  # with --epochs 1
    printed = capsys.readouterr().out
    assert "searched  hidden\n" in printed and "fixed     epochs 1, as given" in printed
    assert json.loads((folder / "best.json").read_text())["epochs"] == 1
    assert {trial["hidden"] for trial in _trials(folder)} <= {"8", "16"}
    (tmp_path / "space.toml").write_text("[epochs]\nchoices = [3, 4]\n")
    line = _refused(stages.tune, capsys, *SMALL, "--model", "gcn_indepent", "--space", "space.toml")
    assert line == "error: nothing is left to search for: epochs given, and so fixed"
    # best.json of an earlier search names every setting, and fixes none
    assert stages.tune.read(["--config", str(folder / "best.json"), "--no-gate-states"], {}).given == ("gate_states",)


def test_voters_go_with_the_views_that_a_trial_chooses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folds = ("--inner", "folds", "--ensemble", "2", "--voters", "svm", "--weights", "equal")
    folder = _tune(tmp_path, '[descriptors]\nchoices = ["none", "rdkit"]\n', *folds, "--sampler", "grid")
    best = json.loads((folder / "best.json").read_text())
    assert (best["voters"], best["weights"]) == (["svm"], "equal")
    values = {trial["descriptors"]: float(trial["RMSE"]) for trial in _trials(folder)}
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    folder = _tune(tmp_path / "other", '[descriptors]\nchoices = ["rdkit"]\n', *folds[:4], "--sampler", "grid")
    assert float(_trials(folder)[0]["RMSE"]) != values["rdkit"]  # without the voter


def test_trials_that_cannot_be_measured_alike_are_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    space = "[ensemble]\nchoices = [1, 3]\n"
    folder = _tune(tmp_path, space, "--inner", "folds", "--sampler", "grid", "--save", "model", "--name", "mine")
    assert "out-of-fold, 3 inner folds" in capsys.readouterr().out
    failed = {trial["ensemble"]: trial["why"] for trial in _trials(folder)}
    assert "has no inner folds" in failed["1"] and failed["3"] == ""
    # what is trained afterwards changes no trial, so that the study goes on
    _tune(tmp_path, space, "--inner", "folds", "--sampler", "grid", "--runs", "7")
    line = _refused(stages.tune, capsys, *SMALL, "--model", "gcn_indepent", "--again")
    assert line == "error: a search goes on with the study that is there; to begin anew give another --out"


def test_a_search_without_a_completed_trial_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.toml").write_text("[heads]\nchoices = [3, 5]\n")
    line = _refused(stages.tune, capsys, *SMALL, "--model", "gcn_indepent", "--space", "space.toml")
    assert line.startswith("error: no trial was completed") and "hidden 16 cannot be divided by heads" in line
    assert not list((tmp_path / "results").rglob("best.json"))
    # in half of the inner splits no molecule of the rare class tests
    rows = [f"{'C' * (i % 9 + 1)}{'N' * (i // 9)}O,{int(i == 20)}" for i in range(60)]
    (tmp_path / "own.csv").write_text("smiles,y\n" + "\n".join(rows) + "\n")
    (tmp_path / "space.toml").write_text("[hidden]\nchoices = [8, 16]\n")
    table = ("--csv", "own.csv", "--target-columns", "y", "--model", "gcn_indepent", "--space", "space.toml")
    line = _refused(stages.tune, capsys, *table, "--epochs", "1", "--trials", "1")
    assert "has no ROC-AUC: the labels that test it are of one class, or too few" in line


def test_molecules_that_the_llm_cannot_read_leave_before_the_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_decoder: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    # every sixth SMILES is longer than the 24 tokens of the LLM
    rows = [f"{'C' * (i % 9 + 1 if i % 6 else 30)}{'N' * (i // 9)}O,{i / 7}" for i in range(42)]
    (tmp_path / "own.csv").write_text("smiles,y\n" + "\n".join(rows) + "\n")
    (tmp_path / "space.toml").write_text("[hidden]\nchoices = [8, 16]\n")
    arguments = ["--csv", "own.csv", "--target-columns", "y", "--model", "combined", "--llm", str(tiny_decoder)]
    arguments += ["--layers", "last", "--epochs", "1", "--inner-splits", "1", "--trials", "1", "--space", "space.toml"]
    stages.tune.from_command_line([*arguments, "--nested", "2"])
    folder = tmp_path / "results" / "own" / "combined" / "tune-tpe"
    for seed in (0, 1):
        outer = folder / f"outer-{seed}"
        set_aside = json.loads((outer / "tune.json").read_text())["split"]
        result = json.loads((outer / "own" / "combined" / f"random-{seed}" / "result.json").read_text())
        assert result["split"]["sha256"] == set_aside
        assert result["rows"]["rejected"] >= 7
        assert result["development"] is None
        assert json.loads((outer / "best.json").read_text())["seed"] == seed
