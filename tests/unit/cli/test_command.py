"""Settings from a command line: their precedence, and errors of one line."""

import dataclasses
import inspect
import json
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from kflm2.cli import stages
from kflm2.cli.command import Stage, _grouped, _with_local_copies
from kflm2.cli.main import stage_and_args
from kflm2.cli.stages import STAGES
from kflm2.config.base import StageConfig, to_json
from kflm2.config.pipelines import PIPELINES
from kflm2.config.predict import PredictConfig
from kflm2.config.train import TrainConfig
from kflm2.errors import KFLM2Error, SettingError

ROOT = Path(__file__).parents[3]
KFLM2 = Path(sys.executable).parent / "kflm2"
SCRIPT = {"dataset": "SAMPL", "model": "combined"}


def _read(*arguments: str, **script: object) -> TrainConfig:
    return stages.train.read(list(arguments), {**SCRIPT, **script})


def _config(folder: Path, **values: object) -> str:
    (folder / "config.json").write_text(json.dumps(values))
    return str(folder / "config.json")


def test_precedence_is_command_line_file_script_pipeline_defaults(tmp_path: Path) -> None:
    crossatt_hidden = PIPELINES["crossAtt"].defaults["hidden"]
    assert crossatt_hidden != TrainConfig.hidden
    assert _read().hidden == TrainConfig.hidden == 16
    assert _read(model="crossAtt").hidden == crossatt_hidden
    assert _read("--model", "crossAtt").hidden == crossatt_hidden
    assert _read("--model=crossAtt").hidden == crossatt_hidden
    assert _read(model="crossAtt", hidden=24).hidden == 24
    config = _config(tmp_path, hidden=32, fractions=[0.6, 0.2, 0.2])
    assert _read("--config", config, model="crossAtt", hidden=24).hidden == 32
    parsed = _read("--hidden", "40", "--config", config, model="crossAtt", hidden=24)
    assert (parsed.hidden, parsed.fractions, parsed.schedule) == (40, (0.6, 0.2, 0.2), "onecycle")
    assert _read("--config", _config(tmp_path, model="crossAtt")).hidden == crossatt_hidden


def test_the_last_of_a_repeated_option_is_used_also_for_dependent_settings(tmp_path: Path) -> None:
    crossatt, combined = _read("--model", "crossAtt"), _read("--model", "combined")
    assert crossatt.hidden != combined.hidden
    assert _read("--model", "combined", "--model", "crossAtt") == crossatt
    assert _read("--model=crossAtt", "--model", "combined") == combined
    assert _read("--limit", "3", "--limit=5").limit == 5
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, seed in ((first, 1), (second, 2)):
        folder.mkdir()
        _config(folder, seed=seed)
    assert _read("--config", str(first / "config.json"), "--config", str(second / "config.json")).seed == 2


def test_old_names_of_options_still_work(tmp_path: Path) -> None:
    table = ("--csv", "x.csv", "--target-columns", "y")
    parsed = _read(*table, "--kind", "classification", dataset=None)
    assert parsed == _read(*table, "--task", "classification", dataset=None) and parsed.task == "classification"
    assert _read(*table, dataset=None, kind="classification") == parsed
    assert _read(*table, "--config", _config(tmp_path, kind="classification"), dataset=None).task == "classification"
    assert _read(*table, "--config", _config(tmp_path, task="classification"), dataset=None).task == "classification"
    assert to_json(parsed)["kind"] == "classification" and "task" not in to_json(parsed)
    prompt = STAGES["prompt"].read(["--writings", "3"], {"dataset": "SAMPL"})
    assert prompt.smiles_variants == 3 and to_json(prompt)["writings"] == 3
    compare = STAGES["compare"].read(["results", "--practical", "0.1", "--figure", "MAE"], {})
    assert compare.metric == "MAE"
    for key in ("from", "source"):  # an option whose name is a word of Python
        get = STAGES["datasets get"].read(["BACE", "--config", _config(tmp_path, **{key: "folder"})], {})
        assert (get.names, get.source) == (("BACE",), Path("folder"))


def test_the_papers_pipelines_have_the_papers_settings_as_defaults() -> None:
    for model in ("combined_base", "gcn_indepent", "combined", "combinedAtt", "combinedSepAtt"):
        config = _read(model=model)
        training = (config.epochs, config.learning_rate, config.batch_size, config.hidden, config.dropout)
        assert training == (100, 1e-3, 32, 16, 0.1)
        assert (config.graph_encoder, config.schedule, config.weight_decay, config.seed) == ("gcn", "constant", 0, 0)
        assert (config.resolved().runs, config.resolved().split) == (10, "random")


