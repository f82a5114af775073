"""The search as people run it: two processes, one of them killed; and test labels that nobody reads."""

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


def test_two_processes_share_a_study_and_a_killed_one_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text(SPACE)
    words = ["tune", "SAMPL", "--model", "gcn_indepent", "--limit", "80", "--epochs", "8", "--trials", "12"]
    words += ["--inner", "2", "--space", "space.toml"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    one, other = (
        subprocess.Popen([KFLM2, *words], cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe, text=True)
        for _ in range(2)
    )
    folder = tmp_path / "results" / "SAMPL" / "gcn_indepent" / "tune-tpe"
    late = time.monotonic() + 200
    # killed while it is at a trial, and after some were finished
    while time.monotonic() < late:
        journal = (folder / "study.journal").read_text() if (folder / "study.journal").exists() else ""
        if journal.count(f", {one.pid}, ") + journal.count(f",{one.pid},") >= 2:
            break
        time.sleep(0.02)
    one.send_signal(signal.SIGKILL)
    one.wait()
    out, err = other.communicate(timeout=250)
    assert other.returncode == 0, err
    assert "12 trials: " in out
    trials = _trials(folder)
    assert len(trials) == 12
    assert {own["state"] for own in trials} <= {"complete", "pruned"}
    for name in ("importance.png", "parallel.png"):
        assert (folder / name).stat().st_size > 5000
    best = json.loads((folder / "best.json").read_text())
    found = json.loads((folder / "tune.json").read_text())["best"]
    assert found["RMSE"] == min(float(own["RMSE"]) for own in trials if own["state"] == "complete")
    assert best["hidden"] == found["chosen"]["hidden"]
    done = subprocess.run(
        [KFLM2, "train", "--config", str(folder / "best.json"), "--runs", "1"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "results" / "SAMPL" / "gcn_indepent" / "random-0" / "result.json").read_text())
    assert result["config"]["dropout"] == found["chosen"]["dropout"]


def test_test_labels_and_molecules_are_not_loaded_in_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.toml").write_text(SPACE)
    values = np.random.default_rng(0).normal(size=80)
    parts = ["train"] * 50 + ["valid"] * 15 + ["test"] * 15
    found = []
    for name, poison in (("a", 0.0), ("b", 1e6)):
        lines = [
            f"{'C' * (i % 9 + 1)}{'N' * (i % 4)}O,{values[i] + poison * (parts[i] == 'test')},{parts[i]}"
            for i in range(80)
        ]
        (tmp_path / f"{name}.csv").write_text("smiles,y,part\n" + "\n".join(lines) + "\n")
        config = TuneConfig.of(
            "gcn_indepent", csv=tmp_path / f"{name}.csv", target_columns=("y",), split_column="part", epochs=2,
            trials=4, inner=2, space=tmp_path / "space.toml",
        )  # fmt: skip
        config.check()
        stages.tune(config)
        trials = _trials(tmp_path / "results" / name / "gcn_indepent" / "tune-tpe")
        found.append([{key: own[key] for key in ("RMSE", "hidden", "dropout")} for own in trials])
    assert found[0] == found[1]
    assert len(found[0]) == 4


def test_nested_each_outer_split_has_settings_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grid.toml").write_text("[hidden]\nchoices = [8, 16]\n")
    words = ["--dataset", "SAMPL", "--model", "gcn_indepent", "--limit", "60", "--epochs", "1", "--inner", "1"]
    stages.tune.from_command_line([*words, "--sampler", "grid", "--space", "grid.toml", "--nested", "2"])
    folder = tmp_path / "results" / "SAMPL" / "gcn_indepent" / "tune-grid"
    nested = json.loads((folder / "nested.json").read_text())
    assert [own["seed"] for own in nested["outer"]] == [0, 1]
    for own in nested["outer"]:
        outer = folder / f"outer-{own['seed']}"
        assert len(_trials(outer)) == 2
        result = json.loads((outer / "SAMPL" / "gcn_indepent" / f"random-{own['seed']}" / "result.json").read_text())
        assert result["metrics"]["test"] == own["test"]
        assert result["config"]["hidden"] == own["chosen"]["hidden"]
    assert "nested search: test RMSE" in capsys.readouterr().out
