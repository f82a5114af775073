"""Files at an address are downloaded once for each of their versions."""

import functools
import gzip
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest

from kflm2.data.remote import is_address, local_copy
from kflm2.errors import DataError, SettingError


class _Handler(SimpleHTTPRequestHandler):
    """A folder's files; says what is fetched, and breaks off within cut.csv."""

    def __init__(self, *args: Any, fetched: list[str], **kwargs: Any) -> None:
        self.fetched = fetched
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        self.fetched.append(self.path)
        if self.path == "/cut.csv":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"smiles\nC\n")
            return
        super().do_GET()

    def end_headers(self) -> None:
        # as servers do that know files by their ending
        if self.path.endswith(".gz"):
            self.send_header("Content-Encoding", "gzip")
        super().end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def _server(folder: Path, fetched: list[str]) -> Iterator[str]:
    handler = functools.partial(_Handler, directory=str(folder), fetched=fetched)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def fetched() -> list[str]:
    """Paths that were asked of the server."""
    return []


@pytest.fixture
def site(tmp_path: Path, fetched: list[str]) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which its files are."""
    (tmp_path / "site").mkdir()
    with _server(tmp_path / "site", fetched) as address:
        yield tmp_path / "site", address


def test_a_file_is_downloaded_once_and_again_when_it_has_changed(
    site: tuple[Path, str], fetched: list[str], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, address = site
    original, url = folder / "my table.csv", f"{address}/my%20table.csv?token=secret"
    original.write_text("smiles\nC\n")
    os.utime(original, (1_700_000_000, 1_700_000_000))
    first = local_copy(url)
    assert first.is_relative_to(cache) and first.read_text() == "smiles\nC\n"
    assert first.name == "my_20table.csv"
    captured = capsys.readouterr()
    # standard output is for predictions
    assert captured.out == "" and "9 bytes downloaded to" in captured.err and "secret" not in captured.err
    assert local_copy(url) == first and len(fetched) == 1
    # as long as before
    original.write_text("smiles\nN\n")
    os.utime(original, (1_700_000_100, 1_700_000_100))
    second = local_copy(url)
    assert second.read_text() == "smiles\nN\n" and len(fetched) == 2
    assert first.read_text() == "smiles\nC\n", "a process may be reading the older version"


def test_a_packed_file_keeps_its_bytes_whatever_the_server_says_of_them(site: tuple[Path, str]) -> None:
    folder, address = site
    data = gzip.compress(b"CCO\n")
    (folder / "a.smi.gz").write_bytes(data)
    assert local_copy(f"{address}/a.smi.gz").read_bytes() == data


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/gone.csv?token=secret", r"/gone\.csv cannot be downloaded: 404 File not found$"),
        ("/cut.csv", r"/cut\.csv cannot be downloaded: "),
        ("/", "names no file; an address ends in a name"),
        ("", "names no file; an address ends in a name"),
    ],
)
def test_what_cannot_be_downloaded_is_an_error_of_one_line_and_leaves_nothing(
    site: tuple[Path, str], cache: Path, path: str, reason: str
) -> None:
    (site[0] / "cut.csv").write_text("x")
    with pytest.raises(DataError, match=reason) as error:
        local_copy(f"{site[1]}{path}")
    assert "\n" not in str(error.value)
    assert not list(cache.glob("downloads/*/*.csv"))


def test_a_server_that_does_not_answer_is_an_error() -> None:
    with pytest.raises(DataError, match=r"^http://127\.0\.0\.1:9/a\.csv cannot be downloaded: .*127\.0\.0\.1"):
        local_copy("http://127.0.0.1:9/a.csv")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("s3://bucket/a.csv", "s3fs"),
        ("gopher://host/a.csv", "Protocol not known: gopher"),
    ],
)
def test_a_protocol_that_is_not_there_is_an_error_that_names_the_package(address: str, reason: str) -> None:
    with pytest.raises(SettingError, match=reason) as error:
        local_copy(address)
    assert "\n" not in str(error.value)


def test_other_protocols_are_those_of_fsspec(capsys: pytest.CaptureFixture[str]) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/here/a.csv", b"smiles\nC\n")
    first = local_copy("memory://here/a.csv")
    assert first.read_bytes() == b"smiles\nC\n"
    assert local_copy("memory://here/a.csv") == first and "unchanged" in capsys.readouterr().err
    memory.pipe("/here/a.csv", b"smiles\nN\n")
    assert local_copy("memory://here/a.csv").read_bytes() == b"smiles\nN\n"
    with pytest.raises(DataError, match=r"memory://here is a folder"):
        local_copy("memory://here")
    with pytest.raises(DataError, match=r"memory://here/b\.csv cannot be downloaded: no such file$"):
        local_copy("memory://here/b.csv")


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("memory://x/..", None),
        ("memory://x/.bashrc", "bashrc"),
        ("memory://x/..\\..\\evil.csv", "evil.csv"),
        ("memory://x/a\n;rm.csv", "a__rm.csv"),
        (f"memory://x/{'a' * 500}.csv.gz", f"{'a' * 93}.csv.gz"),
    ],
)
def test_a_name_stays_within_its_folder(address: str, name: str | None, cache: Path) -> None:
    if name is None:
        with pytest.raises(DataError, match="names no file"):
            local_copy(address)
        return
    fsspec.filesystem("memory").pipe(address.removeprefix("memory:/"), b"C")
    copy = local_copy(address)
    assert copy.name == name and copy.resolve().parent.parent == (cache / "downloads").resolve()


def test_smiles_and_paths_are_no_addresses() -> None:
    assert is_address("https://host/a.csv") and is_address("S3://bucket/a")
    assert not any(map(is_address, ["CCO", "C/C=C\\C", "/tmp/a.csv", "C:\\a.csv", "a.csv", "://x", "-", "[Na+]://"]))


def test_only_the_command_line_follows_addresses() -> None:
    package = Path(__file__).parents[3] / "kflm2"
    users = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"\bremote\b|fsspec", path.read_text(encoding="utf-8"))
    }
    assert users == {"cli/command.py", "data/remote.py"}