def test_the_default_split_and_runs_depend_on_the_dataset_and_each_other() -> None:
    def resolved(*arguments: str, **script: object) -> tuple[object, object]:
        config = _read(*arguments, **script).resolved()
        return config.split, config.runs

    assert resolved(dataset="Llinas") == ("given", 10)
    assert resolved("--split", "scaffold", dataset="Llinas") == ("scaffold", 10)
    assert resolved("--split", "cv5x5") == ("cv5x5", 25)
    assert resolved("--split", "cv5x5", "--seed", "20") == ("cv5x5", 5)
    assert resolved("--split", "scaffold_cv5x5") == ("scaffold_cv5x5", 25)
    table = ("--csv", "x.csv", "--target-columns", "y", "--split-column", "part")
    assert resolved(*table, dataset=None) == ("given", 10)


def test_a_result_is_a_file_of_settings(tmp_path: Path) -> None:
    settings = {"dataset": "SAMPL", "kind": "regression", "epochs": 7}
    (tmp_path / "result.json").write_text(json.dumps({"metrics": {"test": {}}, "config": settings}))
    config = STAGES["train"].read(["--config", str(tmp_path / "result.json"), "--runs", "2"], {})
    assert (config.dataset, config.task, config.epochs, config.runs) == ("SAMPL", "regression", 7, 2)


def test_the_config_in_a_result_can_be_read_back(tmp_path: Path) -> None:
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
    assert _read("--config", _config(tmp_path, **to_json(first)), dataset=None) == dataclasses.replace(
        first, config=tmp_path / "config.json"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "GCN"), "unknown model 'GCN'; choose one of: combined_base, gcn_indepent"),
        (("--csv", "a.csv"), "either --dataset"),
        (("--target-columns", "y"), "unknown target of SAMPL 'y'; choose one of: expt"),
        (("--target-columns", "expt", "expt"), "asked for twice"),
        (("--split", "given"), "--split-column"),
        (("--kind", "classification"), "task of SAMPL is regression, not classification"),
        (("--smiles-column", "SMILES"), "smiles_column of SAMPL is smiles, not SMILES"),
        (("--class-weight", "balanced"), "class_weight balanced goes with classes"),
        (("--split", "scaffold", "--split-column", "part"), "it does not go with --split scaffold"),
        (("--split", "cv5x5", "--runs", "26"), "cv5x5 has the seeds 0 to 24"),
        (("--split", "cluster_cv5x5", "--seed", "20", "--runs", "6"), "cluster_cv5x5 has the seeds 0 to 24"),
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
def test_the_error_of_an_invalid_setting_is_one_line(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(KFLM2Error) as caught:
        _read(*arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_error_of_an_unknown_key_names_the_known_keys(tmp_path: Path) -> None:
    with pytest.raises(KFLM2Error, match=r"unknown setting 'hiden'; there are: .*hidden"):
        _read("--config", _config(tmp_path, hiden=3))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(KFLM2Error, match="not JSON"):
        _read("--config", str(tmp_path / "config.json"))
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(KFLM2Error, match="not an object"):
        _read("--config", str(tmp_path / "config.json"))


def test_a_value_of_the_wrong_type_ends_with_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["--epochs", "many"],
        ["--split", "kennard"],
        ["--config", _config(tmp_path, epochs="many")],
        ["--no"],
    ):
        with pytest.raises(SystemExit) as stop:
            stages.train.from_command_line(arguments, **SCRIPT)
        assert stop.value.code == 2
        assert "Traceback" not in capsys.readouterr().err


def test_an_error_is_one_line_on_stderr_and_status_2() -> None:
    script = ROOT / "task_training" / "train_combined_SAMPL.py"
    completed = subprocess.run(
        [sys.executable, script, "--dataset", "nope"], capture_output=True, text=True, timeout=100
    )
    assert completed.returncode == 2
    assert completed.stdout == ""
    assert completed.stderr.startswith("error: unknown dataset 'nope'; choose one of: SAMPL, Delaney, ")
    assert completed.stderr.count("\n") == 1


def test_a_reader_that_closes_standard_output_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    completed = subprocess.run([KFLM2, "datasets", "SAMPL"], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (completed.returncode, completed.stderr) == (0, "")


def test_a_library_that_the_system_lacks_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(error: str) -> None:
        def fail(config: object) -> None:
            raise ImportError(error)

        monkeypatch.setattr("kflm2.stages.llms.run", fail)
        stages.llms.from_command_line([])

    # as RDKit says it in a container without the libraries of X
    with pytest.raises(SystemExit) as stop:
        run("libXrender.so.1: cannot open shared object file: No such file or directory")
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: libXrender.so.1: cannot open")
    with pytest.raises(ImportError, match="a fault of the program"):
        run("a fault of the program")


def test_help_explains_every_setting_with_its_default() -> None:
    script = ROOT / "task_training" / "train_crossAtt_SAMPL.py"
    completed = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, timeout=100)
    assert completed.returncode == 0
    text = " ".join(completed.stdout.replace("│", " ").split())
    for field in dataclasses.fields(TrainConfig):
        if field.name in TrainConfig.NOT_OPTIONS:
            assert f"--{field.name} " not in text
            continue
        name = field.name.rstrip("_").replace("_", "-")  # from_, as `from` is a word of Python
        _, option, rest = text.replace(", --no-", " --no-").partition(f" --{name} ")
        assert option, field.name
        explanation = rest.partition("(default: ")[0]
        assert len(explanation.split()) > 3, field.name
    assert "(default: 64)" in text


@pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: stage.name)
def test_every_stage_has_an_existing_config_and_function(stage: Stage) -> None:
    config, run = pkgutil.resolve_name(stage.config), pkgutil.resolve_name(stage.run)
    assert dataclasses.is_dataclass(config) and issubclass(config, StageConfig)
    (parameter, *optional) = inspect.signature(run).parameters.values()
    assert parameter.annotation is config
    assert all(further.default is not further.empty for further in optional)
    # every setting is in exactly one section of the help page
    groups = [field for field in dataclasses.fields(_grouped(config)) if dataclasses.is_dataclass(field.type)]
    flat = {field.name for field in dataclasses.fields(_grouped(config))} - {group.name for group in groups}
    names = [*flat, *(field.name for group in groups for field in dataclasses.fields(group.type))]
    assert sorted([*names, *config.NOT_OPTIONS]) == sorted(field.name for field in dataclasses.fields(config))


