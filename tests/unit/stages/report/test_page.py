"""Data and text of the page, from generated runs."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator
from rdkit.Chem.Draw import rdMolDraw2D
from sklearn.metrics import roc_auc_score

from kflm2.data.datasets import Task
from kflm2.metrics.conformal import Coverage
from kflm2.results.saved_runs import SavedRun
from kflm2.results.schema import DatasetRecord, RowCounts, RunResult, SplitRecord
from kflm2.stages.report import page, plot_data, text
from kflm2.stages.report.collection import SavedDataset, SavedMethod
from kflm2.stages.report.molecule_svg import SCALE, SIZE, draw

SMILES = ["C" * n for n in range(1, 12)] + ["c1ccccc1", "Cc1ccccc1O", "CCN", "CC(=O)Nc1ccc(O)cc1", "ClCCl"]
PARTS = ["train"] * 7 + ["valid"] * 4 + ["test"] * 5


def _run(folder: Path, seed: int = 0, task: Task = "regression", valid: float = 1.0, share: float = 0.8) -> SavedRun:
    """A run with random parts, labels and predictions, from its seed."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(SMILES))
    true = rng.normal(size=len(SMILES)) if task == "regression" else np.arange(len(SMILES)) % 2.0
    pred = true + rng.normal(size=len(SMILES)) if task == "regression" else rng.uniform(size=len(SMILES))
    table = pd.DataFrame(
        {"row": np.arange(1, len(SMILES) + 1), "smiles": SMILES, "part": np.array(PARTS)[order], "y_true_y": true}
    ).assign(y_pred_y=pred)
    folder.mkdir(parents=True)
    table.to_csv(folder / "predictions.csv", index=False)
    metric = "RMSE" if task == "regression" else "ROC-AUC"
    result = RunResult(
        dataset=DatasetRecord("Own", "ab", ["y"], "m", task),
        model="gcn_indepent",
        seed=seed,
        split=SplitRecord("random", "cd", {"train": 7, "valid": 4, "test": 5}),
        rows=RowCounts(16, 16, 0),
        metrics={"valid": {metric: valid}, "test": {metric: 2 * valid}},
        coverage={"test": Coverage(0.9, share, 1.0)},
        config={"csv": "own.csv"},
    )
    return SavedRun(folder, result)


def _method(folder: Path, name: str = "one", split: str = "random", seeds: int = 2, **values: Any) -> SavedMethod:
    runs = [_run(folder / name / f"{split}-{seed}", seed, **values) for seed in range(seeds)]
    return SavedMethod(name, split, runs, "", f"kflm2 train own.csv --name {name} --split scaffold")


def test_the_worst_molecules_and_the_trend_are_means_over_the_runs(tmp_path: Path) -> None:
    method, similarity = _method(tmp_path, seeds=6), SavedDataset([], {}, "").similarity
    tested: dict[str, list[tuple[float, float]]] = {}
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    fingerprints = {smiles: generator.GetFingerprint(Chem.MolFromSmiles(smiles)) for smiles in SMILES}
    for run in method.runs:
        train = [fingerprints[smiles] for smiles in run.table.query("part == 'train'")["smiles"]]
        for _, row in run.table.query("part == 'test'").iterrows():
            nearest = max(DataStructs.TanimotoSimilarity(fingerprints[row["smiles"]], other) for other in train)
            tested.setdefault(row["smiles"], []).append((abs(row["y_pred_y"] - row["y_true_y"]), nearest))
    worst = plot_data.worst(method, similarity, 0)
    expected = sorted(tested, key=lambda smiles: -np.mean([error for error, _ in tested[smiles]]))
    assert [molecule["smiles"] for molecule in worst] == expected
    for molecule in worst:
        error, nearest = np.mean(tested[molecule["smiles"]], axis=0)
        assert (molecule["error"], molecule["near"]) == (pytest.approx(error), pytest.approx(nearest))
        assert molecule["runs"] == len(tested[molecule["smiles"]])
    assert max(molecule["runs"] for molecule in worst) > 1
    assert len(plot_data.worst(_method(tmp_path / "more", seeds=1), similarity, 0)) == 5

    # every bin of the trend has the molecules of its range; only bins with fewer than five are left out
    pairs = [pair for molecule_pairs in tested.values() for pair in molecule_pairs]
    for low, high, count, error in plot_data.trend(method, similarity, 0):
        errors = [value for value, nearest in pairs if low <= nearest < high or (high == 1 and nearest == 1)]
        assert count == len(errors) >= 5
        assert error == pytest.approx(np.mean(errors))


