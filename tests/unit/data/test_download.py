"""Files of datasets, from a real local server and from a folder."""

import gzip
import hashlib
import http.server
import importlib.util
import os
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kflm2.data import download
from kflm2.data.datasets import DATASETS, Dataset, File
from kflm2.errors import DataError, SettingError
from kflm2.files import sha256_file

# longer than two blocks, so that a download can be interrupted between them; a line break in every SMILES, as in ZINC
TABLE = b"smiles,y\n" + b"".join(b'"%s\n",%d\n' % (b"C" * (1 + i % 8), i) for i in range(10_000))
SHORT = b"smiles,y\nO,5\n"


class Site:
    """A test server's files, its faults and the requests it got."""

    def __init__(self) -> None:
        self.files = {"tiny.csv": TABLE, "test.csv": SHORT}
        self.supports_ranges = True
        self.cut_after: int | None = None
        self.hangs = False
        self.requests: list[tuple[str, str | None]] = []
        self.released = threading.Event()
        self.url = ""


def _handler(site: Site) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, requested_range = self.path.strip("/"), self.headers["Range"]
            site.requests.append((name, requested_range))
            if site.hangs:
                site.released.wait(10)
                return
            if name not in site.files:
                self.send_error(404)
                return
            data = site.files[name]
            start = 0
            if requested_range and site.supports_ranges:
                start = int(requested_range.removeprefix("bytes=").removesuffix("-"))
            if start and start >= len(data):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            self.wfile.write(data[start : site.cut_after])

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A local server with the files of the dataset Tiny."""
    site = Site()
    files = tuple(File(Path(name), hashlib.sha256(data).hexdigest()) for name, data in site.files.items())
    monkeypatch.setattr(download, "DATASETS", {"Tiny": Dataset("Tiny", files, ("y",))})
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(site)) as server:
        site.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield site
        site.released.set()
        server.shutdown()


@pytest.fixture
def fetch(site: Site, tmp_path: Path) -> Callable[[], Path]:
    """Get Tiny from the server; return its folder."""

    def run() -> Path:
        download.get(["Tiny"], into=tmp_path / "here", mirror=site.url)
        return tmp_path / "here"

    return run


def _names(folder: Path) -> set[str]:
    """Names of the files in a folder, without the lock."""
    return {path.name for path in folder.iterdir()} - {".download.lock"}


def test_complete_files_are_not_downloaded_again(
    site: Site, fetch: Callable[[], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    here = fetch()
    assert (here / "tiny.csv").read_bytes() == TABLE and (here / "test.csv").read_bytes() == SHORT
    assert _names(here) == {"tiny.csv", "test.csv"}
    assert f"tiny.csv: 10,000 rows, {len(TABLE):,} bytes, ok" in capsys.readouterr().out.splitlines()
    fetch()
    assert site.requests == [("tiny.csv", None), ("test.csv", None)]
    assert capsys.readouterr().out.splitlines() == ["tiny.csv: already here", "test.csv: already here"]


def test_of_two_concurrent_calls_only_one_downloads(site: Site, fetch: Callable[[], Path]) -> None:
    with ThreadPoolExecutor(2) as threads:
        for here in threads.map(lambda _: fetch(), range(2)):
            assert (here / "tiny.csv").read_bytes() == TABLE
    assert site.requests == [("tiny.csv", None), ("test.csv", None)]


@pytest.mark.parametrize("before", [None, b"mine\n"])
def test_a_file_that_is_not_the_published_one_is_not_saved(
    site: Site, fetch: Callable[[], Path], tmp_path: Path, before: bytes | None
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    if before is not None:
        (here / "tiny.csv").write_bytes(before)
    site.files["tiny.csv"] = TABLE.replace(b'C\n",1\n', b'C\n",2\n', 1)
    with pytest.raises(DataError) as error:
        fetch()
    for data in (TABLE, site.files["tiny.csv"]):
        assert hashlib.sha256(data).hexdigest() in str(error.value)
    assert f"{site.url}/tiny.csv" in str(error.value) and "\n" not in str(error.value)
    assert {path.name: path.read_bytes() for path in here.glob("*.csv*")} == ({"tiny.csv": before} if before else {})


def test_an_interrupted_download_is_resumed(site: Site, fetch: Callable[[], Path], tmp_path: Path) -> None:
    part = tmp_path / "here" / "tiny.csv.part"
    for cut in (70_000, 100_000):
        site.cut_after = cut
        with pytest.raises(DataError, match=rf"broke off after {cut:,} of {len(TABLE):,} bytes.*goes on.*--from"):
            fetch()
        assert part.read_bytes() == TABLE[:cut] and not (part.parent / "tiny.csv").exists()
    site.cut_after = None
    assert (fetch() / "tiny.csv").read_bytes() == TABLE
    assert [requested for name, requested in site.requests if name == "tiny.csv"] == [
        None,
        "bytes=70000-",
        "bytes=100000-",
    ]
    assert not part.exists()


@pytest.mark.parametrize(
    ("supports_ranges", "part"),
    [(False, TABLE[:99]), (True, TABLE), (True, TABLE + b"x")],
    ids=["server without ranges", "as long as the file", "longer"],
)
def test_a_download_that_cannot_be_resumed_starts_again(
    site: Site, fetch: Callable[[], Path], tmp_path: Path, supports_ranges: bool, part: bytes
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "tiny.csv.part").write_bytes(part)
    site.supports_ranges = supports_ranges
    assert (fetch() / "tiny.csv").read_bytes() == TABLE
    assert _names(tmp_path / "here") == {"tiny.csv", "test.csv"}


def test_a_part_of_another_file_is_detected_and_the_next_download_starts_again(
    site: Site, fetch: Callable[[], Path], tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "tiny.csv.part").write_bytes(b"x" * 99)
    with pytest.raises(DataError, match="not the published file"):
        fetch()
    assert (fetch() / "tiny.csv").read_bytes() == TABLE


def test_the_first_failure_stops_and_complete_files_stay(site: Site, fetch: Callable[[], Path], tmp_path: Path) -> None:
    del site.files["test.csv"]
    with pytest.raises(DataError, match=rf"{re.escape(site.url)}/test.csv: .*404.*--from FOLDER"):
        fetch()
    assert _names(tmp_path / "here") == {"tiny.csv"}


def test_a_silent_server_is_an_error(site: Site, fetch: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.1)
    site.hangs = True
    with pytest.raises(DataError, match=rf"{re.escape(site.url)}/tiny.csv: timed out; --from FOLDER"):
        fetch()


def test_the_error_of_a_missing_server_is_one_line_with_the_url(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^http://127.0.0.1:1/tiny.csv: .*refused.*--from FOLDER[^\n]*$"):
        download.get(["Tiny"], into=tmp_path, mirror="http://127.0.0.1:1")


def test_a_copy_is_checked_like_a_download(site: Site, tmp_path: Path) -> None:
    source, here = tmp_path / "there", tmp_path / "here"
    source.mkdir()
    (source / "tiny.csv").write_bytes(TABLE)
    with pytest.raises(DataError, match=rf"--from {re.escape(str(source))}: no file test.csv"):
        download.get(["Tiny"], source, here)
    (source / "test.csv").write_bytes(SHORT + b"O,5\n")
    with pytest.raises(DataError, match=r"there/test.csv is not the published file"):
        download.get(["Tiny"], source, here)
    assert _names(here) == {"tiny.csv"}
    (source / "test.csv").write_bytes(SHORT)
    download.get(["all", "Tiny"], source, here)
    assert (here / "test.csv").read_bytes() == SHORT and (source / "test.csv").exists()
    assert not site.requests


def test_names_are_checked_before_any_download(site: Site, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"Tiny, ZINC, MOSES, ChEMBL, all"):
        download.get([], into=tmp_path)
    with pytest.raises(SettingError, match=r"unknown dataset 'tiny' .did you mean 'Tiny'..; choose one of: Tiny, ZINC"):
        download.get(["Tiny", "tiny"], into=tmp_path, mirror=site.url)
    assert not site.requests and not list(tmp_path.glob("*.csv*"))


def test_zinc_with_rows_missing_is_refused(site: Site, tmp_path: Path) -> None:
    name = "250k_rndm_zinc_drugs_clean_3.csv"
    site.files[name] = b'smiles,logP,qed,SAS\n"CC(C)(C)c1ccc2occ(CC(=O)Nc3ccccc3F)c2c1\n",5.0506,0.702012232801,2.08\n'
    with pytest.raises(DataError, match=rf"{name} is not the published file.* \({len(site.files[name])} bytes\)"):
        download.get(["ZINC"], into=tmp_path / "here", mirror=site.url)
    assert not _names(tmp_path / "here")


def test_the_published_urls_contain_a_commit() -> None:
    # a branch changes, and the digests do not
    for url in (download.DATASETS_URL, download.ZINC_URL):
        assert re.fullmatch(r"https://raw\.githubusercontent\.com/[^/]+/[^/]+/[0-9a-f]{40}/[a-z_/]+[a-z]", url)


def _chemreps(path: Path, smiles: list[str]) -> None:
    """A file in the format of ChEMBL's chemical representations."""
    rows = [f"CHEMBL{i}\t{text}\tInChI=1S/{i}\tKEY-{i}" for i, text in enumerate(smiles)]
    path.write_bytes(gzip.compress("\n".join(["chembl_id\tcanonical_smiles\tstandard_inchi\tkey", *rows, ""]).encode()))