def test_the_options_of_train_are_grouped() -> None:
    completed = subprocess.run([KFLM2, "train", "--help"], capture_output=True, text=True, timeout=100)
    sections = re.split(r"╭─ (\w+) options ", completed.stdout)
    assert sections[1::2] == ["data", "split", "model", "LLM", "training", "output"]
    options = {
        title: set(re.findall(r"│ --([a-z-]+)", text))
        for title, text in zip(sections[1::2], sections[2::2], strict=True)
    }
    for title, option in (
        ("data", "csv"),
        ("split", "runs"),
        ("model", "hidden"),
        ("LLM", "layers"),
        ("training", "epochs"),
    ):
        assert option in options[title]
    assert options["output"] == {"out", "name", "save", "refit", "again"}


@pytest.mark.parametrize("arguments", [["--help"], [], ["--version"], ["trian"]])
def test_the_list_of_stages_imports_no_large_library(arguments: list[str]) -> None:
    code = (
        "import sys; from kflm2.cli.main import main; sys.argv[1:] = sys.argv[1:]\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'rdkit', 'transformers', 'numpy', 'pandas', 'sklearn', 'tyro'} & set(sys.modules)\n"
        "print('heavy', heavy)"
    )
    completed = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=100)
    assert completed.stdout.splitlines()[-1] == "heavy set()"


