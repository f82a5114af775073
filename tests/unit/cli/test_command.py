"""Settings from a command line: what goes before what, and errors in one line."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from kflm2.cli import stages
from kflm2.config.pipelines import PIPELINES
from kflm2.config.train import TrainConfig
from kflm2.errors import KFLM2Error

ROOT = Path(__file__).parents[3]
SCRIPT = {"dataset": "SAMPL", "model": "combined"}


def _read(*words: str, **script: object) -> TrainConfig:
    return stages.train.read(list(words), {**SCRIPT, **script})


def _config(folder: Path, **values: object) -> str:
    (folder / "config.json").write_text(json.dumps(values))
    return str(folder / "config.json")


def test_command_line_before_file_before_script_before_pipeline_before_defaults(tmp_path: Path) -> None:
    own = PIPELINES["crossAtt"].defaults["hidden"]
    assert own != TrainConfig.hidden
    assert _read().hidden == TrainConfig.hidden == 16
    assert _read(model="crossAtt").hidden == own
    assert _read("--model", "crossAtt").hidden == own
    assert _read("--model=crossAtt").hidden == own
    assert _read(model="crossAtt", hidden=24).hidden == 24
    config = _config(tmp_path, hidden=32, fractions=[0.6, 0.2, 0.2])
    assert _read("--config", config, model="crossAtt", hidden=24).hidden == 32
    read = _read("--hidden", "40", "--config", config, model="crossAtt", hidden=24)
    assert (read.hidden, read.fractions, read.schedule) == (40, (0.6, 0.2, 0.2), "onecycle")
    assert _read("--config", _config(tmp_path, model="crossAtt")).hidden == own


def test_the_papers_settings_are_the_papers_pipelines_defaults() -> None:
    for model in ("combined_base", "gcn_indepent", "combined", "combinedAtt", "combinedSepAtt"):
        read = _read(model=model)
        assert (read.epochs, read.learning_rate, read.batch_size, read.hidden, read.dropout) == (100, 1e-3, 32, 16, 0.1)
        assert (read.graph_encoder, read.schedule, read.weight_decay, read.seed) == ("gcn", "constant", 0, 0)
        assert (read.resolved().runs, read.resolved().split) == (10, "random")


def test_split_and_runs_follow_from_the_dataset_and_each_other() -> None:
    def resolved(*words: str, **script: object) -> tuple[object, object]:
        read = _read(*words, **script).resolved()
        return read.split, read.runs

    assert resolved(dataset="Llinas") == ("given", 10)
    assert resolved("--split", "scaffold", dataset="Llinas") == ("scaffold", 10)
    assert resolved("--split", "cv5x5") == ("cv5x5", 25)
    assert resolved("--split", "cv5x5", "--seed", "20") == ("cv5x5", 5)
    own = ("--csv", "x.csv", "--target-columns", "y", "--split-column", "part")
    assert resolved(*own, dataset=None) == ("given", 10)


def test_settings_written_in_a_result_can_be_read_back(tmp_path: Path) -> None:
    from kflm2.results.runs import plain

    first = _read(
        "--limit",
        "50",
        "--out",
        "elsewhere",
        "--layers",
        "3,-1",
        "--deduplicate",
        "--csv",
        "x.csv",
        "--target-columns",
        "a",
        "b",
        dataset=None,
    )
    assert _read("--config", _config(tmp_path, **plain(first)), dataset=None) == dataclasses.replace(
        first, config=tmp_path / "config.json"
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--model", "GCN"), "unknown model 'GCN'; choose one of: combined_base, gcn_indepent"),
        (("--csv", "a.csv"), "either --dataset"),
        (("--target-columns", "y"), "unknown target of SAMPL 'y'; choose one of: expt"),
        (("--target-columns", "expt", "expt"), "asked for twice"),
        (("--split", "given"), "--split-column"),
        (("--kind", "classification"), "kind of SAMPL is regression, not classification"),
        (("--smiles-column", "SMILES"), "smiles_column of SAMPL is smiles, not SMILES"),
        (("--class-weight", "balanced"), "class_weight balanced goes with classes"),
        (("--split", "scaffold", "--split-column", "part"), "it does not go with --split scaffold"),
        (("--split", "cv5x5", "--runs", "26"), "cv5x5 has the seeds 0 to 24"),
        (("--seed", "-1"), "seed is -1"),
        (("--fractions", "0.5", "0.5", "0.5"), "0.5 + 0.5 + 0.5 = 1.5"),
        (("--runs", "0"), "runs is 0"),
        (("--limit", "-3"), "limit is -3"),
        (("--hidden", "10"), "hidden 10 cannot be divided by heads 4"),
        (("--dropout", "1"), "dropout is 1.0"),
        (("--epochs", "0"), "epochs is 0"),
        (("--weight-decay", "-1"), "weight_decay is -1.0"),
        (("--config", "none.json"), "none.json"),
    ],
)
def test_a_setting_that_cannot_work_is_one_line(words: tuple[str, ...], told: str) -> None:
    with pytest.raises(KFLM2Error) as caught:
        _read(*words)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_key_of_the_file_is_named_with_the_known(tmp_path: Path) -> None:
    with pytest.raises(KFLM2Error, match=r"unknown setting 'hiden'; there are: .*hidden"):
        _read("--config", _config(tmp_path, hiden=3))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(KFLM2Error, match="not JSON"):
        _read("--config", str(tmp_path / "config.json"))
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(KFLM2Error, match="not an object"):
        _read("--config", str(tmp_path / "config.json"))


def test_a_value_of_the_wrong_type_ends_with_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["--epochs", "many"],
        ["--split", "kennard"],
        ["--config", _config(tmp_path, epochs="many")],
        ["--no"],
    ):
        with pytest.raises(SystemExit) as stop:
            stages.train.from_command_line(words, **SCRIPT)
        assert stop.value.code == 2
        assert "Traceback" not in capsys.readouterr().err


def test_an_error_is_one_line_on_stderr_and_status_2() -> None:
    script = ROOT / "task_training" / "train_combined_SAMPL.py"
    done = subprocess.run([sys.executable, script, "--dataset", "nope"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: unknown dataset 'nope'; choose one of: SAMPL, Delaney, ")
    assert done.stderr.count("\n") == 1


def test_help_explains_every_setting_with_its_default() -> None:
    script = ROOT / "task_training" / "train_crossAtt_SAMPL.py"
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0
    text = " ".join(done.stdout.replace("│", " ").split())
    for field in dataclasses.fields(TrainConfig):
        _, found, rest = text.replace(", --no-", " --no-").partition(f" --{field.name.replace('_', '-')} ")
        assert found, field.name
        explanation = rest.partition("(default: ")[0]
        assert len(explanation.split()) > 3, field.name
    assert "(default: 64)" in text


def test_the_stages_are_listed() -> None:
    command = Path(sys.executable).parent / "kflm2"
    assert "kflm2 train" in subprocess.run([command], capture_output=True, text=True, timeout=100).stdout
    done = subprocess.run([command, "trian"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown stage 'trian'; choose one of: finetune, train, prompt, tune, ")