def test_chembl_is_written_as_one_smiles_per_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, here = tmp_path / "there", tmp_path / "here"
    source.mkdir()
    smiles = ["C" * (1 + i % 7) + r"/C=C\F" for i in range(5_000)]
    _chemreps(source / "chembl_9_chemreps.txt.gz", ["N"])
    _chemreps(source / "chembl_35_chemreps.txt.gz", smiles)
    download.get(["ChEMBL"], source, here)
    assert (here / "chembl.smi").read_text().splitlines() == smiles
    assert "ChEMBL 35, 5,000 SMILES" in capsys.readouterr().out
    download.get(["ChEMBL"], source, here)
    assert "already here" in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["cut", "damaged", "plain text", "another table", "short row"])
def test_a_damaged_chembl_leaves_nothing(tmp_path: Path, fault: str) -> None:
    source, here = tmp_path / "there", tmp_path / "here"
    source.mkdir()
    path = source / "chembl_35_chemreps.txt.gz"
    _chemreps(path, [f"C{'N' * (i % 91)}O" for i in range(3_000)])
    gzipped = path.read_bytes()
    middle = len(gzipped) // 2
    path.write_bytes(
        {
            "cut": gzipped[:middle],
            "damaged": gzipped[:middle] + bytes(50) + gzipped[middle + 50 :],
            "plain text": b"chembl_id\tcanonical_smiles\n",
            "another table": gzip.compress(b"id\tsmiles\n1\tC\n"),
            "short row": gzip.compress(b"chembl_id\tcanonical_smiles\nCHEMBL1\tC\nCHEMBL2\n"),
        }[fault]
    )
    with pytest.raises(DataError, match=rf"{re.escape(str(path))}: .*at row {1 if fault == 'short row' else ''}"):
        download.get(["ChEMBL"], source, here)
    assert not _names(here)


