"""A report of runs that were really made: its data, and the page in a headless Chromium."""

import json
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
from kflm2.stages.report import stage as reporting
from kflm2.stages.train import stage as experiment

EVIL = "<script>document.title='owned'<"
"""Stands as a SMILES, in a method's name and in a dataset's name."""
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A regression with two methods and two kinds of split, and a classification of two targets; the graph alone."""
    folder = tmp_path_factory.mktemp("report")
    table = pd.read_csv(Path(__file__).parents[2] / "dataset" / "SAMPL.csv")[["smiles", "expt"]]
    # half of SAMPL has no ring or is a benzene, and so goes into one part of a scaffold split
    table = table.groupby(table["smiles"].map(murcko_scaffold)).head(3).head(70).reset_index(drop=True)
    table.loc[len(table)] = [EVIL, 1.0]
    own = folder / f"own{EVIL}.csv"
    table.to_csv(own, index=False)
    table["low"] = (table["expt"] < table["expt"].median()).astype(int)
    table["odd"] = [i % 2 if i % 7 else None for i in range(len(table))]
    table.to_csv(folder / "classes.csv", index=False)
    common: dict[str, Any] = {"fractions": (0.6, 0.2, 0.2), "out": folder / "results"}
    for more in (
        {"csv": own, "target_columns": ("expt",), "epochs": 3, "runs": 3},
        {"csv": own, "target_columns": ("expt",), "epochs": 2, "runs": 2, "split": "scaffold"},
        {"csv": own, "target_columns": ("expt",), "epochs": 1, "runs": 2, "name": EVIL},
        {"csv": folder / "classes.csv", "target_columns": ("low", "odd"), "task": "classification", "epochs": 2}
        | {"runs": 2, "ensemble": 2},
    ):
        config = TrainConfig.of("gcn_indepent", **common, **more)
        config.check()
        experiment.run(config)
    return folder / "results"


@pytest.fixture(scope="module")
def page_file(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of all of them."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KFLM2_CACHE", str(folder / "cache"))
        return reporting.run(ReportConfig.of(results=(str(results),), out=folder / "report.html"))


def _data(path: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def _own(page_file: Path) -> dict[str, Any]:
    return next(one for one in _data(page_file)["datasets"] if one["kind"] == "regression")


def test_figures_are_those_of_the_runs(results: Path, page_file: Path) -> None:
    data = _data(page_file)
    assert [one["name"] for one in data["datasets"]] == ["classes", f"own{EVIL}"]
    own = _own(page_file)
    assert [(one["name"], one["split"]) for one in own["methods"]] == [
        (EVIL, "random"),
        ("gcn_indepent", "random"),
        ("gcn_indepent", "scaffold"),
    ]
    for method in own["methods"]:
        values = []
        for run in method["runs"]:
            folder = results / own["name"] / method["name"] / f"{method['split']}-{run['seed']}"
            made = json.loads((folder / "result.json").read_text())
            assert run["metrics"] == made["metrics"]
            assert run["coverage"] == made["coverage"]["test"]["share"]
            values.append(made["metrics"]["test"]["RMSE"])
        assert method["means"]["test"]["RMSE"] == pytest.approx([np.mean(values), np.std(values, ddof=1)])
        first = method["runs"][0]["seed"]
        folder = results / own["name"] / method["name"] / f"{method['split']}-{first}"
        table = pd.read_csv(folder / "predictions.csv").set_index("row")
        shown = method["shown"]
        assert len(shown["row"]) == len(table) == 70
        np.testing.assert_allclose(shown["pred"][0], table.loc[shown["row"], "y_pred_expt"], rtol=1e-4)
        assert [own["molecules"]["smiles"][mol] for mol in shown["mol"]] == table.loc[shown["row"], "smiles"].tolist()
        history = json.loads((folder / "result.json").read_text())["history"][0]
        np.testing.assert_allclose(method["history"][0]["valid"], history["valid"], rtol=1e-3)
        mapped = method["map"]
        assert sorted(mapped["row"]) == table.index.tolist()
        assert mapped["part"] == table.loc[mapped["row"], "part"].tolist()
        assert {len(side) for view in mapped["views"].values() for flat in view.values() for side in flat} == {70}
    # the last row's SMILES is none
    assert own["rejected"]["count"] == 1
    assert own["rejected"]["rows"][0][:2] == ["71", EVIL]


def test_the_same_results_make_the_same_page(
    results: Path, page_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    # the cache is another one, so maps are computed anew; the folder of a method counts once
    stages.report.from_command_line([str(results), str(results / "classes"), "-o", str(tmp_path / "again.html")])
    assert (tmp_path / "again.html").read_bytes() == page_file.read_bytes()
    assert "9 runs of 4 methods" in capsys.readouterr().out


def test_older_runs_and_an_audit(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results / f"own{EVIL}", tmp_path / "old")
    for path in (tmp_path / "old").glob("*/*/result.json"):
        made = json.loads(path.read_text())
        del made["history"], made["coverage"]
        path.write_text(json.dumps(made))
    for path in (tmp_path / "old").glob("*/*/hidden.safetensors"):
        path.unlink()
    audit = tmp_path / "old" / "audit-random-0" / "audit.json"
    audit.parent.mkdir()
    audit.write_text("{}")
    config = ReportConfig.of(results=(str(tmp_path / "old"),), out=tmp_path / "old.html")
    (own,) = _data(reporting.run(config))["datasets"]
    for method in own["methods"]:
        assert method["map"] is None
        assert method["history"] == []
        assert method["coverage"] == {"confidence": 0.9, "now": True}
    assert [found["folder"] for found in own["audits"]] == ["audit-random-0"]
    # of ensembles of one model the intervals are those that the runs had
    new = {one["name"] + one["split"]: one for one in _data_of(results, tmp_path)["methods"]}
    for method in own["methods"]:
        before = [run["coverage"] for run in new[method["name"] + method["split"]]["runs"]]
        assert [run["coverage"] for run in method["runs"]] == pytest.approx(before)


def _data_of(results: Path, tmp_path: Path) -> dict[str, Any]:
    config = ReportConfig.of(results=(str(results / f"own{EVIL}"),), out=tmp_path / "new.html")
    return _own(reporting.run(config))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give folders of results"),
        (["nowhere"], "results nowhere: no such folder"),
        (["."], "no result.json of a run of stage 2 in it"),
        ([".", "-o", "page.pdf"], "a report is written as .html"),
    ],
)
def test_bad_words_are_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        stages.report.from_command_line(words)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_commands_it_gives_can_be_run(results: Path) -> None:
    own, classes = reporting.collect((str(results / f"own{EVIL}"), str(results / "classes")))
    for method in (*own.methods, *classes.methods):
        program, stage, *words = shlex.split(method.on_scaffolds)
        assert (program, stage) == ("kflm2", "train")
        # the table's name comes first, as the command line takes it
        config = stages.train.read(["--csv", *words], {})
        before = method.first.result.config
        assert config.split == "scaffold"
        wanted = {**before, "split": "scaffold"}
        assert method_settings(to_json(config.resolved())) == method_settings(wanted)
        assert (config.name or config.model) == method.name
    words = shlex.split(own.audit_command)
    assert words[:4] == ["kflm2", "datasets", "audit", own.methods[0].first.result.config["csv"]]


def test_folders_that_cannot_be_reported_on(results: Path, tmp_path: Path) -> None:
    shutil.copytree(results / "classes", tmp_path / "twice")
    with pytest.raises(DataError, match="two methods of classes are named gcn_indepent; name them by NAME=FOLDER"):
        reporting.collect((str(results / "classes"), str(tmp_path / "twice")))
    own = f"mine={tmp_path / 'twice' / 'gcn_indepent'}"
    (found,) = reporting.collect((str(results / "classes"), own))
    assert [method.name for method in found.methods] == ["gcn_indepent", "mine"]
    with pytest.raises(DataError, match="holds a folder for each of 2 methods, not one named mine"):
        reporting.collect((f"mine={results / f'own{EVIL}'}",))
    run = tmp_path / "twice" / "gcn_indepent" / "random-0"
    table = pd.read_csv(run / "predictions.csv")
    table.drop(columns="y_pred_odd").to_csv(run / "predictions.csv", index=False)
    with pytest.raises(DataError, match="no column y_pred_odd; there are row, smiles, part"):
        reporting.run(ReportConfig.of(results=(str(tmp_path / "twice"),), out=tmp_path / "page.html"))
    assert not (tmp_path / "page.html").exists()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any, page_file: Path) -> Iterator[Any]:
    """The page, with the regression shown; it must say nothing on the console and ask nothing of any network."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light", has_touch=True)
    tab = context.new_page()
    said = tab.said = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: said.extend([request.url][: not request.url.startswith("data:")]))
    tab.goto(page_file.as_uri())
    tab.select_option("#choice select", label=f"own{EVIL}")
    yield tab
    context.close()
    assert said == [page_file.as_uri()]


