"""A page's data and its text, from runs that are written by hand."""

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
from kflm2.stages.report import page
from kflm2.stages.report import plot_data as page_figures
from kflm2.stages.report import text as page_words
from kflm2.stages.report.collection import SavedDataset, SavedMethod
from kflm2.stages.report.molecule_svg import SCALE, SIZE, draw

SMILES = ["C" * n for n in range(1, 12)] + ["c1ccccc1", "Cc1ccccc1O", "CCN", "CC(=O)Nc1ccc(O)cc1", "ClCCl"]
PARTS = ["train"] * 7 + ["valid"] * 4 + ["test"] * 5


def _run(folder: Path, seed: int = 0, task: Task = "regression", valid: float = 1.0, share: float = 0.8) -> SavedRun:
    """A run whose parts, labels and predictions are drawn from its seed."""
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


def test_the_worst_are_means_over_the_runs_that_tested_them(tmp_path: Path) -> None:
    method, near = _method(tmp_path, seeds=6), SavedDataset([], {}, "").similarity
    slow: dict[str, list[tuple[float, float]]] = {}
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    prints = {smiles: generator.GetFingerprint(Chem.MolFromSmiles(smiles)) for smiles in SMILES}
    for run in method.runs:
        train = [prints[smiles] for smiles in run.table.query("part == 'train'")["smiles"]]
        for _, line in run.table.query("part == 'test'").iterrows():
            like = max(DataStructs.TanimotoSimilarity(prints[line["smiles"]], other) for other in train)
            slow.setdefault(line["smiles"], []).append((abs(line["y_pred_y"] - line["y_true_y"]), like))
    found = page_figures.worst(method, near, 0)
    expected = sorted(slow, key=lambda smiles: -np.mean([error for error, _ in slow[smiles]]))
    assert [one["smiles"] for one in found] == expected
    for one in found:
        error, like = np.mean(slow[one["smiles"]], axis=0)
        assert (one["error"], one["near"]) == (pytest.approx(error), pytest.approx(like))
        assert one["runs"] == len(slow[one["smiles"]])
    assert max(one["runs"] for one in found) > 1
    assert len(page_figures.worst(_method(tmp_path / "more", seeds=1), near, 0)) == 5

    # every bin of the trend holds its own molecules, and none is lost but those of bins with fewer than five
    every = [pair for own in slow.values() for pair in own]
    for low, high, count, error in page_figures.trend(method, near, 0):
        inside = [one for one, like in every if low <= like < high or (high == 1 and like == 1)]
        assert count == len(inside) >= 5
        assert error == pytest.approx(np.mean(inside))


def test_a_missing_label_is_no_error_and_no_number(tmp_path: Path) -> None:
    method = _method(tmp_path, seeds=1)
    tested = method.first.table.query("part == 'test'").index
    method.first.table.loc[tested[0], "y_true_y"] = np.nan
    assert len(page_figures.worst(method, SavedDataset([], {}, "").similarity, 0)) == 4
    assert page._round([{"a": float("nan")}, (float("inf"), 1.23456789, 7)]) == [{"a": None}, [None, 1.2346, 7]]


def test_curves_end_where_they_must_and_their_area_is_of_the_whole(tmp_path: Path) -> None:
    method = _method(tmp_path, seeds=3, task="classification")
    found = page_figures.curves(method, 0)
    for part in ("train", "valid", "test"):
        rows = method.first.table.query("part == @part")
        xs, ys = found["roc"]["parts"][part]["curve"]
        assert (xs[0], ys[0], xs[-1], ys[-1]) == (0, 0, 1, 1)
        assert found["roc"]["parts"][part]["area"] == pytest.approx(roc_auc_score(rows["y_true_y"], rows["y_pred_y"]))
    assert len(found["roc"]["others"]) == 2
    raw = page_figures.reliability(method, 0)["raw"]
    assert sum(count for _, _, count in raw) == 15
    tested = pd.concat([run.table.query("part == 'test'") for run in method.runs])
    assert sum(share * count for _, share, count in raw) == pytest.approx(tested["y_true_y"].sum())
    true, pred = np.arange(200) % 2.0, np.linspace(0, 1, 200)
    thinned = page_figures._curve("roc", true, pred)
    assert thinned is not None
    xs, ys = thinned
    assert len(xs) <= 60
    assert (xs[0], ys[-1]) == (0, 1)
    assert page_figures._curve("pr", np.ones(4), np.ones(4)) is None


def test_the_best_on_validation_is_shown_first(tmp_path: Path) -> None:
    methods = [
        _method(tmp_path, "easy", "cluster", valid=0.1),
        _method(tmp_path, "bad", valid=2.0),
        _method(tmp_path, "good", valid=1.0),
    ]
    first, why = page_words.first_shown(SavedDataset(methods, {}, ""))
    assert methods[first].name == "good"  # the cluster splits have one method, and their figures do not compare
    assert "best of the 2 methods on random splits by validation RMSE (1.000" in why
    classes = [
        _method(tmp_path / "classes", name, task="classification", valid=value)
        for name, value in (("low", 0.6), ("high", 0.9))
    ]
    assert page_words.first_shown(SavedDataset(classes, {}, ""))[0] == 1


