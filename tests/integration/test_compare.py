"""A comparison from folders of results to a verdict, on runs that were really made."""

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator
from sklearn.metrics import root_mean_squared_error

from kflm2.cli import stages
from kflm2.config.compare import CompareConfig
from kflm2.config.train import TrainConfig
from kflm2.errors import DataError
from kflm2.metrics.statistics import Assumptions, Pair
from kflm2.results import methods
from kflm2.results.methods import Method
from kflm2.results.schema import DatasetRecord
from kflm2.stages.compare import stage as comparing
from kflm2.stages.compare.comparison import Comparison
from kflm2.stages.train import stage as experiment

SEEDS = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four runs of the graph network on 80 molecules of SAMPL."""
    folder = tmp_path_factory.mktemp("results")
    config = TrainConfig.of(
        "gcn_indepent", dataset="SAMPL", limit=80, epochs=3, runs=len(SEEDS), out=folder, fractions=(0.6, 0.2, 0.2)
    )
    config.check()
    experiment.run(config)
    return folder / "SAMPL"


@pytest.fixture
def own(results: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(results, tmp_path / "SAMPL")
    return tmp_path / "SAMPL"


def _config(folder: Path, *more: str, **values: object) -> CompareConfig:
    return CompareConfig.of(
        results=(str(folder / "gcn_indepent"), *more), practical=("0.1",), out=folder.parent / "compare", **values
    )


def _run(folder: Path, seed: int, method: str = "gcn_indepent") -> Path:
    return folder / method / f"random-{seed}"


def test_baselines_see_what_the_model_saw_and_everything_is_kept(own: Path, capsys: pytest.CaptureFixture) -> None:
    (found,) = comparing.run(_config(own, baselines=("mean", "knn", "forest", "xgboost", "svm")))
    assert set(found.table.columns) == {"gcn_indepent", "mean", "knn", "forest", "xgboost", "svm"}
    assert found.table.mean().is_monotonic_increasing  # the best first
    assert list(found.table.index) == list(SEEDS)
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    for seed in SEEDS:
        known = pd.read_csv(_run(own, seed) / "predictions.csv")
        train, test = (known[known["part"] == part] for part in ("train", "test"))
        assert found.table.loc[seed, "mean"] == pytest.approx(
            root_mean_squared_error(test["y_true_expt"], np.full(len(test), train["y_true_expt"].mean()))
        )
        prints = [generator.GetFingerprint(Chem.MolFromSmiles(smiles)) for smiles in train["smiles"]]
        by_knn = pd.read_csv(_run(own, seed, "knn") / "predictions.csv").set_index("row")
        for row, smiles in zip(test["row"], test["smiles"], strict=True):
            like = DataStructs.BulkTanimotoSimilarity(generator.GetFingerprint(Chem.MolFromSmiles(smiles)), prints)
            # of equally similar ones any may be among the five; those that surely are bound the mean
            fifth = sorted(like, reverse=True)[4]
            if sum(value >= fifth for value in like) == 5:
                expected = train["y_true_expt"].to_numpy()[np.array(like) >= fifth].mean()
                assert by_knn.loc[row, "y_pred_expt"] == pytest.approx(expected)
        for name in ("gcn_indepent", "svm"):
            made = json.loads((_run(own, seed, name) / "result.json").read_text())
            assert found.table.loc[seed, name] == made["metrics"]["test"]["RMSE"]
    # on molecules that were learnt from, a forest and a machine are far better than the mean
    learnt = json.loads((_run(own, 0, "svm") / "result.json").read_text())
    assert learnt["chosen"]["expt"]["C"] in (1.0, 10.0, 100.0)
    mean = json.loads((_run(own, 0, "mean") / "result.json").read_text())["metrics"]["train"]["RMSE"]
    for name in ("forest", "xgboost", "svm"):
        metrics = json.loads((_run(own, 0, name) / "result.json").read_text())["metrics"]
        assert metrics["train"]["RMSE"] < 0.5 * mean
        assert found.table[name].mean() < found.table["mean"].mean()

    folder = own.parent / "compare" / "SAMPL"
    printed = capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == {
        "compare.md",
        "figures.csv",
        "pairs.csv",
        "paired.png",
        "ranks.png",
        "tukey.png",
    }
    assert "6 methods on the same 4 runs (random)\na difference matters from 0.1 on" in printed
    pairs = pd.read_csv(folder / "pairs.csv")
    assert len(pairs) == 15
    for line in pairs.itertuples():
        assert line.difference == pytest.approx((found.table[line.first] - found.table[line.second]).mean())
        if line.verdict.endswith("is better"):
            better = line.first if line.difference < 0 else line.second
            assert line.verdict == f"{better} is better"
            assert line.p < 0.05
            assert abs(line.difference) >= 0.1
            assert not line.low <= 0 <= line.high
    assert f"| {pairs['first'][0]} - {pairs['second'][0]} |" in (folder / "compare.md").read_text()

    # a second time nothing is computed again
    times = {path: path.stat().st_mtime_ns for path in own.rglob("result.json")}
    comparing.run(_config(own, baselines=("mean", "knn")))
    assert times == {path: path.stat().st_mtime_ns for path in own.rglob("result.json")}


def test_chemprop_is_a_program_that_never_sees_a_test_label(own: Path, tmp_path: Path) -> None:
    """A stand-in that is called as chemprop is, and predicts the mean of what it was given."""
    program = tmp_path / "chemprop"
    program.write_text(
        f"#!{sys.executable}\n"
        "import sys, pathlib, pandas as pd\n"
        "words = dict(zip(sys.argv[2::2], sys.argv[3::2]))\n"
        "if sys.argv[1] == 'train':\n"
        "    table = pd.read_csv(words['--data-path'])\n"
        "    assert list(table) == ['smiles', 'target0', 'part'] and set(table['part']) == {'train', 'val'}\n"
        "    assert words['--task-type'] == 'regression' and words['--splits-column'] == 'part'\n"
        "    pathlib.Path(words['--output-dir']).write_text(str(table[table.part == 'train'].target0.mean()))\n"
        "else:\n"
        "    table = pd.read_csv(words['--test-path'])\n"
        "    table['target0'] = float(pathlib.Path(words['--model-paths']).read_text())\n"
        "    table.to_csv(words['--preds-path'], index=False)\n"
    )
    program.chmod(0o755)
    (found,) = comparing.run(_config(own, baselines=("mean",), chemprop=program))
    np.testing.assert_allclose(found.table["chemprop"], found.table["mean"])
    shutil.rmtree(own / "chemprop")
    program.write_text("#!/bin/sh\necho 'loading'\necho 'ValueError: no such column' >&2\nexit 1\n")
    with pytest.raises(DataError, match="chemprop train failed: ValueError: no such column"):
        comparing.run(_config(own, chemprop=program))
    with pytest.raises(DataError, match="nothing cannot be run: No such file"):
        comparing.run(_config(own, chemprop=tmp_path / "nothing"))


def test_other_programs_and_published_runs(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    lines = []
    for seed in SEEDS:
        known = pd.read_csv(_run(own, seed) / "predictions.csv").query("part == 'test'")
        lines += [
            {"seed": seed, "row": row, "y_pred": y + 0.5}
            for row, y in zip(known["row"], known["y_true_expt"], strict=True)
        ]
    pd.DataFrame(lines).sample(frac=1, random_state=0).to_csv(tmp_path / "theirs.csv", index=False)
    (tmp_path / "published.csv").write_text(
        "method,dataset,split,metric,run,value\nTheirs,SAMPL,scaffold,RMSE,0,2.0\nTheirs,SAMPL,scaffold,RMSE,1,3.0\n"
        "Theirs,SAMPL,scaffold,MAE,0,1.0\nTheirs,Delaney,scaffold,RMSE,0,1.0\nOnce,SAMPL,,rmse,0,1.5\n"
    )
    config = _config(own, predictions=(f"theirs={tmp_path / 'theirs.csv'}",), published=tmp_path / "published.csv")
    (found,) = comparing.run(config)
    # of 16 molecules, some have the same structure and row numbers go with rows, not with places
    np.testing.assert_allclose(found.table["theirs"], 0.5)
    printed = capsys.readouterr().out
    assert "theirs is better" in printed
    assert "Theirs  scaffold     2  2.500 ± 0.707" in printed
    assert printed.count("Theirs") == 1
    assert "Once           -     1          1.500" in printed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns="seed"), "no column seed; there are row, y_pred"),
        (lambda table: table[table["seed"] < 3], "16 of 16 test molecules of seed 3 are missing: rows"),
        (lambda table: pd.concat([table, table.head(1)]), "of seed 0 is twice"),
        (lambda table: table.assign(y_pred="high"), "of seed 0 has no number"),
        (lambda table: table.assign(smiles="C#C"), "of seed 0 is another molecule than in the dataset"),
    ],
)
def test_predictions_that_cannot_be_used(
    own: Path, tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    lines = [
        {"seed": seed, "row": row, "y_pred": 1.0}
        for seed in SEEDS
        for row in pd.read_csv(_run(own, seed) / "predictions.csv").query("part == 'test'")["row"]
    ]
    change(pd.DataFrame(lines)).to_csv(tmp_path / "theirs.csv", index=False)
    with pytest.raises(DataError, match=message):
        comparing.run(_config(own, predictions=(str(tmp_path / "theirs.csv"),)))


def _edit(folder: Path, **values: object) -> None:
    made = json.loads((folder / "result.json").read_text())
    for name, value in values.items():
        part, _, key = name.partition("__")
        made[part] = {**made[part], key: value} if key else value
    (folder / "result.json").write_text(json.dumps(made))


def _change(folder: Path, column: str, row: int, value: object) -> None:
    table = pd.read_csv(folder / "predictions.csv")
    table[column] = table[column].astype(object)
    table.loc[row, column] = value
    table.to_csv(folder / "predictions.csv", index=False)


def test_runs_that_cannot_be_paired_are_refused_and_named(own: Path) -> None:
    other = own / "other"

    def fresh() -> None:
        shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(own / "gcn_indepent", other)

    def refused(message: str) -> None:
        with pytest.raises(DataError, match=message):
            comparing.run(_config(own, str(other)))

    fresh()
    shutil.rmtree(_run(own, 2, "other"))
    refused(r"other lacks 1 of gcn_indepent's runs \(random, seeds 2\); 3 in common")
    for seed in (0, 1):
        shutil.rmtree(_run(own, seed, "other"))
    refused(r"other lacks 3 of gcn_indepent's runs \(random, seeds 0, 1, 2\); 1 in common")
    fresh()
    was = pd.read_csv(_run(own, 1, "other") / "predictions.csv").loc[3, "part"]
    _change(_run(own, 1, "other"), "part", 3, "valid" if was == "train" else "train")
    refused(r"their random splits of seed 1 differ \(.{12} and .{12}\)")
    for column, value in (("y_true_expt", -77.0), ("smiles", "CCCCO")):
        fresh()
        _change(_run(own, 1, "other"), column, 3, value)
        refused("in seed 1 the same rows have other SMILES or labels")
    fresh()
    _edit(_run(own, 1, "other"), dataset__sha256="f" * 64)
    refused(r"random-1 was measured on another SAMPL than .*random-0")
    for seed in SEEDS:
        _edit(_run(own, seed, "other"), dataset__sha256="f" * 64)
    refused(r"SAMPL's file is .{12} for one, ffffffffffff for other")
    fresh()
    for seed in SEEDS:
        _edit(_run(own, seed, "other"), dataset__targets=["calc"])
    refused("one predicts expt, the other calc")
    fresh()
    _edit(_run(own, 3, "other"), config__epochs=9)
    refused("random-3 and .*random-0 are runs of different settings: epochs")
    fresh()
    (other / "random-0").rename(other / "scaffold-0")
    refused("holds runs of random, scaffold; choose one with --split")
    fresh()
    for seed in SEEDS:
        (other / f"random-{seed}").rename(other / f"scaffold-{seed}")
    refused("one was split by random, the other by scaffold")
    fresh()
    (_run(own, 1, "other") / "result.json").write_text("{")
    refused(r"random-1/result\.json is not JSON")
    fresh()
    (_run(own, 1, "other") / "predictions.csv").unlink()
    refused(r"random-1: predictions\.csv cannot be read")
    fresh()
    for method in ("gcn_indepent", "other"):
        for seed in SEEDS[1:]:
            shutil.copy(_run(own, 0, method) / "predictions.csv", _run(own, seed, method))
    refused("SAMPL: the 4 runs test the same molecules")
    shutil.rmtree(other)
    with pytest.raises(DataError, match="two methods of SAMPL are named gcn_indepent"):
        comparing.run(_config(own, str(own / "gcn_indepent")))


def test_too_few_runs_and_too_few_methods(own: Path) -> None:
    with pytest.raises(DataError, match="gcn_indepent is the only method"):
        comparing.run(_config(own))
    for seed in (2, 3):
        shutil.rmtree(_run(own, seed))
    with pytest.raises(DataError, match="2 runs in common, and at least 3 are needed"):
        comparing.run(_config(own, baselines=("mean",)))
    assert not (own / "mean").exists()


def test_baselines_are_completed_never_mixed_up_and_overwrite_nothing(own: Path) -> None:
    whole = _config(own, baselines=("mean", "forest"))
    comparing.run(whole)
    before = (_run(own, 0, "forest") / "predictions.csv").read_bytes()
    # stopped halfway, with a file that the disk lost; the dataset's folder is read this time
    shutil.rmtree(_run(own, 2, "forest"))
    (found,) = comparing.run(dataclasses.replace(whole, results=(str(own),)))
    assert sorted(found.table.columns) == ["forest", "gcn_indepent", "mean"]
    assert len(found.table) == len(SEEDS)
    (_run(own, 0, "forest") / "result.json").write_text("{")
    comparing.run(whole)
    assert (_run(own, 0, "forest") / "predictions.csv").read_bytes() == before
    # a model with fewer runs is compared on those
    shutil.rmtree(_run(own, 3))
    (found,) = comparing.run(whole)
    assert list(found.table.index) == [0, 1, 2]
    # other molecules in the same rows: what was there is of no use
    for seed in SEEDS[:3]:
        _change(_run(own, seed), "smiles", 3, "CCCCO")
    (found,) = comparing.run(whole)
    assert pd.read_csv(_run(own, 0, "forest") / "predictions.csv").loc[3, "smiles"] == "CCCCO"
    # a person's own runs of that name stay
    shutil.rmtree(own / "forest")
    shutil.copytree(own / "gcn_indepent", own / "forest")
    with pytest.raises(DataError, match="holds runs of gcn_indepent, where the baseline forest would go"):
        comparing.run(whole)


def _classes(own: Path, name: str, values: list[float | None]) -> None:
    """Runs of made-up ROC-AUCs, of two targets."""
    shutil.copytree(own / "gcn_indepent", own / name)
    for seed, value in zip(SEEDS, values, strict=True):
        _edit(
            _run(own, seed, name),
            dataset={"name": "Toxic", "sha256": "a", "targets": ["A", "B"], "unit": None, "kind": "classification"},
            metrics={"test": {"ROC-AUC": value, "MCC": 0.1}},
        )


def test_of_classes_the_larger_figure_is_better(own: Path, capsys: pytest.CaptureFixture) -> None:
    _classes(own, "low", [0.70, 0.72, None, 0.71])
    _classes(own, "high", [0.80, 0.81, None, 0.83])
    config = CompareConfig.of(
        results=(str(own / "low"), str(own / "high")), practical=("0.02",), out=own.parent / "compare"
    )
    (found,) = comparing.run(config)
    printed = capsys.readouterr().out
    assert "left out  Toxic, seeds 2: nobody has a ROC-AUC there" in printed
    assert list(found.table.index) == [0, 1, 3]
    assert found.ordered() == ["high", "low"]
    assert found.ranks().to_dict() == {"low": 2.0, "high": 1.0}
    (line,) = (line for line in printed.splitlines() if line.startswith("high - low"))
    assert "3:0  high is better" in line

    _edit(_run(own, 0, "low"), metrics={"test": {"ROC-AUC": None, "MCC": 0.1}})
    with pytest.raises(DataError, match="Toxic, low, seed 0: no ROC-AUC; there are MCC"):
        comparing.run(config)
    rows = [
        {"seed": seed, "row": row, "y_pred_A": 0.5, "y_pred_B": 1.5}
        for seed in SEEDS
        for row in pd.read_csv(_run(own, seed) / "predictions.csv").query("part == 'test'")["row"]
    ]
    pd.DataFrame(rows).to_csv(own / "theirs.csv", index=False)
    config = dataclasses.replace(config, results=(str(own / "high"),), predictions=(f"x={own / 'theirs.csv'}",))
    with pytest.raises(DataError, match=r"row \d+ of seed 0 has no probability, from 0 to 1"):
        comparing.run(config)


@pytest.mark.parametrize(
    ("difference", "low", "high", "p", "verdict"),
    [
        (-0.3, -0.5, -0.1, 0.01, "a is better"),
        (0.3, 0.1, 0.5, 0.01, "b is better"),
        (0.3, 0.1, 0.5, 0.06, "not told apart"),  # the test says no
        (0.3, -0.1, 0.7, 0.01, "not told apart"),  # the corrected interval says no
        (0.09, 0.01, 0.17, 0.01, "b may be better"),  # by more than matters, or by less
        (0.05, 0.01, 0.09, 0.01, "differ by less than matters"),
        (0.01, -0.05, 0.07, 0.7, "alike"),
        (0.0, 0.0, 0.0, 1.0, "alike"),
    ],
)
def test_verdicts(difference: float, low: float, high: float, p: float, verdict: str) -> None:
    pair = Pair("a", "b", difference, low, high, (low, high), p, None, p, p, 1.0, 1, 1)
    table = pd.DataFrame({"a": [1.0, 2.0], "b": [2.0, 1.0]})
    made = [table, Assumptions(1.0, 1.0), [], [pair], []]
    method = Method("a", DatasetRecord("One", "a", ["y"], None), "random", {})
    assert Comparison(method, "RMSE", 0.1, *made).verdict(pair) == verdict
    mirrored = verdict.replace("a ", "c ").replace("b ", "a ").replace("c ", "b ") if " better" in verdict else verdict
    assert Comparison(method, "R2", 0.1, *made).verdict(pair) == mirrored


def test_two_datasets_and_holm(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A method that is better by 1 on one dataset and the same on the other."""
    for dataset, better in (("One", 1.0), ("Two", 0.0)):
        for method in ("first", "second"):
            target = tmp_path / dataset / method
            shutil.copytree(own / "gcn_indepent", target)
            for seed in SEEDS:
                rmse = 3.0 + 0.1 * seed - (better if method == "second" else 0.01 * (-2) ** seed / 8)
                _edit(
                    target / f"random-{seed}",
                    dataset__name=dataset,
                    dataset__sha256=dataset,
                    metrics={"test": {"RMSE": rmse}},
                )
    config = CompareConfig.of(
        results=(str(tmp_path / "One"), str(tmp_path / "Two")), practical=("One=0.5", "Two=0.5"), out=tmp_path / "out"
    )
    comparing.run(config)
    across = pd.read_csv(tmp_path / "out" / "across.csv").set_index("dataset")
    assert across["verdict"].to_dict() == {"One": "second is better", "Two": "alike"}
    assert across.loc["One", "p_holm"] == pytest.approx(2 * across.loc["One", "p"])
    assert across.loc["Two", "p_holm"] == across.loc["Two", "p"]
    assert "second - first         2  1/1/0" in capsys.readouterr().out
    assert not (tmp_path / "out" / "One" / "ranks.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give folders of results"),
        (["results/SAMPL"], "say with --practical, before any metric is read"),
        (["results/SAMPL", "--practical", "much"], "practical 'much': 'much' is no difference"),
        (["results/SAMPL", "--practical", "SAMPL=-1"], "'-1' is no difference"),
        (["nowhere", "--practical", "0.1"], "results nowhere: no such folder"),
    ],
)
def test_bad_words_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        stages.compare.from_command_line(words)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_empty_folder_and_a_folder_of_folders(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no result\.json of a run in it"):
        methods.find(str(tmp_path / "empty"), None)
    shutil.copytree(own / "gcn_indepent", own / "second")
    assert [method.name for method in methods.find(str(own), None)] == ["gcn_indepent", "second"]
    assert [method.name for method in methods.find(f"mine={own / 'second'}", None)] == ["mine"]
    with pytest.raises(DataError, match="holds a folder for each of 2 methods, not one named mine"):
        methods.find(f"mine={own}", None)
    # a model without runs of the kind is left out of a dataset's folder
    for seed in SEEDS:
        (own / "second" / f"random-{seed}").rename(own / "second" / f"scaffold-{seed}")
    assert [method.name for method in methods.find(str(own), "random")] == ["gcn_indepent"]
    monkeypatch.chdir(own / "gcn_indepent")
    assert [method.name for method in methods.find(".", None)] == ["gcn_indepent"]


def test_results_may_be_named_in_a_file(own: Path, tmp_path: Path) -> None:
    results = [str(own / "gcn_indepent"), str(own)]
    (tmp_path / "compare.json").write_text(
        json.dumps({"results": results, "practical": ["0.1"], "baselines": ["mean"]})
    )
    read = stages.compare.read(["--config", str(tmp_path / "compare.json"), "--figure", "MAE"], {})
    assert (list(read.results), read.practical, read.baselines, read.metric) == (results, ("0.1",), ("mean",), "MAE")
