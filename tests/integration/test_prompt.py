"""Stage 3 from its command line, on a tiny random LLM."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, root_mean_squared_error

from kflm2.cli import stages
from kflm2.config.finetune import FinetuneConfig
from kflm2.config.prompt import PromptConfig
from kflm2.llm import adapters
from kflm2.llm.decoding import load_decoder
from kflm2.llm.loading import cut_layers
from kflm2.stages.prompt import stage as prompt_stage
from kflm2.trainers.lora.model import LoRAModel

SMALL = ["--adapter", "none", "--limit", "60", "--epochs", "1", "--writings", "2"]


def _run(llm: Path, *arguments: object, dataset: str = "SAMPL", task: str = "regression") -> None:
    stages.prompt.from_command_line([*SMALL, *map(str, arguments)], llm=str(llm), dataset=dataset, task=task)


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_regression_is_prompted_evaluated_and_compared(
    tmp_path: Path, tiny_writer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _run(tiny_writer, "--compare", "gcn_indepent", "--runs", 2, "--shots", 2)
    folder = tmp_path / "results" / "SAMPL" / "prompt_plain_2shots"
    for seed in (0, 1):
        result = json.loads((folder / f"random-{seed}" / "result.json").read_text())
        rows = _rows(folder / f"random-{seed}")
        test = [row for row in rows if row["part"] == "test"]
        assert {row["part"] for row in rows} == {"valid", "test"}
        assert result["answered"]["test"] == 1
        y_true, y_pred = (np.array([float(row[f"{name}_expt"]) for row in test]) for name in ("y_true", "y_pred"))
        rmse = {method: metrics["test"]["RMSE"] for method, metrics in result["metrics"].items()}
        assert rmse["prompting"] == pytest.approx(root_mean_squared_error(y_true, y_pred))
        # the trivial answer uses the training part only, and stage 2 has the same split
        split = json.loads((folder / f"random-{seed}" / "split.json").read_text())
        stage_2_run = folder / "stage_2" / "SAMPL" / "gcn_indepent" / f"random-{seed}"
        assert json.loads((stage_2_run / "split.json").read_text())["sha256"] == split["sha256"]
        assert rmse["gcn_indepent"] == json.loads((stage_2_run / "result.json").read_text())["metrics"]["test"]["RMSE"]
        with (stage_2_run / "predictions.csv").open() as file:
            train = [float(row["y_true_expt"]) for row in csv.DictReader(file) if row["part"] == "train"]
        assert rmse["mean of train"] == pytest.approx(np.sqrt(np.mean((y_true - np.mean(train)) ** 2)))
        assert result["robustness"]["random SMILES"]["ways"] == 2
        assert result["robustness"]["paraphrases"]["ways"] == 3
        assert all(row["prompt"].count("SMILES: ") == 3 for row in rows), "two examples and the question"
        assert all(row["prompt"].endswith(f"{row['smiles']}\nhydration free energy (kcal/mol):") for row in rows)
        assert all(float(row["answer"]) == pytest.approx(float(row["y_pred_expt"])) for row in rows)
    # stage 2 was run seed by seed, and its summary is of all of them
    summary = json.loads((folder / "stage_2" / "SAMPL" / "gcn_indepent" / "summary-random.json").read_text())
    assert summary["seeds"] == [0, 1]
    printed = capsys.readouterr().out
    for text in (
        "mean of train",
        "prompting",
        "gcn_indepent",
        "100.0% can be read",
        "2 random SMILES more",
        "mean ± sd",
    ):
        assert text in printed


def test_a_class_is_predicted_from_the_probabilities_of_its_two_answers(
    tmp_path: Path, tiny_writer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    table = "".join(f"{'C' * (i % 9 + 1)}{'N' * (i % 2)}O,{i % 2}\n" for i in range(60))
    (tmp_path / "own.csv").write_text("smiles,basic\n" + table)
    _run(
        tiny_writer,
        "--csv",
        "own.csv",
        "--target-columns",
        "basic",
        "--compare",
        "none",
        dataset="BACE",
        task="classification",
    )
    folder = tmp_path / "results" / "own" / "prompt_plain" / "random-0"
    result = json.loads((folder / "result.json").read_text())
    test = [row for row in _rows(folder) if row["part"] == "test"]
    y_true, y_pred = (np.array([float(row[f"{name}_basic"]) for row in test]) for name in ("y_true", "y_pred"))
    assert result["metrics"]["prompting"]["test"]["ROC-AUC"] == pytest.approx(roc_auc_score(y_true, y_pred))
    assert result["metrics"]["majority"]["test"]["ROC-AUC"] == 0.5
    assert ((y_pred > 0) & (y_pred < 1)).all()
    assert {row["answer"] for row in test} <= {" no", " yes"}
    assert [row["answer"] == " yes" for row in test] == (y_pred > 0.5).tolist()
    assert " no and yes have" in capsys.readouterr().out


def test_test_labels_do_not_change_losses_and_answers(
    tmp_path: Path, tiny_writer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tables that differ in their test labels only."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    values = rng.normal(size=60)
    parts = ["train"] * 40 + ["valid"] * 10 + ["test"] * 10
    runs = []
    for name, shift in (("a", 0.0), ("b", 30.0)):
        rows = [f"{'C' * (i % 12 + 1)}N,{values[i] + shift * (parts[i] == 'test')},{parts[i]}" for i in range(60)]
        (tmp_path / f"{name}.csv").write_text("smiles,y,part\n" + "\n".join(rows) + "\n")
        config = PromptConfig(
            csv=tmp_path / f"{name}.csv", target_columns=("y",), split_column="part", llm=str(tiny_writer),
            adapter="none", epochs=2, smiles_variants=0, compare="none", out=tmp_path / name,
        )  # fmt: skip
        (run,) = prompt_stage.run(config)
        runs.append(run)
    assert runs[0].losses == runs[1].losses
    for part in ("valid", "test"):
        assert runs[0].answers[part].texts == runs[1].answers[part].texts
    assert runs[0].metrics["prompting"]["valid"] == runs[1].metrics["prompting"]["valid"]
    assert runs[0].metrics["prompting"]["test"] != runs[1].metrics["prompting"]["test"]


def test_a_table_of_the_users_has_its_own_words_notes_and_two_test_sets_beside_stage_2(
    tmp_path: Path, tiny_writer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    parts = [*["train"] * 30, *["valid"] * 6, *["test_a"] * 4, *["test_b"] * 4]
    rows = [f"{'C' * (i % 11 + 1)}N,{i},{part}" for i, part in enumerate(parts)]
    # of the package's datasets one has this name, with other words
    (tmp_path / "Delaney.csv").write_text("smiles,y,part\n" + "\n".join([*rows, "CCO,>3,train", "c1,1,train"]) + "\n")
    arguments = ("--csv", "Delaney.csv", "--target-columns", "y", "--split-column", "part", "--epochs", 0)
    _run(tiny_writer, *arguments, "--compare", "gcn_indepent")
    folder = tmp_path / "results" / "Delaney" / "prompt_plain_untaught" / "given-0"
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    assert set(metrics["gcn_indepent"]) == set(metrics["prompting"]) == {"valid", "test", "test_a", "test_b"}
    assert _rows(folder)[0]["prompt"].endswith("\ny:")
    with (folder / "rejected.csv").open() as file:
        assert [row["row"] for row in csv.DictReader(file)] == ["45", "46"]
    printed = capsys.readouterr().out
    assert "2 of 46 rows are rejected" in printed
    assert "note: 8 of 8 test molecules (seed 0) have the structure of one that is learnt from" in printed


def test_runs_of_another_target_or_setting_are_not_replaced_unasked(
    tmp_path: Path, tiny_writer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f"{'C' * (i % 12 + 1)}{'N' * (i % 3)}O,{i},{40 - i},{i * 1e-9}" for i in range(40)]
    (tmp_path / "own.csv").write_text("smiles,a,b,small\n" + "\n".join(rows) + "\n")
    common = ("--csv", "own.csv", "--epochs", 0, "--compare", "none", "--writings", 0, "--target-columns")
    _run(tiny_writer, *common, "a", "--runs", 2)
    folder = tmp_path / "results" / "own" / "prompt_plain_untaught"
    before = {path: path.read_bytes() for path in folder.glob("random-*/predictions.csv")}
    assert len(before) == 2
    for changed, said in ((("b",), "target a, not b"), (("a", "--samples", 3), "samples 1, not 3")):
        with pytest.raises(SystemExit):
            _run(tiny_writer, *common, *changed)
        assert f"holds 2 runs of other settings or data ({said}" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before
    # the same settings, and the script with unsloth where there is none: one more
    stages.prompt.from_command_line(
        [*SMALL, *map(str, common), "a", "--seed", "2"], llm=str(tiny_writer), task="regression", unsloth=True
    )
    assert len(list(folder.glob("random-*/result.json"))) == 3
    _run(tiny_writer, *common, "b", "--again")
    (path,) = folder.glob("random-*/result.json")
    assert json.loads(path.read_text())["dataset"]["targets"] == ["b"]
    # numbers that would all be answered by the same text teach nothing
    with pytest.raises(SystemExit):
        _run(tiny_writer, *common, "small", "--out", "other")
    error = capsys.readouterr().err
    assert "all have the one answer 0.00; give their logarithm, or another unit" in error and "sd is 1.2e-08" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dataset", "BBBP"), "task of BBBP is classification, not regression"),
        (("--template", "none"), "unknown template 'none'; choose one of: plain"),
        (("--csv", "large.csv", "--target-columns", "y"), "row 3: 1.5e+09 has more than 6 digits before the point"),
        (("--prompts", "none.toml"), "prompts none.toml: No such file"),
        (("--samples", "0"), "samples is 0"),
        (("--compare", "forest"), "unknown pipeline to compare with 'forest'"),
        (("--shots", "60", "--shots-by", "random"), "shots is 60, and training has"),
        (("--device", "cuda:7"), "device 'cuda:7' is not there"),
    ],
)
def test_invalid_input_ends_with_an_error_of_one_line_and_status_2(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    tiny_writer: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "large.csv").write_text("smiles,y\nC,1\nCC,2\nCCC,1.5e9\n")
    with pytest.raises(SystemExit) as stop:
        _run(tiny_writer, *arguments)
    assert stop.value.code == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert message in error


def test_a_prompt_longer_than_the_context_rejects_its_row(
    tmp_path: Path, tiny_writer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f"{'C' * (i % 12 + 1)}N,{i}" for i in range(40)]
    (tmp_path / "own.csv").write_text("smiles,y\n" + "\n".join([*rows, "C" * 390 + ",3"]) + "\n")
    _run(tiny_writer, "--csv", "own.csv", "--target-columns", "y", "--compare", "none", "--epochs", 0)
    result = json.loads(
        (tmp_path / "results" / "own" / "prompt_plain_untaught" / "random-0" / "result.json").read_text()
    )
    (rejected,) = result["rows"]["rejected"]
    assert rejected["row"] == 41
    assert "longer than the LLM reads, 400 with the answer" in rejected["reason"]
    assert "1 of 41 rows are rejected" in capsys.readouterr().out


def test_the_first_of_several_targets_is_predicted_with_an_adapter_of_stage_1(
    tmp_path: Path, tiny_writer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f"{'C' * (i % 12 + 1)}{'N' * (i % 3)}O,{'' if i % 4 == 0 else i / 7},{i}" for i in range(80)]
    (tmp_path / "own.csv").write_text("smiles,a,b\n" + "\n".join(rows) + "\n")
    llm, _ = load_decoder(tiny_writer, torch.device("cpu"))
    cut_layers(llm.model, 1, keep_norm=True)
    model = LoRAModel(llm, FinetuneConfig())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    model.save(tmp_path / "adapter")
    (tmp_path / "adapter" / adapters.CARD).write_text('{"layers": 1}')
    arguments = ("--csv", "own.csv", "--target-columns", "a", "b", "--epochs", 0, "--compare", "combined")
    results = {}
    for adapter in ("adapter", "none"):
        _run(tiny_writer, *arguments, "--adapter", adapter, "--samples", 4, "--out", adapter)
        folder = tmp_path / adapter / "own" / "prompt_plain_untaught" / "random-0"
        results[adapter] = json.loads((folder / "result.json").read_text())
        assert all(len(row["answer"].split("|")) == 4 for row in _rows(folder))
    assert "target: a, the first of 2" in capsys.readouterr().out
    assert results["adapter"]["rows"]["kept"] == 45
    assert len(results["adapter"]["rows"]["rejected"]) == 15
    assert set(results["adapter"]["metrics"]) == {"mean of train", "prompting", "combined"}
    assert results["adapter"]["llm"]["adapter"] is not None
    assert results["adapter"]["metrics"]["prompting"] != results["none"]["metrics"]["prompting"]
