"""Stage 2 by its scripts and `kflm2 train`, with the real embedded LLM and real molecules."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import ROOT, kflm2, one_thread, script
from rdkit import Chem
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from kflm2 import resources
from kflm2.cli import stages
from kflm2.llm import adapters

PIPELINES = ("combined_base", "gcn_indepent", "combined", "combinedAtt", "combinedSepAtt", "crossAtt")
SMALL = ("--limit", "40", "--epochs", "2", "--runs", "2")


def _start(name: str, *arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """A script in a process of its own."""
    command = [sys.executable, str(ROOT / name), *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=cwd, env=one_thread(), stdout=pipe, stderr=pipe, text=True)


def _train(model: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return script(f"task_training/train_{model}_SAMPL.py", *arguments, cwd=cwd)


@pytest.mark.usefixtures("embedded")
def test_a_script_writes_its_results_and_repeats_them_exactly(tmp_path: Path) -> None:
    first = _start("task_training/train_combinedSepAtt_SAMPL.py", *SMALL, cwd=tmp_path)
    printed, err = first.communicate(timeout=200)
    assert first.returncode == 0, err
    assert "auto takes SmolLM2_135M" in printed
    assert "models/SmolLM2_135M/leads_and_drugs" in printed
    for text in ("RMSE", "kcal/mol", "±", "read 40, kept 40, rejected 0", "MB at most", "seeds 0..1"):
        assert text in printed
    folder = tmp_path / "results" / "SAMPL" / "combinedSepAtt"
    files = {"result.json", "predictions.csv", "split.json", "rejected.csv", "parity.png", "learning_curve.png"}
    before = {}
    for seed in (0, 1):
        run_folder = folder / f"random-{seed}"
        # the hidden states are saved for the first run only
        assert {path.name for path in run_folder.iterdir()} == files | ({"hidden.safetensors"} if seed == 0 else set())
        assert (run_folder / "parity.png").read_bytes()[:4] == b"\x89PNG"
        before[seed] = (run_folder / "predictions.csv").read_bytes()

    second = _train("combinedSepAtt", *SMALL, "--again", cwd=tmp_path)
    assert "states" not in second.stderr, "the second run computed embeddings again"
    for seed in (0, 1):
        run_folder = folder / f"random-{seed}"
        assert (run_folder / "predictions.csv").read_bytes() == before[seed]
        assert json.loads((run_folder / "result.json").read_text())["seconds"]["embeddings"] < 1
    assert before[0] != before[1]


@pytest.mark.usefixtures("embedded")
def test_the_metrics_can_be_computed_from_the_predictions(tmp_path: Path) -> None:
    assert _train("combined", *SMALL, cwd=tmp_path).returncode == 0
    folder = tmp_path / "results" / "SAMPL" / "combined"
    table = pd.read_csv(ROOT / "dataset" / "SAMPL.csv").head(40)
    test_rmse = []
    for seed in (0, 1):
        result = json.loads((folder / f"random-{seed}" / "result.json").read_text())
        predictions = pd.read_csv(folder / f"random-{seed}" / "predictions.csv")
        split = json.loads((folder / f"random-{seed}" / "split.json").read_text())
        assert predictions["row"].tolist() == list(range(1, 41))
        assert predictions["smiles"].tolist() == table["smiles"].map(Chem.CanonSmiles).tolist()
        np.testing.assert_array_equal(predictions["y_true_expt"], table["expt"])
        sizes = {"train": 32, "valid": 4, "test": 4}
        assert result["split"] == {"kind": "random", "sha256": split["sha256"], "sizes": sizes}
        for part, rows in split["rows"].items():
            in_part = predictions[predictions["part"] == part]
            assert in_part["row"].tolist() == rows
            rmse = float(np.sqrt(((in_part["y_true_expt"] - in_part["y_pred_expt"]) ** 2).mean()))
            assert result["metrics"][part]["RMSE"] == pytest.approx(rmse)
        test_rmse.append(result["metrics"]["test"]["RMSE"])
        assert result["rows"] == {"read": 40, "kept": 40, "rejected": 0}
        assert result["llm"]["name"] == "SmolLM2_135M"
        adapter = resources.packaged("models") / "SmolLM2_135M" / "leads_and_drugs"
        assert result["llm"]["adapter"] == adapters.digest(adapter)
        assert result["llm"]["layers"] == [12]
        assert {"seconds", "peak_memory_mb", "config", "versions", "commit"} <= set(result)
    summary = json.loads((folder / "summary-random.json").read_text())
    assert summary["metrics"]["test"]["RMSE"]["values"] == test_rmse
    assert summary["metrics"]["test"]["RMSE"]["mean"] == pytest.approx(np.mean(test_rmse))
    assert summary["metrics"]["test"]["RMSE"]["sd"] == pytest.approx(np.std(test_rmse, ddof=1))


@pytest.mark.usefixtures("embedded")
@pytest.mark.parametrize("model", [model for model in PIPELINES if model not in ("combined", "combinedSepAtt")])
def test_every_pipeline_runs_on_scaffolds(model: str, tmp_path: Path) -> None:
    arguments = ("--limit", 60, "--epochs", 1, "--runs", 1, "--split", "scaffold", "--ensemble", 2)
    completed = _train(model, *arguments, cwd=tmp_path)
    assert completed.returncode == 0, completed.stderr
    result = json.loads((tmp_path / "results" / "SAMPL" / model / "scaffold-0" / "result.json").read_text())
    assert len(result["best_epoch"]) == 2
    assert (result["llm"] is None) == (model == "gcn_indepent")


def test_a_killed_run_completes_when_it_is_repeated(tmp_path: Path, tiny_decoder: Path) -> None:
    arguments = ("--llm", tiny_decoder, "--limit", 200, "--epochs", 8, "--runs", 3)
    process = _start("task_training/train_combined_SAMPL.py", *arguments, cwd=tmp_path)
    folder = tmp_path / "results" / "SAMPL" / "combined"
    deadline = time.monotonic() + 100
    while not (folder / "random-0" / "result.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "summary-random.json").exists()
    before = (folder / "random-0" / "predictions.csv").read_bytes()
    assert _train("combined", *arguments, cwd=tmp_path).returncode == 0
    assert (folder / "summary-random.json").exists()
    assert (folder / "random-0" / "predictions.csv").read_bytes() == before


def _csv(folder: Path) -> Path:
    """A user's table of twenty molecules with three invalid rows, two targets, and one missing label."""
    smiles = ["C" * n + end for n in range(1, 11) for end in ("O", "N")]
    parts = ("train", "train", "train", "valid", "test")
    rows = [f"{text},{i * 0.5},{(i * 7) % 5},{parts[i % 5]}" for i, text in enumerate(smiles)]
    rows[4] = "CCC(=O,1.0,2.0,test"
    rows[9] = f"{'C' * 60},1.0,2.0,train"
    rows[11] = "CCCCCC,,,valid"
    rows[13] = f"{smiles[13]},3.5,,train"
    path = folder / "own.csv"
    path.write_text("SMILES,logS,pKa,part\n" + "\n".join(rows) + "\n")
    return path