def _scroll_to(tab: Any, plot: Any) -> None:
    """Brings a plot into view; the page hears of that a frame later, and hides its card then."""
    plot.scroll_into_view_if_needed()
    _next_frame(tab)


def _next_frame(tab: Any) -> None:
    tab.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def _column(tab: Any, table: str, column: int) -> list[str]:
    return tab.locator(f"table[aria-label^='{table}'] tbody tr > *:nth-child({column})").all_inner_texts()


@needs_chromium
def test_tables_sort_by_click_and_by_key_and_numbers_as_numbers(opened: Any) -> None:
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
    opened.locator("table[aria-label^='Methods'] thead button", has_text="method").click()
    assert _column(opened, "Methods", 1) == [EVIL, "gcn_indepent", "gcn_indepent"]


@needs_chromium
def test_a_dot_shows_its_molecule_to_pointer_finger_and_keys(opened: Any, page_file: Path) -> None:
    card = opened.locator("#card")
    assert card.is_hidden()
    plot = opened.locator("figure", has_text="Predicted against measured").locator("svg.plot")
    _scroll_to(opened, plot)
    # the last test molecule lies above all others
    box = plot.locator("circle.dot").last.bounding_box()
    opened.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    own = _own(page_file)
    shown = own["methods"][own["first"]]["shown"]
    # parts are drawn one after another, test last
    last = [i for i, part in enumerate(shown["part"]) if part == "test"][-1]
    smiles = own["molecules"]["smiles"][shown["mol"][last]]
    assert card.is_visible()
    text = card.inner_text()
    assert smiles in text
    assert "measured" in text and "predicted" in text and "test" in text
    assert card.locator("img").get_attribute("alt") == f"structure of {smiles}"
    assert card.locator("img").evaluate("image => image.naturalWidth") > 0
    # the same molecule is marked in every plot that has it
    assert opened.locator("circle.mark[visibility=visible]").count() >= 3
    opened.mouse.move(5, 5)
    assert card.is_hidden()

    opened.locator("#method").focus()
    opened.keyboard.press("Tab")
    assert smiles in card.inner_text()  # it goes on where the reader was
    opened.keyboard.press("Home")
    first = card.inner_text()
    opened.keyboard.press("ArrowRight")
    assert card.inner_text() != first
    opened.keyboard.press("Home")
    assert card.inner_text() == first
    opened.keyboard.press("Escape")
    assert card.is_hidden()

    # Tab to a plot that is out of view: it is brought there, and the card stays
    opened.evaluate("scrollTo(0, document.body.scrollHeight)")
    _next_frame(opened)
    opened.locator("#method").evaluate("box => box.focus({ preventScroll: true })")
    opened.keyboard.press("Tab")
    _next_frame(opened)
    assert plot.bounding_box()["y"] >= 0
    assert card.is_visible()


