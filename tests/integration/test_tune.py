"""`kflm2 tune`: two processes share a study, one is killed; test labels have no effect; the nested search."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kflm2.cli import stages
from kflm2.config.tune import TuneConfig

SPACE = "[hidden]\nchoices = [8, 16, 32]\n[dropout]\nfrom = 0.0\nto = 0.5\n"
KFLM2 = str(Path(sys.executable).parent / "kflm2")


def _trials(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def test_two_processes_share_a_study_and_no_trial_of_a_killed_process_is_lost(tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text(SPACE)
    arguments = ["tune", "SAMPL", "--model", "gcn_indepent", "--limit", "80", "--epochs", "8", "--trials", "12"]
    arguments += ["--inner", "2", "--space", "space.toml"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    killed, survivor = (
        subprocess.Popen([KFLM2, *arguments], cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe, text=True)
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
    completed = subprocess.run(
        [KFLM2, "train", "--config", str(folder / "best.json"), "--runs", "1"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
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
            trials=4, inner=2, space=tmp_path / "space.toml",
        )  # fmt: skip
        config.check()
        stages.tune(config)
        trials = _trials(tmp_path / "results" / name / "gcn_indepent" / "tune-tpe")
        results.append([{key: trial[key] for key in ("RMSE", "hidden", "dropout")} for trial in trials])
    assert results[0] == results[1]
    assert len(results[0]) == 4


def test_a_nested_search_chooses_settings_for_each_outer_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.toml").write_text("[hidden]\nchoices = [8, 16]\n")
    arguments = ["--dataset", "SAMPL", "--model", "gcn_indepent", "--limit", "60", "--epochs", "1", "--inner", "1"]
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
    assert "nested search: test RMSE" in capsys.readouterr().out