def test_what_intervals_promised_and_kept(tmp_path: Path) -> None:
    one, other = _method(tmp_path, "one", share=0.92), _method(tmp_path, "other", "scaffold", share=0.7)
    said = page_words.promise(one, SavedDataset([one, other], {}, ""))
    assert "90 % of the intervals hold the measured value. Found for one: on random splits 92.0" in said["sentences"][0]
    assert "not measured for one. Of other methods: other held 70.0 ± 0.0 %." in said["sentences"][-1]
    assert said["command"] == "kflm2 train own.csv --name one --split scaffold"
    same = _method(tmp_path, "one", "scaffold", share=0.7)
    said = page_words.promise(one, SavedDataset([one, same], {}, ""))
    assert "on scaffold splits 70.0 ± 0.0 % (2 runs)" in said["sentences"][0]
    assert "20.0 points below the promise" in said["sentences"][-1]
    assert said["command"] is None


def test_a_run_that_does_not_say_its_coverage_is_measured_now(tmp_path: Path) -> None:
    run = _run(tmp_path / "random-0")
    run = dataclasses.replace(run, result=dataclasses.replace(run.result, coverage={}))
    valid, test = (run.table.query("part == @part") for part in ("valid", "test"))
    assert run.coverage.recomputed
    # of four validation molecules nothing can be promised with 90 %: the intervals are infinite
    assert (run.coverage.share, run.coverage.size) == (1.0, None)
    assert len(valid) == 4 and len(test) == 5


@pytest.mark.parametrize(
    "text", ["</script><script>alert(1)</script>", "<!--<script>", "&lt;", "a\u2028b\u2029c", "\\"]
)
def test_data_cannot_end_its_element(text: str) -> None:
    out = page.escaped({"name": text})
    assert not re.search("[<>&\u2028\u2029]", out)
    assert json.loads(out) == {"name": text}
    with pytest.raises(ValueError, match="not JSON compliant"):
        page.escaped(float("nan"))


def test_a_place_for_text_in_the_data_is_not_filled() -> None:
    html = page.html([{"name": "{{script}} {{data}}"}])
    assert html.count("{{script}} {{data}}") == 1
    assert html.count('"use strict"') == 1


def _points(d: str) -> np.ndarray:
    """(n, 2) points that a path of M, L, Q, C, Z goes through, absolute; in RDKit's form or in ours."""
    out: list[tuple[float, float]] = []
    at = first = (0.0, 0.0)
    for command, numbers in re.findall(r"([A-Za-z])([^A-Za-z]*)", d):
        values = [float(number) for number in re.findall(r"-?[\d.]+", numbers)]
        points = list(zip(values[::2], values[1::2], strict=True))
        if command.islower():
            points = [(x + at[0], y + at[1]) for x, y in points]
        at = points[-1] if points else first
        first = points[0] if command == "M" else first
        out += points
    return np.array(out)


@pytest.mark.parametrize("smiles", ["CC(=O)Nc1ccc(O)cc1", "C[C@H](N)C(=O)O", "F/C=C/Cl", "[Na+].[Cl-]", "C"])
def test_a_small_drawing_is_the_drawing(smiles: str) -> None:
    drawer = rdMolDraw2D.MolDraw2DSVG(*SIZE)
    options: Any = drawer.drawOptions()
    options.clearBackground, options.bondLineWidth, options.padding, options.fixedBondLength = False, 1.2, 0.06, 24
    rdMolDraw2D.PrepareAndDrawMolecule(drawer, Chem.MolFromSmiles(smiles))
    drawer.FinishDrawing()
    whole = drawer.GetDrawingText()
    small = draw(smiles)
    assert small is not None
    root = ElementTree.fromstring(f"<svg>{small}</svg>")
    ours = np.concatenate([_points(path.get("d", "")) for path in root]) / SCALE
    theirs = np.concatenate([_points(d) for d in re.findall(r" d='([^']*)'", whole)])
    assert len(ours) == len(theirs)
    # sorted by place: ours are grouped by colour
    for own in ours:
        assert np.abs(theirs - own).max(axis=1).min() < 0.6 / SCALE
    assert len(small) < len(whole) / 2
    colors = {path.get("stroke") or path.get("fill") for path in root}
    assert colors <= set(re.findall("#[0-9A-F]{6}", whole)) | {"#000"}


def test_what_cannot_be_drawn_is_none() -> None:
    assert draw("not a molecule") is None
    assert draw("C" * 200) is None


def test_an_audit_in_words() -> None:
    found = {
        "dataset": {"kind": "regression"},
        "rows": {"read": 1200, "rejected": 3},
        "smiles": {"salts_or_mixtures": 1, "undefined_stereo": 2, "one_or_two_atoms": 0},
        "labels": {"missing": 0},
        "duplicates": {"same_structure": 5, "groups": 4, "groups_that_agree": 3, "largest_spread": 0.51},
        "leakage": {"test_molecules": 100, "same_structure": 2, "with_another_label": 1},
        "similarity": {"quartiles": [0.4, 0.5, 0.95], "share_above_0.9": 0.3},
    }
    lines = page_words.audit(found)
    assert "3 of 1,200 rows cannot be used." in lines[0]["text"]
    text = "5 rows repeat a structure (by InChIKey). In 1 of 4 such groups the labels differ, by 0.51 at most."
    assert lines[1]["text"] == text
    assert lines[2]["text"] == "2 of 100 test molecules are in train or valid too, 1 of them with another label."
    assert [line["doubt"] for line in lines] == [True, True, True, False, False, False]
    assert page_words.audit({})[0]["doubt"]