def test_a_users_csv_with_invalid_rows_and_given_parts(tmp_path: Path, tiny_decoder: Path) -> None:
    arguments: tuple[object, ...] = ("--csv", _csv(tmp_path), "--smiles-column", "SMILES", "--split", "given")
    arguments += ("--target-columns", "logS", "pKa")
    arguments += ("--split-column", "part", "--llm", tiny_decoder, "--epochs", 2, "--runs", 1, "--out", "out")
    completed = script("task_training/train_crossAtt_SAMPL.py", *arguments, cwd=tmp_path)
    assert completed.returncode == 2
    assert "either --dataset" in completed.stderr
    completed = kflm2("train", *arguments, cwd=tmp_path)
    assert completed.returncode == 0, completed.stderr
    folder = tmp_path / "out" / "own" / "crossAtt" / "given-0"
    rejected = pd.read_csv(folder / "rejected.csv")
    assert rejected["row"].tolist() == [5, 10, 12]
    assert [text.split(":")[0] for text in rejected["reason"]] == [
        "RDKit cannot read it",
        "longer than the LLM's context",
        "no target value",
    ]
    predictions = pd.read_csv(folder / "predictions.csv")
    assert predictions["row"].tolist() == [row for row in range(1, 21) if row not in (5, 10, 12)]
    assert predictions["part"].tolist() == pd.read_csv(_csv(tmp_path))["part"][predictions["row"] - 1].tolist()
    assert predictions["y_true_pKa"].isna().sum() == 1
    assert predictions["y_pred_pKa"].notna().all()
    assert json.loads((folder / "result.json").read_text())["rows"] == {"read": 20, "kept": 17, "rejected": 3}
    assert "row 5: 'CCC(=O'" in completed.stdout


