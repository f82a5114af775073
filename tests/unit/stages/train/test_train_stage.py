"""Runs and saved models are never mixed up with others, nor replaced unasked; in this process, by a graph network."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kflm2.cli import stages
from kflm2.config.train import TrainConfig
from kflm2.results import schema
from kflm2.results.runs import Run
from kflm2.stages.train import plots, stage

ROOT = Path(__file__).parents[4]
SMALL = ["--model", "gcn_indepent", "--epochs", "1", "--fractions", "0.6", "0.2", "0.2"]


@pytest.fixture(autouse=True)
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """my.csv in the working folder: 40 molecules, two targets of different scale, the second with missing labels."""
    monkeypatch.chdir(tmp_path)
    frame = pd.read_csv(ROOT / "dataset" / "SAMPL.csv").head(40)
    frame = pd.DataFrame({"smiles": frame["smiles"], "logS": frame["expt"], "MW": 100 * frame["expt"] + 300})
    frame.loc[::4, "MW"] = None
    frame.to_csv("my.csv", index=False)
    return tmp_path / "my.csv"


def _train(*arguments: object) -> None:
    stages.train.from_command_line([*SMALL, *map(str, arguments)])


def _own(*arguments: object, targets: tuple[str, ...] = ("logS",), csv: str = "my.csv") -> None:
    _train("--csv", csv, "--target-columns", *targets, *arguments)


def _refused(capsys: pytest.CaptureFixture[str], *arguments: object, **values: Any) -> str:
    """The one line by which a command is refused before it trains."""
    capsys.readouterr()
    before = _written()
    with pytest.raises(SystemExit) as stop:
        _own(*arguments, **values)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "epoch" not in error.partition("error: ")[0]
    assert _written() == before
    return error


def _written() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path.cwd().rglob("*") if path.is_file() and "cache" not in path.parts}


def _result(folder: str) -> dict[str, Any]:
    return json.loads((Path("results") / folder / "result.json").read_text())


def test_runs_of_another_target_are_neither_lost_nor_mixed(capsys: pytest.CaptureFixture[str]) -> None:
    _own("--runs", 2)
    error = _refused(capsys, "--runs", 1, targets=("MW",))
    assert "results/my/gcn_indepent holds 2 runs of other settings or data" in error
    assert "targets logS, not MW" in error and "--name NAME" in error and "--again" in error
    _own("--runs", 1, "--name", "weight", targets=("MW",))
    assert _result("my/weight/random-0")["dataset"]["targets"] == ["MW"]
    assert _result("my/gcn_indepent/random-0")["dataset"]["targets"] == ["logS"]
    # --again: the other runs go, those of seeds that are not asked for too, and their summary
    _own("--runs", 1, "--again", targets=("MW",))
    folder = Path("results/my/gcn_indepent")
    assert sorted(path.name for path in folder.iterdir()) == ["random-0", "summary-random.json"]
    assert json.loads((folder / "summary-random.json").read_text())["dataset"]["targets"] == ["MW"]
    # the option is of one command, and must not be read back from its result
    assert _result("my/gcn_indepent/random-0")["config"]["again"] is False


def test_runs_that_training_fails_to_replace_are_kept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _own("--runs", 2)
    before = _written()
    with pytest.raises(SystemExit):
        _own("--runs", 1, "--again", "--learning-rate", 1e30, "--epochs", 3)
    assert "diverged" in capsys.readouterr().err
    assert _written() == before
    # and a run whose pictures could not be drawn is not complete
    monkeypatch.setattr(plots, "save_figure", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(SystemExit):
        _own("--runs", 3)
    assert "no space left" in capsys.readouterr().err
    assert not Path("results/my/gcn_indepent/random-2/result.json").exists()


def test_a_target_of_which_a_model_would_learn_nothing_is_refused(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.read_csv(table)
    frame["MW"] = np.where(np.arange(len(frame)) == 3, frame["MW"], np.nan)
    frame.to_csv(table, index=False)
    error = _refused(capsys, "--runs", 20, targets=("logS", "MW"))
    assert re.search(r"MW has too few labels \(1\): a model of seed \d+ would learn from none", error)
    assert not Path("results").exists()


def test_a_table_of_the_same_name_with_other_content_or_other_settings_is_refused(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _own("--runs", 1)
    assert "epochs 1, not 2" in _refused(capsys, "--runs", 1, "--epochs", 2)
    assert "limit none, not 30" in _refused(capsys, "--runs", 1, "--limit", 30)
    # seeds that are not there yet belong to the same method
    assert "epochs 1, not 2" in _refused(capsys, "--seed", 7, "--runs", 1, "--epochs", 2)
    # another kind of split is another folder
    _own("--runs", 1, "--epochs", 2, "--split", "cv5x5")
    text = table.read_text()
    table.write_text(text.replace("logS", "logS", 1) + "CCCCCCO,1.5,\n")
    assert "SHA-256 of the table" in _refused(capsys, "--runs", 1)
    # the same content from elsewhere is the same table
    (table.parent / "moved").mkdir()
    (table.parent / "moved" / "my.csv").write_text(text)
    _own("--runs", 1, csv="moved/my.csv")


def test_the_same_command_can_be_repeated_and_runs_can_be_added() -> None:
    _own("--runs", 1)
    before = Path("results/my/gcn_indepent/random-0/predictions.csv").read_bytes()
    _own("--runs", 3)
    assert Path("results/my/gcn_indepent/random-0/predictions.csv").read_bytes() == before
    _own("--seed", 10, "--runs", 1)
    _own("--seed", 1, "--runs", 1)
    # the summary is of all runs that are there, whichever command made them
    summary = json.loads(Path("results/my/gcn_indepent/summary-random.json").read_text())
    assert summary["seeds"] == [0, 1, 2, 10]
    values = [_result(f"my/gcn_indepent/random-{seed}")["metrics"]["test"]["RMSE"] for seed in (0, 1, 2, 10)]
    rmse = summary["metrics"]["test"]["RMSE"]
    assert rmse["values"] == values
    assert (rmse["mean"], rmse["sd"]) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert summary["targets"]["test"]["logS"]["RMSE"]["values"] == values
    shares = [_result(f"my/gcn_indepent/random-{seed}")["coverage"]["test"]["share"] for seed in (0, 1, 2, 10)]
    assert summary["coverage"]["test"]["share"]["values"] == shares
    # hidden states are of a command's first run, and never of an earlier command's weights
    _own("--seed", 1, "--runs", 1, "--again")
    hidden = sorted(path.parent.name for path in Path("results").rglob("hidden.safetensors"))
    assert hidden == ["random-0", "random-1", "random-10"]


def test_an_incomplete_or_unreadable_run_is_replaced_only_where_that_is_safe(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _own("--runs", 1)
    result = Path("results/my/gcn_indepent/random-0") / schema.FILE
    result.write_text("{")
    assert "is not JSON" in _refused(capsys, "--runs", 2)
    _own("--runs", 2, "--again")
    result.unlink()  # as a killed run leaves it
    _own("--runs", 1, "--epochs", 1)
    # a run of stage 3 in the way
    result.write_text('{"wording": {}}')
    assert "a run of stage 3" in _refused(capsys, "--runs", 1)


def test_a_saved_model_is_not_replaced_by_another(capsys: pytest.CaptureFixture[str]) -> None:
    _own("--ensemble", 1, "--save", "model")
    _own("--ensemble", 1, "--save", "model")  # the same command
    before = Path("model/bundle.json").read_bytes()
    error = _refused(capsys, "--ensemble", 1, "--save", "model", "--name", "other", targets=("MW",))
    assert "model holds another model (targets logS, not MW" in error and "--again" in error
    # another seed is another model, though a run of the same method
    error = _refused(capsys, "--ensemble", 1, "--save", "model", "--seed", 1)
    assert "seed 0, not 1" in error
    assert Path("model/bundle.json").read_bytes() == before
    _own("--ensemble", 1, "--save", "model", "--name", "other", "--again", targets=("MW",))
    assert json.loads(Path("model/bundle.json").read_text())["targets"] == ["MW"]
    # paths of this machine stay here
    assert not {"csv", "out", "save"} & set(json.loads(Path("model/bundle.json").read_text())["made"]["config"])


def test_several_targets_have_means_without_a_unit_and_each_its_own_metrics(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _own("--runs", 2, targets=("logS", "MW"))
    printed = capsys.readouterr().out
    means, _, rest = printed.partition("\ntest ")
    assert "RMSE / sd of the target in train and valid" in means
    assert not re.search(r"^(RMSE|MAE) ", means, re.MULTILINE)
    rows = {line.split()[0]: line.split()[1:] for line in rest.splitlines()[:3]}
    assert rows["RMSE"] == ["MAE", "R2", "Pearson", "Spearman"]
    # in the target's unit: molecular weights are off by a hundred times what logS is off
    assert float(rows["MW"][0]) > 20 * float(rows["logS"][0]) > 0
    result = _result("my/gcn_indepent/random-0")
    predictions = pd.read_csv("results/my/gcn_indepent/random-0/predictions.csv")
    test, others = predictions[predictions["part"] == "test"], predictions[predictions["part"] != "test"]
    scaled = []
    for target in ("logS", "MW"):
        rmse = np.sqrt(((test[f"y_true_{target}"] - test[f"y_pred_{target}"]) ** 2).mean())
        scaled.append(rmse / others[f"y_true_{target}"].std(ddof=0))
        assert result["targets"]["test"][target]["RMSE"] == pytest.approx(rmse)
        assert result["targets"]["test"][target]["scaled RMSE"] == pytest.approx(scaled[-1])
    assert result["metrics"]["test"]["scaled RMSE"] == pytest.approx(np.mean(scaled))
    assert "RMSE" not in result["metrics"]["test"] and result["coverage"]["test"]["size"] is None
    summary = json.loads(Path("results/my/gcn_indepent/summary-random.json").read_text())
    assert summary["metrics"]["test"]["scaled RMSE"]["values"][0] == result["metrics"]["test"]["scaled RMSE"]
    assert set(summary["targets"]["test"]["MW"]) >= {"RMSE", "MAE", "scaled RMSE"}


def test_the_printed_coverage_says_what_it_promises_of_one_model(capsys: pytest.CaptureFixture[str]) -> None:
    _train("--dataset", "SAMPL", "--limit", 60, "--runs", 1, "--save", "model", "--ensemble", 1)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("calibrated on")]
    # 12 molecules: the largest error, Beta(12, 1), whose quantile is a power
    low, high = (100 * share ** (1 / 12) for share in (0.025, 0.975))
    promise = f"calibrated on 12 labels of validation, the intervals of one model hold {low:.0f} to {high:.0f} % of"
    assert line.startswith(promise)
    assert promise[1:] in Path("model/README.md").read_text()


def test_of_many_differences_a_few_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    _own("--runs", 1)
    error = _refused(capsys, "--epochs", 2, "--hidden", 8, "--dropout", 0.2, "--limit", 30)
    assert "; and 1 more)" in error and len(error) < 300


def test_the_legend_of_a_parity_plot_counts_labels_not_molecules(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Run] = []
    monkeypatch.setattr(plots, "draw_run", lambda run, folder: drawn.append(run))
    config = TrainConfig.of("gcn_indepent", csv=Path("my.csv"), target_columns=("logS", "MW"), epochs=1, runs=1)
    stage.run(config)
    (run,) = drawn
    predictions = pd.read_csv("results/my/gcn_indepent/random-0/predictions.csv")
    for axis, target in zip(plots._parity(run).axes, ("logS", "MW"), strict=True):
        assert axis.get_legend() is not None
        texts = [text.get_text() for text in axis.get_legend().get_texts()]
        for part, text in zip(("train", "valid", "test"), texts, strict=True):
            own = predictions[predictions["part"] == part].dropna(subset=[f"y_true_{target}"])
            rmse = np.sqrt(((own[f"y_true_{target}"] - own[f"y_pred_{target}"]) ** 2).mean())
            assert text == f"{part} ({len(own)}), RMSE {rmse:.2f}"
    assert predictions["y_true_MW"].isna().sum() == 10


def test_runs_and_members_are_the_same_bits_in_any_number_of_processes(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--graph-encoder", "gine", "--descriptors", "rdkit", "--ensemble", 2, "--runs", 2, "--seed", 3)
    for jobs in (1, 2):
        _own(*arguments, "--jobs", jobs, "--name", f"jobs-{jobs}")
    for seed in (3, 4):
        one, two = (Path(f"results/my/jobs-{jobs}/random-{seed}") for jobs in (1, 2))
        for file in ("predictions.csv", "split.json"):
            assert (one / file).read_bytes() == (two / file).read_bytes()
        assert _result(f"my/jobs-1/random-{seed}")["history"] == _result(f"my/jobs-2/random-{seed}")["history"]
    # the number of processes makes no other method
    capsys.readouterr()
    _own(*arguments, "--jobs", 2, "--name", "jobs-1", "--runs", 3)
    assert "kept: 2 of 3 runs" in capsys.readouterr().out


def test_processes_that_are_not_forked_train_the_same_bits(tiny_decoder: Path) -> None:
    """With more than one thread; the LLM's states lie on disk, and each process opens them itself."""
    network = ("--model", "crossAtt", "--llm", tiny_decoder, "--ensemble", 2)
    for jobs in (1, 2):
        _own(*network, "--runs", 2, "--threads", 2, "--jobs", jobs, "--name", jobs)
    for seed in (0, 1):
        one, two = (Path(f"results/my/{jobs}/random-{seed}/predictions.csv").read_bytes() for jobs in (1, 2))
        assert one == two