@needs_chromium
def test_nothing_of_the_data_runs(opened: Any) -> None:
    assert opened.title() == f"own{EVIL} - KFLM2 report"
    assert opened.locator("h1").inner_text() == f"own{EVIL}"
    assert EVIL in opened.locator("table[aria-label='Rejected rows']").inner_text()
    assert opened.locator("script").count() == 2
    # were a script to get into the page after all, it would not be run
    opened.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))"
    )
    assert opened.evaluate("window.ran") is None
    (refused,) = opened.said[1:]
    assert "Content Security Policy" in refused
    opened.said.remove(refused)


@needs_chromium
def test_choices_change_what_is_shown(opened: Any) -> None:
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


@needs_chromium
def test_a_phone_and_the_dark(opened: Any) -> None:
    light = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    opened.emulate_media(color_scheme="dark")
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") != light
    opened.set_viewport_size({"width": 390, "height": 844})
    for dataset in (f"own{EVIL}", "classes"):
        opened.select_option("#choice select", label=dataset)
        opened.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
        assert opened.evaluate("document.documentElement.scrollWidth") == 390
    plot = opened.locator("figure", has_text="Error against distance").locator("svg.plot")
    _scroll_to(opened, plot)
    box = plot.locator("circle.dot").first.bounding_box()
    opened.touchscreen.tap(box["x"] + 5, box["y"] + 5)  # a finger is not that exact
    assert opened.locator("#card").is_visible()
    card = opened.locator("#card").bounding_box()
    assert card["x"] >= 0 and card["x"] + card["width"] <= 390
    opened.touchscreen.tap(2, 2)
    assert opened.locator("#card").is_hidden()