def test_the_test_part_does_not_change_other_predictions(tmp_path: Path, tiny_decoder: Path) -> None:
    """With other test molecules and extreme test labels, training and all scalings must be the same."""
    frame = pd.read_csv(ROOT / "dataset" / "SAMPL.csv").head(60)
    frame = frame[frame["smiles"].str.len() < 20].head(40)
    frame["part"] = ["train"] * 28 + ["valid"] * 6 + ["test"] * 6
    predicted = []
    for name in ("plain", "poisoned"):
        if name == "poisoned":
            frame.loc[frame["part"] == "test", ["smiles", "expt"]] = ["[Cs+].[I-]", 1e6]
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
        arguments: tuple[object, ...] = ("--csv", f"{name}.csv", "--target-columns", "expt", "--llm", tiny_decoder)
        arguments += ("--split", "given", "--split-column", "part", "--epochs", 3, "--ensemble", 2, "--runs", 1)
        completed = kflm2("train", *arguments, cwd=tmp_path)
        assert completed.returncode == 0, completed.stderr
        predictions = pd.read_csv(tmp_path / "results" / name / "crossAtt" / "given-0" / "predictions.csv")
        predicted.append(predictions[predictions["part"] != "test"]["y_pred_expt"].to_numpy())
    assert len(predicted[0]) == 34
    np.testing.assert_allclose(predicted[1], predicted[0], rtol=1e-5)


def test_classification_predicts_probabilities(tmp_path: Path, tiny_decoder: Path) -> None:
    frame = pd.read_csv(ROOT / "dataset" / "SAMPL.csv").head(120)
    frame["wet"] = (frame["expt"] < -4).astype(int)
    frame.to_csv(tmp_path / "wet.csv", index=False)
    arguments: tuple[object, ...] = ("--csv", "wet.csv", "--target-columns", "wet", "--kind", "classification")
    arguments += ("--llm", tiny_decoder)
    arguments += ("--epochs", "30", "--runs", "1", "--model", "combinedAtt")
    completed = kflm2("train", *arguments, cwd=tmp_path)
    assert completed.returncode == 0, completed.stderr
    folder = tmp_path / "results" / "wet" / "combinedAtt" / "random-0"
    predictions = pd.read_csv(folder / "predictions.csv")
    assert predictions["y_pred_wet"].between(0, 1).all()
    assert predictions["y_pred_wet"].nunique() > 50
    assert json.loads((folder / "result.json").read_text())["metrics"]["train"]["ROC-AUC"] > 0.75
    assert (folder / "roc.png").exists()


