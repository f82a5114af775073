"""result.json as typed records: written with the keys that it always had, and read from files of any age."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from kflm2.errors import DataError
from kflm2.metrics.conformal import Coverage
from kflm2.results import schema
from kflm2.results.schema import DatasetRecord, DevelopmentRecord, LLMRecord, RowCounts, RunResult, SplitRecord

RESULT = RunResult(
    dataset=DatasetRecord("Own", "ab", ["y", "z"], "m", "classification"),
    model="combined",
    seed=3,
    split=SplitRecord("random", "cd", {"train": 7, "valid": 4, "test": 5}),
    rows=RowCounts(20, 16, 4),
    metrics={"test": {"ROC-AUC": 0.5, "MCC": None}},
    config={"csv": "own.csv", "kind": "classification"},
    seconds={"training": 1.5},
    llm=LLMRecord("tiny", "ef", "gh", None, [1, 2]),
    targets={"test": {"y": {"ROC-AUC": 0.5}, "z": None}},
    thresholds={"y": 0.5, "z": 0.25},
    coverage={"test": Coverage(0.9, 0.8, None)},
    best_epoch=[2],
    history=[{"train": [1.0, 0.5], "valid": [2.0, 1.0]}],
    parameters=12,
)
# the keys of files that were written before there was this module
OLDEST: dict[str, Any] = {
    "dataset": {"name": "SAMPL", "sha256": "ab", "targets": ["expt"], "unit": "kcal/mol", "kind": "regression"},
    "model": "gcn_indepent",
    "seed": 0,
    "split": {"kind": "random", "sha256": "cd", "sizes": {"train": 8, "valid": 1, "test": 1}},
    "rows": {"read": 10, "kept": 10, "rejected": 0},
    "metrics": {"test": {"RMSE": 1.0}},
    "config": {"dataset": "SAMPL", "hidden": 16},
}


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    schema.write_result(tmp_path, RESULT)
    assert schema.read_run_result(tmp_path) == RESULT
    values = json.loads((tmp_path / "result.json").read_text())
    assert set(values) == {field.name for field in dataclasses.fields(RunResult)} - {"baseline", "about", "chosen"}
    assert values["dataset"]["kind"] == "classification" and "task" not in values["dataset"]
    assert values["llm"]["adapter"] is None and values["coverage"]["test"]["size"] is None


def test_a_run_whose_test_molecules_a_search_saw_says_so(tmp_path: Path) -> None:
    record = DevelopmentRecord("SAMPL", "random", 0, 0.923)
    marked = dataclasses.replace(RESULT, development=record)
    schema.write_result(tmp_path, marked)
    assert schema.read_run_result(tmp_path) == marked
    note = "development: the search saw 92 % of these test molecules"
    assert schema.development_note([record]) == note
    assert schema.development_note([record, None]) == f"{note} in 1 of 2 runs"
    other = dataclasses.replace(record, seen=0.004)
    assert schema.development_note([record, other]) == note.replace("92 %", "0.4 to 92 %")
    assert schema.development_note([None, None]) == ""


def test_a_baseline_has_keys_of_its_own(tmp_path: Path) -> None:
    shared = {name: getattr(RESULT, name) for name in ("dataset", "seed", "split", "rows", "metrics", "config")}
    baseline = RunResult(**shared, model="mean", baseline=True, about="mean of train", chosen={"y": None})
    schema.write_result(tmp_path, baseline)
    values = json.loads((tmp_path / "result.json").read_text())
    assert {"baseline", "about", "chosen"} <= set(values)
    assert not {"llm", "targets", "thresholds", "coverage", "best_epoch", "history", "parameters"} & set(values)
    assert schema.read_run_result(tmp_path) == baseline


def test_an_old_file_is_read_and_what_it_lacks_has_its_default(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps({**OLDEST, "of_a_later_version": [1]}))
    result = schema.read_run_result(tmp_path)
    assert result.dataset.task == "regression" and result.dataset.unit == "kcal/mol"
    assert (result.llm, result.coverage, result.history, result.best_epoch, result.baseline) == (
        None,
        {},
        None,
        [],
        False,
    )
    # an LLM's record grew too
    (tmp_path / "result.json").write_text(json.dumps({**OLDEST, "llm": {"name": "tiny", "digest": "ef"}}))
    assert schema.read_run_result(tmp_path).llm == LLMRecord("tiny", "ef")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({key: value for key, value in OLDEST.items() if key != "split"}, "split"),
        ({**OLDEST, "dataset": ["SAMPL"]}, "another form"),
        ({**OLDEST, "rows": {"read": 10}}, "kept"),
    ],
)
def test_a_file_of_another_form_is_one_line(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    (tmp_path / "result.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match=message) as caught:
        schema.read_run_result(tmp_path)
    assert str(tmp_path / "result.json") in str(caught.value) and "\n" not in str(caught.value)


def test_results_of_stage_3_are_told_from_those_of_stage_2(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(OLDEST))
    assert schema.is_run_result(tmp_path)
    (tmp_path / "result.json").write_text(json.dumps({"seed": 0, "wording": {}}))
    assert not schema.is_run_result(tmp_path)
