"""`kflm2 serve`: its JSON is what `kflm2 predict` and `kflm2 explain` write, and its page works in a browser."""

import asyncio
import contextlib
import dataclasses
import gzip
import json
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from commands import status_of
from rdkit import Chem

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import httpx2
import uvicorn
from starlette.testclient import TestClient

from kflm2.cli import stages
from kflm2.config.serve import ServeConfig
from kflm2.stages.serve import stage
from kflm2.stages.serve.answers import Answers, json_value
from kflm2.stages.serve.app import make_app
from kflm2.stages.serve.worker import BrokenError, Worker

PAGE = "http://127.0.0.1:8000"
LIMIT = 40
HOSTILE = """<img src=x onerror="window.hacked=1">'"</script><script>window.hacked=1</script>"""
# the last SMILES is longer than the context of the tiny LLM
LINES = ("CCO ethanol", f"c1ccccc1 {HOSTILE}", "C1CC ring", "", "CC(=O)O", "C\0C zero", f"{'C' * 40} \u202elong\x1b[2J")


def _train(folder: Path, *arguments: object) -> Path:
    common = ("--epochs", 3, "--ensemble", 2, "--save", folder / "model", "--out", folder / "results")
    stages.train.from_command_line([str(argument) for argument in (*common, *arguments)])
    return folder / "model"


def _table(folder: Path) -> Path:
    smiles = ["C" * n + end for n in range(1, 9) for end in ("O", "N", "c1ccccc1", "(=O)O")]
    labels = {"a": np.arange(32) % 2, "b": (np.arange(32) % 3 < 1).astype(int)}
    pd.DataFrame({"smiles": smiles, **labels}).to_csv(folder / "own.csv", index=False)
    return folder / "own.csv"