def _assays(folder: Path) -> Path:
    """122 molecules, two test sets, three assays: with missing labels, few actives, actives in train only."""
    frame = pd.read_csv(ROOT / "dataset" / "SAMPL.csv").head(120)
    frame["part"] = (["train"] * 8 + ["test_near", "test_far"]) * 12
    frame["wet"] = (frame["expt"] < -4).astype("Int64")
    frame["salty"] = (frame["expt"] < -6).astype("Int64")
    frame["odd"] = ((frame["expt"] > 0) & (frame["part"] == "train")).astype("Int64")
    frame.loc[::7, "wet"] = pd.NA
    salt = pd.DataFrame({"smiles": ["CCCCCCCC(=O)O", "CCCCCCCC(=O)[O-].[Na+]"], "wet": 1, "salty": [0, 1], "odd": 0})
    pd.concat([frame, salt.assign(part="train")]).to_csv(folder / "assays.csv", index=False, na_rep="NA")
    return folder / "assays.csv"


def test_several_classes_with_missing_labels_two_test_sets_and_duplicates(tmp_path: Path) -> None:
    arguments: tuple[object, ...] = ("--target-columns", "wet", "salty", "odd", "--kind", "classification")
    arguments += ("--split-column", "part", "--model", "gcn_indepent", "--epochs", 20, "--runs", 2)
    arguments += ("--class-weight", "balanced", "--standardize", "parent", "--deduplicate")
    completed = kflm2("train", _assays(tmp_path), *arguments, cwd=tmp_path)
    assert completed.returncode == 0, completed.stderr
    assert "left out of the mean on test: odd, which has one class only there\n" in completed.stdout
    assert "left out of the mean on test_far: odd, which has one class only there\n" in completed.stdout
    # its mean on train has the target
    assert "left out of the mean on train" not in completed.stdout
    folder = tmp_path / "results" / "assays" / "gcn_indepent"
    result = json.loads((folder / "given-0" / "result.json").read_text())
    assert result["rows"] == {"read": 122, "kept": 121, "rejected": 1}
    # the acid and its sodium salt are one structure; their labels of one target differ
    assert pd.read_csv(folder / "given-0" / "rejected.csv")["reason"].tolist() == [
        "same structure as row 121, which stands for it"
    ]
    predictions = pd.read_csv(folder / "given-0" / "predictions.csv")
    acid = predictions[predictions["row"] == 121].iloc[0]
    assert (acid["y_true_wet"], acid["y_true_odd"], np.isnan(acid["y_true_salty"])) == (1, 0, True)
    assert set(predictions["part"]) == {"train", "valid", "test_near", "test_far"}
    assert list(result["metrics"]) == ["train", "valid", "test", "test_far", "test_near"]
    for part, means in result["metrics"].items():
        in_part = predictions[predictions["part"].str.startswith(part)]
        aucs = []
        for target, metrics in result["targets"][part].items():
            known = in_part[in_part[f"y_true_{target}"].notna()]
            if known[f"y_true_{target}"].nunique() == 2:
                aucs.append(roc_auc_score(known[f"y_true_{target}"], known[f"y_pred_{target}"]))
                assert metrics["ROC-AUC"] == pytest.approx(aucs[-1])
            else:
                assert metrics is None
        assert means["ROC-AUC"] == pytest.approx(np.mean(aucs))
    assert result["targets"]["test"]["odd"] is None
    # the threshold is the best one on valid, found here by trying all, and used for test
    valid, test = (predictions[predictions["part"].str.startswith(part)] for part in ("valid", "test"))
    for target, threshold in result["thresholds"].items():
        known = valid[valid[f"y_true_{target}"].notna()]
        true, predicted = known[f"y_true_{target}"], known[f"y_pred_{target}"]
        if true.nunique() < 2:
            assert threshold == 0.5
            continue
        best = max(balanced_accuracy_score(true, predicted >= cut) for cut in np.linspace(0, 1, 1001))
        assert balanced_accuracy_score(true, predicted >= threshold) == pytest.approx(best)
        known = test[test[f"y_true_{target}"].notna()]
        accuracy = balanced_accuracy_score(known[f"y_true_{target}"], known[f"y_pred_{target}"] >= threshold)
        assert result["targets"]["test"][target]["balanced accuracy"] == pytest.approx(accuracy)
    assert set(result["thresholds"]) == {"wet", "salty", "odd"}
    summary = json.loads((folder / "summary-given.json").read_text())
    assert len(summary["targets"]["test_far"]["wet"]["MCC"]["values"]) == 2
    assert summary["targets"]["test"]["odd"]["ROC-AUC"]["mean"] is None