def test_a_molecule_without_a_label_is_not_among_the_worst_and_nan_is_null(tmp_path: Path) -> None:
    method = _method(tmp_path, seeds=1)
    test_rows = method.first.table.query("part == 'test'").index
    method.first.table.loc[test_rows[0], "y_true_y"] = np.nan
    assert len(plot_data.worst(method, SavedDataset([], {}, "").similarity, 0)) == 4
    assert page._round([{"a": float("nan")}, (float("inf"), 1.23456789, 7)]) == [{"a": None}, [None, 1.2346, 7]]


def test_curves_have_their_end_points_and_the_area_of_the_full_curve(tmp_path: Path) -> None:
    method = _method(tmp_path, seeds=3, task="classification")
    curves = plot_data.curves(method, 0)
    for part in ("train", "valid", "test"):
        rows = method.first.table.query("part == @part")
        xs, ys = curves["roc"]["parts"][part]["curve"]
        assert (xs[0], ys[0], xs[-1], ys[-1]) == (0, 0, 1, 1)
        assert curves["roc"]["parts"][part]["area"] == pytest.approx(roc_auc_score(rows["y_true_y"], rows["y_pred_y"]))
    assert len(curves["roc"]["others"]) == 2
    raw = plot_data.reliability(method, 0)["raw"]
    assert sum(count for _, _, count in raw) == 15
    test_rows = pd.concat([run.table.query("part == 'test'") for run in method.runs])
    assert sum(share * count for _, share, count in raw) == pytest.approx(test_rows["y_true_y"].sum())
    true, pred = np.arange(200) % 2.0, np.linspace(0, 1, 200)
    reduced = plot_data._curve("roc", true, pred)
    assert reduced is not None
    xs, ys = reduced
    assert len(xs) <= 60
    assert (xs[0], ys[-1]) == (0, 1)
    assert plot_data._curve("pr", np.ones(4), np.ones(4)) is None


def test_the_best_method_on_validation_is_shown_first(tmp_path: Path) -> None:
    methods = [
        _method(tmp_path, "easy", "cluster", valid=0.1),
        _method(tmp_path, "bad", valid=2.0),
        _method(tmp_path, "good", valid=1.0),
    ]
    first, reason = text.first_shown(SavedDataset(methods, {}, ""))
    # the cluster splits have one method; metrics on different kinds of split are not comparable
    assert methods[first].name == "good"
    assert "best of the 2 methods on random splits by validation RMSE (1.000" in reason
    classes = [
        _method(tmp_path / "classes", name, task="classification", valid=value)
        for name, value in (("low", 0.6), ("high", 0.9))
    ]
    assert text.first_shown(SavedDataset(classes, {}, ""))[0] == 1


def test_nominal_and_measured_coverage_of_intervals(tmp_path: Path) -> None:
    first, other = _method(tmp_path, "one", share=0.92), _method(tmp_path, "other", "scaffold", share=0.7)
    promise = text.promise(first, SavedDataset([first, other], {}, ""))
    expected = "90 % of the intervals hold the measured value. Measured for one: on random splits 92.0"
    assert expected in promise["sentences"][0]
    assert "not measured for one. Of other methods, on scaffold splits: other 70.0 ± 0.0 %." in promise["sentences"][-1]
    assert promise["command"] == "kflm2 train own.csv --name one --split scaffold"
    scaffold = _method(tmp_path, "one", "scaffold", share=0.7)
    promise = text.promise(first, SavedDataset([first, scaffold], {}, ""))
    assert "on scaffold splits 70.0 ± 0.0 % (2 runs)" in promise["sentences"][0]
    assert "20.0 points below the nominal coverage" in promise["sentences"][-1]
    assert promise["command"] is None


def test_the_coverage_is_recomputed_if_a_run_lacks_it(tmp_path: Path) -> None:
    run = _run(tmp_path / "random-0")
    run = dataclasses.replace(run, result=dataclasses.replace(run.result, coverage={}))
    valid, test = (run.table.query("part == @part") for part in ("valid", "test"))
    assert run.coverage.recomputed
    # four validation molecules are too few for a coverage of 90 %: the intervals are infinite
    assert (run.coverage.share, run.coverage.size) == (1.0, None)
    assert len(valid) == 4 and len(test) == 5


@pytest.mark.parametrize(
    "name", ["</script><script>alert(1)</script>", "<!--<script>", "&lt;", "a\u2028b\u2029c", "\\"]
)
def test_data_cannot_end_its_element(name: str) -> None:
    out = page.escaped({"name": name})
    assert not re.search("[<>&\u2028\u2029]", out)
    assert json.loads(out) == {"name": name}
    with pytest.raises(ValueError, match="not JSON compliant"):
        page.escaped(float("nan"))