def test_the_help_of_a_stage_imports_no_large_library() -> None:
    code = (
        "import sys; from kflm2.cli.stages import STAGES\n"
        "for stage in STAGES.values():\n"
        "    try: stage.from_command_line(['--help'])\n"
        "    except SystemExit: pass\n"
        "print('heavy', {'torch', 'rdkit', 'transformers', 'sklearn'} & set(sys.modules))"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert completed.stdout.splitlines()[-1] == "heavy set()"


def test_a_stage_imports_no_large_library_that_it_does_not_use() -> None:
    code = (
        "import sys, kflm2.stages.models; print({'torch', 'rdkit', 'transformers', 'sklearn'} & set(sys.modules))\n"
        "import kflm2.stages.finetune.stage; print({'torch', 'torch_geometric'} & set(sys.modules))"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert completed.stdout.splitlines() == ["set()", "{'torch'}"]


def test_the_stages_are_listed() -> None:
    printed = subprocess.run([KFLM2], capture_output=True, text=True, timeout=100).stdout
    lines = [line.strip() for line in printed.splitlines() if line.startswith("  kflm2")]
    for line, (name, stage) in zip(lines, STAGES.items(), strict=True):
        assert line.startswith(f"kflm2 {name} {stage.arguments}") and line.endswith(f"  {stage.summary}")
    completed = subprocess.run([KFLM2, "trian"], capture_output=True, text=True, timeout=100)
    assert completed.returncode == 2
    assert completed.stderr.startswith(
        "error: unknown stage 'trian' (did you mean 'train'?); choose one of: finetune, train, prompt, tune, "
    )


def test_addresses_of_molecules_on_the_command_line_become_local_files(tmp_path: Path, cache: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/host/own.csv", b"smiles,y\nC,1\nCC,2\n")
    memory.pipe("/host/a.smi", b"CCO\n")
    for words in (["--csv", "memory://host/own.csv"], ["--csv=memory://host/own.csv"]):
        config = stages.train.read([*words, "--target-columns", "y"], {}, complete=True)
        assert config.csv.read_text() == "smiles,y\nC,1\nCC,2\n" and config.csv.name == "own.csv"
    stage, args = stage_and_args(["train", "memory://host/own.csv", "--target-columns", "y"])
    assert stage.read(args, {}, complete=True).csv == config.csv
    for name in ("predict", "embed", "explain"):
        words = ["model", "--llm", "x", "memory://host/a.smi", "-o", str(tmp_path / "out.parquet")]
        (path,) = STAGES[name].read(words, {}, complete=True).molecules
        assert Path(path).read_text() == "CCO\n"
    # nothing is downloaded for other settings, nor written as if the address were a folder
    for name, words in (("train", ["--dataset", "SAMPL"]), ("predict", ["model", "memory://host/a.smi"])):
        with pytest.raises(SettingError, match=r"out is memory:.*, an address; give a path"):
            STAGES[name].read([*words, "--out", "memory://host/own.csv"], {}, complete=True)
    assert len(list((cache / "downloads").rglob("own.csv"))) == 1  # of --csv


def test_the_value_of_an_option_is_not_taken_for_molecules() -> None:
    fsspec.filesystem("memory").pipe("/host/b.smi", b"CCO\n")
    words = ["model", "memory://host/b.smi", "--no-keep-columns", "--llm", "memory://host/llm", "--max-atoms", "-1"]
    replaced = _with_local_copies(words, PredictConfig)
    assert Path(replaced[1]).read_text() == "CCO\n" and replaced[2:] == words[2:]
    words = ["model", "--no-keep-columns", "memory://host/b.smi", "-o", "memory://host/out.csv"]
    replaced = _with_local_copies(words, PredictConfig)
    assert Path(replaced[2]).is_file() and replaced[3:] == words[3:]


def test_settings_of_one_table_go_with_another(tmp_path: Path) -> None:
    of_sampl = _config(tmp_path, dataset="SAMPL", model="gcn_indepent", epochs=7)
    own = ["--csv", "own.csv", "--target-columns", "y"]
    read = stages.train.read([*own, "--config", of_sampl], {})
    assert (read.csv, read.dataset, read.model, read.epochs) == (Path("own.csv"), None, "gcn_indepent", 7)
    of_own = _config(tmp_path, csv="own.csv", target_columns=["y"], kind="regression", weight_column="w", epochs=7)
    read = stages.train.read(["--dataset", "BACE", "--config", of_own], {})
    assert (read.dataset, read.csv, read.target_columns, read.task, read.epochs) == ("BACE", None, (), None, 7)
    for named in ({}, {"dataset": "Tox21"}):  # a file of no table, or of the same one
        of_targets = _config(tmp_path, target_columns=["NR-AR"], **named)
        assert stages.train.read(["--dataset", "Tox21", "--config", of_targets], {}).target_columns == ("NR-AR",)
    of_own = _config(tmp_path, csv="own.csv", target_columns=["y"], kind="regression", weight_column="w", epochs=7)
    # the same table elsewhere keeps its columns; another target has a kind of its own
    read = stages.train.read(["--csv", "moved.csv", "--config", of_own], {})
    assert (read.csv, read.target_columns, read.task) == (Path("moved.csv"), ("y",), "regression")
    read = stages.train.read(["--csv", "own.csv", "--target-columns", "z", "--config", of_own], {})
    assert (read.target_columns, read.task, read.weight_column) == (("z",), None, "w")


def test_a_file_of_settings_replaces_no_runs_and_names_no_other_file(tmp_path: Path) -> None:
    assert not stages.train.read(["--config", _config(tmp_path, dataset="SAMPL", again=True)], {}).again
    for values, message in (
        ({"config": "b.json"}, "unknown setting 'config'"),
        ({"model": 5}, "model is 5; it must be"),
    ):
        with pytest.raises(SettingError, match=message):
            stages.train.read(["--config", _config(tmp_path, **values)], {})


@pytest.mark.parametrize(
    ("stage", "values"),
    [("train", {"csv": "memory://host/own.csv"}), ("predict", {"molecules": ["memory://host/a.smi"]})],
)
def test_an_address_in_a_file_of_settings_is_not_followed(
    tmp_path: Path, cache: Path, stage: str, values: dict[str, object]
) -> None:
    fsspec.filesystem("memory").pipe("/host/own.csv", b"smiles,y\nC,1\n")
    arguments = ["--config", _config(tmp_path, **values)]
    with pytest.raises(KFLM2Error, match=r"is an address; give it on the command line"):
        STAGES[stage].read(arguments, {}, complete=True)
    assert not (cache / "downloads").exists()
