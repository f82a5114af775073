"""`kflm2 report` of real runs: the data of the page, and the page in a headless Chromium."""

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kflm2.cli import stages
from kflm2.config.base import to_json
from kflm2.config.report import ReportConfig
from kflm2.config.train import TrainConfig
from kflm2.data.structures import murcko_scaffold
from kflm2.errors import DataError
from kflm2.results.provenance import method_settings
from kflm2.stages.report import stage as report_stage
from kflm2.stages.report.collection import comparable
from kflm2.stages.train import stage as train_stage

HOSTILE = "<script>document.title='owned'<"
"""Used as a SMILES, in a method's name and in a dataset's name."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A regression with two methods and two kinds of split, and a classification of two targets; all gcn_indepent."""
    folder = tmp_path_factory.mktemp("report")
    table = pd.read_csv(Path(__file__).parents[2] / "dataset" / "SAMPL.csv")[["smiles", "expt"]]
    # half of SAMPL has no ring or benzene as scaffold, and would be in one part of a scaffold split
    table = table.groupby(table["smiles"].map(murcko_scaffold)).head(3).head(70).reset_index(drop=True)
    table.loc[len(table)] = [HOSTILE, 1.0]
    path = folder / f"own{HOSTILE}.csv"
    table.to_csv(path, index=False)
    table["low"] = (table["expt"] < table["expt"].median()).astype(int)
    table["odd"] = [i % 2 if i % 7 else None for i in range(len(table))]
    table.to_csv(folder / "classes.csv", index=False)
    common: dict[str, Any] = {"fractions": (0.6, 0.2, 0.2), "out": folder / "results"}
    for values in (
        {"csv": path, "target_columns": ("expt",), "epochs": 3, "runs": 3},
        {"csv": path, "target_columns": ("expt",), "epochs": 2, "runs": 2, "split": "scaffold"},
        {"csv": path, "target_columns": ("expt",), "epochs": 1, "runs": 2, "name": HOSTILE},
        {"csv": folder / "classes.csv", "target_columns": ("low", "odd"), "task": "classification", "epochs": 2}
        | {"runs": 2, "ensemble": 2},
    ):
        config = TrainConfig.of("gcn_indepent", **common, **values)
        config.check()
        train_stage.run(config)
    return folder / "results"


@pytest.fixture(scope="module")
def page_file(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of all results."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KFLM2_CACHE", str(folder / "cache"))
        return report_stage.run(ReportConfig.of(results=(str(results),), out=folder / "report.html"))


def _data(path: Path) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    assert match is not None
    return json.loads(match[1])


def _regression(page_file: Path) -> dict[str, Any]:
    return next(dataset for dataset in _data(page_file)["datasets"] if dataset["kind"] == "regression")


def test_the_data_of_the_page_equal_the_runs_results(results: Path, page_file: Path) -> None:
    data = _data(page_file)
    assert [entry["name"] for entry in data["datasets"]] == ["classes", f"own{HOSTILE}"]
    dataset = _regression(page_file)
    # kinds of split apart, and of each the best method first
    rmse = {entry["name"]: entry["means"]["test"]["RMSE"][0] for entry in dataset["methods"][:2]}
    assert set(rmse) == {HOSTILE, "gcn_indepent"}
    assert [(entry["name"], entry["split"]) for entry in dataset["methods"]] == [
        *((name, "random") for name in sorted(rmse, key=rmse.__getitem__)),
        ("gcn_indepent", "scaffold"),
    ]
    for method in dataset["methods"]:
        values = []
        for run in method["runs"]:
            folder = results / dataset["name"] / method["name"] / f"{method['split']}-{run['seed']}"
            result = json.loads((folder / "result.json").read_text())
            assert run["metrics"] == result["metrics"]
            assert run["coverage"] == result["coverage"]["test"]["share"]
            values.append(result["metrics"]["test"]["RMSE"])
        assert method["means"]["test"]["RMSE"] == pytest.approx([np.mean(values), np.std(values, ddof=1)])
        first = method["runs"][0]["seed"]
        folder = results / dataset["name"] / method["name"] / f"{method['split']}-{first}"
        table = pd.read_csv(folder / "predictions.csv").set_index("row")
        shown = method["shown"]
        assert len(shown["row"]) == len(table) == 70
        np.testing.assert_allclose(shown["pred"][0], table.loc[shown["row"], "y_pred_expt"], rtol=1e-4)
        smiles = dataset["molecules"]["smiles"]
        assert [smiles[mol] for mol in shown["mol"]] == table.loc[shown["row"], "smiles"].tolist()
        history = json.loads((folder / "result.json").read_text())["history"][0]
        np.testing.assert_allclose(method["history"][0]["valid"], history["valid"], rtol=1e-3)
        mapped = method["map"]
        assert sorted(mapped["row"]) == table.index.tolist()
        assert mapped["part"] == table.loc[mapped["row"], "part"].tolist()
        assert {len(side) for view in mapped["views"].values() for flat in view.values() for side in flat} == {70}
    # the last row has an invalid SMILES
    assert dataset["rejected"]["count"] == 1
    assert dataset["rejected"]["rows"][0][:2] == ["71", HOSTILE]