def test_a_target_that_never_varies_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.read_csv("my.csv").assign(logS=2.5)
    frame.to_csv("my.csv", index=False)
    _own(targets=("logS", "MW"))
    said = capsys.readouterr().out
    assert "note: logS: all 32 labels that are learnt from are 2.5; a model learns nothing" in said
    assert "MW: all" not in said


def test_runs_that_are_there_are_kept_and_made_anew_with_again() -> None:
    def made() -> dict[str, int]:
        return {
            path.parent.name: path.stat().st_mtime_ns for path in Path("results/my/gcn_indepent").glob("*/result.json")
        }

    _own("--runs", 2)
    before = made()
    _own("--runs", 3)
    after = made()
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"random-2"}
    summary = json.loads(Path("results/my/gcn_indepent/summary-random.json").read_text())
    assert summary["seeds"] == [0, 1, 2]
    _own("--runs", 3, "--again")
    assert all(made()[name] > after[name] for name in after)


def test_runs_are_known_by_the_precision_that_was_read_not_by_the_setting(
    tiny_decoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--model", "combined", "--llm", tiny_decoder, "--name", "x", "--runs", 2)
    _own(*common[:-3], "y", "--runs", 1, "--precision", "mixed")
    _own(*common[:-1], 1, "--precision", "float32")
    path = Path("results/my/x/random-0/result.json")
    record = json.loads(path.read_text())
    assert record["llm"].pop("precision") == "float32"
    del record["config"]["precision"]
    path.write_text(json.dumps(record))  # as of an earlier version, on a CPU
    capsys.readouterr()
    _own(*common, "--precision", "float32")
    assert "kept: 1 of 2 runs" in capsys.readouterr().out
    assert " mixed)" in _refused(capsys, *common, "--precision", "mixed")