def test_some_of_the_twenty_five_folds_of_cross_validation_can_be_run(tmp_path: Path) -> None:
    arguments = ("--model", "gcn_indepent", "--limit", 50, "--epochs", 1, "--split", "cv5x5", "--seed", 20)
    assert kflm2("train", "SAMPL", *arguments, cwd=tmp_path).returncode == 0
    folder = tmp_path / "results" / "SAMPL" / "gcn_indepent"
    test_rows: list[int] = []
    for seed in range(20, 25):
        predictions = pd.read_csv(folder / f"cv5x5-{seed}" / "predictions.csv")
        test_rows += predictions[predictions["part"] == "test"]["row"].tolist()
    assert sorted(test_rows) == list(range(1, 51))
    assert json.loads((folder / "summary-cv5x5.json").read_text())["seeds"] == list(range(20, 25))


def test_datasets_get_list_and_audit(tmp_path: Path) -> None:
    completed = script("dataset/download.py", "SAMPL", "--from", tmp_path, cwd=tmp_path)
    assert (completed.returncode, completed.stdout) == (0, "SAMPL.csv: already here\n"), completed.stderr
    completed = kflm2("datasets", "get", "nothing", cwd=tmp_path)
    assert (completed.returncode, completed.stderr.count("\n")) == (2, 1)
    completed = kflm2("datasets", "SAMPL", cwd=tmp_path)
    assert completed.stdout.splitlines()[1].split() == "SAMPL 642 0 1 (kcal/mol) 0 - 0 0 2".split()
    completed = kflm2("datasets", "audit", "SAMPL", "--split", "cluster", cwd=tmp_path)
    assert completed.returncode == 0, completed.stderr
    assert "cluster, seed 0: 513 train / 64 valid / 65 test" in completed.stdout
    assert (tmp_path / "results" / "SAMPL" / "audit-cluster-0" / "audit.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dataset", "Samples"), "unknown dataset 'Samples' (did you mean 'SAMPL'?); choose one of: SAMPL"),
        (("--model", "gnn"), "combined_base, gcn_indepent, combined, combinedAtt, combinedSepAtt, crossAtt"),
        (("--llm", "GPT"), "SmolLM2_135M"),
        (("--llm", "."), "no config.json in it, so it is no checkpoint; --llm SmolLM2_135M is the embedded LLM"),
        (("--adapter", "."), "no adapter_config.json in it"),
        (("--fractions", "0.8", "0.1", "0.2"), "0.8 + 0.1 + 0.2 = 1.1"),
        (("--layers", "99"), "each must be one of 0 to 12, or -1 for the last, once; the adapter keeps no more"),
        (("--layers", "99", "--adapter", "none"), "each must be one of 0 to 30"),
        (("--limit", "3"), "leaves"),
        (("--config", "none.json"), "none.json"),
        (("--out", str(ROOT / "LICENSE")), "LICENSE"),
        (("--learning-rate", "0"), "learning_rate is 0.0; it must be positive"),
    ],
)
@pytest.mark.usefixtures("embedded")
def test_invalid_input_ends_with_an_error_of_one_line_and_status_2(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        # in this process: a new process for each case would spend seconds on importing torch
        stages.train.from_command_line(["--runs", "1", *arguments], dataset="SAMPL", model="combined")
    assert stop.value.code == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line and "states:" not in line]
    assert error.startswith("error: ")
    assert message in error
    assert not list(tmp_path.rglob("result.json"))