@pytest.fixture(scope="module", autouse=True)
def module_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache for what is made once for all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KFLM2_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def llm(tiny_decoder: Path) -> str:
    return str(tiny_decoder)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, llm: str) -> Path:
    """A crossAtt model, which reads a tiny LLM."""
    arguments = ("--dataset", "SAMPL", "--limit", 60, "--model", "crossAtt", "--adapter", "none", "--llm", llm)
    return _train(tmp_path_factory.mktemp("reads_llm"), *arguments)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph network with two targets: quick to load."""
    folder = tmp_path_factory.mktemp("classes")
    table = ("--csv", _table(folder), "--target-columns", "a", "b", "--task", "classification")
    return _train(folder, *table, "--model", "gcn_indepent")


@pytest.fixture(scope="module")
def client(model: Path, llm: str) -> Iterator[TestClient]:
    """Asks the application, with a real worker behind it."""
    config = ServeConfig(model=model, llm=llm, limit=LIMIT, max_megabytes=0.1)
    with TestClient(make_app(config, Worker(config)), base_url=PAGE, raise_server_exceptions=False) as client:
        yield client


def _sdf() -> str:
    blocks = []
    for smiles, name in (("C[C@H](N)C(=O)O", "alanine"), ("c1ccccc1", HOSTILE)):
        mol = Chem.MolFromSmiles(smiles)
        mol.SetProp("_Name", name)
        blocks.append(Chem.MolToMolBlock(mol))
    return "$$$$\n".join([blocks[0], "torn\n  not a block\n", blocks[1]])


TABLES = {
    "smi": "\n".join(LINES),
    "csv": f'id;smiles\r\n1; CCO \r\n"{HOSTILE.replace(chr(34), chr(34) * 2)}";C((\r\nthree\r\n"=1+1";CCN\r\n',
    "sdf": _sdf(),
}


@pytest.mark.parametrize("name", TABLES)
def test_predictions_are_those_of_the_command(
    name: str, client: TestClient, model: Path, llm: str, tmp_path: Path
) -> None:
    (tmp_path / f"a.{name}").write_text(TABLES[name], newline="")
    columns = ("--name-column", "id") if name == "csv" else ()
    out = tmp_path / "out.csv"
    assert status_of(stages.predict, model, tmp_path / f"a.{name}", "-o", out, "--llm", llm, *columns) == 3
    question = {"text": TABLES[name], "format": name, **({"name_column": "id"} if columns else {})}
    answer = client.post("/api/predict", json=question)
    assert answer.status_code == 200
    assert answer.json()["csv"] == out.read_bytes().decode()
    table = pd.read_csv(out, dtype={"name": str})
    rows = answer.json()["rows"]
    assert answer.json()["columns"] == list(table) == list(rows[0])
    assert [row["row"] for row in rows] == list(range(1, len(table) + 1))
    good = [row["status"] == "ok" for row in rows]
    assert good == (table["status"] == "ok").tolist() and True in good and False in good
    assert [row["expt"] for row in rows] == [
        value if ok else None for value, ok in zip(table["expt"], good, strict=True)
    ]
    assert "drawing" not in rows[0]


def test_a_list_of_smiles_has_drawings_where_they_are_wanted(client: TestClient) -> None:
    answer = client.post("/api/predict", json={"smiles": ["CCO", "C(("], "drawings": True}).json()
    assert answer["rows"][0]["drawing"].startswith("<path") and answer["rows"][1]["drawing"] is None
    assert "name" not in answer["columns"] and "drawing" not in answer["csv"]


def test_an_explanation_is_the_picture_of_the_command(
    client: TestClient, model: Path, llm: str, tmp_path: Path
) -> None:
    (tmp_path / "a.smi").write_text(f"OCC {HOSTILE}\n")
    assert status_of(stages.explain, model, tmp_path / "a.smi", "-o", tmp_path / "out", "--llm", llm) == 0
    answer = client.post("/api/explain", json={"smiles": "OCC", "name": HOSTILE})
    assert answer.json()["svg"] == (tmp_path / "out" / "001.svg").read_text(encoding="utf-8")
    saved = json.loads((tmp_path / "out" / "explained.json").read_text())["molecules"][0]
    for key in ("prediction", "baseline", "difference"):
        assert answer.json()[key] == pytest.approx(saved[key], rel=1e-5)
    assert "<script" not in answer.json()["svg"]
    for question, sentence in (
        ({"smiles": "C(("}, "no prediction to explain: RDKit cannot read"),
        ({"smiles": "C" * 40}, "no prediction to explain: longer than the LLM's context"),
        ({"smiles": "CCO", "target": "x"}, "unknown target 'x'"),
    ):
        refused = client.post("/api/explain", json=question)
        assert refused.status_code == 400 and sentence in refused.json()["error"]


def test_a_path_or_an_address_in_a_request_is_a_smiles_that_cannot_be_read(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "a.smi.gz").write_bytes(gzip.compress(b"CCO\n"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        names = [str(tmp_path / "a.smi.gz"), f"http://127.0.0.1:{server.getsockname()[1]}/a.smi"]
        for question in (
            {"smiles": names[:1]},
            {"smiles": names[1:]},
            {"text": "\n".join(names)},
            {"text": "\n".join(["smiles", *names]), "format": "csv"},
        ):
            rows = client.post("/api/predict", json=question).json()["rows"]
            assert rows and all(row["smiles"] in names and row["status"] != "ok" for row in rows)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"{", 422, "not JSON"),
        (b"", 422, "required"),
        (b"[1]", 422, "dict"),
        (b'{"smiles": ["\xff"]}', 400, "not JSON"),
        (b"[" * 50_000, 400, "not JSON"),
        (b'{"smiles": ["\\ud800"]}', 422, "smiles.0"),
        (b'{"\\ud800": 1, "smiles": []}', 422, ""),
        (b'{"smiles": [1]}', 422, "smiles.0"),
        (b'{"smiles": "CCO"}', 422, "smiles"),
        (b"{}", 422, "give one of smiles, rows and text"),
        (b'{"smiles": ["C"], "text": "C"}', 422, "give one of smiles, rows and text"),
        (b'{"rows": [{"smiles": "C"}, {"SMILES": "C"}]}', 422, "all rows must have the same names"),
        (b'{"rows": [{"smiles": "C", "x": [1]}]}', 422, "'rows.0.x"),
        (b'{"smiles": ["C"], "path": "/etc/passwd"}', 422, "path"),
        (b'{"text": "C", "format": "parquet"}', 422, "format"),
        (b'{"text": "/etc/passwd", "format": "csv"}', 400, "the table: no column 'smiles'"),
        (b'{"text": "smiles\\n\\"C", "format": "csv"}', 400, "line 2 cannot be read as CSV"),
        (b'{"text": "  \\n"}', 400, "no molecule"),
        (b'{"smiles": []}', 400, "no molecule"),
        (json.dumps({"smiles": ["C"] * (LIMIT + 1)}).encode(), 400, f"more than {LIMIT} molecules"),
        (json.dumps({"text": "C\n" * 30_000}).encode(), 400, f"more than {LIMIT} molecules"),
        (json.dumps({"text": "C" * 100_000}).encode(), 413, "larger than 0.1 MB"),
        (json.dumps({"x" * 9000: 1, "smiles": ["C"]}).encode(), 422, "xxx..."),
    ],
)
def test_a_request_that_cannot_be_used_gets_one_sentence(
    client: TestClient, body: bytes, status: int, sentence: str
) -> None:
    answer = client.post("/api/predict", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert sentence in answer.json()["error"] and "\n" not in answer.json()["error"]
    assert len(answer.json()["error"]) < 300


def test_the_application_is_guarded_and_needs_no_other_host(client: TestClient) -> None:
    assert client.get("/", headers={"host": "evil.example"}).status_code == 403
    foreign = client.post("/api/predict", json={"smiles": ["C"]}, headers={"origin": "http://evil.example"})
    assert foreign.status_code == 403 and list(foreign.json()) == ["error"]
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    files = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
    assert len(files) == 4
    for text in (page.text, *(client.get(file).text for file in files)):
        assert not re.search(r"(https?:)?//(?!www\.w3\.org/2000/svg)[\w-]+\.", text)
    assert not re.search(r"<[^>]*\s(on\w+|style)=", page.text)
    for address in ("/docs", "/redoc", "/static/../stage.py", "/../pyproject.toml", "/%2e%2e/app.py", "//etc/passwd"):
        answer = client.get(address)
        assert answer.status_code == 404 and answer.json() == {"error": "there is nothing at this address"}
    assert client.get("/api/predict").status_code == 405


def test_the_interface_is_described(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) == {"/api/model", "/api/predict", "/api/explain"}
    schemas = document["components"]["schemas"]
    assert set(schemas["PredictQuestion"]["properties"]) >= {"smiles", "text", "format", "smiles_column", "name_column"}
    text = client.get("/api").text
    assert all(path in text for path in document["paths"]) and f"at most {LIMIT} molecules" in text and "{{" not in text
    about = client.get("/api/model").json()
    assert about["targets"] == [{"name": "expt", "column": "expt", "unit": "kcal/mol", "class_1": None}]
    assert about["smiles_column"] == "smiles"
    assert about["limits"] == {"molecules": LIMIT, "bytes": 100_000, "seconds": 120.0}
    (trained_on,) = [text for name, text in about["facts"] if name == "trained on"]
    assert re.fullmatch(r"SAMPL, [1-5]\d molecules", trained_on) and about["quantity"] == "hydration free energy"
    assert [one["part"] for one in about["metrics"]] == ["valid", "test"]
    assert about["metrics"][1]["values"][0][::2] == ["RMSE", "kcal/mol"]


def test_classes_have_their_columns_and_each_target_its_explanation(classifier: Path) -> None:
    answers = Answers(ServeConfig(model=classifier))
    first, broken = answers.predict({"format": "words", "words": ("CCO", "C((")}, drawings=False)["rows"]
    assert 0 <= first["a"] <= 1 and first["b_class"] in (0, 1) and first["b_possible"] in ("none", "0", "1", "0 or 1")
    assert broken["a"] is None and broken["a_class"] is None and broken["a_possible"] == ""
    a, b = (answers.explain("CCO", "", target) for target in (None, "b"))
    assert (a["target"], b["target"]) == ("a", "b") and a["svg"] != b["svg"]
    assert a["probability"] == pytest.approx(first["a"], rel=1e-4)
    json.dumps([first, broken, a, b], allow_nan=False)


def test_a_model_from_elsewhere_may_say_nothing_of_its_making(classifier: Path) -> None:
    answers = Answers(ServeConfig(model=classifier))
    for made in ({}, {"split": 3}, {**answers.bundle.provenance, "metrics": {"valid": None, "test": None}}):
        answers.bundle = dataclasses.replace(answers.bundle, provenance=made)
        about = answers.about()
        assert about["facts"] == [] and [target["name"] for target in about["targets"]] == ["a", "b"]


def test_values_that_json_does_not_have() -> None:
    assert json_value({"a": [np.float64("nan"), float("inf"), -np.inf, pd.NA]}) == {"a": [None, "inf", "-inf", None]}
    assert json_value(np.int64(3)) == 3 and json_value(1.23456789) == 1.23457 and json_value("x") == "x"


def test_one_request_at_a_time_few_wait_and_a_stuck_or_dead_worker_is_replaced(classifier: Path) -> None:
    others = {child.pid for child in multiprocessing.active_children()}
    config = ServeConfig(model=classifier, time_limit=3, waiting=1)
    worker = Worker(config)

    def pid() -> int:
        (new,) = {child.pid for child in multiprocessing.active_children()} - others
        assert new is not None
        return new

    question = {"smiles": ["CCO"]}
    with TestClient(make_app(config, worker), base_url=PAGE) as client, ThreadPoolExecutor(3) as pool:
        expected = client.post("/api/predict", json=question).json()
        os.kill(pid(), signal.SIGSTOP)
        answers = list(pool.map(lambda _: client.post("/api/predict", json=question), range(3)))
        # one is stopped by the time limit, one waits for the next worker, and one too many is refused at once
        assert sorted(answer.status_code for answer in answers) == [200, 503, 504]
        by_status = {answer.status_code: answer.json() for answer in answers}
        assert by_status[200] == expected
        assert "more than 3 s" in by_status[504]["error"] and "waiting line is full" in by_status[503]["error"]
        os.kill(pid(), signal.SIGKILL)
        assert client.post("/api/predict", json=question).status_code == 500
    with pytest.raises(BrokenError):  # it is closed
        worker.ask("about", {})
    assert {child.pid for child in multiprocessing.active_children()} == others


def test_what_cannot_be_served_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        for arguments, sentence in (
            ((tmp_path / "none", "--port", taken.getsockname()[1]), "cannot listen on 127.0.0.1"),
            ((tmp_path / "none", "--port", 70000), "port is 70000"),
            ((tmp_path / "none", "--host", "no.such.host.invalid"), "cannot listen on no.such.host.invalid"),
            ((tmp_path / "none", "--time-limit", 0), "time_limit is 0"),
        ):
            assert status_of(stages.serve, *arguments) == 2
            error = capsys.readouterr().err
            assert sentence in error and error.count("\n") == 1
    assert status_of(stages.serve, tmp_path / "none", "--host", "0.0.0.0", "--port", 0) == 2
    warning, error = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: there is no login") and "is no bundle" in error


def test_a_connection_that_asks_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a few dozen of them would keep everybody out."""
    monkeypatch.setattr(stage, "IDLE_SECONDS", 0.3)

    async def answer(_: Any, __: Any, send: Any) -> None:
        await asyncio.sleep(1)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(answer, http=stage._protocol_class(), lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        for sent in (b"", b"GET / HTTP/1.1\r\nHost:"):
            with socket.create_connection(listener.getsockname(), timeout=10) as idle:
                idle.sendall(sent)
                assert idle.recv(1) == b""
        with socket.create_connection(listener.getsockname(), timeout=10) as asking:
            asking.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            received = b""
            while part := asking.recv(1000):  # closed after the answer, not before
                received += part
            assert received.endswith(b"ok")
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


# in a browser, with the command itself


@pytest.fixture(scope="module")
def address(model: Path, llm: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`kflm2 serve`, which ends quietly at Ctrl-C, also with a request under way that would take for ever."""
    command = "import sys; from kflm2.cli.main import main; sys.argv[0] = 'kflm2'; main()"
    arguments = ["serve", str(model), "--llm", llm, "--port", "0", "--limit", str(LIMIT)]
    error = tmp_path_factory.mktemp("server") / "error"
    with open(error, "w") as stderr:
        server = subprocess.Popen(
            [sys.executable, "-c", command, *arguments], stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    assert server.stdout is not None
    try:
        lines = [server.stdout.readline() for _ in range(2)]
        found = re.search(r"http://127\.0\.0\.1:\d+/", lines[1])
        assert found, f"{lines} {error.read_text()}"
        yield found.group()
        with ThreadPoolExecutor(1) as pool:
            (worker,) = [one for one in psutil.Process(server.pid).children() if "spawn_main" in str(one.cmdline())]
            worker.suspend()
            under_way = pool.submit(httpx2.post, f"{found.group()}api/predict", json={"smiles": ["C"]}, timeout=30)
            time.sleep(1)
            server.send_signal(signal.SIGINT)
            assert under_way.result().json() == {"error": "kflm2 serve has ended"}
        assert server.wait(20) == 0
        assert server.stdout.read() == "" and error.read_text() == ""
    finally:
        server.kill()


@pytest.fixture
def tab(browser: Any, address: str) -> Iterator[Any]:
    """The page, which asks no other host, and writes nothing to the console."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, accept_downloads=True)
    tab = context.new_page()
    messages: list[str] = []
    tab.on("console", lambda message: messages.append(message.text))
    tab.on("pageerror", lambda error: messages.append(str(error)))
    tab.on("dialog", lambda dialog: messages.append(dialog.message))
    own = (address, f"blob:{address}", "data:")
    tab.on("request", lambda request: messages.extend([request.url] * (not request.url.startswith(own))))
    tab.goto(address)
    tab.wait_for_selector("h1")
    yield tab
    assert not tab.evaluate("window.hacked")
    context.close()
    # the browser itself reports every answer that is an error
    assert [message for message in messages if "status of 400" not in message] == []


def _cells(tab: Any, column: str) -> list[str]:
    heads = tab.locator("#answers thead th button").all_inner_texts()
    return tab.locator(f"#answers tbody tr > *:nth-child({heads.index(column) + 1})").all_inner_texts()


def test_pasted_smiles_have_their_rows_and_a_hostile_name_is_text(tab: Any) -> None:
    assert tab.locator("h1").inner_text() == "Predict hydration free energy"
    assert "kcal/mol" in tab.locator("header").inner_text()
    tab.get_by_label("SMILES, one a line").fill("\n".join(LINES[:5]))
    tab.get_by_role("button", name="Predict", exact=True).click()
    tab.wait_for_selector("#answers table")
    assert tab.locator("#state").inner_text().startswith("3 of 4 molecules predicted in ")
    assert _cells(tab, "row") == ["1", "2", "3", "4"]
    names = [cell.split("\n")[0] for cell in _cells(tab, "molecule")]
    assert names == ["ethanol", HOSTILE, "ring", "CC(=O)O"]
    assert re.fullmatch(r"\u2212?\d[\d.]*", _cells(tab, "expt (kcal/mol)")[0])
    assert _cells(tab, "expt (kcal/mol)")[2] == "-" and "RDKit cannot read" in _cells(tab, "status")[2]
    assert re.fullmatch(r"\S+ to \S+", _cells(tab, "90 % interval")[0])
    assert set(_cells(tab, "domain")) <= {"inside", "outside", "-"}
    pictures = tab.locator("#answers tbody img")
    assert (
        pictures.count() == 3 and pictures.first.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    )


def test_the_similarity_is_shown_where_no_nearest_molecule_is_named(tab: Any) -> None:
    def packed(route: Any) -> None:  # the answer of a packed model, which has no SMILES of its molecules
        response = route.fetch()
        answer = response.json()
        assert answer["rows"][0]["nearest"]
        route.fulfill(response=response, json={**answer, "rows": [{**row, "nearest": ""} for row in answer["rows"]]})

    tab.route("**/api/predict", packed)
    tab.get_by_label("SMILES, one a line").fill("\n".join(LINES[:3]))
    tab.get_by_role("button", name="Predict", exact=True).click()
    tab.wait_for_selector("#answers table")
    cells = _cells(tab, "nearest in training")
    assert re.fullmatch(r"similarity [01]\.\d\d", cells[0]) and cells[2] == "-"


def test_a_row_is_explained_by_the_keys_alone(tab: Any) -> None:
    tab.get_by_label("SMILES, one a line").fill(LINES[1])
    tab.get_by_role("button", name="Predict", exact=True).press("Enter")
    button = tab.get_by_role("button", name="Explain row 1")
    button.press("Enter")
    tab.wait_for_selector("#picture img")
    picture = tab.locator("#picture img")
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 500
    assert "predicted" in picture.get_attribute("alt") and "graph" in picture.get_attribute("alt")
    tab.keyboard.press("Escape")
    assert not tab.locator("#explanation").is_visible()
    assert button.evaluate("button => button === document.activeElement")


def test_a_file_is_read_and_its_predictions_downloaded(tab: Any, client: TestClient, tmp_path: Path) -> None:
    text = "ID;Smiles;x\n\u00c4thanol;CCO;1\nring;C1CC;2\nbenzene;c1ccccc1;3\n"
    (tmp_path / "a.csv").write_bytes(text.encode("cp1252"))
    tab.get_by_label("or drop a .csv, .smi or .sdf file").set_input_files(tmp_path / "a.csv")
    tab.wait_for_selector("#smiles-column")
    assert tab.get_by_label("column of SMILES").input_value() == "Smiles"
    assert tab.get_by_label("column of names").input_value() == "ID"
    tab.get_by_role("button", name="Predict", exact=True).click()
    tab.wait_for_selector("#answers table")
    assert [cell.split("\n")[0] for cell in _cells(tab, "molecule")] == ["\u00c4thanol", "ring", "benzene"]
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Download as CSV").click()
    question = {"text": text, "format": "csv", "smiles_column": "Smiles", "name_column": "ID"}
    expected = client.post("/api/predict", json=question).json()["csv"]
    assert Path(download.value.path()).read_bytes() == expected.encode()
    # the column that kflm2 predict takes, and a delimiter in quotes
    (tmp_path / "b.csv").write_text('canonical_smiles,"x;a;b;c",smiles\nCCC,1,CCO\n')
    tab.locator("#file").set_input_files(tmp_path / "b.csv")
    tab.wait_for_selector("#state:has-text('b.csv')")
    assert tab.get_by_label("column of SMILES").input_value() == "smiles"
    assert tab.locator("#header option").evaluate_all("all => all.map(one => one.value)") == (
        ["canonical_smiles", "x;a;b;c", "smiles"]
    )
    # without the file the text counts again
    tab.get_by_role("button", name="Remove the file").click()
    tab.get_by_label("SMILES, one a line").fill("CCN")
    tab.get_by_role("button", name="Predict", exact=True).click()
    tab.wait_for_selector("#answers tbody tr:only-child")


def test_a_mistake_is_told_in_a_sentence(tab: Any, tmp_path: Path) -> None:
    alert = tab.get_by_role("alert")
    tab.get_by_role("button", name="Predict", exact=True).click()
    tab.wait_for_selector("#error:not([hidden])")
    assert alert.inner_text() == "There is no molecule in the request"
    (tmp_path / "a.xlsx").write_text("x")
    tab.locator("#file").set_input_files(tmp_path / "a.xlsx")
    tab.wait_for_selector("#error:has-text('This file is not read')")
    (tmp_path / "a.csv").write_text("structure,x\nCCO,1\n")
    tab.locator("#file").set_input_files(tmp_path / "a.csv")
    tab.wait_for_selector("#columns:not([hidden])")
    tab.get_by_role("button", name="Predict", exact=True).click()
    tab.wait_for_selector("#error:not([hidden])")
    assert (
        "no column 'smiles'; name the column of SMILES (--smiles-column); it has: 'structure', 'x'"
        in alert.inner_text()
    )
    tab.get_by_label("column of SMILES").fill("structure")
    tab.get_by_role("button", name="Predict", exact=True).click()
    tab.wait_for_selector("#answers table")
    assert alert.is_hidden()