def test_a_placeholder_in_the_data_is_not_replaced() -> None:
    html = page.html([{"name": "{{script}} {{data}}"}])
    assert html.count("{{script}} {{data}}") == 1
    assert html.count('"use strict"') == 1


def _points(d: str) -> np.ndarray:
    """(n, 2) absolute points of an SVG path of M, L, Q, C, Z, with absolute or relative coordinates."""
    path: list[tuple[float, float]] = []
    last = first = (0.0, 0.0)
    for command, numbers in re.findall(r"([A-Za-z])([^A-Za-z]*)", d):
        values = [float(number) for number in re.findall(r"-?[\d.]+", numbers)]
        points = list(zip(values[::2], values[1::2], strict=True))
        if command.islower():
            points = [(x + last[0], y + last[1]) for x, y in points]
        last = points[-1] if points else first
        first = points[0] if command == "M" else first
        path += points
    return np.array(path)


@pytest.mark.parametrize("smiles", ["CC(=O)Nc1ccc(O)cc1", "C[C@H](N)C(=O)O", "F/C=C/Cl", "[Na+].[Cl-]", "C"])
def test_a_reduced_drawing_equals_the_drawing(smiles: str) -> None:
    drawer = rdMolDraw2D.MolDraw2DSVG(*SIZE)
    options: Any = drawer.drawOptions()
    options.clearBackground, options.bondLineWidth, options.padding, options.fixedBondLength = False, 1.2, 0.06, 24
    rdMolDraw2D.PrepareAndDrawMolecule(drawer, Chem.MolFromSmiles(smiles))
    drawer.FinishDrawing()
    full = drawer.GetDrawingText()
    reduced = draw(smiles)
    assert reduced is not None
    root = ElementTree.fromstring(f"<svg>{reduced}</svg>")
    reduced_points = np.concatenate([_points(path.get("d", "")) for path in root]) / SCALE
    full_points = np.concatenate([_points(d) for d in re.findall(r" d='([^']*)'", full)])
    assert len(reduced_points) == len(full_points)
    # compared without order: the reduced paths are grouped by colour
    for point in reduced_points:
        assert np.abs(full_points - point).max(axis=1).min() < 0.6 / SCALE
    assert len(reduced) < len(full) / 2
    colors = {path.get("stroke") or path.get("fill") for path in root}
    assert colors <= set(re.findall("#[0-9A-F]{6}", full)) | {"#000"}


def test_the_drawing_is_none_for_invalid_and_very_large_molecules() -> None:
    assert draw("not a molecule") is None
    assert draw("C" * 200) is None


def test_one_outlier_does_not_press_the_points_of_a_map_together() -> None:
    points = np.random.default_rng(0).normal(size=(60, 2))
    far = points.copy()
    far[7] = (900.0, -2.0)
    xs, ys = np.array(plot_data._unit_square(far))
    assert xs[7] == xs.max() == 1.0
    assert np.ptp(np.delete(xs, 7)) > 0.25
    # without an outlier nothing moves: distances keep their ratios
    xs, ys = np.array(plot_data._unit_square(points))
    scale = np.ptp(points, axis=0).max()
    np.testing.assert_allclose(np.diff(xs), np.diff(points[:, 0]) / scale, atol=0.0011)
    np.testing.assert_allclose(np.diff(ys), np.diff(points[:, 1]) / scale, atol=0.0011)


def test_the_sentences_of_an_audit() -> None:
    summary = {
        "dataset": {"kind": "regression"},
        "rows": {"read": 1200, "rejected": 3},
        "smiles": {"salts_or_mixtures": 1, "undefined_stereo": 2, "one_or_two_atoms": 0},
        "labels": {"missing": 0},
        "duplicates": {"same_structure": 5, "groups": 4, "groups_that_agree": 3, "largest_spread": 0.51},
        "leakage": {"test_molecules": 100, "same_structure": 2, "with_another_label": 1},
        "similarity": {"quartiles": [0.4, 0.5, 0.95], "share_above_0.9": 0.3},
    }
    lines = text.audit(summary)
    assert "3 of 1,200 rows cannot be used." in lines[0]["text"]
    duplicates = "5 rows repeat a structure (by InChIKey). In 1 of 4 such groups the labels differ, by 0.51 at most."
    assert lines[1]["text"] == duplicates
    assert lines[2]["text"] == "2 of 100 test molecules are in train or valid too, 1 of them with another label."
    assert [line["doubt"] for line in lines] == [True, True, True, False, False, False]
    assert text.audit({})[0]["doubt"]