def test_the_error_of_chembl_names_the_missing_file_or_package(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file chembl_NN_chemreps.txt.gz"):
        download.get(["ChEMBL"], tmp_path, tmp_path / "here")
    if importlib.util.find_spec("chembl_downloader"):
        pytest.skip("chembl_downloader is installed")
    with pytest.raises(SettingError, match=r"pip install 'kflm2\[chembl\]'$"):
        download.get(["ChEMBL"], into=tmp_path / "here")


def _wheel(folder: Path, member: str, data: bytes) -> None:
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "molsets-0.3.1-py3-none-any.whl", "w") as archive:
        archive.writestr(member, data)


def test_moses_is_written_as_one_smiles_per_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    smiles = [f"C{'N' * (i % 17)}O" for i in range(3_000)]
    gzipped = gzip.compress("\n".join(["SMILES", *smiles, ""]).encode())
    _wheel(tmp_path / "there", download.MOSES_MEMBER, gzipped)
    with pytest.raises(DataError, match=r"SHA-256 786f.* expected, .* got; it is not kept"):
        download.get(["MOSES"], tmp_path / "there", tmp_path / "here")
    assert not _names(tmp_path / "here")
    monkeypatch.setattr(download, "MOSES_SHA256", hashlib.sha256(gzipped).hexdigest())
    download.get(["MOSES"], tmp_path / "there", tmp_path / "here")
    assert (tmp_path / "here" / "moses.smi").read_text().splitlines() == smiles
    assert "3,000 SMILES" in capsys.readouterr().out


def test_the_error_of_a_missing_damaged_or_wrong_wheel_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file molsets-0\.3\.1-\*\.whl"):
        download.get(["MOSES"], tmp_path, tmp_path / "here")
    _wheel(tmp_path / "other", "moses/nothing.csv", b"")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "molsets-0.3.1-py3-none-any.whl").write_bytes(b"PK")
    for folder in ("other", "damaged"):
        with pytest.raises(DataError, match=r"molsets-0\.3\.1-py3-none-any\.whl is damaged or another package"):
            download.get(["MOSES"], tmp_path / folder, tmp_path / "here")
    assert not _names(tmp_path / "here")


def test_the_published_files_are_those_of_the_registry(tmp_path: Path) -> None:
    files = [file for dataset in DATASETS.values() for file in dataset.files]
    source = Path(os.environ.get("KFLM2_DATASETS", "none"))
    if not all((source / file.path.name).is_file() for file in files):
        pytest.skip("$KFLM2_DATASETS does not hold the published files")
    download.get(["all"], source, tmp_path)
    assert {path.name: sha256_file(path) for path in tmp_path.glob("*.csv")} == {
        file.path.name: file.sha256 for file in files
    }