def test_the_same_results_give_the_same_page(
    results: Path, page_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    # the cache is empty, so maps are computed again; a folder that is given twice is counted once
    stages.report.from_command_line([str(results), str(results / "classes"), "-o", str(tmp_path / "again.html")])
    assert (tmp_path / "again.html").read_bytes() == page_file.read_bytes()
    assert "9 runs of 4 methods" in capsys.readouterr().out


def test_runs_of_other_seeds_and_an_audit_of_another_table_are_kept_apart(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (dataset,) = (path for path in results.iterdir() if path.name.startswith("own"))
    shutil.copytree(dataset / "gcn_indepent" / "random-0", tmp_path / "own" / "first" / "random-0")
    shutil.copytree(dataset / "gcn_indepent" / "random-2", tmp_path / "own" / "other" / "random-2")
    split = json.loads((dataset / "gcn_indepent" / "random-0" / "split.json").read_text())
    sha256 = json.loads((dataset / "gcn_indepent" / "random-0" / "result.json").read_text())["dataset"]["sha256"]
    for name, digests in (("a", (sha256, split["sha256"])), ("b", ("another", split["sha256"])), ("c", (sha256, "x"))):
        audit = {"dataset": {"sha256": digests[0]}, "split": {"sha256": digests[1]}}
        (tmp_path / "own" / f"audit-{name}").mkdir()
        (tmp_path / "own" / f"audit-{name}" / "audit.json").write_text(json.dumps(audit))
    path = tmp_path / "page.html"
    report_stage.run(ReportConfig.of(results=(str(tmp_path / "own"),), out=path))
    page = _regression(path)
    assert [entry["folder"] for entry in page["audits"]] == ["audit-a"]
    printed = capsys.readouterr().out
    assert printed.count("an audit of another table, of a part of it, or of another split") == 2
    # runs of two seeds tested other molecules
    (saved,), _ = report_stage.collect([str(tmp_path / "own")])
    assert [[method.name for method in group] for group in comparable(saved.methods)] == [["first"], ["other"]]


def test_runs_without_history_and_coverage_and_an_audit(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results / f"own{HOSTILE}", tmp_path / "old")
    for path in (tmp_path / "old").glob("*/*/result.json"):
        result = json.loads(path.read_text())
        del result["history"], result["coverage"]
        path.write_text(json.dumps(result))
    for path in (tmp_path / "old").glob("*/*/hidden.safetensors"):
        path.unlink()
    audit = tmp_path / "old" / "audit-random-0" / "audit.json"
    audit.parent.mkdir()
    audit.write_text("{}")
    config = ReportConfig.of(results=(str(tmp_path / "old"),), out=tmp_path / "old.html")
    (dataset,) = _data(report_stage.run(config))["datasets"]
    for method in dataset["methods"]:
        assert method["map"] is None
        assert method["history"] == []
        assert method["coverage"] == {"confidence": 0.9, "now": True}
    assert [entry["folder"] for entry in dataset["audits"]] == ["audit-random-0"]
    # for ensembles of one model the recomputed intervals equal those of the runs
    complete = {entry["name"] + entry["split"]: entry for entry in _data_of(results, tmp_path)["methods"]}
    for method in dataset["methods"]:
        expected = [run["coverage"] for run in complete[method["name"] + method["split"]]["runs"]]
        assert [run["coverage"] for run in method["runs"]] == pytest.approx(expected)


def _data_of(results: Path, tmp_path: Path) -> dict[str, Any]:
    config = ReportConfig.of(results=(str(results / f"own{HOSTILE}"),), out=tmp_path / "new.html")
    return _regression(report_stage.run(config))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give folders of results"),
        (["nowhere"], "results nowhere: no such folder"),
        (["."], "no result.json of a run of stage 2 in it"),
        ([".", "-o", "page.pdf"], "a report is written as .html"),
    ],
)
def test_the_error_of_invalid_arguments_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        stages.report.from_command_line(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_commands_on_the_page_are_accepted(results: Path) -> None:
    (regression, classes), _ = report_stage.collect((str(results / f"own{HOSTILE}"), str(results / "classes")))
    for method in (*regression.methods, *classes.methods):
        program, stage, *arguments = shlex.split(method.on_scaffolds)
        assert (program, stage) == ("kflm2", "train")
        # the first argument is the path of the table
        config = stages.train.read(["--csv", *arguments], {})
        settings = method.first.result.config
        assert config.split == "scaffold"
        expected = {**settings, "split": "scaffold"}
        assert method_settings(to_json(config.resolved())) == method_settings(expected)
        assert (config.name or config.model) == method.name
    arguments = shlex.split(regression.audit_command)
    assert arguments[:4] == ["kflm2", "datasets", "audit", regression.methods[0].first.result.config["csv"]]


def test_folders_that_cannot_be_used_are_refused(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results / "classes", tmp_path / "twice")
    with pytest.raises(DataError, match="two methods of classes are named gcn_indepent; name them by NAME=FOLDER"):
        report_stage.collect((str(results / "classes"), str(tmp_path / "twice")))
    renamed = f"mine={tmp_path / 'twice' / 'gcn_indepent'}"
    (dataset,), _ = report_stage.collect((str(results / "classes"), renamed))
    assert [method.name for method in dataset.methods] == ["gcn_indepent", "mine"]
    with pytest.raises(DataError, match="holds a folder for each of 2 methods, not one named mine"):
        report_stage.collect((f"mine={results / f'own{HOSTILE}'}",))
    run = tmp_path / "twice" / "gcn_indepent" / "random-0"
    table = pd.read_csv(run / "predictions.csv")
    table.drop(columns="y_pred_odd").to_csv(run / "predictions.csv", index=False)
    (tmp_path / "twice" / "gcn_indepent" / "random-1" / "result.json").write_text("{")
    with pytest.raises(DataError, match=r"no result.json of a run of stage 2 .*; twice/gcn_indepent/random-0: predict"):
        report_stage.run(ReportConfig.of(results=(str(tmp_path / "twice"),), out=tmp_path / "page.html"))
    assert not (tmp_path / "page.html").exists()


def test_runs_that_do_not_fit_are_left_out_and_named(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "results" / "own"
    shutil.copytree(results / f"own{HOSTILE}", folder)
    for seed in (0, 1):  # as older runs, of other settings
        path = folder / "gcn_indepent" / f"random-{seed}" / "result.json"
        result = json.loads(path.read_text())
        result["config"]["epochs"] = 77
        path.write_text(json.dumps(result))
    # in the minority of a method's runs is one whose table has changed, and one is damaged
    shutil.copytree(folder / HOSTILE / "random-0", folder / HOSTILE / "random-5")
    path = folder / HOSTILE / "random-5" / "result.json"
    path.write_text(path.read_text().replace('"sha256": "', '"sha256": "0', 1).replace('"seed": 0', '"seed": 5'))
    table = folder / "gcn_indepent" / "scaffold-1" / "predictions.csv"
    table.write_text(table.read_text().replace("y_pred_expt", "y_pred"))
    data = _data(report_stage.run(ReportConfig.of(results=(str(folder),), out=tmp_path / "page.html")))
    (dataset,) = data["datasets"]
    runs = {(method["name"], method["split"]): [run["seed"] for run in method["runs"]] for method in dataset["methods"]}
    assert runs == {(HOSTILE, "random"): [0, 1], ("gcn_indepent", "random"): [0, 1], ("gcn_indepent", "scaffold"): [0]}
    why = dict(data["left_out"])
    assert set(why) == {
        "own/gcn_indepent/random-2",
        f"own/{HOSTILE}/random-5",
        "own/gcn_indepent/scaffold-1",
    }
    assert "than the 2 runs shown: epochs 3, not 77" in why["own/gcn_indepent/random-2"]
    assert "SHA-256 of the table" in why[f"own/{HOSTILE}/random-5"]
    assert "predictions.csv: no column y_pred_expt" in why["own/gcn_indepent/scaffold-1"]
    assert "left out  own/gcn_indepent/random-2: other settings" in capsys.readouterr().out


def test_of_equally_many_runs_the_newer_are_shown(results: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    shutil.copytree(results / f"own{HOSTILE}" / HOSTILE, folder / "method")
    for seed, age in ((0, 1000), (1, 0)):
        path = folder / "method" / f"random-{seed}" / "result.json"
        result = json.loads(path.read_text())
        result["config"]["hidden"] = 8 + seed
        path.write_text(json.dumps(result))
        stamp = path.stat().st_mtime - age
        os.utime(path, (stamp, stamp))
    (dataset,), left_out = report_stage.collect((str(folder),))
    assert [run.seed for run in dataset.methods[0].runs] == [1]
    assert list(left_out) == ["own/method/random-0"]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, tiny_decoder: Path) -> Path:
    """Methods of one table on different molecules, an LLM with random weights, several targets, and equal names."""
    folder = tmp_path_factory.mktemp("mixed")
    frame = pd.read_csv(Path(__file__).parents[2] / "dataset" / "SAMPL.csv").head(60)
    frame = frame[frame["smiles"].str.len() < 20].head(40)
    frame = frame.assign(MW=100 * frame["expt"] + 300, logS=frame["expt"])[["smiles", "expt", "logS", "MW"]]
    frame.loc[frame.index[::3], "MW"] = None
    frame.to_csv(folder / "SAMPL.csv", index=False)
    llm, own = {"llm": str(tiny_decoder), "adapter": "none"}, {"csv": folder / "SAMPL.csv"}
    random_llm = {"llm": f"random:{tiny_decoder}", "adapter": "none"}
    for model, values in (
        ("gcn_indepent", {"dataset": "SAMPL", "limit": 40, "epochs": 3}),
        ("gcn_indepent", {"dataset": "SAMPL", "limit": 40, "epochs": 1, "name": "poor"}),
        ("gcn_indepent", {"dataset": "SAMPL", "limit": 50, "name": "more"}),
        ("combined", own | llm | {"target_columns": ("expt",), "out": folder / "own"}),
        ("combined", own | random_llm | {"target_columns": ("expt",), "name": "placebo", "out": folder / "own"}),
        (
            "combined",
            own | llm | {"views": ("states",), "target_columns": ("expt",), "name": "llm", "out": folder / "own"},
        ),
        ("gcn_indepent", own | {"target_columns": ("logS", "MW"), "out": folder / "two"}),
    ):
        common: dict[str, Any] = {"fractions": (0.6, 0.2, 0.2), "out": folder / "results", "runs": 2, "epochs": 1}
        config = TrainConfig.of(model, **{**common, **values})
        config.check()
        train_stage.run(config)
    return folder


@pytest.fixture(scope="module")
def mixed_page(mixed: Path) -> Path:
    """The page of all of them."""
    folders = tuple(str(mixed / name) for name in ("results", "own", "two"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KFLM2_CACHE", str(mixed / "cache"))
        return report_stage.run(ReportConfig.of(results=folders, out=mixed / "report.html"))


def test_methods_that_were_tested_on_other_molecules_share_no_table(mixed_page: Path) -> None:
    dataset = _data(mixed_page)["datasets"][0]
    names = [method["name"] for method in dataset["methods"]]
    first, other = dataset["groups"]
    assert [names[index] for index in other["methods"]] == ["more"]
    assert {names[index] for index in first["methods"]} == {"gcn_indepent", "poor"}
    assert (first["title"], other["title"]) == (
        "random splits, 24 train / 8 valid / 8 test",
        "random splits, 30 train / 10 valid / 10 test",
    )
    # the best first, and the method that is shown first is of the larger group
    rmse = [dataset["methods"][index]["means"]["test"]["RMSE"][0] for index in first["methods"]]
    assert rmse == sorted(rmse)
    assert dataset["first"] in first["methods"] and "best of the 2 methods on random" in dataset["why"]


def test_an_ablation_says_what_it_reads(mixed_page: Path) -> None:
    methods = {
        entry["name"]: entry["reads"] for dataset in _data(mixed_page)["datasets"] for entry in dataset["methods"]
    }
    assert methods["combined"] == "untaught LLM + graph"
    assert methods["placebo"] == "random LLM + graph"
    assert methods["llm"] == "untaught LLM"
    assert methods["poor"] == "graph"


def test_datasets_of_the_same_name_are_told_apart(mixed: Path, mixed_page: Path) -> None:
    names = [dataset["name"] for dataset in _data(mixed_page)["datasets"]]
    path = mixed / "SAMPL.csv"
    assert names == ["SAMPL (registry)", f"SAMPL ({path}; expt)", f"SAMPL ({path}; logS, MW)"]


def test_each_of_several_targets_has_its_metrics_and_its_labels(mixed: Path, mixed_page: Path) -> None:
    dataset = _data(mixed_page)["datasets"][2]
    assert dataset["metrics"] == ["scaled RMSE", "R2", "Pearson", "Spearman"] and dataset["main"] == "scaled RMSE"
    (method,) = dataset["methods"]
    folders = [mixed / "two" / "SAMPL" / "gcn_indepent" / f"random-{seed}" for seed in (0, 1)]
    rmse = []
    for folder in folders:
        test = pd.read_csv(folder / "predictions.csv").query("part == 'test'")
        rmse.append(np.sqrt(((test["y_true_MW"] - test["y_pred_MW"]) ** 2).mean()))
    expected = (np.mean(rmse), np.std(rmse, ddof=1))
    assert method["target_means"][1]["test"]["RMSE"] == pytest.approx(expected, rel=1e-4)
    labels = pd.read_csv(folders[0] / "predictions.csv").groupby("part")[["y_true_logS", "y_true_MW"]].count()
    assert method["shown"]["sizes"] == {part: row.tolist() for part, row in labels.iterrows()}
    assert labels.loc["train", "y_true_MW"] < labels.loc["train", "y_true_logS"]


@pytest.fixture
def opened(browser: Any, page_file: Path) -> Iterator[Any]:
    """The page, with the regression selected; it must write nothing to the console and request nothing else."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light", has_touch=True)
    tab = context.new_page()
    messages = tab.messages = []
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on("request", lambda request: messages.extend([request.url][: not request.url.startswith("data:")]))
    tab.goto(page_file.as_uri())
    tab.select_option("#choice select", label=f"own{HOSTILE}")
    yield tab
    context.close()
    assert messages == [page_file.as_uri()]


def _scroll_to(tab: Any, plot: Any) -> None:
    """Bring a plot into view, and wait for the frame in which the page hides its card."""
    plot.scroll_into_view_if_needed()
    _next_frame(tab)


def _next_frame(tab: Any) -> None:
    tab.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def _column(tab: Any, table: str, column: int) -> list[str]:
    return tab.locator(f"table[aria-label^='{table}'] tbody tr > *:nth-child({column})").all_inner_texts()


def test_tables_are_sorted_by_click_and_by_key_and_numbers_by_value(opened: Any) -> None:
    head = opened.locator("table[aria-label^='Runs'] thead th", has_text="RMSE")
    head.locator("button").click()
    values = [float(text) for text in _column(opened, "Runs", 5)]
    assert len(values) == 7
    assert values == sorted(values)
    assert head.get_attribute("aria-sort") == "ascending"
    head.locator("button").focus()
    opened.keyboard.press("Enter")
    assert [float(text) for text in _column(opened, "Runs", 5)] == values[::-1]
    assert head.get_attribute("aria-sort") == "descending"
    opened.locator("table[aria-label^='Methods on random'] thead button", has_text="method").click()
    assert _column(opened, "Methods on random", 1) == [HOSTILE, "gcn_indepent"]
    assert _column(opened, "Methods on scaffold", 1) == ["gcn_indepent"]


def test_a_dot_shows_its_molecule_by_mouse_and_by_keys(opened: Any, page_file: Path) -> None:
    card = opened.locator("#card")
    assert card.is_hidden()
    plot = opened.locator("figure", has_text="Predicted against measured").locator("svg.plot")
    _scroll_to(opened, plot)
    # the last test molecule is drawn on top
    box = plot.locator("circle.dot").last.bounding_box()
    opened.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    dataset = _regression(page_file)
    shown = dataset["methods"][dataset["first"]]["shown"]
    # parts are drawn in order, test last
    last = [i for i, part in enumerate(shown["part"]) if part == "test"][-1]
    smiles = dataset["molecules"]["smiles"][shown["mol"][last]]
    assert card.is_visible()
    text = card.inner_text()
    assert smiles in text
    assert "measured" in text and "predicted" in text and "test" in text
    assert card.locator("img").get_attribute("alt") == f"structure of {smiles}"
    assert card.locator("img").evaluate("image => image.naturalWidth") > 0
    # the molecule is marked in every plot that contains it
    assert opened.locator("circle.mark[visibility=visible]").count() >= 3
    opened.mouse.move(5, 5)
    assert card.is_hidden()

    opened.locator("#method").focus()
    opened.keyboard.press("Tab")
    assert smiles in card.inner_text()  # the keys continue at the last molecule
    opened.keyboard.press("Home")
    first = card.inner_text()
    opened.keyboard.press("ArrowRight")
    assert card.inner_text() != first
    opened.keyboard.press("Home")
    assert card.inner_text() == first
    opened.keyboard.press("Escape")
    assert card.is_hidden()

    # Tab to a plot that is out of view: it is scrolled into view, and the card stays
    opened.evaluate("scrollTo(0, document.body.scrollHeight)")
    _next_frame(opened)
    opened.locator("#method").evaluate("box => box.focus({ preventScroll: true })")
    opened.keyboard.press("Tab")
    _next_frame(opened)
    assert plot.bounding_box()["y"] >= 0
    assert card.is_visible()


def test_text_of_the_data_is_not_executed(opened: Any) -> None:
    assert opened.title() == f"own{HOSTILE} - KFLM2 report"
    assert opened.locator("h1").inner_text() == f"own{HOSTILE}"
    assert HOSTILE in opened.locator("table[aria-label='Rejected rows']").inner_text()
    assert opened.locator("script").count() == 2
    # a script that is added to the page is not executed
    opened.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))"
    )
    assert opened.evaluate("window.ran") is None
    (refused,) = opened.messages[1:]
    assert "Content Security Policy" in refused
    opened.messages.remove(refused)


def test_menus_and_buttons_change_the_plots(opened: Any) -> None:
    assert "gcn_indepent, the best of the 2 methods on random" in opened.locator("#closely").inner_text()
    opened.select_option("#method", label="gcn_indepent · scaffold")
    assert "points" in opened.locator("figure", has_text="keep their promise").inner_text()
    assert opened.evaluate("document.activeElement.id") == "method"
    before = opened.locator(".maps circle.dot").first.get_attribute("cx")
    opened.locator("button", has_text="t-SNE").click()
    assert opened.locator(".maps circle.dot").first.get_attribute("cx") != before
    assert opened.locator("button", has_text="t-SNE").get_attribute("aria-pressed") == "true"
    opened.select_option("#choice select", label="classes")
    for title in ("ROC", "Precision against recall", "Calibration", "Learning curves", "Error against distance"):
        assert opened.locator("figure", has_text=title).count() == 1
    curves = opened.locator("figure", has_text="Learning curves").inner_text()
    assert "Seed 0, 2 models; thin: 2 of other seeds." in curves
    areas = opened.locator("figure", has_text="ROC").locator(".legend").inner_text()
    opened.select_option("#target", label="odd")
    assert opened.locator("figure", has_text="ROC").locator(".legend").inner_text() != areas
    assert opened.locator(".worst li").count() > 5


def test_a_wide_table_says_so_and_every_column_can_be_seen_whole(browser: Any, mixed_page: Path) -> None:
    for width, too_wide in ((1200, False), (390, True)):
        tab = browser.new_page(viewport={"width": width, "height": 800})
        tab.goto(mixed_page.as_uri())
        _next_frame(tab)
        box = tab.locator("[role=region][aria-label^='Methods on random splits, 24']")
        hint = box.locator("xpath=preceding-sibling::p[1]")
        assert hint.is_visible() == too_wide
        assert not too_wide or "sideways" in hint.inner_text()
        # at the end of the scroll the last column is whole, and beside the names that stay
        box.evaluate("box => { box.scrollLeft = box.scrollWidth; }")
        heads = box.locator("thead th").evaluate_all("all => all.map(head => head.getBoundingClientRect().toJSON())")
        frame = box.bounding_box()
        assert heads[-1]["right"] <= frame["x"] + frame["width"] + 1
        assert heads[-1]["left"] >= heads[0]["right"] - 1
        cells = box.locator("tbody th, tbody td")
        assert cells.evaluate_all("all => all.every(cell => cell.scrollWidth <= cell.clientWidth + 1)")
        tab.close()


def test_one_of_several_targets_can_be_chosen_and_the_legend_counts_its_labels(browser: Any, mixed_page: Path) -> None:
    dataset = _data(mixed_page)["datasets"][2]
    (method,) = dataset["methods"]
    tab = browser.new_page()
    tab.goto(mixed_page.as_uri())
    tab.select_option("#choice select", index=2)
    heads = "table[aria-label^='Methods on'] thead th"
    assert "scaled RMSE" in tab.locator(heads).all_inner_texts()[3]
    assert not [text for text in tab.locator(heads).all_inner_texts() if text.startswith(("RMSE", "MAE"))]
    tab.locator("form select").last.select_option(label="MW")
    texts = [text.split("\n")[0] for text in tab.locator(heads).all_inner_texts()]
    shown = tab.locator("table[aria-label^='Methods on'] tbody tr > *").all_inner_texts()
    mean, std = method["target_means"][1]["test"]["RMSE"]
    assert shown[texts.index("RMSE")] == f"{mean:.3f} ± {std:.3f}"
    tab.select_option("#target", label="MW")
    legend = tab.locator("figure", has_text="Predicted against measured").locator(".legend").inner_text()
    labels = {part: counts[1] for part, counts in method["shown"]["sizes"].items()}
    assert legend.split("\n") == [f"{part} ({labels[part]})" for part in ("train", "valid", "test")]
    tab.close()


def test_a_small_touch_screen_and_the_dark_colours(opened: Any) -> None:
    light = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    opened.emulate_media(color_scheme="dark")
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") != light
    opened.set_viewport_size({"width": 390, "height": 844})
    for dataset in (f"own{HOSTILE}", "classes"):
        opened.select_option("#choice select", label=dataset)
        opened.locator("details").evaluate_all("all => all.forEach(element => { element.open = true; })")
        assert opened.evaluate("document.documentElement.scrollWidth") == 390
    plot = opened.locator("figure", has_text="Error against distance").locator("svg.plot")
    _scroll_to(opened, plot)
    box = plot.locator("circle.dot").first.bounding_box()
    opened.touchscreen.tap(box["x"] + 5, box["y"] + 5)  # a tap beside the dot
    assert opened.locator("#card").is_visible()
    card = opened.locator("#card").bounding_box()
    assert card["x"] >= 0 and card["x"] + card["width"] <= 390
    opened.touchscreen.tap(2, 2)
    assert opened.locator("#card").is_hidden()
